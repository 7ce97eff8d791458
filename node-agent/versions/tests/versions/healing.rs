//! Files changed by hand: found by the scrub, mended by heal, in every version that shares them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    sync::atomic::AtomicBool,
};

use bunraku_versions::{
    Budget, Drift, What,
    testing::{Files, Item, Source, files},
};

use crate::fixture::{GO, Node, always, production, read};

const ALL: Budget = Budget { files: u64::MAX, bytes: u64::MAX };

fn sample() -> Files {
    let mut sample =
        files(&[("a", "1"), ("d/b", "2"), ("d/e/c", "3"), ("mode", "4"), ("z/y", "5"), ("gone/x/y", "6")]);
    sample.insert("link".into(), Item::Link("a".into()));
    sample
}

fn damage(node: &Node) -> Vec<Drift> {
    let live = node.dir.path().join("environments/production");
    fs::write(live.join("a"), "X").unwrap();
    fs::write(live.join("d/b"), "longer than before").unwrap();
    fs::remove_file(live.join("d/e/c")).unwrap();
    fs::create_dir(live.join("d/e/c")).unwrap();
    fs::set_permissions(live.join("mode"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(live.join("z"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::remove_file(live.join("z/y")).unwrap();
    fs::remove_dir_all(live.join("gone")).unwrap();
    fs::remove_file(live.join("link")).unwrap();
    symlink("/etc/passwd", live.join("link")).unwrap();
    fs::create_dir(live.join("extra")).unwrap();
    fs::write(live.join("extra/file"), "by hand").unwrap();
    fs::create_dir(live.join(".resource_types")).unwrap();
    [
        ("a", What::Content),
        ("d/b", What::Content),
        ("d/e/c", What::Kind),
        ("extra", What::Extra),
        ("gone", What::Missing),
        ("link", What::Content),
        ("mode", What::Mode),
        ("z", What::Mode),
        ("z/y", What::Missing),
    ]
    .map(|(path, what)| Drift { path: path.into(), what })
    .to_vec()
}

fn sorted(mut drift: Vec<Drift>) -> Vec<Drift> {
    drift.sort_by(|a, b| a.path.cmp(&b.path));
    drift
}

#[test]
fn a_scrub_names_every_kind_of_change_and_nothing_else() {
    let node = Node::new();
    node.deploy(&sample());
    let clean = node.versions.scrub(&production(), None, ALL).unwrap();
    assert_eq!((clean.drift, clean.checked_files, clean.next), (vec![], 6, None));
    let damaged = damage(&node);
    let seen = node.versions.scrub(&production(), None, ALL).unwrap();
    assert_eq!(sorted(seen.drift), damaged);
    let paths: Vec<String> = damaged.into_iter().map(|drift| drift.path).collect();
    assert_eq!(node.versions.observe()[0].drift, paths);
}

#[test]
fn a_scrub_in_many_small_steps_sees_the_same_as_one_in_a_single_step() {
    let node = Node::new();
    node.deploy(&sample());
    let damaged = damage(&node);
    let (mut found, mut from, mut steps) = (Vec::new(), None::<String>, 0);
    loop {
        let step =
            node.versions.scrub(&production(), from.as_deref(), Budget { files: 1, bytes: 1 }).unwrap();
        found.extend(step.drift);
        steps += 1;
        from = step.next;
        if from.is_none() {
            break;
        }
        assert!(steps < 50, "the scrub does not come to an end");
    }
    assert!(steps > 2, "{steps}");
    assert_eq!(sorted(found), damaged);
    assert_eq!(node.versions.observe()[0].drift.len(), damaged.len());
}

#[test]
fn drift_that_was_mended_by_hand_is_forgotten_by_the_next_scrub() {
    let node = Node::new();
    node.deploy(&sample());
    let path = node.dir.path().join("environments/production/d/b");
    fs::write(&path, "X").unwrap();
    node.versions.scrub(&production(), None, ALL).unwrap();
    assert_eq!(node.versions.observe()[0].drift, ["d/b"]);
    fs::write(&path, "2").unwrap();
    node.versions.scrub(&production(), None, ALL).unwrap();
    assert!(node.versions.observe()[0].drift.is_empty());
}

#[test]
fn heal_mends_everything_and_fetches_what_no_other_version_has() {
    let node = Node::new();
    node.deploy(&sample());
    damage(&node);
    let healed = node.versions.heal(&production(), &mut Source::new(&node.shelf), &GO, always).unwrap();
    assert_eq!(healed.mended.len(), 9);
    fs::remove_dir(node.dir.path().join("environments/production/.resource_types")).unwrap();
    assert_eq!(node.served(), sample());
    assert!(node.versions.observe()[0].drift.is_empty());
    let again = node.versions.heal(&production(), &mut Source::new(&node.shelf), &GO, always).unwrap();
    assert!(again.mended.is_empty());
}

#[test]
fn one_damaged_file_costs_one_fetched_object() {
    let node = Node::new();
    let many: Files = (0..50).map(|n| (format!("f{n:02}"), format!("{n}").as_str().into())).collect();
    let live = node.deploy(&many);
    fs::write(node.version(&live).join("f30"), "spoilt").unwrap();
    let mut source = Source::new(&node.shelf);
    node.versions.heal(&production(), &mut source, &GO, always).unwrap();
    let objects = node.shelf.listed(&live, &[], source.asked[0].1);
    assert_eq!(source.asked.len(), 1);
    assert_eq!(objects.len(), 20, "the stream began at the damaged one");
    assert_eq!(node.served(), many);
}

#[test]
fn a_damaged_inode_is_mended_in_every_version_that_links_it_and_the_spare_goes() {
    let node = Node::new();
    let old = node.deploy_text(&[("a", "shared"), ("b", "1")]);
    let live = node.deploy_text(&[("a", "shared"), ("b", "2")]);
    node.prepare_spare();
    // Through the live path: one inode, three trees.
    fs::write(node.version(&live).join("a"), "spoilt").unwrap();
    assert_eq!(fs::read_to_string(node.version(&old).join("a")).unwrap(), "spoilt");
    node.versions.heal(&production(), &mut Source::new(&node.shelf), &GO, always).unwrap();
    assert_eq!(node.served(), files(&[("a", "shared"), ("b", "2")]));
    assert_eq!(read(&node.version(&old)), files(&[("a", "shared"), ("b", "1")]));
    assert!(!node.root().join("spare/production").exists());
    let next = node.deploy_text(&[("a", "shared"), ("b", "3")]);
    assert_eq!(read(&node.version(&next)), files(&[("a", "shared"), ("b", "3")]));
}

#[test]
fn a_sound_copy_in_another_version_saves_the_fetch() {
    let node = Node::new();
    let old = node.deploy_text(&[("a", "same"), ("b", "1")]);
    let live = node.deploy_text(&[("a", "same"), ("b", "2")]);
    // Broken up by an editor that replaces files: the old version is sound.
    let path = node.version(&live).join("a");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "edit").unwrap();
    let mut source = Source::new(&node.shelf);
    node.versions.heal(&production(), &mut source, &GO, always).unwrap();
    assert!(source.asked.is_empty());
    assert_eq!(node.served(), files(&[("a", "same"), ("b", "2")]));
    assert_eq!(read(&node.version(&old)), files(&[("a", "same"), ("b", "1")]));
}

#[test]
fn a_changed_mode_is_mended_without_touching_the_inode_that_others_share() {
    let node = Node::new();
    let outside = node.dir.path().join("mine");
    let live = node.deploy_text(&[("a", "1")]);
    let path = node.version(&live).join("a");
    fs::hard_link(&path, &outside).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let healed = node.versions.heal(&production(), &mut Source::new(&node.shelf), &GO, always).unwrap();
    assert_eq!(healed.mended, ["a"]);
    assert_eq!(node.served(), files(&[("a", "1")]));
    assert_eq!(fs::metadata(&outside).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn heal_gets_lost_listings_back() {
    let mut node = Node::new();
    let live = node.deploy(&sample());
    fs::remove_dir_all(node.root().join("trees")).unwrap();
    node.reopen();
    fs::write(node.version(&live).join("a"), "X").unwrap();
    let healed = node.versions.heal(&production(), &mut Source::new(&node.shelf), &GO, always).unwrap();
    assert_eq!(healed.mended, ["a"]);
    assert_eq!(node.served(), sample());
}

fn heal_error(node: &Node, cancel: &AtomicBool, still: bool) -> String {
    let healed = node.versions.heal(&production(), &mut Source::new(&node.shelf), cancel, || still);
    healed.unwrap_err().to_string()
}

#[test]
fn a_heal_that_was_overtaken_or_given_up_mends_nothing() {
    let node = Node::new();
    let live = node.deploy(&sample());
    fs::write(node.version(&live).join("a"), "X").unwrap();
    assert!(heal_error(&node, &GO, false).contains("a newer order"));
    assert!(heal_error(&node, &AtomicBool::new(true), true).contains("as asked"));
    assert_eq!(fs::read_to_string(node.version(&live).join("a")).unwrap(), "X");
}

#[test]
fn a_relative_or_foreign_live_link_is_named_with_the_command_that_mends_it() {
    let node = Node::new();
    let live = node.deploy(&sample());
    let link = node.dir.path().join("environments/production");
    let relink = |target: &str| {
        fs::remove_file(&link).unwrap();
        symlink(target, &link).unwrap();
    };
    relink(&format!("../node/versions/production/production_{live}"));
    assert_eq!(node.versions.live(&production()), None);
    assert_eq!(node.versions.relative_link(&production()), Some(live));
    let told = heal_error(&node, &GO, true);
    let command = format!("hint: ln -sfn {} {}", node.version(&live).display(), link.display());
    assert!(told.contains("is a relative link") && told.ends_with(&command), "{told}");
    relink("/etc");
    assert_eq!(node.versions.relative_link(&production()), None);
    let told = heal_error(&node, &GO, true);
    assert!(told.contains("is a link to /etc") && told.ends_with("bunraku deploy production"), "{told}");
    // It leads to a version of ours that is not sealed.
    fs::remove_file(node.version(&live).with_extension("seal")).unwrap();
    relink(&format!("../node/versions/production/production_{live}"));
    assert_eq!(node.versions.relative_link(&production()), None);
}

#[test]
fn a_group_that_is_configured_anew_reaches_what_is_there_already() {
    let mut node = Node::new();
    let live = node.deploy(&sample());
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let passages = [node.root().join("versions"), node.root().join("versions/production")];
    let mut layout = Node::layout(node.dir.path());
    assert!(layout.live_suits(&production()));
    layout.group = Some(rustix::process::getegid().as_raw());
    node.versions = bunraku_versions::Versions::open(layout.clone()).unwrap();
    assert!(passages.iter().all(|path| mode(path) == 0o750), "nobody else passes any more");
    assert!(!layout.live_suits(&production()));
    node.versions.heal(&production(), &mut Source::new(&node.shelf), &GO, always).unwrap();
    assert!(layout.live_suits(&production()));
    assert_eq!(mode(&node.version(&live).join("a")), 0o640);
    // And back: everybody may read again, through every directory.
    node.reopen();
    assert!(passages.iter().all(|path| mode(path) == 0o755));
    fs::set_permissions(node.root(), fs::Permissions::from_mode(0o750)).unwrap();
    node.reopen();
    assert_eq!(mode(&node.root()), 0o755);
    node.versions.heal(&production(), &mut Source::new(&node.shelf), &GO, always).unwrap();
    assert_eq!(mode(&node.version(&live).join("d/b")), 0o644);
}
