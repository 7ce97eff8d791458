//! T9: what a hostile controller streams stays inside the version directory, or is not taken at all.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::Path};

use bunraku_common::{Digest, limits, snapshot::Tree};
use bunraku_proto::v1::stage_reply::Outcome;
use bunraku_tests::fleet::Fleet;

use super::usurper::{Forged, TERM, Usurper, commit, directory, entry, file, hello, stage, symlink};

/// Everything below a directory: kind, mode, owner, size, time, content or target.
fn everything(root: &Path, passed_over: &[&Path]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        if passed_over.contains(&path.as_path()) {
            continue;
        }
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else if meta.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if meta.is_file() {
            Digest::of(&fs::read(&path).unwrap()).to_string()
        } else {
            String::new()
        };
        let about =
            format!("{:o} {} {} {} {content}", meta.mode(), meta.uid(), meta.nlink(), meta.mtime_nsec());
        found.insert(format!("{} {about}", path.display()));
    }
    found
}

struct Hostile {
    what: &'static str,
    want: Digest,
    pack: Vec<u8>,
}

/// A tree of one level that holds these entries, in one pack with a blob that they may name.
fn one_tree(what: &'static str, entries: &[Vec<u8>]) -> Hostile {
    let listing = entries.concat();
    let pack = Forged::default().tree(&listing).blob(b"evil").end();
    Hostile { what, want: Tree::digest_of(&listing), pack }
}

fn below(what: &'static str, listing: &[u8]) -> Hostile {
    let root = directory(b"d", listing);
    let pack = Forged::default().tree(&root).tree(listing).blob(b"evil").end();
    Hostile { what, want: Tree::digest_of(&root), pack }
}

