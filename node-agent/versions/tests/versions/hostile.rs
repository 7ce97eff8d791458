//! Snapshots made to break out of the version directory or to exhaust the node.

use std::{fs, os::unix::fs::MetadataExt};

use bunraku_common::{
    Digest, limits,
    snapshot::{
        Entry, Node as Item, Tree,
        pack::{Kind, Object},
    },
};
use bunraku_versions::{
    Fault, StageError,
    testing::{self, Files, Source, files},
};

use crate::fixture::{GO, Node, always, fingerprint, production, read};

/// Stages a root directory given as raw bytes, and proves that nothing outside the node's own root changed.
fn stage_raw(root: &[u8]) -> StageError {
    let node = Node::new();
    let digest = Tree::digest_of(root);
    let path = node.shelf.objects.path(&digest);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, root).unwrap();
    let mut plain = vec![b'T'];
    plain.extend_from_slice(digest.as_bytes());
    plain.extend_from_slice(&(root.len() as u64).to_be_bytes());
    plain.extend_from_slice(root);
    plain.push(b'E');
    plain.extend_from_slice(&[0; 32]);
    plain.extend_from_slice(&1_u64.to_be_bytes());
    let pack = zstd::encode_all(plain.as_slice(), 1).unwrap();
    struct Raw(Vec<u8>);
    impl bunraku_versions::PackSource for Raw {
        fn open(
            &mut self,
            _: &Digest,
            _: &[Digest],
            _: Option<Digest>,
        ) -> std::io::Result<Box<dyn std::io::Read + Send>> {
            Ok(Box::new(std::io::Cursor::new(self.0.clone())))
        }
    }
    unchanged_outside(&node, || {
        node.versions.stage(&production(), &digest, &mut Raw(pack.clone()), &GO).unwrap_err()
    })
}

fn unchanged_outside<T>(node: &Node, work: impl FnOnce() -> T) -> T {
    let outside = node.dir.path().join("environments");
    fs::write(outside.join("witness"), "untouched").unwrap();
    let before = fingerprint(&outside);
    let done = work();
    assert_eq!(fingerprint(&outside), before);
    let expected = ["adopted", "incoming", "spare", "tmp", "trash", "trees", "versions"];
    let mut found: Vec<String> =
        fs::read_dir(node.root()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, expected);
    done
}

fn raw_entry(kind: u8, name: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut entry = vec![kind];
    entry.extend_from_slice(&u16::try_from(name.len()).unwrap().to_be_bytes());
    entry.extend_from_slice(name);
    entry.extend_from_slice(rest);
    entry
}

fn raw_link(name: &[u8], target: &[u8]) -> Vec<u8> {
    let mut rest = u16::try_from(target.len()).unwrap().to_be_bytes().to_vec();
    rest.extend_from_slice(target);
    raw_entry(b'l', name, &rest)
}

#[test]
fn names_that_lead_elsewhere_are_bad_content() {
    let file = [&[7; 32][..], &1_u64.to_be_bytes()].concat();
    for name in [&b".."[..], b".", b"", b"../x", b"/etc/passwd", b"a/b", b"a\0b", &[b'n'; 256], b"\xff"] {
        let error = stage_raw(&raw_entry(b'f', name, &file));
        assert_eq!(error.fault, Fault::Content, "{name:?}");
        assert!(error.reason.contains("is refused"), "{}", error.reason);
    }
}

#[test]
fn devices_setuid_files_and_unknown_kinds_are_bad_content() {
    for kind in [b'c', b'b', b'p', b's', b'h', 0, 255] {
        assert_eq!(stage_raw(&raw_entry(kind, b"x", &[0; 40])).fault, Fault::Content);
    }
}

