//! Real apt and dpkg, in a root of their own (an overlay that only this test sees) with a repository that holds two
//! versions of a small server with a configuration file.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod world;

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    time::Duration,
};

use bunraku_packages::{Allowed, Apt, Plan, PrepareError, Refusal};
use rustix::fs::{FlockOperation, fcntl_lock};

use world::{CONF, LOCK, World, assert_fine, toyserver};

/// Its repository, and nothing of this host's.
const FURNISH: &str = r#"
rm -rf root/etc/apt/sources.list root/etc/apt/sources.list.d/* root/etc/apt/preferences.d/*
echo "deb [trusted=yes] file:$1/shared/repo ./" > root/etc/apt/sources.list
echo 'APT::Sandbox::User "root";' > root/etc/apt/apt.conf.d/99sandbox
"#;

impl World<Apt> {
    /// With version 1.0 installed, and 2.0 in the repository too, which needs `toylib`.
    fn new() -> Self {
        let world = Self::make(FURNISH, |enter, root| Apt { enter, root });
        world.package("toyserver", "1.0", "", "");
        world.package("toyserver", "2.0", "Depends: toylib\n", "");
        world.package("toylib", "0.1", "", "");
        world.index();
        world.fine(&["apt-get", "-y", "-q", "install", "toyserver=1.0"]);
        world
    }

    fn package(&self, name: &str, version: &str, fields: &str, postinst: &str) {
        let tree = self.directory.path().join(format!("build/{name}-{version}"));
        let control = tree.join("DEBIAN");
        fs::create_dir_all(&control).unwrap();
        let text = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@t.example>\n{fields}Description: toy\n"
        );
        fs::write(control.join("control"), text).unwrap();
        if name == "toyserver" {
            fs::create_dir_all(tree.join("etc/toyserver")).unwrap();
            fs::write(tree.join(&CONF[1..]), format!("shipped with {version}\n")).unwrap();
            fs::write(control.join("conffiles"), format!("{CONF}\n")).unwrap();
        }
        if !postinst.is_empty() {
            let path = control.join("postinst");
            fs::write(&path, format!("#!/bin/sh\n{postinst}\n")).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let file = self.shared().join(format!("repo/{name}_{version}_all.deb"));
        let status =
            Command::new("dpkg-deb").arg("--build").arg(&tree).arg(file).stdout(Stdio::null()).status();
        assert!(status.unwrap().success());
    }

    fn index(&self) {
        let repo = self.shared().join("repo");
        let mut scan = Command::new("dpkg-scanpackages");
        let index = scan.args(["-m", "."]).current_dir(&repo).stderr(Stdio::null()).output().unwrap();
        assert!(index.status.success());
        fs::write(repo.join("Packages"), index.stdout).unwrap();
        self.fine(&["apt-get", "-q", "update"]);
    }
}

#[tokio::test]
async fn an_update_and_its_revert_restore_the_whole_set_without_a_repository() {
    let world = World::new();
    world.fine(&["sh", "-c", "echo of the site > /etc/toyserver/toy.conf"]);
    let plan = world.prepare("2.0", &toyserver()).await.unwrap();
    let mut names: Vec<&str> = plan.changes.iter().map(|change| change.package.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["toylib", "toyserver"]);
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("1.0"), "preparing changes nothing");

    fs::remove_dir_all(world.shared().join("repo")).unwrap();
    let saved = Plan::open(&world.shared().join("plan")).unwrap().unwrap();
    assert_eq!(saved, plan);
    assert_fine(&world.run(&saved.act(&world.manager, LOCK)));
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("2.0"));
    assert_eq!(world.installed("toylib").await.as_deref(), Some("0.1"));
    assert_eq!(world.fine(&["cat", CONF]), "of the site\n");

    // Asked again it is done, and the way back is not lost.
    assert_eq!(world.prepare("2.0", &toyserver()).await.unwrap(), plan);
    assert_fine(&world.run(&saved.revert(&world.manager, LOCK).unwrap()));
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("1.0"));
    assert_eq!(world.installed("toylib").await, None);
    assert_eq!(world.differs_from_before(&plan).await, None);
    assert_eq!(world.fine(&["cat", CONF]), "of the site\n");
}

#[tokio::test]
async fn a_plan_that_was_carried_out_is_not_taken_again_when_something_differs_since() {
    let world = World::new();
    let plan = world.prepare("2.0", &toyserver()).await.unwrap();
    assert_fine(&world.run(&plan.act(&world.manager, LOCK)));
    world.package("toylib", "0.2", "", "");
    world.index();
    world.fine(&["apt-get", "-y", "-q", "install", "toylib"]);
    let again = world.prepare("2.0", &toyserver()).await.unwrap();
    assert_eq!(again.changes, [], "toylib would become older");
    assert_eq!(Plan::open(&world.shared().join("plan")).unwrap(), Some(again));
}

#[tokio::test]
async fn what_is_held_not_granted_older_or_missing_is_refused_before_anything_is_fetched() {
    let world = World::new();
    world.fine(&["apt-mark", "hold", "toyserver"]);
    let held = world.prepare("2.0", &toyserver()).await.unwrap_err();
    assert!(held.to_string().starts_with("toyserver is held"), "{held}");
    world.fine(&["apt-mark", "unhold", "toyserver"]);

    let not = world.prepare("2.0", &Allowed::default()).await.unwrap_err();
    assert!(matches!(&not, PrepareError::NotAllowed { package, .. } if package == "toyserver"), "{not}");
    let missing = world.prepare("7.0", &toyserver()).await.unwrap_err();
    assert!(matches!(missing, PrepareError::Refused(Refusal::Missing { .. })), "{missing}");

    world.fine(&["apt-get", "-y", "-q", "install", "toyserver=2.0"]);
    let older = world.prepare("1.0", &toyserver()).await.unwrap_err();
    assert!(matches!(older, PrepareError::Older { .. }), "{older}");
    let not_asked = Allowed { downgrade: true, ..toyserver() };
    let older = world.prepare("1.0", &not_asked).await.unwrap_err();
    assert!(matches!(older, PrepareError::Older { .. }), "a grant alone is no wish: {older}");
    let not_granted = Allowed { older: true, ..toyserver() };
    let older = world.prepare("1.0", &not_granted).await.unwrap_err();
    assert!(matches!(older, PrepareError::Downgrade { .. }), "{older}");
    assert!(Plan::open(&world.shared().join("plan")).unwrap().is_none());
    let asked = Allowed { downgrade: true, older: true, ..toyserver() };
    let plan = world.prepare("1.0", &asked).await.unwrap();
    assert_fine(&world.run(&plan.act(&world.manager, LOCK)));
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("1.0"));
}

#[tokio::test]
async fn a_package_that_would_go_or_change_along_is_refused_with_its_name() {
    let world = World::new();
    world.package("toyold", "1.0", "", "");
    world.package("toyserver", "3.0", "Conflicts: toyold\n", "");
    world.index();
    world.fine(&["apt-get", "-y", "-q", "install", "toyold"]);
    let refused = world.prepare("3.0", &toyserver()).await.unwrap_err();
    assert!(refused.to_string().contains("toyold, which toyserver 3.0 removes"), "{refused}");
    let both = Allowed { packages: vec!["toyserver".into(), "toyold".into()], ..Allowed::default() };
    let plan = world.prepare("3.0", &both).await.unwrap();
    assert_fine(&world.run(&plan.act(&world.manager, LOCK)));
    assert_eq!(world.installed("toyold").await, None);
    assert_fine(&world.run(&plan.revert(&world.manager, LOCK).unwrap()));
    assert_eq!(world.installed("toyold").await.as_deref(), Some("1.0"));
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("1.0"));
}

#[tokio::test]
async fn a_present_package_that_no_repository_has_is_rebuilt_or_there_is_no_way_back() {
    let world = World::new();
    fs::remove_file(world.shared().join("repo/toyserver_1.0_all.deb")).unwrap();
    world.index();
    assert_eq!(world.foresee("2.0", &toyserver()).await.unwrap().lost, [""; 0], "it can be rebuilt");
    world.fine(&["mv", "/usr/bin/dpkg-repack", "/usr/bin/dpkg-repack.away"]);
    let foreseen = world.foresee("2.0", &toyserver()).await.unwrap_err();
    assert!(matches!(&foreseen, PrepareError::NoWayBack { lost, .. } if lost == "toyserver"), "{foreseen}");
    let consent = Allowed { no_way_back: true, ..toyserver() };
    assert_eq!(world.foresee("2.0", &consent).await.unwrap().lost, ["toyserver"]);
    let lost = world.prepare("2.0", &toyserver()).await.unwrap_err();
    assert!(matches!(&lost, PrepareError::NoWayBack { lost, .. } if lost == "toyserver"), "{lost}");
    let plan = world.prepare("2.0", &Allowed { no_way_back: true, ..toyserver() }).await.unwrap();
    assert_eq!(plan.no_way_back(), ["toyserver"]);
    assert_eq!(plan.revert(&world.manager, LOCK), None);

    world.fine(&["mv", "/usr/bin/dpkg-repack.away", "/usr/bin/dpkg-repack"]);
    let plan = world.prepare("2.0", &toyserver()).await.unwrap();
    assert_fine(&world.run(&plan.act(&world.manager, LOCK)));
    assert_fine(&world.run(&plan.revert(&world.manager, LOCK).unwrap()));
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("1.0"));
}

#[tokio::test]
async fn a_package_that_its_mirror_does_not_give_is_refused_and_nothing_is_changed() {
    let world = World::new();
    fs::remove_file(world.shared().join("repo/toyserver_2.0_all.deb")).unwrap();
    let refused = world.prepare("2.0", &toyserver()).await.unwrap_err();
    assert!(
        matches!(&refused, PrepareError::Fetch { package, why, .. } if package == "toyserver" && !why.is_empty()),
        "{refused:?}"
    );
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("1.0"));
    assert_eq!(world.installed("toylib").await, None);
    assert_eq!(Plan::open(&world.shared().join("plan")).unwrap(), None);
}

#[tokio::test]
async fn what_is_foreseen_of_the_way_back_is_fetched_by_nobody() {
    let world = World::new();
    world.fine(&["rm", "/usr/bin/dpkg-repack"]);
    let foreseen = world.foresee("2.0", &toyserver()).await.unwrap();
    assert_eq!((foreseen.changes.len(), foreseen.lost.len()), (2, 0), "{foreseen:?}");
    assert_eq!(fs::read_dir(world.shared().join("plan")).unwrap().count(), 0);
    assert!(!world.inside(&["sh", "-c", "ls /toyserver* /var/cache/apt/archives/toy*"]).status.success());
}

#[tokio::test]
async fn a_present_package_that_only_the_cache_has_is_the_way_back() {
    let world = World::new();
    world.fine(&["rm", "/usr/bin/dpkg-repack"]);
    let file = "toyserver_1.0_all.deb";
    let gone = world.shared().join("repo").join(file);
    // What is half fetched is none.
    fs::copy(&gone, world.file("var/cache/apt/archives/partial").join(file)).unwrap();
    let kept = fs::read(&gone).unwrap();
    fs::remove_file(gone).unwrap();
    world.index();
    let lost = world.prepare("2.0", &toyserver()).await.unwrap_err();
    assert!(matches!(lost, PrepareError::NoWayBack { .. }), "{lost}");
    assert!(world.foresee("2.0", &toyserver()).await.is_err());

    fs::write(world.file("var/cache/apt/archives").join(file), kept).unwrap();
    assert_eq!(world.foresee("2.0", &toyserver()).await.unwrap().lost, [""; 0]);
    let plan = world.prepare("2.0", &toyserver()).await.unwrap();
    assert_fine(&world.run(&plan.act(&world.manager, LOCK)));
    assert_fine(&world.run(&plan.revert(&world.manager, LOCK).unwrap()));
    assert_eq!(world.differs_from_before(&plan).await, None);
}

#[tokio::test]
async fn a_half_configured_package_is_named_with_the_command_that_mends_it() {
    let world = World::new();
    world.package("toybroken", "1.0", "", "test -e /mended");
    world.index();
    assert!(!world.inside(&["apt-get", "-y", "-q", "install", "toybroken"]).status.success());
    let refused = world.prepare("2.0", &toyserver()).await.unwrap_err();
    assert!(
        matches!(&refused, PrepareError::Refused(Refusal::HalfConfigured(name)) if name == "toybroken"),
        "{refused}"
    );
    assert!(refused.to_string().contains("dpkg --configure -a"));
    world.fine(&["touch", "/mended"]);
    world.fine(&["dpkg", "--configure", "-a"]);
    world.prepare("2.0", &toyserver()).await.unwrap();
}

#[tokio::test]
async fn a_transaction_whose_lock_is_held_gives_up_at_its_deadline_and_changes_nothing() {
    let world = World::new();
    let plan = world.prepare("2.0", &toyserver()).await.unwrap();
    let lock = File::options().write(true).open(world.file("var/lib/dpkg/lock-frontend")).unwrap();
    fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let output = world.run(&plan.act(&world.manager, Duration::from_secs(1)));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("dpkg frontend lock"), "{said}");
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("1.0"));
    drop(lock);
    assert_fine(&world.run(&plan.act(&world.manager, LOCK)));
}
