//! Enough of HOCON to read Puppet Server's own configuration files, and to say where in the text a list begins.
//!
//! What is not understood is an error, never a guess: the doctor edits only what was read beyond doubt. Substitutions
//! (`${…}`) stay as text; `include` is refused.

use std::ops::Range;

/// A value, with its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    List { items: Vec<Value>, at: Range<usize> },
    Object { fields: Vec<(String, Value)>, at: Range<usize> },
}

/// Where and why reading stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(crate) struct NotUnderstood {
    pub(crate) line: usize,
    pub(crate) what: &'static str,
}

/// Nesting of a real file stays below ten.
const DEPTH: usize = 64;

pub(crate) fn parse(text: &str) -> Result<Value, NotUnderstood> {
    let mut reader = Reader { text, at: 0 };
    reader.skip(true);
    let root = if reader.peek() == Some('{') {
        reader.value(0)?
    } else {
        let mut fields = Vec::new();
        reader.fields(&mut fields, 0)?;
        Value::Object { fields, at: 0..text.len() }
    };
    reader.skip(true);
    if reader.peek().is_some() { Err(reader.wrong("more text than one object")) } else { Ok(root) }
}

impl Value {
    /// The field of an object; the last one when it stands there twice, as in HOCON.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object { fields, .. } => {
                fields.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            Self::Text(_) | Self::List { .. } => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::List { .. } | Self::Object { .. } => None,
        }
    }

    /// A list's items; a single value counts as a list of one, as in auth.conf.
    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::List { items, .. } => items,
            Self::Text(_) | Self::Object { .. } => std::slice::from_ref(self),
        }
    }

    pub(crate) fn is_true(&self) -> bool {
        matches!(self.text(), Some("true" | "yes" | "on"))
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += next.map_or(0, char::len_utf8);
        next
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn wrong(&self, what: &'static str) -> NotUnderstood {
        NotUnderstood { line: self.text[..self.at].matches('\n').count() + 1, what }
    }

    /// Skips blanks and comments; line ends and commas only when they mean nothing here.
    fn skip(&mut self, over_lines: bool) {
        loop {
            match self.peek() {
                Some('\n' | ',') if !over_lines => return,
                Some(c) if c.is_whitespace() || c == ',' || c == '\u{feff}' => self.at += c.len_utf8(),
                Some('#') => self.comment(),
                Some('/') if self.rest().starts_with("//") => self.comment(),
                Some(_) | None => return,
            }
        }
    }

    fn comment(&mut self) {
        self.at += self.rest().find('\n').unwrap_or(self.rest().len());
    }

    fn value(&mut self, depth: usize) -> Result<Value, NotUnderstood> {
        if depth > DEPTH {
            return Err(self.wrong("too deep"));
        }
        let from = self.at;
        match self.peek() {
            Some('{') => {
                self.next();
                let mut fields = Vec::new();
                self.fields(&mut fields, depth + 1)?;
                if !self.take("}") {
                    return Err(self.wrong("`}` is missing"));
                }
                self.ends(Value::Object { fields, at: from..self.at })
            }
            Some('[') => {
                self.next();
                let mut items = Vec::new();
                self.skip(true);
                while !self.take("]") {
                    if self.peek().is_none() {
                        return Err(self.wrong("`]` is missing"));
                    }
                    items.push(self.value(depth + 1)?);
                    self.skip(true);
                }
                self.ends(Value::List { items, at: from..self.at })
            }
            Some(_) => self.words().map(Value::Text),
            None => Err(self.wrong("a value is missing")),
        }
    }

    /// HOCON would join two objects or lists that follow each other on one line: refused.
    fn ends(&mut self, value: Value) -> Result<Value, NotUnderstood> {
        self.skip(false);
        match self.peek() {
            None | Some('\n' | ',' | '}' | ']') => Ok(value),
            Some(_) => Err(self.wrong("text after a list or an object")),
        }
    }

    /// `name: value`, `name = value`, `name { … }`, with names that may be quoted or dotted.
    fn fields(&mut self, into: &mut Vec<(String, Value)>, depth: usize) -> Result<(), NotUnderstood> {
        loop {
            self.skip(true);
            if matches!(self.peek(), None | Some('}')) {
                return Ok(());
            }
            let path = self.path()?;
            self.skip(false);
            if self.peek() != Some('{') && !self.take(":") && !self.take("=") {
                return Err(self.wrong("`:`, `=` or `{` is expected after a name"));
            }
            self.skip(true);
            let value = self.value(depth)?;
            insert(into, &path, value);
        }
    }

    fn path(&mut self) -> Result<Vec<String>, NotUnderstood> {
        let mut path = Vec::new();
        loop {
            let name = if self.peek() == Some('"') {
                self.quoted()?
            } else {
                let end = self.rest().find(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_')));
                let name = self.rest()[..end.unwrap_or(self.rest().len())].to_owned();
                self.at += name.len();
                name
            };
            if name.is_empty() {
                return Err(self.wrong("a name is expected"));
            }
            if name == "include" && path.is_empty() && self.rest().starts_with([' ', '\t']) {
                return Err(self.wrong("`include` is not followed"));
            }
            path.push(name);
            if !self.take(".") {
                return Ok(path);
            }
        }
    }

    /// Quoted and bare words up to the end of the value, joined as they stand.
    fn words(&mut self) -> Result<String, NotUnderstood> {
        let (from, mut text) = (self.at, String::new());
        loop {
            match self.peek() {
                None | Some('\n' | ',' | '}' | ']' | '#') => break,
                Some('/') if self.rest().starts_with("//") => break,
                Some('"') => text.push_str(&self.quoted()?),
                Some('$') if self.rest().starts_with("${") => {
                    let end = self.rest().find('}').ok_or_else(|| self.wrong("`${` has no end"))?;
                    text.push_str(&self.rest()[..=end]);
                    self.at += end + 1;
                }
                Some('{' | '[' | '=') => return Err(self.wrong("an unexpected sign in a value")),
                Some(c) => {
                    text.push(c);
                    self.next();
                }
            }
        }
        // An empty quote is a value; nothing at all is none, and would be found here again and again.
        if self.at == from { Err(self.wrong("a value is missing")) } else { Ok(text.trim_end().to_owned()) }
    }

    fn quoted(&mut self) -> Result<String, NotUnderstood> {
        if self.take("\"\"\"") {
            let end = self.rest().find("\"\"\"").ok_or_else(|| self.wrong("a quote has no end"))?;
            let text = self.rest()[..end].to_owned();
            self.at += end + 3;
            return Ok(text);
        }
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => match self.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(c @ ('"' | '\\' | '/')) => text.push(c),
                    Some(_) | None => return Err(self.wrong("an unknown escape in a quote")),
                },
                None | Some('\n') => return Err(self.wrong("a quote has no end")),
                Some(c) => text.push(c),
            }
        }
    }
}