#[test]
fn listings_that_encoding_would_not_make_are_bad_content() {
    let file = [&[7; 32][..], &1_u64.to_be_bytes()].concat();
    let twice = [raw_entry(b'f', b"a", &file), raw_entry(b'f', b"a", &file)].concat();
    let unsorted = [raw_entry(b'f', b"b", &file), raw_entry(b'f', b"a", &file)].concat();
    let huge = raw_entry(b'f', b"a", &[&[7; 32][..], &u64::MAX.to_be_bytes()].concat());
    for root in [twice, unsorted, huge, raw_entry(b'f', b"a", &file[..39])] {
        assert_eq!(stage_raw(&root).fault, Fault::Content);
    }
}

#[test]
fn links_that_lead_out_are_bad_content() {
    for target in ["/etc", "..", "../..", "a/../../x", "../versions", ""] {
        assert_eq!(stage_raw(&raw_link(b"l", target.as_bytes())).fault, Fault::Content, "{target}");
    }
}

fn link(target: &str) -> testing::Item {
    testing::Item::Link(target.into())
}

fn refused(files: &Files) -> StageError {
    let node = Node::new();
    let old = node.deploy_text(&[("kept", "1")]);
    node.prepare_spare();
    let want = node.shelf.put(files);
    let error = unchanged_outside(&node, || node.stage(&want).unwrap_err());
    node.nothing_counts_but(&[old]);
    assert_eq!(node.served(), testing::files(&[("kept", "1")]));
    error
}

#[test]
fn links_out_of_the_tree_by_their_depth_or_in_two_hops_are_bad_content() {
    let error = refused(&Files::from([("d/e/l".to_owned(), link("../../../x"))]));
    assert_eq!(error.fault, Fault::Content);
    assert!(error.reason.contains("leads out of the environment"), "{}", error.reason);
    // `d/up` is a link to `..`, as far as a text can tell: encoding refuses it, so the node gets raw bytes.
    assert_eq!(stage_raw(&raw_link(b"l", b"d/up/../../etc")).fault, Fault::Content);
}

#[test]
fn the_name_of_generated_types_is_bad_content() {
    let error = refused(&files(&[(".resource_types/x.pp", "1")]));
    assert_eq!(error.fault, Fault::Content);
    let error = refused(&Files::from([(".resource_types".to_owned(), link("kept"))]));
    assert_eq!(error.fault, Fault::Content);
}

#[test]
fn a_tree_that_is_too_deep_or_whose_paths_are_too_long_is_bad_content() {
    let deep = vec!["d"; limits::DEPTH + 2].join("/");
    let long = vec!["n".repeat(250); 13].join("/");
    for path in [deep, long] {
        assert_eq!(refused(&files(&[(&path, "x")])).fault, Fault::Content);
    }
}

#[test]
fn sixty_listings_that_stand_for_a_billion_billion_files_are_refused_soon() {
    let node = Node::new();
    let mut below = node.shelf.objects.put_tree(&Tree::default()).unwrap();
    let mut objects = vec![Object { kind: Kind::Tree, digest: below }];
    for _ in 0..60 {
        let entry = |name: &str| Entry { name: name.into(), node: Item::Directory { digest: below } };
        let tree = Tree::new(vec![entry("a"), entry("b")]).unwrap();
        below = node.shelf.objects.put_tree(&tree).unwrap();
        objects.insert(0, Object { kind: Kind::Tree, digest: below });
    }
    let pack = node.shelf.pack(&objects);
    struct Bomb(Vec<u8>);
    impl bunraku_versions::PackSource for Bomb {
        fn open(
            &mut self,
            _: &Digest,
            _: &[Digest],
            _: Option<Digest>,
        ) -> std::io::Result<Box<dyn std::io::Read + Send>> {
            Ok(Box::new(std::io::Cursor::new(self.0.clone())))
        }
    }
    let error = node.versions.stage(&production(), &below, &mut Bomb(pack), &GO).unwrap_err();
    assert_eq!(error.fault, Fault::Content);
    assert!(error.reason.contains("directories"), "{}", error.reason);
    node.nothing_counts_but(&[]);
}

