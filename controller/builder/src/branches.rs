//! Which branch becomes which environment.
//!
//! The mapping is the builders' own (every character that is not a word character becomes `_`). What it makes must
//! be an environment name of ours, and no other branch may make the same name: such branches are named and left out,
//! and never stop the others.

use std::collections::BTreeMap;

use bunraku_common::EnvironmentName;

use crate::error::BuildError;

/// Longest branch name that is built: as a directory name, with room for what git and the builders append.
const BRANCH_BYTES: usize = 200;

/// A branch that is an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Without `refs/heads/`.
    pub name: String,
    /// The full id of the commit at its tip.
    pub commit: String,
}

/// A branch that is none, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedBranch {
    pub name: String,
    pub reason: String,
}

/// All branches of the control repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Branches {
    pub environments: BTreeMap<EnvironmentName, Branch>,
    pub refused: Vec<RefusedBranch>,
}

impl Branches {
    pub(crate) fn sort_out(branches: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut claims: BTreeMap<EnvironmentName, Vec<Branch>> = BTreeMap::new();
        let mut refused = Vec::new();
        for (name, commit) in branches {
            match environment_of(&name) {
                Ok(environment) => claims.entry(environment).or_default().push(Branch { name, commit }),
                Err(reason) => refused.push(RefusedBranch { name, reason }),
            }
        }
        let mut environments = BTreeMap::new();
        for (environment, mut branches) in claims {
            if branches.len() == 1 {
                environments.extend(branches.pop().map(|only| (environment, only)));
                continue;
            }
            let names: Vec<&str> = branches.iter().map(|branch| branch.name.as_str()).collect();
            let reason = format!("branches {} would all become environment {environment}", names.join(", "));
            refused.extend(
                branches.iter().map(|b| RefusedBranch { name: b.name.clone(), reason: reason.clone() }),
            );
        }
        refused.sort_by(|a, b| a.name.cmp(&b.name));
        Self { environments, refused }
    }

    /// The branch of this name, if it is the one branch of that environment.
    pub(crate) fn find(&self, environment: &EnvironmentName, branch: &str) -> Result<&Branch, BuildError> {
        if let Some((is, found)) = self.environments.iter().find(|(_, b)| b.name == branch) {
            if is == environment {
                return Ok(found);
            }
            return Err(BuildError::OtherEnvironment {
                branch: found.name.clone(),
                is: is.clone(),
                asked: environment.clone(),
            });
        }
        let shown = shown(branch);
        match self.refused.iter().find(|refused| refused.name == shown) {
            Some(RefusedBranch { reason, .. }) => {
                Err(BuildError::BranchRefused { branch: shown, reason: reason.clone() })
            }
            None => Err(BuildError::NoBranch { branch: shown }),
        }
    }
}

/// The environment that a branch becomes, or why it becomes none.
pub fn environment_of(branch: &str) -> Result<EnvironmentName, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b'-');
    if branch.len() > BRANCH_BYTES {
        return Err(format!("its name is longer than {BRANCH_BYTES} bytes"));
    }
    if branch.is_empty() || branch.starts_with('-') || !branch.bytes().all(allowed) {
        return Err("only a-z A-Z 0-9 . _ / - are allowed in a branch name, and no - at its start".to_owned());
    }
    let mapped: String = branch.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    EnvironmentName::parse(&mapped).map_err(|error| error.to_string())
}

/// A name as people may see it: no control characters, bounded.
pub(crate) fn shown(branch: &str) -> String {
    branch.chars().take(BRANCH_BYTES).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sort_out(names: &[&str]) -> Branches {
        Branches::sort_out(names.iter().map(|name| ((*name).to_owned(), "c".to_owned())))
    }

    #[test]
    fn branches_become_environments_as_r10k_names_them() {
        for (branch, environment) in
            [("production", "production"), ("feature/a-b", "feature_a_b"), ("v1.2", "v1_2"), ("_x", "_x")]
        {
            assert_eq!(environment_of(branch).unwrap().as_str(), environment);
        }
    }

    #[test]
    fn two_branches_of_one_name_are_both_refused_and_the_others_go_on() {
        let branches = sort_out(&["a-b", "production", "a_b"]);
        let kept: Vec<&str> = branches.environments.keys().map(EnvironmentName::as_str).collect();
        assert_eq!(kept, ["production"]);
        let refused: Vec<&str> = branches.refused.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(refused, ["a-b", "a_b"]);
        assert!(branches.refused[0].reason.contains("a-b, a_b"), "{}", branches.refused[0].reason);
        let environment = EnvironmentName::parse("a_b").unwrap();
        assert!(matches!(branches.find(&environment, "a-b"), Err(BuildError::BranchRefused { .. })));
    }

    #[test]
    fn branch_names_that_a_shell_or_an_option_parser_could_misread_are_refused() {
        let long = "x".repeat(201);
        for name in
            ["", "--upload-pack=x", "-h", "a;b", "$(x)", "a b", "a\nb", "UPPER", "é", "a'b", "a`b`", &long]
        {
            assert!(environment_of(name).is_err(), "{name:?}");
        }
    }
}
