//! Runs a program of this host: arguments as an array, no shell, a deadline, and bounded output.

use std::{path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

use crate::driver::Trouble;

/// More than any status; what is beyond is an error, not a part of the answer.
const LONGEST_OUTPUT: u64 = 1 << 20;

/// How a program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Said {
    pub success: bool,
    pub out: String,
    /// The first line of its complaint.
    pub complaint: String,
}

pub(crate) async fn run(
    program: &Path,
    arguments: &[&str],
    input: &[u8],
    deadline: Duration,
) -> Result<Said, Trouble> {
    let who = program.display().to_string();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.process_group(0).kill_on_drop(true).spawn().map_err(Trouble::io(format!("run {who}")))?;
    let _its_children_end_with_it = Group(child.id());
    let silent = |_| Trouble::Silent { who: who.clone(), seconds: deadline.as_secs() };
    timeout(deadline, hear(&who, &mut child, input)).await.map_err(silent)?
}

async fn hear(who: &str, child: &mut Child, input: &[u8]) -> Result<Said, Trouble> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that reads nothing may be right all the same: its answer counts.
            let _it_does_not_listen = stdin.write_all(input).await;
        }
    };
    let ((), out, err) = tokio::join!(write, read(who, stdout), read(who, stderr));
    let status = child.wait().await.map_err(Trouble::io(format!("wait for {who}")))?;
    let (out, err) = (out?, err?);
    let words = err.lines().chain(out.lines()).find(|line| !line.trim().is_empty());
    let complaint = words.map_or_else(|| format!("it ended with {status}"), |line| line.trim().to_owned());
    Ok(Said { success: status.success(), out, complaint })
}

async fn read(who: &str, from: Option<impl AsyncRead + Unpin>) -> Result<String, Trouble> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let read = from.take(LONGEST_OUTPUT + 1).read_to_end(&mut bytes).await;
        read.map_err(Trouble::io(format!("read what {who} says")))?;
    }
    if bytes.len() as u64 > LONGEST_OUTPUT {
        return Err(Trouble::Garbled { who: who.to_owned(), why: "it says more than any status".into() });
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a program started ends with it.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            let _all_have_ended = kill_process_group(pid, Signal::KILL);
        }
    }
}
