//! A full disk is a clear failure of this node; what is served goes on being served. Needs root (small tmpfs).

use std::{fs, path::Path};

use bunraku_versions::{
    Fault, Layout, Prepared, Versions,
    testing::{Files, Source, files},
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::fixture::{GO, Node, production, read};

/// A small file system below a node's directory, unmounted at the end.
struct Small {
    node: Node,
    at: std::path::PathBuf,
}

impl Small {
    fn new(options: &str) -> Self {
        let mut node = Node::new();
        let at = node.dir.path().join("small");
        fs::create_dir(&at).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        mount("tmpfs", &at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
            .unwrap();
        node.versions = Versions::open(Self::layout(node.dir.path(), &at)).unwrap();
        Self { node, at }
    }

    fn layout(dir: &Path, at: &Path) -> Layout {
        Layout { root: at.join("node"), ..Node::layout(dir) }
    }

    fn with_reserve(&mut self, bytes: u64, inodes: u64) {
        let mut layout = Self::layout(self.node.dir.path(), &self.at);
        (layout.reserve_bytes, layout.reserve_inodes) = (bytes, inodes);
        self.node.versions = Versions::open(layout).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        unmount(&self.at, UnmountFlags::DETACH).unwrap();
    }
}

fn big(kilobytes: usize) -> Files {
    // Does not compress to nothing: the file counts, not the wire.
    (0..kilobytes / 16)
        .map(|n| (format!("f{n}"), format!("{n} ").repeat(16 << 10)[..16 << 10].into()))
        .collect()
}

#[test]
fn too_large_a_snapshot_is_refused_before_anything_is_written() {
    let small = Small::new("size=1m");
    let node = &small.node;
    let old = node.deploy_text(&[("a", "1")]);
    let want = node.shelf.put(&big(2048));
    let error = node.stage(&want).unwrap_err();
    assert_eq!(error.fault, Fault::Node);
    assert!(error.reason.starts_with("disk full: "), "{}", error.reason);
    assert!(error.hint.unwrap().contains("df -h"));
    assert_eq!(read(&node.versions.resolve(&production(), &old)), files(&[("a", "1")]));
    assert!(!node.versions.is_sealed(&production(), &want));
    assert_eq!(fs::read_dir(small.at.join("node/versions/production")).unwrap().count(), 2);
}

#[test]
fn inodes_are_counted_before_anything_is_written() {
    let small = Small::new("size=8m,nr_inodes=120");
    let node = &small.node;
    let old = node.deploy_text(&[("a", "1")]);
    let many: Files = (0..200).map(|n| (format!("f{n}"), "x".into())).collect();
    let error = node.stage(&node.shelf.put(&many)).unwrap_err();
    assert_eq!(error.fault, Fault::Node);
    assert!(error.reason.starts_with("disk full: ") && error.reason.contains("inodes"), "{}", error.reason);
    assert_eq!(node.versions.live(&production()), Some(old));
    assert_eq!(node.served(), files(&[("a", "1")]));
}

#[test]
fn a_disk_that_fills_up_in_the_middle_leaves_nothing_that_counts_and_the_next_stage_succeeds() {
    for (name, want) in [
        ("bytes", big(320)),
        ("inodes", (0..60).map(|n| (format!("f{n}"), n.to_string().as_str().into())).collect()),
    ] {
        let small = Small::new("size=1m,nr_inodes=150");
        let node = &small.node;
        let old = node.deploy_text(&[("a", "1")]);
        assert_eq!(node.prepare_spare(), Prepared::Linked);
        let want_digest = node.shelf.put(&want);
        // Somebody else takes the room once the stage has found that there is enough.
        let hog = small.at.join("hog");
        let source = Source::new(&node.shelf);
        struct Hogging<'a>(Source<'a>, std::path::PathBuf, &'static str);
        impl bunraku_versions::PackSource for Hogging<'_> {
            fn open(
                &mut self,
                want: &bunraku_common::Digest,
                have: &[bunraku_common::Digest],
                after: Option<bunraku_common::Digest>,
            ) -> std::io::Result<Box<dyn std::io::Read + Send>> {
                let inner = self.0.open(want, have, after)?;
                Ok(Box::new(FillsUp { inner, read: 0, hog: self.1.clone(), what: self.2 }))
            }
        }
        let error = node
            .versions
            .stage(&production(), &want_digest, &mut Hogging(source, hog.clone(), name), &GO)
            .unwrap_err();
        assert_eq!(error.fault, Fault::Node, "{name}");
        assert!(error.reason.starts_with("disk full"), "{name}: {}", error.reason);
        assert_eq!(node.served(), files(&[("a", "1")]), "{name}");
        assert_eq!(node.versions.list(&production()), [old], "{name}");
        fs::remove_dir_all(&hog).unwrap();
        node.versions.empty_trash(&GO).unwrap();
        node.deploy(&want);
        assert_eq!(node.served(), want, "{name}");
    }
}

/// Gives the stream, and fills the disk while it is read for the first time.
struct FillsUp {
    inner: Box<dyn std::io::Read + Send>,
    read: usize,
    hog: std::path::PathBuf,
    what: &'static str,
}

impl std::io::Read for FillsUp {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.read += 1;
        if self.read == 1 {
            fs::create_dir(&self.hog)?;
            match self.what {
                "bytes" => drop(fs::write(self.hog.join("x"), vec![1; 2 << 20])),
                _ => (0..200).for_each(|n| drop(fs::write(self.hog.join(n.to_string()), ""))),
            }
        }
        self.inner.read(buffer)
    }
}

#[test]
fn the_reserve_is_left_free() {
    let mut small = Small::new("size=1m");
    let want = small.node.shelf.put(&big(320));
    small.with_reserve(900 << 10, 0);
    assert!(small.node.stage(&want).unwrap_err().reason.starts_with("disk full"));
    small.with_reserve(0, 1 << 40);
    assert!(small.node.stage(&want).unwrap_err().reason.contains("inodes"));
    small.with_reserve(0, 0);
    small.node.stage(&want).unwrap();
}
