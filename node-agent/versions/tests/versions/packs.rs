//! Packs that break, lie or repeat themselves.

use std::{cell::Cell, fs, io};

use bunraku_common::{
    Digest,
    snapshot::pack::{Kind, Object},
};
use bunraku_versions::{
    Fault, PackSource,
    testing::{Files, Source, files},
};

use crate::fixture::{GO, Node, production, read};

fn many() -> Files {
    (0..40).map(|n| (format!("d{}/f{n}", n % 4), format!("content of {n}").as_str().into())).collect()
}

#[test]
fn a_stream_that_breaks_at_any_byte_goes_on_after_the_last_verified_object() {
    let node = Node::new();
    let want = node.shelf.put(&many());
    let whole = node.shelf.pack(&node.shelf.listed(&want, &[], None)).len();
    for cut in (0..whole).step_by(97) {
        let node = Node::new();
        let want = node.shelf.put(&many());
        let mut source = Source::new(&node.shelf).spoilt(move |n, mut bytes| {
            bytes.truncate(if n == 0 { cut } else { usize::MAX });
            Ok(bytes)
        });
        let staged = node.versions.stage(&production(), &want, &mut source, &GO).unwrap();
        assert_eq!(source.asked.len(), 2, "cut at {cut}");
        // 5 directories, 40 files: no object came twice.
        assert_eq!(staged.fetched_objects, 45, "cut at {cut}");
        assert_eq!(read(&node.version(&want)), many());
    }
}

/// Gives the first objects of a pack, and never more.
struct FirstOnly<'a>(&'a Node, usize);

impl PackSource for FirstOnly<'_> {
    fn open(
        &mut self,
        want: &Digest,
        have: &[Digest],
        _: Option<Digest>,
    ) -> io::Result<Box<dyn io::Read + Send>> {
        let part = self.0.shelf.listed(want, have, None)[..self.1].to_vec();
        Ok(Box::new(io::Cursor::new(self.0.shelf.pack(&part))))
    }
}

#[test]
fn what_an_earlier_stage_received_is_not_fetched_again() {
    let mut node = Node::new();
    let want = node.shelf.put(&many());
    let objects = node.shelf.listed(&want, &[], None);
    let came = objects.len() - 3;
    let error = node.versions.stage(&production(), &want, &mut FirstOnly(&node, came), &GO).unwrap_err();
    assert_eq!(error.fault, Fault::Node);
    node.nothing_counts_but(&[]);
    node.reopen();
    let mut source = Source::new(&node.shelf);
    let staged = node.versions.stage(&production(), &want, &mut source, &GO).unwrap();
    assert_eq!(source.asked, [(vec![], Some(objects[came - 1].digest))]);
    assert_eq!(staged.fetched_objects, 3);
    assert_eq!(read(&node.version(&want)), many());
}

#[test]
fn a_received_file_that_was_damaged_on_disk_is_fetched_again() {
    let mut node = Node::new();
    let want = node.shelf.put(&files(&[("a", "1"), ("b", "2")]));
    let mut lacking = Source::new(&node.shelf).spoilt(|_, _| Err(io::Error::other("no")));
    node.versions.stage(&production(), &want, &mut lacking, &GO).unwrap_err();
    drop(lacking);
    let one = Digest::of(b"1");
    let shelf_path = node.root().join("incoming/production").join(&one.to_string()[..2]);
    fs::create_dir_all(&shelf_path).unwrap();
    fs::write(shelf_path.join(one.to_string()), "spoilt").unwrap();
    node.reopen();
    node.stage(&want).unwrap();
    assert_eq!(read(&node.version(&want)), files(&[("a", "1"), ("b", "2")]));
}