fn corpus(outside: &Path) -> Vec<Hostile> {
    let outside = outside.display().to_string();
    let evil = |name: &[u8]| file(name, b"evil");
    let up = "../".repeat(12);
    let mut all = vec![
        one_tree("a file named ..", &[evil(b"..")]),
        one_tree("a directory named ..", &[directory(b"..", &evil(b"x"))]),
        one_tree("a file that climbs", &[evil(b"../../../outside/passwd")]),
        one_tree("an absolute file", &[evil(format!("{outside}/passwd").as_bytes())]),
        one_tree("a file named with NUL", &[evil(b"a\0b")]),
        one_tree("a file without a name", &[evil(b"")]),
        one_tree("a name that is not UTF-8", &[evil(b"\xff\xfe")]),
        one_tree("a name that no file system takes", &[evil(&[b'n'; 256])]),
        one_tree("an absolute link", &[symlink(b"l", &outside)]),
        one_tree("a link that climbs", &[symlink(b"l", &format!("{up}{outside}"))]),
        one_tree("a link that climbs after going down", &[symlink(b"l", "d/../../../outside")]),
        one_tree("a link to nothing", &[symlink(b"l", "")]),
        one_tree("two hops", &[symlink(b"a", "b/../.."), symlink(b"b", ".")]),
        one_tree(
            "a link and a directory of one name",
            &[directory(b"l", &evil(b"passwd")), symlink(b"l", &outside)],
        ),
        one_tree("one name twice", &[evil(b"x"), evil(b"x")]),
        one_tree("names out of order", &[evil(b"b"), evil(b"a")]),
        one_tree("a device", &[entry(b'c', b"null", &[0; 8])]),
        one_tree("a hard link", &[entry(b'h', b"h", &[&[0, 11][..], b"/etc/passwd"].concat())]),
        below("a link below that climbs out", &symlink(b"l", "../../outside")),
        below("two hops below", &[symlink(b"hop", ".."), symlink(b"out", "hop/../../outside")].concat()),
    ];
    // The same digest again and again: deeper than any directory may be.
    let (mut listing, mut pack) = (evil(b"x"), Forged::default().blob(b"evil"));
    for _ in 0..limits::DEPTH + 2 {
        pack = pack.tree(&listing);
        listing = directory(b"d", &listing);
    }
    all.push(Hostile { what: "too deep", want: Tree::digest_of(&listing), pack: pack.tree(&listing).end() });
    let honest = evil(b"x");
    let want = Tree::digest_of(&honest);
    let pack = || Forged::default().tree(&honest);
    let other = Digest::of(b"other");
    all.extend([
        Hostile {
            what: "other bytes under the name",
            want: other,
            pack: Forged::default().frame(b'T', &other, honest.len() as u64, &honest).end(),
        },
        Hostile {
            what: "a blob with other bytes",
            want,
            pack: pack().frame(b'B', &Digest::of(b"evil"), 4, b"good").end(),
        },
        Hostile { what: "a blob of another length", want, pack: pack().blob(b"evil and more").end() },
        Hostile { what: "no blob at all", want, pack: pack().end() },
        Hostile {
            what: "a blob that nobody asked for",
            want,
            pack: pack().blob(b"not of this snapshot").blob(b"evil").end(),
        },
        Hostile {
            what: "a directory that is larger than allowed",
            want,
            pack: Forged::default().frame(b'T', &want, limits::TREE_BYTES + 1, &vec![0; 40 << 20]).end(),
        },
        Hostile {
            what: "a blob of the largest number",
            want,
            pack: pack().frame(b'B', &Digest::of(b"evil"), u64::MAX, b"evil").end(),
        },
        Hostile { what: "noise", want, pack: bunraku_tests::fleet::noise(4096).into_bytes() },
        Hostile { what: "nothing", want, pack: Vec::new() },
        Hostile {
            what: "a cut stream",
            want,
            pack: {
                let mut whole = pack().blob(b"evil").end();
                whole.truncate(whole.len() / 2);
                whole
            },
        },
    ]);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn t9_whatever_a_hostile_controller_streams_nothing_outside_the_version_directory_changes() {
    let fleet = Fleet::new().nodes(1).up().await;
    let live = fleet.deploy_change("production", "honest").await;
    let node = fleet.node("c1");
    let outside = fleet.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("passwd"), "root:x:0:0").unwrap();
    let mut usurper = Usurper::rise(fleet.main()).await;
    let mut client = usurper.capture(node).await;
    client.hello(hello(TERM)).await.unwrap();

    let (code, data, main) = (node.code(""), node.config().data_dir, fleet.path("main"));
    let passed_over = [code.as_path(), data.as_path(), main.as_path()];
    let root = fleet.path("");
    let before = everything(&root, &passed_over);
    for (generation, hostile) in corpus(&outside).into_iter().enumerate() {
        usurper.serve(hostile.pack);
        let generation = generation as u64 + 10;
        let reply =
            super::raw::soon(hostile.what, client.stage(stage(TERM, generation, &hostile.want))).await;
        match reply.unwrap().into_inner().outcome.unwrap() {
            Outcome::Failed(failed) => assert!(!failed.reason.is_empty(), "{}", hostile.what),
            Outcome::Staged(staged) => panic!("{} was taken: {staged:?}", hostile.what),
        }
        let committed = client.commit(commit(TERM, generation, &hostile.want)).await.unwrap().into_inner();
        assert!(committed.missing && !committed.committed, "{} was committed", hostile.what);
        let now = everything(&root, &passed_over);
        let changed: Vec<_> = now.symmetric_difference(&before).collect();
        assert!(changed.is_empty(), "{}: {changed:#?}", hostile.what);
        assert_eq!(node.live("production"), Some(live), "{}", hostile.what);
    }
    // The same way leads in for what is no attack.
    let listing = file(b"x", b"evil");
    usurper.serve(Forged::default().tree(&listing).blob(b"evil").end());
    let honest = stage(TERM, 1000, &Tree::digest_of(&listing));
    let reply = client.stage(honest).await.unwrap().into_inner();
    assert!(matches!(reply.outcome, Some(Outcome::Staged(_))), "{reply:?}");
    fleet.end().await;
}
