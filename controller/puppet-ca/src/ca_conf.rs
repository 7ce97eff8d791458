//! One switch of Puppet Server's `conf.d/ca.conf`, found before anything is tried.
//!
//! Reads the HOCON that people write there: nested objects, dotted and quoted keys, comments. What it does not
//! understand on the way to the switch is an error, never a guess.

use std::{fs, io, iter::Peekable, path::Path, path::PathBuf, str::Chars};

const SWITCH: [&str; 2] = ["certificate-authority", "allow-subject-alt-names"];

/// Nesting of a real file stays below five.
const DEPTH: usize = 32;

/// Why the switch is not known.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    #[error("could not read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("line {line} of {path} is not understood: {what}")]
    NotUnderstood { path: PathBuf, line: usize, what: &'static str },
}

pub(crate) fn allows_subject_alt_names(path: &Path) -> Result<bool, ConfError> {
    let text = fs::read_to_string(path).map_err(|source| ConfError::Read { path: path.into(), source })?;
    switch(&text).map_err(|(line, what)| ConfError::NotUnderstood { path: path.into(), line, what })
}

type Wrong = (usize, &'static str);

/// The last one counts, as in HOCON; without one it is off (`initialize-ca-config`).
fn switch(text: &str) -> Result<bool, Wrong> {
    let mut reader = Reader { rest: text.chars().peekable(), line: 1, on: false };
    reader.skip();
    let braced = reader.rest.next_if_eq(&'{').is_some();
    reader.fields(&mut Vec::new(), braced)?;
    reader.skip();
    if reader.rest.peek().is_some() { Err((reader.line, "more text than one object")) } else { Ok(reader.on) }
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    on: bool,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    /// Blanks, line ends, commas and comments between fields.
    fn skip(&mut self) {
        while let Some(c) = self.rest.peek().copied() {
            match c {
                '#' => self.comment(),
                '/' if self.rest.clone().nth(1) == Some('/') => self.comment(),
                ',' | '\u{feff}' => drop(self.next()),
                c if c.is_whitespace() => drop(self.next()),
                _ => return,
            }
        }
    }

    fn comment(&mut self) {
        while self.rest.next_if(|c| *c != '\n').is_some() {}
    }

    fn fields(&mut self, path: &mut Vec<String>, braced: bool) -> Result<(), Wrong> {
        if path.len() > DEPTH {
            return Err((self.line, "too deep"));
        }
        loop {
            self.skip();
            match self.rest.peek() {
                None if braced => return Err((self.line, "`}` is missing")),
                None => return Ok(()),
                Some('}') if braced => {
                    self.next();
                    return Ok(());
                }
                Some(_) => self.field(path)?,
            }
        }
    }

    fn field(&mut self, path: &mut Vec<String>) -> Result<(), Wrong> {
        let outer = path.len();
        self.key(path)?;
        match self.rest.peek() {
            Some('{') => {
                self.next();
                self.fields(path, true)?;
            }
            Some('[') => self.list()?,
            Some(_) | None => {
                let line = self.line;
                let value = self.scalar()?;
                if path.iter().eq(SWITCH.iter()) {
                    self.on = truth(&value).ok_or((line, "`true` or `false` is expected"))?;
                }
            }
        }
        path.truncate(outer);
        Ok(())
    }

    /// The parts of the key, up to what separates it from its value.
    fn key(&mut self, path: &mut Vec<String>) -> Result<(), Wrong> {
        let (line, mut part) = (self.line, String::new());
        loop {
            match self.rest.peek().copied() {
                Some('"') => part.push_str(&self.quoted()?),
                Some('.') => {
                    self.next();
                    path.push(std::mem::take(&mut part).trim().to_owned());
                }
                Some('{') => break,
                Some(':' | '=') => {
                    self.next();
                    break;
                }
                None | Some('\n' | '}' | '[' | ']' | ',' | '#' | '$') => {
                    return Err((line, "a key and its value are expected"));
                }
                Some(c) => {
                    self.next();
                    part.push(c);
                }
            }
        }
        path.push(part.trim().to_owned());
        while self.rest.next_if(|c| c.is_whitespace() && *c != '\n').is_some() {}
        Ok(())
    }

    fn scalar(&mut self) -> Result<String, Wrong> {
        let mut text = String::new();
        while let Some(c) = self.rest.peek().copied() {
            match c {
                '\n' | ',' | '}' | '#' => break,
                '/' if self.rest.clone().nth(1) == Some('/') => break,
                '"' => text.push_str(&self.quoted()?),
                '$' => {
                    // A substitution: it stays as text, and its brace is no object's.
                    while let Some(c) = self.rest.next_if(|c| *c != '}' && *c != '\n') {
                        text.push(c);
                    }
                    text.extend(self.rest.next_if_eq(&'}'));
                }
                '{' | '[' | ']' => return Err((self.line, "a value and an object or list on one line")),
                c => {
                    self.next();
                    text.push(c);
                }
            }
        }
        Ok(text.trim().to_owned())
    }

    fn quoted(&mut self) -> Result<String, Wrong> {
        let (line, mut text) = (self.line, String::new());
        self.next();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.extend(self.next()),
                None | Some('\n') => return Err((line, "a quoted text has no end on its line")),
                Some(c) => text.push(c),
            }
        }
    }

    /// Lists hold no switch: only their end is looked for.
    fn list(&mut self) -> Result<(), Wrong> {
        let (line, mut open) = (self.line, 0_usize);
        loop {
            self.skip();
            match self.rest.peek() {
                Some('"') => drop(self.quoted()?),
                Some('[') => {
                    open += 1;
                    self.next();
                }
                Some(']') => {
                    open -= 1;
                    self.next();
                    if open == 0 {
                        return Ok(());
                    }
                }
                Some(_) => drop(self.next()),
                None => return Err((line, "`]` is missing")),
            }
        }
    }
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_people_write_turn_it_on() {
        for text in [
            "certificate-authority: { allow-subject-alt-names: true }",
            "certificate-authority {\n  # why\n  allow-subject-alt-names = yes // for compilers\n}",
            "{ \"certificate-authority\": { \"allow-subject-alt-names\": \"true\", } }",
            "certificate-authority.allow-subject-alt-names: on",
            "a: [1, \"]\", [{b: 2}]]\ncertificate-authority: {\n x: ${y.z}\n proxy-config: { a: b }\n allow-subject-alt-names: false, allow-subject-alt-names: true }",
        ] {
            assert_eq!(switch(text), Ok(true), "{text}");
        }
    }

    #[test]
    fn it_is_off_where_nothing_turns_it_on() {
        let packaged =
            "certificate-authority: {\n    # allow CA to sign\n    # allow-subject-alt-names: false\n}\n";
        for text in [
            packaged,
            "",
            "allow-subject-alt-names: true",
            "certificate-authority: { allow-authorization-extensions: true }",
            "certificate-authority: { x: { allow-subject-alt-names: true } }",
            "certificate-authority.allow-subject-alt-names: true\ncertificate-authority: { allow-subject-alt-names: off }",
        ] {
            assert_eq!(switch(text), Ok(false), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        for (text, line) in [
            ("certificate-authority: {", 1),
            ("a: 1\ninclude \"b.conf\"\n", 2),
            ("certificate-authority: {\n allow-subject-alt-names: ${x}\n}", 2),
            ("a: [1", 1),
            ("a: {} }", 1),
            ("a: \"x", 1),
        ] {
            assert_eq!(switch(text).unwrap_err().0, line, "{text}");
        }
        assert!(switch(&"a:{".repeat(100_000)).is_err());
    }

    #[test]
    fn no_text_makes_it_panic() {
        let text = "{a.\"b\": [1, \"]\"], c { d = ${e} # f\n} // g\n}";
        for at in 0..text.len() {
            switch(&text[..at]).ok();
            for sign in ["{", "}", "[", "]", "\"", "$", "\\", "é", "\n", "="] {
                switch(&format!("{}{sign}{}", &text[..at], &text[at + 1..])).ok();
            }
        }
    }
}
