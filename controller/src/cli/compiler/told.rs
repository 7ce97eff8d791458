//! What a step says when it is done: a line each for people, all of them at the end for programs.

use serde::Serialize;

use super::super::{Failure, Output, output::write};

/// One step as it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    pub(crate) step: &'static str,
    /// `done`, `already so`, or `skipped`.
    pub(crate) outcome: &'static str,
    pub(crate) note: String,
    /// What was changed, or is left to do; shown below it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) details: Vec<String>,
}

impl Step {
    pub(super) fn done(step: &'static str, note: impl Into<String>) -> Self {
        Self { step, outcome: "done", note: note.into(), details: Vec::new() }
    }

    pub(super) fn already(step: &'static str, note: impl Into<String>) -> Self {
        Self { outcome: "already so", ..Self::done(step, note) }
    }

    pub(super) fn skipped(step: &'static str, note: impl Into<String>) -> Self {
        Self { outcome: "skipped", ..Self::done(step, note) }
    }

    pub(super) fn with(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }
}

/// Tells each step as it ends.
#[derive(Debug)]
pub(super) struct Told {
    output: Output,
    node: String,
    of: usize,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct End<'a> {
    compiler: &'a str,
    steps: &'a [Step],
    state: &'a str,
}

impl Told {
    pub(super) fn new(output: Output, node: &str, of: usize) -> Self {
        Self { output, node: node.to_owned(), of, steps: Vec::new() }
    }

    pub(super) fn step(&mut self, step: Step) -> Result<(), Failure> {
        if self.output == Output::Text {
            write(&step_line(self.steps.len() + 1, self.of, &step))?;
        }
        self.steps.push(step);
        Ok(())
    }

    /// The last line, or the one JSON value.
    pub(super) fn end(&self, state: &str, text: &str) -> Result<(), Failure> {
        let end = End { compiler: &self.node, steps: &self.steps, state };
        self.output.print(&end, |_| text.to_owned())
    }
}

pub(crate) fn step_line(number: usize, of: usize, step: &Step) -> String {
    let note = if step.note.is_empty() { String::new() } else { format!(": {}", step.note) };
    let mut out = format!("{number}/{of} {:<11}  {}{note}\n", step.step, step.outcome);
    for detail in &step.details {
        out.push_str(&format!("      {detail}\n"));
    }
    out
}
