//! One command, one answer, over one of HAProxy's unix sockets.

use std::{path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::driver::Trouble;

/// HAProxy answers in milliseconds; one that is stopped, or too busy to answer for so long, is not one to build on.
const DEADLINE: Duration = Duration::from_secs(3);
/// The statistics of some thousand servers; more is not HAProxy.
const LONGEST_ANSWER: u64 = 16 << 20;

/// A socket of HAProxy's.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
}

impl Socket {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn who(&self) -> String {
        format!("HAProxy at {}", self.path.display())
    }

    /// Each command's answer, in order; a connection of its own, so that all come from one process. The commands hold
    /// only our own words and names that were parsed.
    pub(crate) async fn ask(&self, commands: &[&str]) -> Result<Vec<String>, Trouble> {
        let answer = self.exchange(&commands.join(";")).await?;
        self.split(&answer, commands.len())
    }

    /// What HAProxy says to a command that changes something: little, and not always with an empty line.
    pub(crate) async fn tell(&self, command: &str) -> Result<String, Trouble> {
        let answer = self.exchange(command).await?;
        if answer.ends_with('\n') { Ok(answer) } else { Err(Trouble::Half { who: self.who() }) }
    }

    async fn exchange(&self, line: &str) -> Result<String, Trouble> {
        let silent = |_| Trouble::Silent { who: self.who(), seconds: DEADLINE.as_secs() };
        timeout(DEADLINE, self.one_connection(line)).await.map_err(silent)?
    }

    async fn one_connection(&self, line: &str) -> Result<String, Trouble> {
        let io = || Trouble::io(format!("talk to {}", self.who()));
        let mut stream = UnixStream::connect(&self.path).await.map_err(io())?;
        stream.write_all(format!("{line}\n").as_bytes()).await.map_err(io())?;
        // Without it the master waits for more commands.
        stream.shutdown().await.map_err(io())?;
        let mut answer = String::new();
        let length = stream.take(LONGEST_ANSWER).read_to_string(&mut answer).await.map_err(io())?;
        if length as u64 == LONGEST_ANSWER {
            return Err(Trouble::Garbled { who: self.who(), why: "the answer is longer than any".into() });
        }
        Ok(answer)
    }

    /// Every answer ends with an empty line. One that does not was cut off.
    fn split(&self, answer: &str, count: usize) -> Result<Vec<String>, Trouble> {
        let mut parts = Vec::new();
        let mut rest = answer;
        while parts.len() < count {
            // An answer without a word is the empty line alone.
            let (part, behind) = match rest.strip_prefix('\n') {
                Some(behind) => ("", behind),
                None => rest.split_once("\n\n").ok_or_else(|| Trouble::Half { who: self.who() })?,
            };
            parts.push(part.to_owned());
            rest = behind;
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> Socket {
        Socket::new("/run/haproxy.sock".into())
    }

    #[test]
    fn answers_are_told_apart_by_their_empty_lines() {
        let parts = socket().split("Pid: 1\nUptime: 2\n\n\n# a,b\n1,2\n\n", 3).unwrap();
        assert_eq!(parts, ["Pid: 1\nUptime: 2", "", "# a,b\n1,2"]);
    }

    #[test]
    fn an_answer_that_was_cut_off_anywhere_is_half() {
        let whole = "Pid: 1\n\n# a,b\n1,2\n\n";
        for end in 0..whole.len() - 1 {
            assert!(matches!(socket().split(&whole[..end], 2), Err(Trouble::Half { .. })), "{end}");
        }
    }
}