#[test]
fn a_listing_that_lies_about_a_size_is_bad_content() {
    let node = Node::new();
    let digest = node.shelf.objects.put_blob(b"hello").unwrap();
    let node_of = |size| Item::File { digest, size, executable: false };
    let tree = Tree::new(vec![Entry { name: "a".into(), node: node_of(6) }]).unwrap();
    let want = node.shelf.objects.put_tree(&tree).unwrap();
    let error = node.stage(&want).unwrap_err();
    assert_eq!(error.fault, Fault::Content);
    let both =
        vec![Entry { name: "a".into(), node: node_of(5) }, Entry { name: "b".into(), node: node_of(6) }];
    let want = node.shelf.objects.put_tree(&Tree::new(both).unwrap()).unwrap();
    assert_eq!(node.stage(&want).unwrap_err().fault, Fault::Content);
}

#[test]
fn names_that_differ_in_case_or_normal_form_only_are_all_there() {
    let node = Node::new();
    let clashing = files(&[
        ("Readme", "1"),
        ("README", "2"),
        ("readme", "3"),
        ("caf\u{e9}", "4"),
        ("cafe\u{301}", "5"),
        ("d/x", "6"),
        ("D/x", "7"),
        ("line\nbreak", "8"),
        ("-rf", "9"),
        ("con", "10"),
        (".bunraku", "11"),
    ]);
    node.deploy(&clashing);
    assert_eq!(node.served(), clashing);
}

#[test]
fn names_of_255_bytes_and_deep_paths_within_the_limits_work() {
    let node = Node::new();
    let long = "n".repeat(255);
    let deep = format!("{}/f", vec!["d"; limits::DEPTH - 1].join("/"));
    let far = format!("{}/f", vec!["x".repeat(240); 11].join("/"));
    let files = files(&[(&long, "1"), (&deep, "2"), (&far, "3")]);
    node.deploy(&files);
    assert_eq!(read(&node.dir.path().join("environments/production")), files);
}

#[test]
fn links_within_the_tree_are_made_and_not_followed_when_they_change() {
    let node = Node::new();
    let mut first = files(&[("real/f", "1")]);
    first.insert("alias".into(), link("real"));
    node.deploy(&first);
    node.prepare_spare();
    // The name of the link is now a directory of its own.
    let second = files(&[("real/f", "1"), ("alias/f", "2")]);
    node.deploy(&second);
    assert_eq!(node.served(), second);
}

#[test]
fn a_hard_link_to_a_file_outside_put_into_a_version_is_never_written_through() {
    let node = Node::new();
    let outside = node.dir.path().join("precious");
    fs::write(&outside, "precious").unwrap();
    let old = node.deploy_text(&[("a", "1"), ("b", "1")]);
    node.prepare_spare();
    for tree in [node.version(&old), node.root().join("spare/production")] {
        fs::remove_file(tree.join("a")).unwrap();
        fs::hard_link(&outside, tree.join("a")).unwrap();
    }
    let mode = fs::metadata(&outside).unwrap().mode();
    let mut changed = files(&[("b", "1")]);
    changed.insert("a".into(), testing::Item::Executable(b"2".to_vec()));
    node.deploy(&changed);
    node.versions.heal(&production(), &mut Source::new(&node.shelf), &GO, always).unwrap();
    assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
    assert_eq!(fs::metadata(&outside).unwrap().mode(), mode);
    assert_eq!(node.served(), changed);
}

#[test]
fn a_directory_of_100_000_files_is_staged() {
    let node = Node::new();
    let digest = node.shelf.objects.put_blob(b"same").unwrap();
    let entry =
        |n| Entry { name: format!("f{n:06}"), node: Item::File { digest, size: 4, executable: false } };
    let tree = Tree::new((0..100_000).map(entry).collect()).unwrap();
    let want = node.shelf.objects.put_tree(&tree).unwrap();
    let staged = node.stage(&want).unwrap();
    assert_eq!((staged.written_files, staged.fetched_objects), (100_000, 2));
    assert_eq!(fs::read_dir(node.version(&want)).unwrap().count(), 100_000);
}
