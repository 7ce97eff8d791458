//! Real dnf and rpm, in a root of their own (an overlay that only this test sees) with a repository that holds two
//! versions of a small server with a configuration file.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod world;

use std::{fs, process::Command};

use bunraku_packages::{Allowed, Dnf, Manager, Plan, PrepareError, Refusal};

use world::{CONF, LOCK, World, assert_fine, toyserver};

/// Its repository, and nothing of this host's.
const FURNISH: &str = r#"
rm -rf root/etc/yum.repos.d root/var/lib/rpm root/var/cache/dnf
mkdir -p root/etc/yum.repos.d root/etc/dnf/vars
# Debian's plugins bring a second repository.
printf '[main]\nenabled = false\n' > root/etc/dnf/plugins/local.conf
echo 9 > root/etc/dnf/vars/releasever
printf '[toys]\nname=toys\nbaseurl=file://%s/shared/repo\ngpgcheck=0\nmetadata_expire=0\n' "$1" > root/etc/yum.repos.d/toys.repo
"#;

impl World<Dnf> {
    /// With version 1.0-1 installed, and 2.0-1 in the repository too, which needs `toylib`.
    fn new() -> Self {
        let world = Self::make(FURNISH, |enter, root| Dnf { enter, root });
        world.package("toyserver", "1.0", "");
        world.package("toyserver", "2.0", "Requires: toylib\n");
        world.package("toylib", "0.1", "");
        world.index();
        world.fine(&["dnf", "-y", "-q", "install", "toyserver-1.0-1"]);
        world
    }

    fn package(&self, name: &str, version: &str, fields: &str) {
        let build = self.directory.path().join("build");
        let (install, files) = match name {
            "toyserver" => (
                format!(
                    "mkdir -p %{{buildroot}}/etc/toyserver\necho shipped with {version} > %{{buildroot}}{CONF}\n"
                ),
                format!("%config(noreplace) {CONF}\n"),
            ),
            _ => (String::new(), String::new()),
        };
        let spec = format!(
            "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: toy\nLicense: none\nBuildArch: noarch\n{fields}\
             %description\ntoy\n%install\n{install}%files\n{files}"
        );
        let path = build.join(format!("{name}-{version}.spec"));
        fs::write(&path, spec).unwrap();
        let mut rpmbuild = Command::new("rpmbuild");
        rpmbuild.args(["-bb", "--quiet", "--define", &format!("_topdir {}", build.display())]);
        rpmbuild.args(["--define", &format!("_rpmdir {}", self.shared().join("repo").display())]).arg(path);
        assert_fine(&rpmbuild.output().unwrap());
    }

    fn index(&self) {
        assert_fine(
            &Command::new("createrepo_c").arg("-q").arg(self.shared().join("repo")).output().unwrap(),
        );
        // dnf takes what changed within a second for the same.
        self.fine(&["dnf", "-q", "clean", "all"]);
    }
}

#[tokio::test]
async fn an_update_and_its_revert_need_no_repository_and_keep_the_sites_configuration() {
    let world = World::new();
    world.fine(&["sh", "-c", "echo of the site > /etc/toyserver/toy.conf"]);
    let plan = world.prepare("2.0-1", &toyserver()).await.unwrap();
    let mut names: Vec<&str> = plan.changes.iter().map(|change| change.package.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["toylib", "toyserver"]);
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("1.0-1"), "preparing changes nothing");

    fs::remove_dir_all(world.shared().join("repo")).unwrap();
    let saved = Plan::open(&world.shared().join("plan")).unwrap().unwrap();
    assert_eq!(saved, plan);
    assert_fine(&world.run(&saved.act(&world.manager, LOCK)));
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("2.0-1"));
    assert_eq!(world.installed("toylib").await.as_deref(), Some("0.1-1"));
    assert_eq!(world.fine(&["cat", CONF]), "of the site\n");

    // Asked again it is done, and the way back is not lost.
    assert_eq!(world.prepare("2.0-1", &toyserver()).await.unwrap(), plan);
    assert_fine(&world.run(&saved.revert(&world.manager, LOCK).unwrap()));
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("1.0-1"));
    assert_eq!(world.installed("toylib").await, None);
    assert_eq!(world.differs_from_before(&plan).await, None);
    assert_eq!(world.fine(&["cat", CONF]), "of the site\n");
    // Whoever was cut short does it again.
    assert_fine(&world.run(&saved.revert(&world.manager, LOCK).unwrap()));
    assert_eq!(world.differs_from_before(&plan).await, None);
}

