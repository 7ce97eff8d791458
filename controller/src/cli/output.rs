//! Printing: tables for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use bunraku_common::hint;
use clap::builder::NonEmptyStringValueParser;
use comfy_table::{
    ColumnConstraint::{ContentWidth, LowerBoundary},
    ContentArrangement, Table, Width, presets,
};
use serde::Serialize;

use super::{Exit, Failure, screen};
use crate::clock::wall_ms;

/// A last column is not made narrower, whatever the terminal's width.
const LAST: u16 = 10;

/// For arguments where an empty one, such as an empty variable of a script, would mean "all" or "the newest".
pub(crate) fn given() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

impl Output {
    /// Prints `value` as JSON, or whatever `text` prints.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self {
            Self::Json => {
                let json = serde_json::to_string_pretty(value).map_err(|error| {
                    Failure::new(Exit::Failed, format!("could not print as JSON: {error}"))
                })?;
                write(&format!("{json}\n"))
            }
            Self::Text => write(&text(value)),
        }
    }
}

/// Writes to standard output; a closed pipe (`| head`) is a normal end.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    write_on(text).map(drop)
}

/// Writes to standard output; false: nobody reads any more.
pub(crate) fn write_on(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(Exit::Failed, format!("could not print: {error}"))),
    }
}

/// A plain table: no frame, two spaces between columns. On a terminal long cells are wrapped to its width. Without rows,
/// `empty` and a line feed.
pub(crate) fn table<R, C>(heads: &[&str], rows: R, empty: &str) -> String
where
    R: IntoIterator<Item = Vec<C>>,
    C: Into<comfy_table::Cell>,
{
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(heads);
    if let Some(columns) = width() {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
    }
    let mut without_rows = true;
    for row in rows {
        table.add_row(row);
        without_rows = false;
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        // Names and digests are there to be copied: only the last column is wrapped.
        let last = column.index + 1 == heads.len();
        column.set_constraint(if last { LowerBoundary(Width::Fixed(LAST)) } else { ContentWidth });
    }
    if without_rows { format!("{empty}\n") } else { trim_lines(&table.to_string()) }
}

/// Indented lines of three columns, each as wide as its widest cell; the last is not padded.
pub(crate) fn columns(rows: impl Iterator<Item = [String; 3]>) -> Vec<String> {
    let rows: Vec<_> = rows.collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let line = |[a, b, c]: &[String; 3]| format!("  {a:<first$}  {b:<second$}  {c}").trim_end().to_owned();
    rows.iter().map(line).collect()
}

/// What is alike together, in the order in which it comes first. No group is empty.
pub(crate) fn alike<T, K: PartialEq>(all: &[T], key: impl Fn(&T) -> K) -> Vec<Vec<&T>> {
    let mut groups: Vec<(K, Vec<&T>)> = Vec::new();
    for one in all {
        let key = key(one);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(one),
            None => groups.push((key, vec![one])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// A text and, on a line of its own below it, its hint.
pub(crate) fn hinted(indent: &str, text: &str) -> String {
    let (reason, hint) = hint::split(text);
    if hint.is_empty() { format!("{reason}\n") } else { format!("{reason}\n{indent}hint: {hint}\n") }
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// Columns of the terminal that standard output is. Tests look the same everywhere.
fn width() -> Option<u16> {
    let (columns, _) = screen::size(io::stdout()).filter(|_| !cfg!(test))?;
    columns.try_into().ok()
}

pub(crate) fn trim_lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The first twelve digits of a digest or commit; `-` for none.
pub(crate) fn short(digest: &str) -> &str {
    if digest.is_empty() { "-" } else { digest.get(..12).unwrap_or(digest) }
}

pub(crate) fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// `12 s ago`, `3 min ago`, `2 h ago`, `5 d ago`; `-` for 0.
pub(crate) fn ago(unix_ms: u64) -> String {
    if unix_ms == 0 { "-".to_owned() } else { format!("{} ago", since(unix_ms)) }
}

/// How long ago that was.
pub(crate) fn since(unix_ms: u64) -> String {
    span(wall_ms().saturating_sub(unix_ms) / 1000)
}

/// A length of time in the largest unit that fits.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Asks on a terminal; without one, only `--yes` will do.
pub(crate) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::new(Exit::WrongUse, "this needs a yes, and there is no terminal to ask on")
            .hint("add --yes"));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let _read = io::stdin().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::new(Exit::Refused, "not confirmed, nothing was done"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_trailing_blanks() {
        let text = table(&["NODE", "STATE"], [vec!["c1", "proven"], vec!["compiler2", "x"]], "none");
        assert_eq!(text, "NODE       STATE\nc1         proven\ncompiler2  x\n");
    }

    #[test]
    fn times_are_shown_in_the_largest_unit_that_fits() {
        assert_eq!([span(5), span(125), span(7300), span(200_000)], ["5 s", "2 min", "2 h", "2 d"]);
    }
}
