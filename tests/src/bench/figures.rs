//! What was measured, and how it is shown: one table, the same on the terminal and in docs/benchmarks.md.

use std::time::Duration;

/// One tool at one task.
#[derive(Clone, Debug)]
struct Row {
    task: String,
    targets: usize,
    tool: String,
    times: Vec<Duration>,
}

/// A single figure beside the table, with the goal where there is one.
#[derive(Clone, Debug)]
struct Fact {
    what: String,
    figure: String,
    goal: String,
}

#[derive(Debug, Default)]
pub(super) struct Figures {
    rows: Vec<Row>,
    facts: Vec<Fact>,
    loads: Vec<f64>,
}

impl Figures {
    pub(super) fn time(&mut self, task: &str, targets: usize, tool: &str, took: Duration) {
        let same = |row: &&mut Row| row.task == task && row.targets == targets && row.tool == tool;
        match self.rows.iter_mut().find(same) {
            Some(row) => row.times.push(took),
            None => self.rows.push(Row {
                task: task.to_owned(),
                targets,
                tool: tool.to_owned(),
                times: vec![took],
            }),
        }
    }

    pub(super) fn fact(
        &mut self,
        what: impl Into<String>,
        figure: impl Into<String>,
        goal: impl Into<String>,
    ) {
        self.facts.push(Fact { what: what.into(), figure: figure.into(), goal: goal.into() });
    }

    pub(super) fn load(&mut self, load: f64) {
        self.loads.push(load);
    }

    /// Lowest and highest load while it was measured.
    pub(super) fn loads(&self) -> String {
        let (low, high) = self
            .loads
            .iter()
            .fold((f64::INFINITY, 0.0_f64), |(low, high), load| (low.min(*load), high.max(*load)));
        format!("{low:.1} to {high:.1}")
    }

    /// Markdown. Ratios are to the first tool of each task.
    pub(super) fn table(&self) -> String {
        let mut lines = vec![[
            "task".to_owned(),
            "targets".to_owned(),
            "tool".to_owned(),
            "median".to_owned(),
            "min – max".to_owned(),
            "runs".to_owned(),
            "ratio".to_owned(),
        ]];
        let mut first: Option<&Row> = None;
        for row in &self.rows {
            let same = first.is_some_and(|first| first.task == row.task && first.targets == row.targets);
            let to = if same { first.unwrap_or(row) } else { row };
            if !same {
                first = Some(row);
            }
            let (low, high) = (row.times.iter().min(), row.times.iter().max());
            let [low, high] = [low, high].map(|time| shown(time.copied().unwrap_or_default()));
            let ratio = median(&row.times).as_secs_f64() / median(&to.times).as_secs_f64();
            lines.push([
                if same { String::new() } else { row.task.clone() },
                if same { String::new() } else { row.targets.to_string() },
                row.tool.clone(),
                shown(median(&row.times)),
                format!("{low} – {high}"),
                row.times.len().to_string(),
                if ratio.is_finite() { format!("{ratio:.1}") } else { "–".to_owned() },
            ]);
        }
        aligned(&lines)
    }

    /// Markdown of the single figures.
    pub(super) fn facts(&self) -> String {
        let mut lines = vec![["what".to_owned(), "measured".to_owned(), "goal".to_owned()]];
        lines.extend(
            self.facts.iter().map(|fact| [fact.what.clone(), fact.figure.clone(), fact.goal.clone()]),
        );
        aligned(&lines)
    }
}

pub(super) fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    match sorted.len() {
        0 => Duration::ZERO,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2,
    }
}

/// Three digits are more than such a machine can tell twice.
pub(super) fn shown(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 0.0995 => format!("{:.0} ms", s * 1000.0),
        s if s < 9.95 => format!("{s:.2} s"),
        s => format!("{s:.1} s"),
    }
}

pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let row = |cells: &[String; N]| {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let rule = format!("|{}|\n", widths.map(|width| "-".repeat(width + 2)).join("|"));
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        text.push_str(&row(line));
        if number == 0 {
            text.push_str(&rule);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_medians_ranges_and_ratios_to_the_first_tool() {
        let mut figures = Figures::default();
        for ms in [30, 10, 20] {
            figures.time("one file", 3, "ours", Duration::from_millis(ms));
        }
        figures.time("one file", 3, "theirs", Duration::from_millis(500));
        let expected = "\
| task     | targets | tool   | median | min – max       | runs | ratio |
|----------|---------|--------|--------|-----------------|------|-------|
| one file | 3       | ours   | 20 ms  | 10 ms – 30 ms   | 3    | 1.0   |
|          |         | theirs | 0.50 s | 0.50 s – 0.50 s | 1    | 25.0  |
";
        assert_eq!(figures.table(), expected);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let times = [1, 9, 3, 5].map(Duration::from_millis);
        assert_eq!(median(&times), Duration::from_millis(4));
    }
}
