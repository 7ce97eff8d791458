//! Puppet's CRLs on every node: complete, genuine, never older than before (I11), in time or out of service. The CA is
//! files here; a real one, and what real Puppet Servers make of it, stands in `real_revocation`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use bunraku_proto::v1;
use bunraku_tests::{
    fleet::{Fleet, Flow, until},
    installed::program,
};
use tonic::Code;

const ALL: [&str; 3] = ["c1", "c2", "c3"];

async fn three() -> Fleet {
    let fleet = Fleet::new().puppet_door().nodes(3).up().await;
    fleet.until_all_have_crl(0).await;
    for name in ALL {
        fleet.main().until_crl_on(name, "delivered, not proven").await;
    }
    fleet
}

async fn kinds(fleet: &Fleet, kind: &str) -> usize {
    fleet.main().audit().await.iter().filter(|record| record.kind == kind).count()
}

async fn accept(fleet: &Fleet) -> Result<v1::CrlStatusReply, tonic::Status> {
    let request = v1::AcceptCrlRequest { number_reset: true };
    Ok(fleet.main().client().accept_crl(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_reaches_every_node_and_status_shows_when() {
    let fleet = three().await;
    let begun = Instant::now();
    fleet.write_crl(1, &[77]);
    fleet.until_all_have_crl(1).await;
    println!("on three nodes {:?} after the CA wrote it", begun.elapsed());
    until("the controller knows", || async {
        fleet.main().crl().await.nodes.iter().all(|node| node.number == "1")
    })
    .await;
    let status = fleet.main().crl().await;
    assert_eq!((status.number.as_str(), status.revoked, status.proof), ("1", 1, false));
    let lags: Vec<u64> = status.nodes.iter().map(|node| node.delivery_ms).collect();
    assert!(lags.iter().all(|lag| (1..30_000).contains(lag)), "{lags:?}");
    assert!(status.nodes.iter().all(|node| node.state == "delivered, not proven"), "{status:#?}");
    let shown = program("bunraku")
        .unwrap()
        .arg("--socket")
        .arg(&fleet.main().config().socket)
        .args(["crl", "status"])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.starts_with("CRL number 1 (") && shown.contains("1 revoked, written"), "{shown}");
    assert!(shown.contains("proof is switched off"), "{shown}");
    assert_eq!(shown.matches("delivered, not proven").count(), 3, "{shown}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_i11_what_is_older_empty_cut_or_foreign_reaches_no_node() {
    let fleet = three().await;
    fleet.write_crl(5, &[77]);
    fleet.until_all_have_crl(5).await;
    let observed: Vec<_> = fleet.nodes().iter().map(|node| node.observe_crl()).collect();
    let good = fleet.crl(6, &[77, 78]);
    let bad = [
        (fleet.crl(4, &[]), "has number 4, and 5 was sent out before"),
        (String::new(), "holds no block `X509 CRL`"),
        (good[..good.len() / 2].to_owned(), "the file is truncated"),
        (fleet.foreign_crl(9), "is not of an authority in the CA bundle"),
        (fleet.crl(5, &[]), "something else under the numbers"),
    ];
    for (text, why) in bad {
        fs::write(fleet.crl_file(), text).unwrap();
        until(&format!("an alarm with {why}"), || async {
            let rejected = fleet.main().crl().await.rejected;
            assert!(rejected.is_empty() || !rejected.contains('\n'), "{rejected}");
            rejected.contains(why)
        })
        .await;
        let alarms = fleet.main().status().await.alarms;
        assert!(alarms.iter().any(|alarm| alarm.contains("is not sent to anybody")), "{alarms:?}");
    }
    fleet.write_crl(6, &[77, 78]);
    fleet.until_all_have_crl(6).await;
    until("the alarm to end", || async { fleet.main().crl().await.rejected.is_empty() }).await;
    for observed in observed {
        assert_eq!(observed.end(), [Some(5), Some(6)], "whoever read the file met nothing else");
    }
    assert_eq!(kinds(&fleet, "crl-wanted").await, 3);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_a_restored_ca_counts_anew_when_an_administrator_says_so_and_not_before() {
    let fleet = three().await;
    fleet.write_crl(9, &[77]);
    fleet.until_all_have_crl(9).await;
    let none = accept(&fleet).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound, "{none:?}");
    assert!(none.message().contains("there is nothing to accept"), "{none:?}");
    fleet.node("c3").partition();
    fleet.main().until_gone("c3").await;
    fleet.write_crl(2, &[66]);
    until("it is held back", || async { !fleet.main().crl().await.rejected.is_empty() }).await;
    let mut operator = fleet.main().operator("alice", "operator").await;
    let denied = operator.accept_crl(v1::AcceptCrlRequest { number_reset: true }).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied:?}");
    let vague = fleet.main().client().accept_crl(v1::AcceptCrlRequest::default()).await.unwrap_err();
    assert_eq!(vague.code(), Code::InvalidArgument, "{vague:?}");
    accept(&fleet).await.unwrap();
    for name in ["c1", "c2"] {
        fleet.node(name).until_crl(2).await;
    }
    assert_eq!(fleet.node("c3").crl(), Some(9));
    fleet.write_crl(3, &[66, 67]);
    fleet.node("c1").until_crl(3).await;
    fleet.node("c3").reconnect();
    fleet.until_all_have_crl(3).await;
    let audit = fleet.main().audit().await;
    let accepted =
        audit.iter().find(|record| record.what.contains("accepted that the CA's CRL numbers go back"));
    assert_eq!(accepted.map(|record| record.who.as_str()), Some("root"), "I12");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_a_node_that_was_away_catches_up_and_so_does_one_whose_controller_was() {
    let mut fleet = three().await;
    fleet.node("c2").stop().await;
    fleet.main().until_gone("c2").await;
    let cut = Flow { held: true, ..Flow::default() };
    fleet.node("c3").link().set_flows(cut, cut);
    fleet.write_crl(1, &[77]);
    fleet.node("c1").until_crl(1).await;
    assert_eq!((fleet.node("c2").crl(), fleet.node("c3").crl()), (Some(0), Some(0)));
    // In the middle of the distribution.
    fleet.main_mut().stop().await;
    fleet.write_crl(2, &[77, 78]);
    fleet.main_mut().start().await.unwrap();
    fleet.node("c3").reconnect();
    fleet.node("c2").start().await.unwrap();
    fleet.until_all_have_crl(2).await;
    for name in ALL {
        fleet.main().until_crl_on(name, "delivered, not proven").await;
    }
    assert_eq!(kinds(&fleet, "crl-wanted").await, 3, "each file once");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_i11_what_somebody_does_to_the_file_on_a_node_is_undone_unless_it_is_newer() {
    let fleet = three().await;
    fleet.write_crl(3, &[77]);
    fleet.until_all_have_crl(3).await;
    let file = fleet.node("c1").crl_file();
    let meddling: [&dyn Fn(); 4] = [
        &|| fs::write(&file, "garbage").unwrap(),
        &|| fs::write(&file, "").unwrap(),
        &|| fs::remove_file(&file).unwrap(),
        &|| fs::write(&file, fleet.crl(2, &[])).unwrap(),
    ];
    for meddle in meddling {
        meddle();
        assert_ne!(fleet.node("c1").crl(), Some(3));
        fleet.node("c1").until_crl(3).await;
    }
    // As the compiler's own Puppet agent may be first.
    fs::write(&file, fleet.crl(4, &[77, 78])).unwrap();
    fleet.write_crl(4, &[77, 78]);
    fleet.until_all_have_crl(4).await;
    fleet.write_crl(5, &[77, 78, 79]);
    fleet.until_all_have_crl(5).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_that_was_away_during_a_revoke_is_out_of_the_balancer_until_it_has_the_revocation() {
    let mut fleet =
        Fleet::new().puppet_door().controller(|config| config.crl.drain_after_s = 2).nodes(3).up().await;
    fleet.add_balancer("lb1", &ALL).await;
    fleet.until_all_have_crl(0).await;
    fleet.node("c2").stop().await;
    fleet.main().until_gone("c2").await;
    fleet.write_crl(1, &[77]);
    fleet.main().until_balanced("c2", "drained").await;
    let drained = fleet.main().at_balancers("c2").await;
    assert_eq!(
        (drained.owner.as_str(), drained.reason.as_str()),
        ("revocation", "it lacks a revocation that Puppet's CA has made")
    );
    let status = fleet.main().status().await;
    assert!(
        status.alarms.iter().any(|alarm| alarm.starts_with("c2 lacks what Puppet's CA revoked")),
        "{:?}",
        status.alarms
    );
    fleet.main().until_crl_on("c2", "behind").await;
    assert_eq!(fleet.node("c2").crl(), Some(0));
    fleet.node("c2").start().await.unwrap();
    fleet.main().until_balanced("c2", "in service").await;
    assert_eq!(fleet.node("c2").crl(), Some(1), "it has it before it serves");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t17_a_crl_that_has_ended_is_refused_and_an_alarm_was_there_before() {
    let fleet = three().await;
    fleet.node("c3").stop().await;
    fleet.main().until_gone("c3").await;
    let alarmed = async |fleet: &Fleet, words: &str| {
        until(&format!("an alarm: {words}"), || async {
            fleet.main().status().await.alarms.iter().any(|alarm| alarm.contains(words))
        })
        .await;
    };
    fleet.write_ending_crl(1, &[77], Duration::from_secs(6));
    for name in ["c1", "c2"] {
        fleet.node(name).until_crl(1).await;
    }
    alarmed(&fleet, "Puppet's CRL ends in 0 days, and no newer one has come").await;
    alarmed(&fleet, "Puppet's CRL has ended: servers that read it anew refuse everybody").await;
    // To put it in place would refuse everybody there.
    fleet.node("c3").start().await.unwrap();
    until("c3 says that it has ended", || async {
        fleet.main().crl_on("c3").await.is_some_and(|info| info.note.contains("ended"))
    })
    .await;
    assert_eq!(fleet.node("c3").crl(), Some(0));
    fleet.write_crl(2, &[77, 78]);
    fleet.until_all_have_crl(2).await;
    until("the alarm to end", || async {
        !fleet.main().status().await.alarms.iter().any(|alarm| alarm.contains("Puppet's CRL"))
    })
    .await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_refuses_the_file_says_so_and_has_it_as_soon_as_it_can() {
    let fleet = Fleet::new().puppet_door().nodes(1).up().await;
    fleet.until_all_have_crl(0).await;
    // A directory stands where the file would be renamed to.
    let file = fleet.node("c1").crl_file();
    fs::remove_file(&file).unwrap();
    fs::create_dir_all(file.join("in-the-way")).unwrap();
    fleet.write_crl(1, &[77]);
    until("the node says why", || async {
        fleet.main().crl_on("c1").await.is_some_and(|info| info.note.contains("crl.pem"))
    })
    .await;
    assert_ne!(fleet.main().crl_on("c1").await.unwrap().state, "delivered");
    fs::remove_dir_all(&file).unwrap();
    fleet.node("c1").until_crl(1).await;
    fleet.main().until_crl_on("c1", "delivered, not proven").await;
    assert_eq!(fleet.main().crl_on("c1").await.unwrap().note, "");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_other_programs_are_kept_as_the_nodes_configuration_says() {
    let fleet = Fleet::new().puppet_door().nodes(1).up().await;
    fleet.until_all_have_crl(0).await;
    let node = fleet.node("c1");
    let extra = node.dir().join("haproxy-crl.pem");
    node.stop().await;
    node.change_config(|config| {
        let files = serde_json::json!({ "files": [{ "path": &extra, "mode": "0640" }] });
        config.crl = serde_json::from_value(files).unwrap();
    });
    node.start().await.unwrap();
    fleet.write_crl(1, &[77]);
    node.until_crl(1).await;
    until("the other file is the same", || async {
        fs::read(&extra).is_ok_and(|other| other == fs::read(node.crl_file()).unwrap())
    })
    .await;
    assert_eq!(fs::metadata(&extra).unwrap().permissions().mode() & 0o777, 0o640);
    fleet.end().await;
}
