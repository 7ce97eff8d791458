//! F25, I4, I8: several people at once, people who give up waiting, revocations, and cloned hosts.

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
    time::Instant,
};

use bunraku_proto::v1;
use bunraku_tests::{
    fleet::{Fleet, Flow, digest_of, until},
    installed::program,
};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn f25_i4_many_requests_at_once_become_few_deploys_and_the_newest_commit_wins() {
    let fleet = Fleet::new().nodes(2).up().await;
    fleet.deploy_change("production", "old").await;
    fleet.push("production", &[("manifests/site.pp", "# newest\n")]);
    let asking = (0..20).map(|_| {
        let mut client = fleet.main().client();
        tokio::spawn(async move {
            let environments = vec!["production".to_owned()];
            let reply = client.deploy(v1::DeployRequest { environments, ..Default::default() }).await;
            reply.unwrap().into_inner().deploys[0].id
        })
    });
    let asking: Vec<_> = asking.collect();
    let mut ids = Vec::new();
    for asked in asking {
        ids.push(asked.await.unwrap());
    }
    let mut live = Vec::new();
    for id in &ids {
        let ended = fleet.main().until_ended(*id).await;
        assert!(["live", "unchanged"].contains(&ended.phase.as_str()), "{ended:#?}");
        live.push(ended.snapshot);
    }
    live.dedup();
    assert_eq!(live.len(), 1, "all were about the same commit");
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() < 20, "requests join those that have not begun");
    assert_eq!(fleet.main().audit_counts().await["commit-decided"], 2);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_i4_a_second_deploy_waits_for_the_first_and_its_commit_is_the_final_one() {
    let fleet = Fleet::new().nodes(2).up().await;
    fleet.deploy_change("production", "old").await;
    let held = Flow { held: true, ..Flow::default() };
    fleet.node("c2").link().set_flows(held, Flow::default());
    fleet.push("production", &[("manifests/site.pp", "# first\n")]);
    let first = fleet.main().ask_deploy("production").await.unwrap();
    fleet.main().until_phase(first, "staging").await;
    fleet.push("production", &[("manifests/site.pp", "# second\n")]);
    let second = fleet.main().ask_deploy("production").await.unwrap();
    assert_ne!(first, second);
    assert_eq!(fleet.main().show_deploy(second).await.phase, "queued", "one at a time");
    fleet.node("c2").reconnect();
    let (first, second) = (fleet.main().until_ended(first).await, fleet.main().until_ended(second).await);
    assert_eq!((first.phase.as_str(), second.phase.as_str()), ("live", "live"));
    fleet.until_all_serve("production", digest_of(&second)).await;
    assert_eq!(fleet.node("c1").read("production", "manifests/site.pp"), "# second\n");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_who_gives_up_waiting_does_not_stop_the_deploy() {
    let fleet = Fleet::new().nodes(2).up().await;
    fleet.deploy_change("production", "old").await;
    let held = Flow { held: true, ..Flow::default() };
    fleet.node("c2").link().set_flows(held, Flow::default());
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    // A client with a connection of its own that watches, as `bunraku deploy` does, and is then gone.
    let mut client = fleet.main().client();
    let environments = vec!["production".to_owned()];
    let asked = client.deploy(v1::DeployRequest { environments, ..Default::default() }).await.unwrap();
    let id = asked.into_inner().deploys[0].id;
    let request = v1::WatchRequest { from_now: true, deploy: id, follow: true, ..Default::default() };
    let watching = client.watch(request).await.unwrap();
    fleet.main().until_phase(id, "staging").await;
    drop((watching, client));
    fleet.node("c2").reconnect();
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_the_looking_and_not_the_deploy_and_says_how_to_look_again() {
    let fleet = Fleet::new().nodes(2).up().await;
    fleet.deploy_change("production", "old").await;
    let held = Flow { held: true, ..Flow::default() };
    fleet.node("c2").link().set_flows(held, Flow::default());
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let socket = fleet.main().config().socket.clone();
    let mut command = program("bunraku")
        .unwrap()
        .arg("--socket")
        .arg(socket)
        .args(["deploy", "production"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // It has begun to look when it says what it sees.
    let mut said = BufReader::new(command.stderr.take().unwrap());
    let mut first = String::new();
    said.read_line(&mut first).unwrap();
    let id = fleet.main().status().await.active[0].id;
    assert!(first.starts_with(&format!("deploy {id} of production: ")), "{first}");
    fleet.main().until_phase(id, "staging").await;
    let pid = rustix::process::Pid::from_child(&command);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(command.wait().unwrap().code(), Some(130), "{rest}");
    let look =
        format!("no longer looking; deploy {id} of production goes on\nhint: bunraku deploys show {id}\n");
    assert!(rest.ends_with(&look), "{rest}");
    assert_eq!(fleet.main().show_deploy(id).await.phase, "staging");
    fleet.node("c2").reconnect();
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_i8_a_node_revoked_in_the_middle_of_a_deploy_is_out_within_two_seconds_and_the_deploy_ends() {
    let fleet = Fleet::new().nodes(3).up().await;
    let old = fleet.deploy_change("production", "old").await;
    let held = Flow { held: true, ..Flow::default() };
    fleet.node("c3").link().set_flows(held, Flow::default());
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let id = fleet.main().ask_deploy("production").await.unwrap();
    fleet.main().until_recorded("node-staged", "c1", 2).await;
    let revoke = v1::RevokeNodeRequest { node: "c3".into(), reason: "stolen".into() };
    fleet.main().client().revoke_node(revoke).await.unwrap();
    let revoked = Instant::now();
    fleet.main().until_gone("c3").await;
    assert!(revoked.elapsed().as_secs_f32() < 2.0, "I8");
    let deploy = fleet.main().until_ended(id).await;
    assert_eq!(deploy.phase, "live", "I7: {deploy:#?}");
    // It dials again and again, and stays out.
    fleet.node("c3").reconnect();
    let dialled = fleet.node("c3").link().connections();
    until("the revoked node has dialled again", || async {
        fleet.node("c3").link().connections() >= dialled + 2
    })
    .await;
    let info = fleet.main().node("c3").await;
    assert!(!info.connected && info.standing == "revoked: stolen", "{info:#?}");
    assert_eq!(fleet.node("c3").live("production"), Some(old));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_a_revoked_name_cannot_join_by_token_until_it_is_allowed_and_then_catches_up() {
    let fleet = Fleet::new().nodes(2).up().await;
    let new = fleet.deploy_change("production", "new").await;
    let revoke = v1::RevokeNodeRequest { node: "c2".into(), reason: "stolen".into() };
    fleet.main().client().revoke_node(revoke).await.unwrap();
    let token = v1::CreateTokenRequest { node: "c2".into(), roles: vec!["compiler".into()], ttl_s: 0 };
    let refused = fleet.main().client().create_token(token).await.unwrap_err();
    assert!(refused.message().contains("bunraku nodes allow c2"), "{refused}");
    let allow = v1::NodeRequest { node: "c2".into() };
    fleet.main().client().allow_node(allow).await.unwrap();
    let node = fleet.node("c2");
    node.stop().await;
    node.enrol(fleet.main()).await;
    node.start().await.unwrap();
    fleet.main().until_connected("c2").await;
    fleet.until_all_serve("production", new).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_a_removed_node_is_cut_and_waited_for_by_nobody_until_it_enrols_anew() {
    let fleet = Fleet::new().nodes(2).up().await;
    let old = fleet.deploy_change("production", "old").await;
    let node = fleet.node("c2");
    fleet.main().client().remove_node(v1::NodeRequest { node: "c2".into() }).await.unwrap();
    // Its certificate has a day to live; it dials again and again, and stays out.
    let dialled = node.link().connections();
    until("the removed node has dialled again", || async { node.link().connections() >= dialled + 2 }).await;
    let names = async || fleet.main().status().await.nodes.into_iter().map(|n| n.name).collect::<Vec<_>>();
    assert_eq!(names().await, ["c1"]);
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let deploy = fleet.deploy("production").await;
    assert_eq!((deploy.phase.as_str(), deploy.nodes.len()), ("live", 1), "{deploy:#?}");
    assert_eq!(node.live("production"), Some(old), "I9: it serves what it served");
    node.stop().await;
    node.enrol(fleet.main()).await;
    node.start().await.unwrap();
    fleet.main().until_connected("c2").await;
    fleet.until_all_serve("production", digest_of(&deploy)).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_with_one_identity_raise_an_alarm() {
    let fleet = Fleet::new().nodes(2).up().await;
    let snapshot = fleet.deploy_change("production", "one").await;
    let clone = fleet.clone_host("c2").await;
    clone.start().await.unwrap();
    until("the alarm is raised", || async {
        let alarms = fleet.main().status().await.alarms;
        alarms.iter().any(|alarm| alarm.contains("two hosts use the identity of c2"))
    })
    .await;
    assert_eq!(fleet.node("c1").serves("production"), Some(snapshot));
    clone.stop().await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_enrols_again_ends_its_earlier_identity() {
    let fleet = Fleet::new().nodes(1).up().await;
    let clone = fleet.clone_host("c1").await;
    let node = fleet.node("c1");
    node.stop().await;
    node.enrol(fleet.main()).await;
    node.start().await.unwrap();
    fleet.main().until_connected("c1").await;
    let connected_since = fleet.main().node("c1").await.since_ms;
    // What was copied before is worth nothing now.
    clone.start().await.unwrap();
    until("the old identity has tried", || async { clone.link().connections() >= 3 }).await;
    assert_eq!(fleet.main().node("c1").await.since_ms, connected_since, "the new one is not disturbed");
    clone.stop().await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_refused_with_a_hint_and_has_no_effect() {
    let fleet = Fleet::new().nodes(1).up().await;
    let before = fleet.main().audit().await.len();
    let wrong = fleet.main().ask_deploy("prodution").await.unwrap_err();
    assert_eq!(wrong.code(), Code::NotFound);
    assert!(wrong.message().contains("did you mean production?"), "{wrong}");
    // The branch's name, where it is not the environment's; and two branches of one name, which are not "not found".
    let branch = fleet.main().ask_deploy("feature/x-1").await.unwrap_err();
    assert_eq!(branch.code(), Code::InvalidArgument);
    assert!(
        branch.message().contains("hint: a branch of this name becomes environment feature_x_1"),
        "{branch}"
    );
    fleet.push("twice-1", &[("manifests/site.pp", "")]);
    fleet.push("twice_1", &[("manifests/site.pp", "")]);
    let twice = fleet.main().ask_deploy("twice_1").await.unwrap_err();
    assert_eq!(twice.code(), Code::FailedPrecondition);
    assert!(twice.message().contains("branches twice-1, twice_1 would all become"), "{twice}");
    let hold = v1::HoldNodeRequest { node: "c9".into(), reason: "x".into() };
    assert_eq!(fleet.main().client().hold_node(hold).await.unwrap_err().code(), Code::NotFound);
    let back = v1::RollbackRequest { environment: "production".into(), to: String::new() };
    assert_eq!(fleet.main().client().rollback(back).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(fleet.main().audit().await.len(), before, "I6");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_deploys_go_on_while_the_audit_is_verified() {
    let fleet = Fleet::new().nodes(1).up().await;
    fleet.deploy_change("production", "old").await;
    // A pipe stands where the journal's open segment was: reading it lasts as long as this test wants, and the
    // controller goes on writing to the file itself.
    let journal = fleet.main().config().data_dir.join("state/journal");
    let segment = std::fs::read_dir(&journal).unwrap().next().unwrap().unwrap().path();
    let written = std::fs::read(&segment).unwrap();
    let aside = journal.with_file_name("aside");
    std::fs::rename(&segment, &aside).unwrap();
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &segment, pipe, 0o600.into(), 0).unwrap();

    let mut client = fleet.main().client();
    let verifying = tokio::spawn(async move { client.verify_audit(v1::VerifyAuditRequest {}).await });
    // Opening the pipe to write succeeds without waiting only when the verification has opened it to read.
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
    let open = || rustix::fs::open(&segment, flags, rustix::fs::Mode::empty());
    let writer = std::sync::Mutex::new(None);
    until("the verification reads", || async {
        let opened = open().ok();
        let reads = opened.is_some();
        *writer.lock().unwrap() = opened;
        reads
    })
    .await;
    fleet.deploy_change("production", "new").await;
    assert!(!verifying.is_finished(), "the deploy went on while the journal was read");

    let mut writer = std::fs::File::from(writer.into_inner().unwrap().unwrap());
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    tokio::task::spawn_blocking(move || std::io::Write::write_all(&mut writer, &written).unwrap())
        .await
        .unwrap();
    let verified = verifying.await.unwrap().unwrap().into_inner();
    assert_eq!((verified.error.as_str(), verified.segments), ("", 1));
    std::fs::rename(&aside, &segment).unwrap();
    assert!(fleet.main().verify_audit().await.records > verified.records);
    fleet.end().await;
}

/// Regression: the answer was "is released", whatever it was.
#[tokio::test(flavor = "multi_thread")]
async fn f25_a_release_of_an_environment_that_is_not_held_says_so() {
    let fleet = Fleet::new().nodes(1).up().await;
    let one = fleet.deploy_change("production", "one").await;
    fleet.deploy_change("production", "two").await;
    fleet.main().roll_back("production", &one.to_string()).await;
    let request = v1::ReleaseRequest { environment: "production".to_owned() };
    let first = fleet.main().client().release(request.clone()).await.unwrap().into_inner();
    let second = fleet.main().client().release(request).await.unwrap().into_inner();
    assert_eq!((first.was_held, second.was_held), (true, false));
    assert_eq!(fleet.main().audit_counts().await["environment-released"], 1);
    fleet.end().await;
}