#[tokio::test]
async fn what_came_newly_and_is_needed_by_others_since_stays_and_takes_nobody_along() {
    let world = World::new();
    world.package("toyuser", "1.0", "Requires: toylib\n");
    world.index();
    let plan = world.prepare("2.0-1", &toyserver()).await.unwrap();
    assert_fine(&world.run(&plan.act(&world.manager, LOCK)));
    world.fine(&["dnf", "-y", "-q", "install", "toyuser"]);
    assert!(!world.run(&plan.revert(&world.manager, LOCK).unwrap()).status.success());
    assert_eq!(world.installed("toyuser").await.as_deref(), Some("1.0-1"));
    let differs = world.differs_from_before(&plan).await;
    assert_eq!(differs.as_deref(), Some("toylib is 0.1-1, and should be not installed"));
}

#[tokio::test]
async fn what_is_not_granted_older_or_missing_is_refused_before_anything_is_fetched() {
    let world = World::new();
    let not = world.prepare("2.0-1", &Allowed::default()).await.unwrap_err();
    assert!(matches!(&not, PrepareError::NotAllowed { package, .. } if package == "toyserver"), "{not}");
    let missing = world.prepare("7.0-1", &toyserver()).await.unwrap_err();
    assert!(matches!(missing, PrepareError::Refused(Refusal::Missing { .. })), "{missing}");

    world.fine(&["dnf", "-y", "-q", "install", "toyserver-2.0-1"]);
    let older = world.prepare("1.0-1", &toyserver()).await.unwrap_err();
    assert!(matches!(older, PrepareError::Older { .. }), "{older}");
    assert!(Plan::open(&world.shared().join("plan")).unwrap().is_none());
    let asked = Allowed { downgrade: true, older: true, ..toyserver() };
    let plan = world.prepare("1.0-1", &asked).await.unwrap();
    assert_fine(&world.run(&plan.act(&world.manager, LOCK)));
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("1.0-1"));
    assert_fine(&world.run(&plan.revert(&world.manager, LOCK).unwrap()));
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("2.0-1"));
}

#[tokio::test]
async fn a_package_that_would_go_is_refused_with_its_name() {
    let world = World::new();
    world.package("toyold", "1.0", "");
    world.package("toyserver", "3.0", "Conflicts: toyold\n");
    world.index();
    world.fine(&["dnf", "-y", "-q", "install", "toyold"]);
    let refused = world.prepare("3.0-1", &toyserver()).await.unwrap_err();
    assert!(refused.to_string().contains("toyold, which toyserver 3.0-1 removes"), "{refused}");
}

/// One goes, one comes, one becomes newer, one older, and back again.
async fn there_and_back(fields: &str) {
    let world = World::new();
    world.package("toyold", "1.0", "");
    world.package("toydata", "5.0", "");
    world.package("toydata", "4.0", "");
    world.index();
    world.fine(&["dnf", "-y", "-q", "install", "toyold", "toydata-5.0-1"]);
    world.package("toynew", "1.0", fields);
    world.package("toyserver", "3.0", "Requires: toynew\nRequires: toydata = 4.0\n");
    world.index();
    let packages = ["toyserver", "toyold", "toydata"].map(str::to_owned).to_vec();
    let all = Allowed { packages, downgrade: true, older: true, ..Allowed::default() };
    let plan = world.prepare("3.0-1", &all).await.unwrap();
    assert!(plan.downgrades);
    let mut names: Vec<&str> = plan.changes.iter().map(|change| change.package.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["toydata", "toynew", "toyold", "toyserver"]);
    fs::remove_dir_all(world.shared().join("repo")).unwrap();
    assert_fine(&world.run(&plan.act(&world.manager, LOCK)));
    assert_eq!(world.packages().differs(&plan, false).await.unwrap(), None);
    assert_fine(&world.run(&plan.revert(&world.manager, LOCK).unwrap()));
    assert_eq!(world.differs_from_before(&plan).await, None);
}

#[tokio::test]
async fn a_transaction_of_all_directions_with_a_conflict_is_brought_back() {
    there_and_back("Conflicts: toyold\n").await;
}

#[tokio::test]
async fn a_transaction_of_all_directions_with_a_package_that_is_replaced_is_brought_back() {
    there_and_back("Obsoletes: toyold < 2\n").await;
}

