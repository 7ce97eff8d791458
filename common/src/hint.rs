//! A reason, and the one thing that its reader can do about it.
//!
//! Errors carry their hint inside their text, as `reason (hint: do this)` or `reason` and a line `hint: do this`, so that
//! it reaches the user through any number of layers. Where text meets a person it is taken apart here.

const MARKS: [&str; 2] = [" (hint: ", "\nhint: "];

/// The text without its hints, and the last hint: the cause stands last and knows best. Empty: there was none.
pub fn split(text: &str) -> (String, String) {
    let (mut reason, mut hint, mut rest) = (String::new(), String::new(), text);
    while let Some((at, mark)) = first_mark(rest) {
        reason.push_str(&rest[..at]);
        let behind = &rest[at + mark.len()..];
        let (found, after) =
            if mark.starts_with('\n') { behind.split_at(line_end(behind)) } else { parenthesis(behind) };
        found.trim().clone_into(&mut hint);
        rest = after;
    }
    reason.push_str(rest);
    (reason.trim_end().to_owned(), hint)
}

/// The form in which [`split`] finds the hint again; nothing is added for an empty one.
pub fn join(reason: &str, hint: &str) -> String {
    if hint.is_empty() { reason.to_owned() } else { format!("{reason}\nhint: {hint}") }
}

fn first_mark(text: &str) -> Option<(usize, &'static str)> {
    MARKS.iter().filter_map(|mark| Some((text.find(mark)?, *mark))).min()
}

fn line_end(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

/// What stands before the closing parenthesis that was opened before `text`, and what follows it.
fn parenthesis(text: &str) -> (&str, &str) {
    let mut open = 1;
    for (at, character) in text.char_indices() {
        match character {
            '(' => open += 1,
            ')' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return (&text[..at], &text[at + 1..]);
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_hint_are_found_and_the_reason_goes_on_behind_them() {
        for text in
            ["it is off (hint: turn it (really) on): cause", "it is off: cause\nhint: turn it (really) on"]
        {
            assert_eq!(split(text), ("it is off: cause".into(), "turn it (really) on".into()), "{text}");
        }
    }

    #[test]
    fn of_several_hints_the_last_one_stays() {
        assert_eq!(split("a (hint: look): b (hint: do)\nhint: do this"), ("a: b".into(), "do this".into()));
    }

    #[test]
    fn a_text_without_a_hint_stays_as_it_is() {
        assert_eq!(split("disk full"), ("disk full".into(), String::new()));
    }

    #[test]
    fn what_was_joined_is_split_again() {
        assert_eq!(split(&join("disk full", "df -h")), ("disk full".into(), "df -h".into()));
    }
}
