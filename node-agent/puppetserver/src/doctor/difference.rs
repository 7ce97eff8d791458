//! A unified difference of two short texts, for people to read before and after an edit.

use std::{fmt::Write, ops::Range, path::Path};

/// Unchanged lines shown around a change, as everywhere.
const CONTEXT: usize = 3;

/// The difference, with `path` in its header; empty when the texts are equal.
pub(crate) fn unified(path: &Path, old: &str, new: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let steps = steps(&a, &b);
    let mut out = String::new();
    for hunk in hunks(&steps) {
        if out.is_empty() {
            out = format!("--- {0}\n+++ {0}\n", path.display());
        }
        let (from, to) = (&steps[hunk.start], steps[hunk.clone()].iter());
        let old_lines = to.clone().filter(|step| step.sign != '+').count();
        let new_lines = to.clone().filter(|step| step.sign != '-').count();
        let start = |line: usize, count: usize| line + usize::from(count > 0);
        writeln!(
            out,
            "@@ -{},{old_lines} +{},{new_lines} @@",
            start(from.old, old_lines),
            start(from.new, new_lines)
        )
        .expect("writing to a string cannot fail");
        for step in to {
            out.extend([step.sign.to_string().as_str(), step.text, "\n"]);
        }
    }
    out
}

struct Step<'a> {
    sign: char,
    text: &'a str,
    /// Lines of each text before this step.
    old: usize,
    new: usize,
}

/// The texts as one list of kept, removed and added lines, by the longest common subsequence.
///
/// Quadratic: configuration files have some hundred lines, and what is equal at both ends is left out first.
fn steps<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<Step<'a>> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (mid_a, mid_b) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let width = mid_b.len() + 1;
    let mut common = vec![0_u32; (mid_a.len() + 1) * width];
    for i in (0..mid_a.len()).rev() {
        for j in (0..mid_b.len()).rev() {
            common[i * width + j] = if mid_a[i] == mid_b[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let mut steps: Vec<Step<'a>> =
        (0..head).map(|i| Step { sign: ' ', text: a[i], old: i, new: i }).collect();
    let (mut i, mut j) = (0, 0);
    while i < mid_a.len() || j < mid_b.len() {
        let (old, new) = (head + i, head + j);
        if i < mid_a.len() && j < mid_b.len() && mid_a[i] == mid_b[j] {
            steps.push(Step { sign: ' ', text: mid_a[i], old, new });
            (i, j) = (i + 1, j + 1);
        } else if j == mid_b.len()
            || i < mid_a.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]
        {
            steps.push(Step { sign: '-', text: mid_a[i], old, new });
            i += 1;
        } else {
            steps.push(Step { sign: '+', text: mid_b[j], old, new });
            j += 1;
        }
    }
    let (after_a, after_b) = (a.len() - tail, b.len() - tail);
    steps.extend((0..tail).map(|k| Step {
        sign: ' ',
        text: a[after_a + k],
        old: after_a + k,
        new: after_b + k,
    }));
    steps
}

/// Changes with their surroundings; what is near each other is one hunk.
fn hunks(steps: &[Step<'_>]) -> Vec<Range<usize>> {
    let mut hunks: Vec<Range<usize>> = Vec::new();
    for (at, _) in steps.iter().enumerate().filter(|(_, step)| step.sign != ' ') {
        let around = at.saturating_sub(CONTEXT)..(at + 1 + CONTEXT).min(steps.len());
        match hunks.last_mut() {
            Some(last) if around.start <= last.end => last.end = around.end,
            Some(_) | None => hunks.push(around),
        }
    }
    hunks
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn it_is_what_diff_prints() {
        let long: String = (1..40).map(|n| format!("line {n}\n")).collect();
        for (old, new) in [
            (String::new(), "a\n".to_owned()),
            ("a\n".to_owned(), String::new()),
            ("a\nb\nc\n".to_owned(), "a\nx\nc\n".to_owned()),
            (long.clone(), long.replace("line 5\n", "line 5\nnew\n").replace("line 30\n", "")),
            (long.clone(), format!("first\n{long}last\n")),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (a, b) = (dir.path().join("a"), dir.path().join("b"));
            fs::write(&a, &old).unwrap();
            fs::write(&b, &new).unwrap();
            let run = Command::new("diff")
                .args(["-u", "--label", "x", "--label", "x"])
                .args([&a, &b])
                .output()
                .unwrap();
            let expected = String::from_utf8(run.stdout).unwrap();
            // diff leaves out a count of one.
            let ours = unified(Path::new("x"), &old, &new).replace(",1 ", " ");
            assert_eq!(ours, expected);
        }
        assert_eq!(unified(Path::new("x"), "a\n", "a\n"), "");
    }
}