#[tokio::test]
async fn a_present_package_that_no_repository_has_leaves_no_way_back() {
    let world = World::new();
    fs::remove_file(world.shared().join("repo/noarch/toyserver-1.0-1.noarch.rpm")).unwrap();
    world.index();
    let lost = world.prepare("2.0-1", &toyserver()).await.unwrap_err();
    assert!(matches!(&lost, PrepareError::NoWayBack { lost, .. } if lost == "toyserver"), "{lost}");
    let foreseen = world.foresee("2.0-1", &toyserver()).await.unwrap_err();
    assert!(matches!(&foreseen, PrepareError::NoWayBack { lost, .. } if lost == "toyserver"), "{foreseen}");
    let consent = Allowed { no_way_back: true, ..toyserver() };
    assert_eq!(world.foresee("2.0-1", &consent).await.unwrap().lost, ["toyserver"]);
}

#[tokio::test]
async fn a_package_that_its_mirror_does_not_give_is_refused_and_nothing_is_changed() {
    let world = World::new();
    fs::remove_file(world.shared().join("repo/noarch/toyserver-2.0-1.noarch.rpm")).unwrap();
    let refused = world.prepare("2.0-1", &toyserver()).await.unwrap_err();
    assert!(
        matches!(&refused, PrepareError::Fetch { package, why, .. } if package == "toyserver" && !why.is_empty()),
        "{refused:?}"
    );
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("1.0-1"));
    assert_eq!(world.installed("toylib").await, None);
    assert_eq!(Plan::open(&world.shared().join("plan")).unwrap(), None);
}

#[tokio::test]
async fn what_is_foreseen_of_the_way_back_is_fetched_by_nobody() {
    let world = World::new();
    let foreseen = world.foresee("2.0-1", &toyserver()).await.unwrap();
    assert_eq!((foreseen.changes.len(), foreseen.lost.len()), (2, 0), "{foreseen:?}");
    assert_eq!(fs::read_dir(world.shared().join("plan")).unwrap().count(), 0);
    assert!(!world.file("toyserver-1.0-1.noarch.rpm").exists());
}

#[tokio::test]
async fn a_present_package_that_only_the_cache_has_is_the_way_back() {
    let world = World::new();
    let gone = world.shared().join("repo/noarch/toyserver-1.0-1.noarch.rpm");
    let kept = fs::read(&gone).unwrap();
    fs::remove_file(gone).unwrap();
    world.index();
    let cache = world.file("var/cache/dnf/toys-0123456789abcdef/packages");
    fs::create_dir_all(&cache).unwrap();
    fs::write(cache.join("toyserver-1.0-1.noarch.rpm"), kept).unwrap();
    assert_eq!(world.foresee("2.0-1", &toyserver()).await.unwrap().lost, [""; 0]);
    let plan = world.prepare("2.0-1", &toyserver()).await.unwrap();
    assert_fine(&world.run(&plan.act(&world.manager, LOCK)));
    assert_fine(&world.run(&plan.revert(&world.manager, LOCK).unwrap()));
    assert_eq!(world.differs_from_before(&plan).await, None);
}

/// dnf ends at once, and the agent tries again: see `Manager::is_locked`.
#[tokio::test]
async fn a_transaction_whose_lock_is_held_ends_as_locked_and_changes_nothing() {
    let world = World::new();
    let plan = world.prepare("2.0-1", &toyserver()).await.unwrap();
    // A file with the id of a process that lives (dnf/lock.py).
    let lock = world.file("var/lib/dnf/rpmdb_lock.pid");
    fs::write(&lock, std::process::id().to_string()).unwrap();
    let output = world.run(&plan.act(&world.manager, LOCK));
    assert!(!output.status.success(), "{output:?}");
    assert!(world.manager.is_locked(output.status.code().unwrap()), "{output:?}");
    fs::remove_file(&lock).unwrap();
    assert_eq!(world.installed("toyserver").await.as_deref(), Some("1.0-1"));
    assert_fine(&world.run(&plan.act(&world.manager, LOCK)));
    fs::write(&lock, std::process::id().to_string()).unwrap();
    let output = world.run(&plan.revert(&world.manager, LOCK).unwrap());
    assert!(world.manager.is_locked(output.status.code().unwrap()), "the way back, too: {output:?}");
}
