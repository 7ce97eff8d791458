//! A program that runs beside a test: what it has printed so far, and how it ends.

#![expect(
    clippy::unwrap_used,
    reason = "what helps tests, outside of the functions that clippy knows as tests"
)]

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    fleet::{PATIENCE, found},
    installed::Said,
};

/// Its standard output and error are read as they come.
#[derive(Debug)]
pub struct Running {
    child: Child,
    patience: Duration,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = gathered(child.stdout.take().unwrap());
        let err = gathered(child.stderr.take().unwrap());
        Self { child, patience: PATIENCE, out, err }
    }

    /// What it does takes longer than most.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        let mut running = self;
        running.patience = patience;
        running
    }

    /// Waits for a line on standard output that contains this; answers it.
    pub async fn line(&self, with: &str) -> String {
        self.nth_line(with, 1).await
    }

    pub async fn nth_line(&self, with: &str, number: usize) -> String {
        self.line_of(&self.out, with, number).await
    }

    /// The same on standard error.
    pub async fn progress(&self, with: &str) -> String {
        self.line_of(&self.err, with, 1).await
    }

    pub fn printed(&self) -> String {
        let text = |text: &Mutex<String>| text.lock().unwrap().clone();
        text(&self.out) + &text(&self.err)
    }

    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    pub async fn end(mut self) -> Said {
        let deadline = Instant::now() + self.patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end; it has printed:\n{}", self.printed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        // The pipes end with the program; what is in them is read to the end.
        let done = |text: &Arc<Mutex<String>>| (Arc::strong_count(text) == 1).then_some(());
        found("the end of what it printed", || done(&self.out).and(done(&self.err))).await;
        let text = |text: &Mutex<String>| text.lock().unwrap().clone();
        Said { code: status.code().unwrap_or(-1), out: text(&self.out), err: text(&self.err) }
    }

    async fn line_of(&self, text: &Mutex<String>, with: &str, number: usize) -> String {
        let deadline = Instant::now() + self.patience;
        loop {
            let printed = text.lock().unwrap().clone();
            if let Some(line) = printed.lines().filter(|line| line.contains(with)).nth(number - 1) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "waited in vain for {with:?} in:\n{printed}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }
}

fn gathered(from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let to = text.clone();
    thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { break };
            let mut to = to.lock().unwrap();
            to.push_str(&line);
            to.push('\n');
        }
    });
    text
}
