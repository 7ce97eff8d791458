//! What a program printed: its end, bounded, safe to show on a terminal and in a log.

use std::collections::VecDeque;

use bunraku_common::limits;

/// Keeps the last `limits::OUTPUT_BYTES` of what is pushed.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    cut: bool,
}

impl Tail {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let over = self.bytes.len().saturating_sub(limits::OUTPUT_BYTES);
        self.cut |= over > 0;
        self.bytes.drain(..over);
    }

    /// Text without control characters and without the passwords that people write into URLs.
    pub(crate) fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        // A line that lost its beginning could have lost the `://` that marks a password.
        let whole = if self.cut { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &text };
        let plain: String = whole.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
        hide_passwords(&plain)
    }
}

/// `https://user:secret@host/x` becomes `https://***@host/x`.
pub(crate) fn hide_passwords(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c == '/' || c.is_whitespace() || c == '\'' || c == '"');
        let (authority, tail) = after.split_at(end.unwrap_or(after.len()));
        match authority.rsplit_once('@') {
            Some((_, host)) => shown.extend(["***@", host]),
            None => shown.push_str(authority),
        }
        rest = tail;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_hidden_wherever_they_stand() {
        let text = "clone 'https://me:s3cr:t@h/x' and ssh://git@h/y then https://h/z@1";
        assert_eq!(hide_passwords(text), "clone 'https://***@h/x' and ssh://***@h/y then https://h/z@1");
    }

    #[test]
    fn only_the_end_is_kept_and_a_cut_line_is_dropped() {
        let mut tail = Tail::default();
        tail.push(b"https://me:secret@host/");
        tail.push(&vec![b'x'; limits::OUTPUT_BYTES - 10]);
        tail.push(b"\n\x1b[31mend\x07\n");
        assert_eq!(tail.text(), "[31mend\n");
    }
}
