//! Random histories of one environment: what is live is its snapshot byte for byte, and older versions never change.

use std::collections::BTreeMap;

use bunraku_common::Digest;
use bunraku_versions::testing::{Files, Item};
use proptest::prelude::*;

use crate::fixture::{GO, Node, production, read};

#[derive(Debug, Clone)]
enum Step {
    Stage(Files),
    /// Stages and commits.
    Deploy(Files),
    /// Makes a version live that is here already.
    Back(prop::sample::Index),
    Spare,
    /// Makes a spare from a version that is not live.
    Recycle(prop::sample::Index),
    Discard(prop::sample::Index),
    Restart,
    Collect,
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        4 => "[a-c]{0,2}".prop_map(|text| Item::File(text.into_bytes())),
        2 => "[a-c]{0,2}".prop_map(|text| Item::Executable(text.into_bytes())),
        1 => "[a-c]".prop_map(Item::Link),
    ]
}

fn snapshot() -> impl Strategy<Value = Files> {
    prop::collection::btree_map("[a-c](/[a-c](/[a-c])?)?", item(), 0..8).prop_map(|files| {
        // A path below a file cannot be: the file goes.
        let inner: Vec<String> = files.keys().cloned().collect();
        let blocks = |path: &str| inner.iter().any(|other| other.starts_with(&format!("{path}/")));
        files.into_iter().filter(|(path, _)| !blocks(path)).collect()
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => snapshot().prop_map(Step::Stage),
        6 => snapshot().prop_map(Step::Deploy),
        2 => any::<prop::sample::Index>().prop_map(Step::Back),
        4 => Just(Step::Spare),
        2 => any::<prop::sample::Index>().prop_map(Step::Recycle),
        1 => any::<prop::sample::Index>().prop_map(Step::Discard),
        1 => Just(Step::Restart),
        1 => Just(Step::Collect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_live_tree_is_its_snapshot_and_older_versions_never_change(
        steps in prop::collection::vec(step(), 1..25)
    ) {
        let mut node = Node::new();
        let env = production();
        let mut known: BTreeMap<Digest, Files> = BTreeMap::new();
        let mut live: Option<Digest> = None;
        for step in steps {
            let others: Vec<Digest> = known.keys().copied().filter(|digest| Some(*digest) != live).collect();
            match step {
                Step::Stage(files) => {
                    let digest = node.shelf.put(&files);
                    node.stage(&digest).unwrap();
                    known.insert(digest, files);
                }
                Step::Deploy(files) => {
                    let digest = node.deploy(&files);
                    known.insert(digest, files);
                    live = Some(digest);
                }
                Step::Back(index) if !others.is_empty() => {
                    let digest = *index.get(&others);
                    node.versions.swap(&env, &digest, false, 0).unwrap();
                    live = Some(digest);
                }
                Step::Spare => drop(node.prepare_spare()),
                Step::Recycle(index) if !others.is_empty() => {
                    let digest = *index.get(&others);
                    node.versions.prepare_spare(&env, Some(&digest), &GO).unwrap();
                    if !node.versions.is_sealed(&env, &digest) {
                        known.remove(&digest);
                    }
                }
                Step::Discard(index) if !others.is_empty() => {
                    let digest = *index.get(&others);
                    node.versions.discard(&env, &digest).unwrap();
                    known.remove(&digest);
                }
                Step::Back(_) | Step::Recycle(_) | Step::Discard(_) => {}
                Step::Restart => node.reopen(),
                Step::Collect => drop(node.versions.collect(std::time::Duration::ZERO).unwrap()),
            }
            prop_assert_eq!(node.versions.live(&env), live);
            for (digest, files) in &known {
                prop_assert_eq!(&read(&node.version(digest)), files);
            }
            if let Some(live) = live {
                prop_assert_eq!(&node.served(), &known[&live]);
            }
            let listed: std::collections::BTreeSet<Digest> = node.versions.list(&env).into_iter().collect();
            prop_assert_eq!(listed, known.keys().copied().collect());
        }
    }
}
