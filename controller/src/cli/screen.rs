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
    /// Shows these lines where the earlier ones were, as many and as long as the terminal has room for: a line that
    /// wrapped could not be taken back.
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
    let cut = |line: &String| match line.chars().count() > columns {
        true => line.chars().take(columns.saturating_sub(1)).chain(['…']).collect(),
        false => line.clone(),
    };
    if lines.len() <= room {
        return lines.iter().map(cut).collect();
    }
    let more = format!("  … and {} more lines", lines.len() - (room - 1));
    lines[..room - 1].iter().map(cut).chain([more]).collect()
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
    fn a_line_is_cut_to_the_width_so_that_it_never_wraps() {
        assert_eq!(fitted(&lines(1), 8, 24), ["line 0 …"]);
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
