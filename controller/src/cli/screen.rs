//! The terminal: how large it is, and lines on it that are replaced in place without flicker or rest.

use std::{
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
};

/// Columns and rows of the terminal behind `stream`; `None`: it is none, or does not tell.
pub(super) fn size(stream: impl IsTerminal + AsFd) -> Option<(usize, usize)> {
    if !stream.is_terminal() || std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

/// Lines on standard error that stand for the present state.
#[derive(Debug, Default)]
pub(super) struct Screen {
    drawn: usize,
}

impl Screen {
    /// Shows these lines where the earlier ones were, as many as the terminal has room for. Long ones are broken here: a
    /// line that the terminal wrapped could not be taken back.
    pub(super) fn show(&mut self, lines: &[String], (columns, rows): (usize, usize)) {
        let lines = fitted(lines, columns, rows);
        let text = frame(self.drawn, &lines);
        self.drawn = lines.len();
        put(&text);
    }

    /// Takes the lines back.
    pub(super) fn clear(&mut self) {
        if self.drawn > 0 {
            put(&frame(self.drawn, &[]));
            self.drawn = 0;
        }
    }
}

/// One write, each line overwritten before its rest is erased: nothing is ever blank in between.
fn frame(drawn: usize, lines: &[String]) -> String {
    let up = if drawn > 0 { format!("\x1b[{drawn}A\r") } else { String::new() };
    let lines: String = lines.iter().map(|line| format!("{line}\x1b[K\n")).collect();
    format!("{up}{lines}\x1b[J")
}

fn fitted(lines: &[String], columns: usize, rows: usize) -> Vec<String> {
    let room = rows.saturating_sub(1).max(1);
    let lines: Vec<String> = lines.iter().flat_map(|line| broken(line, columns)).collect();
    if lines.len() <= room {
        return lines;
    }
    let more = format!("  … and {} more lines", lines.len() - (room - 1));
    lines.into_iter().take(room - 1).chain([more]).collect()
}

/// A line in pieces that fit, broken between words where that is possible; the later ones are indented.
fn broken(line: &str, columns: usize) -> Vec<String> {
    let indent = line.len() - line.trim_start().len() + 2;
    let mut pieces = Vec::new();
    let mut rest = line.to_owned();
    while rest.chars().count() > columns && columns > indent {
        let end = rest.char_indices().nth(columns).map_or(rest.len(), |(at, _)| at);
        // Not within the indentation: nothing would be left.
        let start = rest.len() - rest.trim_start().len();
        let space = rest[..=end].rfind(' ').filter(|space| *space > start).unwrap_or(end);
        let tail = rest.split_off(space);
        pieces.push(std::mem::take(&mut rest).trim_end().to_owned());
        rest = format!("{:indent$}{}", "", tail.trim_start());
    }
    pieces.push(rest);
    pieces
}

fn put(text: &str) {
    let mut out = io::stderr().lock();
    // Nobody looks: the deploy goes on all the same.
    let _best_effort = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("line {n} that is long")).collect()
    }

    #[test]
    fn a_line_is_broken_between_words_so_that_the_terminal_never_wraps_it() {
        let waits = "  waits for ä, at most 10 s; then it ends".to_owned();
        assert_eq!(fitted(&[waits], 20, 24), ["  waits for ä, at", "    most 10 s; then", "    it ends"]);
        assert_eq!(fitted(&["éabcdefgh".to_owned()], 4, 24), ["éabc", "  de", "  fg", "  h"]);
        for line in fitted(&lines(3), 8, 24) {
            assert!(line.chars().count() <= 8, "{line}");
        }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        assert_eq!(fitted(&lines(9), 80, 4)[2], "  … and 7 more lines");
    }

    #[test]
    fn the_next_frame_covers_the_last_one_and_erases_what_is_left_of_it() {
        assert_eq!(frame(2, &["one".to_owned()]), "\x1b[2A\rone\x1b[K\n\x1b[J");
    }
}
