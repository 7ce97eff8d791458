//! Owners, modes, and disks that are full.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::world::Host;

#[test]
fn owner_and_mode_stay_as_they_were_where_nobody_names_others() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut host = Host::new();
    fs::write(host.puppets(), "garbage").unwrap();
    chown(host.puppets(), Some(52), Some(53)).unwrap();
    fs::set_permissions(host.puppets(), fs::Permissions::from_mode(0o4750)).unwrap();
    let mut places = host.places();
    (places[1].owner, places[1].group, places[1].mode) = (Some(12), Some(13), Some(0o640));
    host.keeper.keep(places);
    host.install(&host.chain.crls(2, &[]), 1).unwrap();
    let shown = |path| {
        let meta = fs::metadata(path).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    assert_eq!(shown(host.puppets()), (52, 53, 0o640));
    assert_eq!(shown(host.balancers()), (12, 13, 0o640));
    fs::remove_file(host.puppets()).unwrap();
    chown(host.path("ssl"), Some(62), Some(63)).unwrap();
    host.look();
    assert_eq!(shown(host.puppets()), (62, 63, 0o644), "as the directory");
}

#[test]
fn a_full_disk_leaves_the_file_as_it_was_and_is_told_until_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut host = Host::new();
    let at = host.path("haproxy");
    mount("tmpfs", &at, "tmpfs", MountFlags::NOSUID, Some(c"size=16k")).unwrap();
    let small = Small(at);
    let first = host.chain.crls(2, &[]);
    host.install(&first, 1).unwrap();
    host.expect(&first);
    let large = host.chain.crls(3, &(1..500).collect::<Vec<_>>());
    host.install(&large, 2).unwrap();
    assert_eq!(fs::read_to_string(host.balancers()).unwrap(), first);
    assert_eq!(fs::read_to_string(host.puppets()).unwrap(), large);
    let owed = host.keeper.seen().owed;
    assert!(owed.contains("could not replace") && owed.contains("df -h"), "{owed}");
    assert_eq!(fs::read_dir(&small.0).unwrap().count(), 1, "nothing half written stays");
    drop(small);
    host.look();
    host.expect(&large);
}

/// A small file system, unmounted at the end.
struct Small(std::path::PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}
