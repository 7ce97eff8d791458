//! What cannot be part of a snapshot: all of it is named at once, with the line that would leave it out.

use std::fmt;

use bunraku_common::{hint, limits};

use super::exclude::pattern_for;

/// So many are named; the rest is counted.
const NAMED: usize = 100;

/// One entry that cannot be part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offence {
    /// From the environment's root, without control characters.
    pub path: String,
    pub why: Why,
    /// The value for `exclude` that leaves exactly this out.
    pub exclude: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    LinkLeaves(String),
    Device,
    Socket,
    Fifo,
    SetId,
    NotUtf8,
    TooDeep,
    PathTooLong,
    FileTooLarge(u64),
    DirectoryTooLarge,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.path)?;
        match &self.why {
            Why::LinkLeaves(target) => write!(f, "is a symlink that leaves the tree (to {target})"),
            Why::Device => f.write_str("is a device"),
            Why::Socket => f.write_str("is a socket"),
            Why::Fifo => f.write_str("is a fifo"),
            Why::SetId => f.write_str("has a setuid or setgid bit"),
            Why::NotUtf8 => f.write_str("has a name or target that is not UTF-8"),
            Why::TooDeep => write!(f, "is deeper than {} directories", limits::DEPTH),
            Why::PathTooLong => write!(f, "has a path of more than {} bytes", limits::PATH_BYTES),
            Why::FileTooLarge(size) => {
                write!(f, "has {size} bytes, more than the {} allowed", limits::BLOB_BYTES)
            }
            Why::DirectoryTooLarge => f.write_str("has too many entries for one directory"),
        }
    }
}

/// What a refused tree is answered with: everything that is wrong, and the one line that leaves all of it out. A hint
/// of each entry's own would be lost: of several hints only the last one is shown.
pub(super) fn told(named: &[Offence], total: usize) -> String {
    let entries = if total == 1 { "1 entry".to_owned() } else { format!("{total} entries") };
    let each: Vec<String> = named.iter().map(Offence::to_string).collect();
    let more = total.saturating_sub(named.len());
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    let reason = format!("{entries} cannot be part of a snapshot: {}{more}", each.join("; "));
    let left_out: Vec<String> = named.iter().map(|offence| format!("\"{}\"", offence.exclude)).collect();
    hint::join(&reason, &format!("exclude = [{}]", left_out.join(", ")))
}

/// Offences found so far.
#[derive(Debug, Default)]
pub(super) struct Offences {
    pub(super) named: Vec<Offence>,
    pub(super) total: usize,
}

impl Offences {
    pub(super) fn add(&mut self, path: &[u8], why: Why) {
        self.total += 1;
        if self.named.len() < NAMED {
            let path_shown = String::from_utf8_lossy(path).chars().flat_map(show).collect();
            self.named.push(Offence { path: path_shown, why, exclude: pattern_for(path) });
        }
    }
}

fn show(c: char) -> impl Iterator<Item = char> {
    if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }.into_iter()
}
