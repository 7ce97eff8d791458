//! What a difference between two snapshots asks of Puppet Server beyond a cache flush.
//!
//! Pure: called with the output of `snapshot::diff` before a version is staged, and when a deploy is announced.

use super::{Change, Node};

/// Whether `.resource_types` must be generated again: a type in some module came, went or changed, or the path on which
/// modules are found may have.
pub fn needs_types(changes: &[Change]) -> bool {
    changes.iter().any(|change| {
        change.path() == "environment.conf"
            || holds(change.path(), "lib/puppet/type/")
            || takes_ruby_away(change)
    })
}

/// Whether loaded Ruby stays in the interpreters after a flush of the environment cache, so that the JRuby pool must be
/// made anew: types, providers, report processors, legacy functions and their helpers (restarting.markdown).
///
/// Not counted: what the environment's own loaders evaluate again (`lib/puppet/functions`, `lib/puppet/datatypes`), what
/// only agents run (`lib/facter`), and files that are new, for nobody has loaded them yet.
pub fn flushes_jrubies(changes: &[Change]) -> bool {
    changes.iter().any(|change| match change {
        Change::Added { .. } => false,
        Change::Changed { path, .. } => stays_loaded(path),
        Change::Removed { path, .. } => takes_ruby_away(change) || stays_loaded(path),
    })
}

fn stays_loaded(path: &str) -> bool {
    let reloaded = ["lib/puppet/functions/", "lib/puppet/datatypes/", "lib/facter/"];
    path.ends_with(".rb") && holds(path, "lib/") && !reloaded.iter().any(|dir| holds(path, dir))
}

/// Whether the path has this directory below a module (`modules/ntp/lib/…`, `site/profile/lib/…`).
fn holds(path: &str, directory: &str) -> bool {
    in_module(path).is_some_and(|rest| rest.starts_with(directory))
}

/// What follows `<directory>/<module>/`.
fn in_module(path: &str) -> Option<&str> {
    path.splitn(3, '/').nth(2)
}

/// A removed directory stands for everything in it: a directory of modules, a module, its lib, or part of that.
fn takes_ruby_away(change: &Change) -> bool {
    let Change::Removed { path, node: Node::Directory { .. } } = change else { return false };
    match in_module(path) {
        None => true,
        Some(rest) => rest == "lib" || rest == "lib/puppet" || rest.starts_with("lib/puppet/type"),
    }
}

#[cfg(test)]
mod tests {
    use crate::Digest;

    use super::*;

    fn file() -> Node {
        Node::File { digest: Digest::of(b""), size: 0, executable: false }
    }

    fn changed(path: &str) -> Vec<Change> {
        vec![Change::Changed { path: path.into(), old: file(), new: file() }]
    }

    fn added(path: &str) -> Vec<Change> {
        vec![Change::Added { path: path.into(), node: file() }]
    }

    fn removed_dir(path: &str) -> Vec<Change> {
        vec![Change::Removed { path: path.into(), node: Node::Directory { digest: Digest::of(b"") } }]
    }

    #[test]
    fn types_are_generated_again_only_when_a_type_may_have_changed() {
        assert!(needs_types(&changed("modules/a/lib/puppet/type/thing.rb")));
        assert!(needs_types(&added("site/profile/lib/puppet/type/deep/thing.rb")));
        assert!(needs_types(&changed("environment.conf")));
        for dir in ["modules", "modules/a", "modules/a/lib", "modules/a/lib/puppet/type"] {
            assert!(needs_types(&removed_dir(dir)), "{dir}");
        }
        for path in
            ["modules/a/manifests/init.pp", "modules/a/lib/puppet/provider/x.rb", "modules/a/types/lib.pp"]
        {
            assert!(!needs_types(&changed(path)), "{path}");
        }
        assert!(!needs_types(&removed_dir("modules/a/files/lib")));
    }

    #[test]
    fn the_interpreters_are_renewed_only_for_ruby_that_a_flush_does_not_reload() {
        for path in [
            "modules/a/lib/puppet/type/thing.rb",
            "modules/a/lib/puppet/provider/thing/ruby.rb",
            "modules/a/lib/puppet/reports/mine.rb",
            "modules/a/lib/puppet/parser/functions/old.rb",
            "modules/a/lib/puppet_x/helper.rb",
        ] {
            assert!(flushes_jrubies(&changed(path)), "{path}");
            assert!(!flushes_jrubies(&added(path)), "{path}: nobody has loaded it");
        }
        for path in [
            "modules/a/lib/puppet/functions/new.rb",
            "modules/a/lib/facter/fact.rb",
            "modules/a/spec/type_spec.rb",
            "modules/a/manifests/init.pp",
            "modules/a/lib/README",
        ] {
            assert!(!flushes_jrubies(&changed(path)), "{path}");
        }
        assert!(flushes_jrubies(&removed_dir("modules/a")));
    }
}
