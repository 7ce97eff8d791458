//! The code that is deployed: environments with the shape of a real site, the same at every run.
//!
//! Shape and sizes were measured on a control repository with 41 modules: 7,565 files in 1,522 directories, file sizes
//! at p10/p50/p90/p99 of 162 / 1,380 / 6,240 / 46,700 bytes, the largest 2 MB; twenty environments of it hold only
//! 8,406 different contents. Content is text that zstd shrinks about six times.

use std::collections::BTreeMap;

use bunraku_common::Digest;

pub(super) const MODULES: usize = 41;

/// How large an environment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    module_files: usize,
    module_directories: usize,
    control_files: usize,
    control_directories: usize,
}

/// As measured: 7,565 files.
pub(super) const MEASURED: Shape =
    Shape { module_files: 170, module_directories: 36, control_files: 592, control_directories: 46 };

/// The environment that the design's figure names: 30,000 files.
pub(super) const LARGE: Shape =
    Shape { module_files: 716, module_directories: 146, control_files: 641, control_directories: 45 };

/// Files of the control repository that each environment has for itself; with 44 of them, twenty environments hold
/// about as many different contents as measured.
pub(super) const OWN_FILES: usize = 44;

/// Sizes in bytes at these shares of all files; in between they grow exponentially.
const SIZES: [(f64, f64); 9] = [
    (0.0, 20.0),
    (0.1, 162.0),
    (0.5, 1_380.0),
    (0.9, 6_240.0),
    (0.97, 12_000.0),
    (0.99, 46_700.0),
    (0.999, 150_000.0),
    (0.9999, 1_500_000.0),
    (1.0, 2_000_000.0),
];

/// Directory names, taken in turn. No `lib/puppet/type`: generating types starts a Ruby, which no rival does.
const NAMES: [&str; 8] = ["manifests", "templates", "files", "data", "functions", "spec", "tasks", "facts"];

/// A file whose content depends on its place and on how often it was changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct File {
    pub(super) path: String,
    size: usize,
    seed: u64,
}

impl File {
    /// Its text after `version` changes.
    pub(super) fn content(&self, version: u64) -> Vec<u8> {
        text(self.seed ^ version.wrapping_mul(0x9e37_79b9_7f4a_7c15), self.size)
    }
}

/// What an environment must look like on a target: every path with the digest of its content.
pub(super) type Expected = BTreeMap<String, Digest>;

impl Shape {
    /// Files of module `number`, by their paths in the module.
    pub(super) fn module(&self, number: usize) -> Vec<File> {
        let first = number * self.module_files;
        (0..self.module_files)
            .map(|file| self.file(first + file, file, self.module_directories, "m"))
            .collect()
    }

    /// Files of the control repository, apart from what Puppet and the builders read themselves.
    pub(super) fn control(&self) -> Vec<File> {
        let first = MODULES * self.module_files;
        (0..self.control_files)
            .map(|file| self.file(first + file, file, self.control_directories, "c"))
            .collect()
    }

    /// The version at which an environment's own files begin; all others begin at 0.
    pub(super) fn first_version(file: usize, environment: usize) -> u64 {
        if file < OWN_FILES { environment as u64 } else { 0 }
    }

    fn file(&self, index: usize, within: usize, directories: usize, prefix: &str) -> File {
        let files = MODULES * self.module_files + self.control_files;
        // A prime larger than any environment: every share of the sizes is met once.
        let share = (index * 1_000_003 % files) as f64 / (files - 1) as f64;
        let directory = directory(within % directories);
        let path = format!("{directory}{prefix}{within}.txt");
        File { path, size: size(share), seed: (index as u64) << 20 | directories as u64 }
    }
}

pub(super) fn module_name(number: usize) -> String {
    format!("site{number:02}")
}

/// A path that ends with `/`; number 0 is the root. Four below each.
fn directory(number: usize) -> String {
    match number.checked_sub(1) {
        None => String::new(),
        Some(below) => format!("{}{}{number}/", directory(below / 4), NAMES[number % NAMES.len()]),
    }
}

fn size(share: f64) -> usize {
    let above = SIZES.iter().position(|(at, _)| *at >= share).unwrap_or(SIZES.len() - 1).max(1);
    let ((low, small), (high, large)) = (SIZES[above - 1], SIZES[above]);
    (small * (large / small).powf((share - low) / (high - low))).round() as usize
}

/// Words in random order: about as compressible as Puppet code.
fn text(seed: u64, size: usize) -> Vec<u8> {
    const WORDS: [&str; 32] = [
        "class",
        "define",
        "include",
        "ensure",
        "=> present,",
        "=> running,",
        "owner",
        "group",
        "mode",
        "'0644'",
        "'root'",
        "require",
        "notify",
        "Service[",
        "File[",
        "Package[",
        "]",
        "{",
        "}",
        "String",
        "Integer",
        "Boolean",
        "Optional[",
        "$title",
        "$facts['os']",
        "lookup(",
        ")",
        "if",
        "else",
        "each",
        "|$key|",
        "unless",
    ];
    let mut random = seed | 1;
    let mut text = format!("# {seed:016x}\n").into_bytes();
    while text.len() < size {
        // xorshift64*
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        let drawn = random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        text.extend_from_slice(WORDS[(drawn % 32) as usize].as_bytes());
        // A number now and then, as real code has names and values.
        if drawn & 0x700 == 0 {
            text.extend_from_slice(format!(" {:x}", drawn >> 12).as_bytes());
        }
        text.push(if drawn & 0x3800 == 0 { b'\n' } else { b' ' });
    }
    text.truncate(size);
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn files(shape: Shape) -> Vec<File> {
        (0..MODULES).flat_map(|module| shape.module(module)).chain(shape.control()).collect()
    }

    #[test]
    fn the_input_has_the_measured_shape() {
        let files = files(MEASURED);
        let mut sizes: Vec<usize> = files.iter().map(|file| file.size).collect();
        sizes.sort_unstable();
        let at = |share: f64| sizes[(share * (sizes.len() - 1) as f64) as usize];
        for (share, expected) in [(0.1, 162), (0.5, 1_380), (0.9, 6_240), (0.99, 46_700)] {
            assert!(at(share).abs_diff(expected) * 50 < expected, "{share}: {}", at(share));
        }
        // Three more files are the Puppetfile and what Puppet reads itself.
        assert_eq!(files.len() + 3, 7_565);
        let bytes: usize = sizes.iter().sum();
        assert!(bytes.abs_diff(31_600_000) < 1_500_000, "{bytes}");
        assert_eq!(self::files(LARGE).len() + 3, 30_000);
    }

    #[test]
    fn contents_are_deterministic_differ_by_place_and_version_and_have_their_size() {
        let files = files(MEASURED);
        let contents: BTreeSet<Vec<u8>> =
            files.iter().filter(|file| file.size > 20).map(|file| file.content(0)).collect();
        assert_eq!(contents.len(), files.iter().filter(|file| file.size > 20).count());
        let one = &files[3];
        assert_eq!(one.content(1), one.content(1));
        assert_ne!(one.content(1), one.content(2));
        assert_eq!(one.content(7).len(), one.size);
    }
}
