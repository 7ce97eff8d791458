//! Patterns of paths that stay out of snapshots.

/// `*` and `?` stay within one name, `**` crosses directories; a pattern without `/` matches a name in any directory,
/// one that begins with `/` only in the environment's root. What matches is left out with everything below it.
#[derive(Debug, Clone, Default)]
pub struct Exclude {
    patterns: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the exclude pattern `{pattern}` is not valid: {reason}")]
pub struct BadPattern {
    pattern: String,
    reason: &'static str,
}

impl Exclude {
    pub fn parse(patterns: &[String]) -> Result<Self, BadPattern> {
        let parse = |pattern: &String| {
            let wrong = |reason| BadPattern { pattern: pattern.clone(), reason };
            let bare = pattern.trim_end_matches('/');
            let (rooted, bare) = bare.strip_prefix('/').map_or((false, bare), |below| (true, below));
            match bare {
                "" => Err(wrong("it is empty")),
                _ if bare.split('/').any(|part| matches!(part, "" | "." | "..")) => {
                    Err(wrong("it has an empty name, . or .. in it"))
                }
                _ if rooted || bare.contains('/') => Ok(bare.as_bytes().to_vec()),
                _ => Ok([b"**/", bare.as_bytes()].concat()),
            }
        };
        Ok(Self { patterns: patterns.iter().map(parse).collect::<Result<_, _>>()? })
    }

    /// `path` from the environment's root.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| glob(pattern, path))
    }
}

/// The pattern that leaves out exactly this path: bytes that a pattern cannot spell become `?`.
pub(super) fn pattern_for(path: &[u8]) -> String {
    let in_root = !path.contains(&b'/');
    let mut pattern = if in_root { "/".to_owned() } else { String::new() };
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || "*?\"\\".contains(c) {
                pattern.extend(std::iter::repeat_n('?', c.len_utf8()));
            } else {
                pattern.push(c);
            }
        }
        pattern.extend(chunk.invalid().iter().map(|_| '?'));
    }
    pattern
}

/// Backtracking over the last star only, so the time is bounded by the product of the lengths.
fn glob(pattern: &[u8], path: &[u8]) -> bool {
    if let Some(rest) = pattern.strip_prefix(b"**/") {
        let starts = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at + 1);
        return std::iter::once(0).chain(starts).any(|at| glob(rest, &path[at..]));
    }
    if pattern == b"**" {
        return true;
    }
    let (part, rest) = split(pattern);
    let (name, below) = split(path);
    name_matches(part, name)
        && match (rest, below) {
            (None, None) => true,
            (Some(rest), Some(below)) => glob(rest, below),
            (Some(_), None) | (None, Some(_)) => false,
        }
}

fn split(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|b| *b == b'/') {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&b) if b == b'?' || b == name[n] => {
                p += 1;
                n += 1;
            }
            Some(_) | None => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Exclude::parse(&[pattern.to_owned()]).unwrap().matches(path.as_bytes())
    }

    #[test]
    fn patterns_match_what_their_description_says() {
        for (pattern, path) in [
            ("spec", "modules/ntp/spec"),
            ("*.swp", "a/b/.x.swp"),
            ("modules/*/spec", "modules/ntp/spec"),
            ("modules/**/fixtures", "modules/a/b/c/fixtures"),
            ("**/fixtures", "fixtures"),
            ("modules/x/", "modules/x"),
            ("modules/**", "modules/a/b"),
            ("a?c/d", "abc/d"),
            ("/spec", "spec"),
        ] {
            assert!(matches(pattern, path), "{pattern} should match {path}");
        }
        for (pattern, path) in [
            ("modules/*/spec", "modules/a/b/spec"),
            ("spec", "modules/ntp/specs"),
            ("modules/x", "modules/x/y"),
            ("modules/x", "site/modules/x"),
        ] {
            assert!(!matches(pattern, path), "{pattern} should not match {path}");
        }
    }

    #[test]
    fn patterns_that_could_never_match_are_refused() {
        for wrong in ["", "/", "//etc", "a//b", "../x", "/../x", "./x"] {
            assert!(Exclude::parse(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn the_suggested_pattern_leaves_the_path_out(parts in prop::collection::vec(prop::collection::vec(1u8..=255, 1..6), 1..5)) {
            let clean = |part: Vec<u8>| part.into_iter().map(|b| if b == b'/' || b == b'.' { b'x' } else { b }).collect();
            let path = parts.into_iter().map(clean).collect::<Vec<Vec<u8>>>().join(&b'/');
            let exclude = Exclude::parse(&[pattern_for(&path)]).unwrap();
            prop_assert!(exclude.matches(&path));
        }
    }
}