#[test]
fn f13_every_flipped_bit_on_the_wire_ends_in_the_right_tree() {
    let sample = files(&[("a", "hello"), ("d/b", "world")]);
    let node = Node::new();
    let want = node.shelf.put(&sample);
    let length = node.shelf.pack(&node.shelf.listed(&want, &[], None)).len();
    for bit in (0..length * 8).step_by(13) {
        let mut source = Source::new(&node.shelf).spoilt(move |n, mut bytes| {
            if n == 0 {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            Ok(bytes)
        });
        node.versions.stage(&production(), &want, &mut source, &GO).unwrap();
        assert_eq!(read(&node.version(&want)), sample, "bit {bit}");
        node.versions.discard(&production(), &want).unwrap();
        node.versions.collect(std::time::Duration::ZERO).unwrap();
    }
}

#[test]
fn f13_a_repeated_chunk_of_a_stream_is_noticed_and_ends_in_the_right_tree() {
    let node = Node::new();
    let want = node.shelf.put(&many());
    let length = node.shelf.pack(&node.shelf.listed(&want, &[], None)).len();
    let chunk = length / 7;
    for start in (0..length - chunk).step_by(chunk / 3) {
        let mut source = Source::new(&node.shelf).spoilt(move |n, mut bytes| {
            if n == 0 {
                bytes.splice(start..start, bytes[start..start + chunk].to_vec());
            }
            Ok(bytes)
        });
        node.versions.stage(&production(), &want, &mut source, &GO).unwrap();
        assert!(source.asked.len() > 1, "what comes after the repeated chunk is asked for again: {start}");
        assert_eq!(read(&node.version(&want)), many(), "{start}");
        node.versions.discard(&production(), &want).unwrap();
        node.versions.collect(std::time::Duration::ZERO).unwrap();
    }
}

#[test]
fn f13_damage_that_comes_again_and_again_is_this_nodes_fault_and_is_never_used() {
    let node = Node::new();
    let want = node.shelf.put(&many());
    let mut source = Source::new(&node.shelf).spoilt(|_, mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
        Ok(bytes)
    });
    let error = node.versions.stage(&production(), &want, &mut source, &GO).unwrap_err();
    assert_eq!(error.fault, Fault::Node);
    assert!(error.reason.contains("could not fetch"), "{}", error.reason);
    assert!(error.hint.is_some());
    assert!(source.asked.len() < 60, "it gives up: {}", source.asked.len());
    node.nothing_counts_but(&[]);
    node.stage(&want).unwrap();
}

/// Stages with a pack whose objects were rearranged; the reason of the refusal.
fn with_objects(change: impl Fn(&Node, &mut Vec<Object>)) -> String {
    let node = Node::new();
    let want = node.shelf.put(&files(&[("a", "1"), ("b", "2")]));
    let mut objects = node.shelf.listed(&want, &[], None);
    change(&node, &mut objects);
    let pack = node.shelf.pack(&objects);
    let mut source = Source::new(&node.shelf).spoilt(|_, _| Ok(pack.clone()));
    let error = node.versions.stage(&production(), &want, &mut source, &GO).unwrap_err();
    assert_eq!(error.fault, Fault::Node);
    node.nothing_counts_but(&[]);
    drop(source);
    error.reason
}

#[test]
fn f13_an_extra_object_is_refused() {
    let reason = with_objects(|node, objects| {
        let digest = node.shelf.objects.put_blob(b"not asked for").unwrap();
        objects.insert(1, Object { kind: Kind::Blob, digest });
    });
    assert!(reason.contains("which the snapshot does not have"), "{reason}");
}

#[test]
fn f13_a_repeated_object_is_refused() {
    let reason = with_objects(|_, objects| objects.insert(2, objects[1]));
    assert!(reason.contains("came twice"), "{reason}");
}

#[test]
fn a_pack_in_another_order_is_refused() {
    let reason = with_objects(|_, objects| objects.reverse());
    assert!(reason.contains("does not have") || reason.contains("is not here"), "{reason}");
}

#[test]
fn a_pack_that_leaves_something_out_is_refused() {
    let reason = with_objects(|_, objects| objects.truncate(2));
    assert!(reason.contains("did not come"), "{reason}");
}

#[test]
fn a_window_larger_than_ours_is_refused() {
    let node = Node::new();
    let want = node.shelf.put(&files(&[("a", "1")]));
    let mut plain = Vec::new();
    io::Read::read_to_end(
        &mut zstd::Decoder::new(&node.shelf.pack(&node.shelf.listed(&want, &[], None))[..]).unwrap(),
        &mut plain,
    )
    .unwrap();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(30).unwrap();
    io::Write::write_all(&mut encoder, &plain).unwrap();
    let huge = encoder.finish().unwrap();
    let mut source = Source::new(&node.shelf).spoilt(|_, _| Ok(huge.clone()));
    let error = node.versions.stage(&production(), &want, &mut source, &GO).unwrap_err();
    assert_eq!(error.fault, Fault::Node);
}

#[test]
fn an_unreachable_controller_is_this_nodes_fault_after_a_few_tries() {
    let node = Node::new();
    let want = node.shelf.put(&many());
    let calls = Cell::new(0);
    let mut source = Source::new(&node.shelf).spoilt(|_, _| {
        calls.set(calls.get() + 1);
        Err(io::Error::other("connection refused"))
    });
    let error = node.versions.stage(&production(), &want, &mut source, &GO).unwrap_err();
    drop(source);
    assert_eq!((error.fault, calls.get()), (Fault::Node, 4));
    assert!(error.reason.contains("connection refused"), "{}", error.reason);
}
