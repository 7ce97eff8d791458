//! Retained versions on every compiler, and versions that were lost before their commit.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt};

use bunraku_common::Digest;
use bunraku_puppetserver::code_content::Code;
use bunraku_tests::fleet::{Fleet, Node, until};

const FILE: &str = "site/ntp/files/ntp.conf";

/// Deploys so many versions of one file; their digests, oldest first.
async fn deploys(fleet: &Fleet, from: usize, number: usize) -> Vec<Digest> {
    let mut digests = Vec::new();
    for n in from..from + number {
        fleet.push("production", &[(FILE, &format!("server {n}\n"))]);
        let deploy = fleet.deploy("production").await;
        assert_eq!(deploy.phase, "live", "{deploy:#?}");
        digests.push(deploy.snapshot.parse().unwrap());
    }
    digests
}

/// The sealed versions of production.
fn versions(node: &Node) -> BTreeSet<Digest> {
    let names = fs::read_dir(node.code("versions/production")).into_iter().flatten();
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.strip_suffix(".seal")?.rsplit_once('_')?.1.parse().ok()).collect()
}

async fn until_it_holds(node: &Node, wanted: &[Digest]) {
    let wanted: BTreeSet<Digest> = wanted.iter().copied().collect();
    until(&format!("{} holds {wanted:?}", node.name()), || async { versions(node) == wanted }).await;
}

/// When each version's directory was made, as far as a file system tells: another one has another number.
fn directories(node: &Node, of: &[Digest]) -> Vec<u64> {
    let inode = |digest: &Digest| {
        let path = node.code(&format!("versions/production/production_{digest}"));
        fs::metadata(path).unwrap().ino()
    };
    of.iter().map(inode).collect()
}

/// What `code-content` answers.
fn code_content(node: &Node, digest: Digest) -> String {
    let (versions, environments) = (node.code("versions"), node.dir().join("environments"));
    let code = Code { versions: &versions, environmentpath: &environments };
    let mut content = Vec::new();
    let answered = code.content("production", &digest.to_string(), FILE, &mut content);
    answered.unwrap_or_else(|error| panic!("{} of {}: {error:?}", digest.short(), node.name()));
    String::from_utf8(content).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_compiler_holds_the_retained_versions_and_answers_for_their_files() {
    let mut fleet = Fleet::new().up().await;
    let digests = deploys(&fleet, 0, 3).await;
    let records = fleet.main().audit_counts().await;
    fleet.add_node("c2").await;
    let c2 = fleet.node("c2");
    until_it_holds(c2, &digests).await;
    fleet.until_all_serve("production", digests[2]).await;
    for (n, digest) in digests.iter().enumerate() {
        assert_eq!(code_content(c2, *digest), format!("server {n}\n"));
    }
    let ready = fs::read_link(c2.dir().join("environments/.production.bunraku"));
    assert!(ready.is_err(), "no link to an old version lies ready: {ready:?}");
    assert_eq!(c2.puppet_server().history("production"), [digests[2]]);
    let after = fleet.main().audit_counts().await;
    let orders = |of: &std::collections::HashMap<String, usize>| {
        ["staging-started", "commit-decided", "deploy-ended"].map(|kind| of[kind])
    };
    assert_eq!(orders(&records), orders(&after));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_that_keeps_two_versions_is_brought_two_and_never_again() {
    let plan = Fleet::new().agents(|config| {
        let code = config.code.as_mut().unwrap();
        (code.keep_versions, code.keep_minutes) = (2, 0);
    });
    let mut fleet = plan.up().await;
    let digests = deploys(&fleet, 0, 3).await;
    until_it_holds(fleet.node("c1"), &digests[1..]).await;
    fleet.add_node("c2").await;
    let c2 = fleet.node("c2");
    until_it_holds(c2, &digests[1..]).await;
    let before = directories(c2, &digests[1..]);
    for _ in 0..2 {
        c2.restart().await;
        fleet.main().until_connected("c2").await;
        // A deploy that nothing changes goes through everything that an order could have waited for.
        assert_eq!(fleet.deploy("production").await.phase, "unchanged");
    }
    assert_eq!(directories(c2, &digests[1..]), before, "nothing was thrown away and brought again");
    let newer = deploys(&fleet, 3, 1).await;
    until_it_holds(fleet.node("c1"), &[digests[2], newer[0]]).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_lost_after_it_was_staged_is_staged_again_within_the_deploy() {
    let fleet = Fleet::new().nodes(2).up().await;
    deploys(&fleet, 0, 1).await;
    // While c1 is away the deploy cannot be decided.
    fleet.node("c1").partition();
    fleet.main().until_gone("c1").await;
    fleet.push("production", &[(FILE, "server new\n")]);
    let deploy = fleet.main().ask_deploy("production").await.unwrap();
    fleet.main().until_recorded("node-staged", "c2", 2).await;
    let c2 = fleet.node("c2");
    let staged: Digest = fleet.main().show_deploy(deploy).await.snapshot.parse().unwrap();
    let version = c2.code(&format!("versions/production/production_{staged}"));
    fs::remove_file(c2.code(&format!("versions/production/production_{staged}.seal"))).unwrap();
    fs::remove_dir_all(&version).unwrap();
    fleet.node("c1").reconnect();
    let deploy = fleet.main().until_ended(deploy).await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    fleet.until_all_serve("production", staged).await;
    fleet.main().until_recorded("node-unstaged", "c2", 1).await;
    assert_eq!(c2.read("production", FILE), "server new\n");
    fleet.end().await;
}