/// Puts a value at a dotted path; two objects of the same name are merged.
fn insert(fields: &mut Vec<(String, Value)>, path: &[String], value: Value) {
    let [name, rest @ ..] = path else { return };
    let same = fields.iter_mut().rev().find(|(key, _)| key == name).map(|(_, value)| value);
    match (same, rest) {
        (Some(Value::Object { fields: inner, .. }), [_, ..]) => insert(inner, rest, value),
        (Some(Value::Object { fields: inner, .. }), []) if matches!(value, Value::Object { .. }) => {
            let Value::Object { fields: new, .. } = value else { return };
            for (key, value) in new {
                insert(inner, &[key], value);
            }
        }
        (_, []) => fields.push((name.clone(), value)),
        (_, [_, ..]) => {
            let mut inner = Vec::new();
            insert(&mut inner, rest, value);
            fields.push((name.clone(), Value::Object { fields: inner, at: 0..0 }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_puppet_server_ships_are_read() {
        let auth = parse(include_str!("../../tests/samples/auth.conf")).unwrap();
        let rules = auth.get("authorization").unwrap().get("rules").unwrap().items();
        assert!(rules.len() > 15);
        assert_eq!(rules.last().unwrap().get("deny").unwrap().text(), Some("*"));
        let methods = rules[0].get("match-request").unwrap().get("method").unwrap().items();
        assert_eq!(methods.iter().filter_map(Value::text).collect::<Vec<_>>(), ["get", "post"]);
        let server = parse(include_str!("../../tests/samples/puppetserver.conf")).unwrap();
        let jruby = server.get("jruby-puppet").unwrap();
        assert_eq!(jruby.get("gem-path").unwrap().items()[0].text(), Some("${jruby-puppet.gem-home}"));
        assert!(jruby.get("max-active-instances").is_none(), "a comment is no setting");
    }

    #[test]
    fn the_forms_that_people_write_mean_the_same() {
        let same = [
            "a: { b: x, c: [1, 2] }",
            "a { b = \"x\"\n c = [1\n 2] } # end",
            "{ \"a\": {\"b\":\"x\",\"c\":[1,2,],}, }",
            "a.b: x // so\na.c: [1,2]",
            "a: {b: x}\na: {c: [1,2]}",
        ];
        for text in same {
            let root = parse(text).unwrap();
            let a = root.get("a").unwrap();
            assert_eq!(a.get("b").unwrap().text(), Some("x"), "{text}");
            let items: Vec<_> = a.get("c").unwrap().items().iter().filter_map(Value::text).collect();
            assert_eq!(items, ["1", "2"], "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        for (text, line) in [
            ("a: {", 1),
            ("a: 1\ninclude \"x\"", 2),
            ("a: [1", 1),
            ("a: \"x", 1),
            ("\n\na", 3),
            ("a: [1] [2]", 1),
            ("a: }", 1),
            ("a: ${b", 1),
            ("a: [\"x\"}]", 1),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"a:{".repeat(100_000)).is_err());
    }

    #[test]
    fn no_text_makes_it_panic_or_read_for_ever() {
        let text =
            "a { b = \"x\\n\", c: [1, \"y\", ${d}, {z: 1}] # e\n \"f\".g: \"\"\"h\"\"\" // i\n j: k l,}\n";
        assert!(parse(text).is_ok());
        for at in 0..text.len() {
            parse(&text[..at]).ok();
            for sign in ["{", "}", "[", "\"", "$", "\\", "é", "\n", "=", ""] {
                parse(&format!("{}{sign}{}", &text[..at], &text[at + 1..])).ok();
            }
        }
    }

    #[test]
    fn the_place_of_a_list_is_known() {
        let text = "authorization: {\n  rules: [\n    {a: 1}\n  ]\n}";
        let root = parse(text).unwrap();
        let Some(Value::List { at, .. }) = root.get("authorization").and_then(|it| it.get("rules")) else {
            panic!("a list is there");
        };
        assert!(text[at.clone()].starts_with('[') && text[at.clone()].ends_with(']'));
    }
}
