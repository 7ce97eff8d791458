//! T5, T6: what a compromised compiler or a careless operator says cannot fill the journal, stop the others, or reach a
//! terminal as more than text.

use std::time::Duration;

use bunraku_common::Digest;
use bunraku_proto::v1;
use bunraku_tests::fleet::{Fleet, MainServer, until};
use tonic::Code;

use super::{
    liar::Liar,
    raw::{soon, stolen_node},
};

/// More than any word of a compiler needs.
const MUCH: usize = 3 << 19;

fn words() -> String {
    format!("\u{1b}[2J\u{1b}]0;owned\u{7}\r\u{202e}{}", "\u{1}".repeat(MUCH))
}

/// Everything that people are shown, in bytes and as text without what moves a cursor.
async fn is_fit_for_people(main: &MainServer) {
    let status = main.status().await;
    let shown = [format!("{:#?}", main.events_after(0).await), format!("{status:#?}")];
    for text in shown {
        assert!(text.len() < 1 << 20, "{} bytes", text.len());
    }
    let mut words: Vec<String> = status.alarms.clone();
    for node in status.nodes {
        words.extend([node.version, node.puppetserver, node.address, node.standing]);
        words.extend(
            node.environments.into_iter().flat_map(|e| e.drift.into_iter().chain([e.environment, e.owed])),
        );
    }
    words.extend(main.events_after(0).await.into_iter().map(|event| event.text));
    for word in words {
        let moves = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!word.contains(moves), "{:?}", word.chars().take(80).collect::<String>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t5_a_compiler_that_lies_at_length_fills_nothing_and_stops_nobody() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let live = fleet.deploy_change("production", "one").await;
    let thief = stolen_node(main, "c9").await;
    let on_node = |number: usize| v1::EnvironmentOnNode {
        environment: format!("lie_{number}"),
        live: Digest::of(&number.to_be_bytes()).to_string(),
        sealed: true,
        proven: true,
        owed: "\u{1b}[2J".repeat(20),
        drift: vec!["\u{1b}[2J".into(); 3],
        ..Default::default()
    };
    let says = v1::HelloReply {
        version: words().chars().take(1 << 19).collect(),
        observed: Some(v1::ObserveReply {
            environments: (0..8000).map(on_node).collect(),
            puppetserver: words().chars().take(1 << 19).collect(),
            ..Default::default()
        }),
        ..Liar::honest()
    };
    let talkative = Liar::new(says, words());
    main.client().release_node(v1::NodeRequest { node: "c9".into() }).await.unwrap();
    let serving = tokio::spawn(talkative.clone().serving(main, &thief).await);
    until("it is heard", || async { talkative.greeted() > 0 }).await;
    main.until_connected("c9").await;
    let journal = |main: &MainServer| {
        let dir = main.config().data_dir.join("state/journal");
        let files = std::fs::read_dir(dir).unwrap().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum::<u64>()
    };
    let before = journal(main);
    // It fails every stage with three MiB of words; everybody else's requests go their way meanwhile.
    fleet.push("production", &[("manifests/site.pp", "# two\n")]);
    let asked = main.ask_deploy("production").await.unwrap();
    for _ in 0..5 {
        main.client()
            .create_token(v1::CreateTokenRequest {
                node: "c5".into(),
                roles: vec!["compiler".into()],
                ttl_s: 0,
            })
            .await
            .unwrap();
    }
    let ended = main.until_ended(asked).await;
    assert_eq!(ended.phase, "abandoned", "{}", ended.reason.chars().take(300).collect::<String>());
    assert!(ended.reason.len() < 16 << 10, "{} bytes", ended.reason.len());
    let _its_words = main.client().doctor(v1::DoctorFleetRequest { node: "c9".into() }).await;
    let _its_words =
        main.client().heal_node(v1::HealNodeRequest { node: "c9".into(), environment: String::new() }).await;
    main.node("c9").await;
    is_fit_for_people(main).await;
    assert!(journal(main) < before + (8 << 20), "{} bytes, were {before}", journal(main));
    assert_eq!(fleet.node("c1").live("production"), Some(live));

    // Put aside, it holds up nothing any more.
    let hold = v1::HoldNodeRequest { node: "c9".into(), reason: "it lies".into() };
    main.client().hold_node(hold).await.unwrap();
    fleet.deploy_change("production", "three").await;
    serving.abort();
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t5_words_of_an_operator_that_are_too_many_are_refused_and_take_nobody_with_them() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let mut floods = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut client = main.client();
        floods.spawn(async move {
            let reason = "\u{1}".repeat(MUCH);
            let hold = v1::HoldNodeRequest { node: "c1".into(), reason: reason.clone() };
            let revoke = v1::RevokeNodeRequest { node: "c1".into(), reason: reason.clone() };
            let takeover = v1::TakeoverRequest { reason };
            [
                client.hold_node(hold).await.map(drop),
                client.revoke_node(revoke).await.map(drop),
                client.takeover(takeover).await.map(drop),
            ]
        });
    }
    for _ in 0..10 {
        let honest = v1::CreateTokenRequest { node: "c5".into(), roles: vec!["compiler".into()], ttl_s: 0 };
        main.client().create_token(honest).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for outcome in floods.join_all().await.into_iter().flatten() {
        let status = outcome.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{:.200}", status.message());
    }
    assert_eq!(main.node("c1").await.standing, "enrolled");
    fleet.end().await;
}

/// The procedure of docs/adoption.md, "When a compiler is not to be trusted".
#[tokio::test(flavor = "multi_thread")]
async fn t5_a_compiler_that_invents_a_newer_controller_is_revoked_and_a_takeover_ends_what_it_did() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let live = fleet.deploy_change("production", "one").await;
    let thief = stolen_node(main, "c9").await;
    let claims = |number: u64| v1::HelloReply {
        highest_term: Some(v1::Term { number, id: format!("{:032x}", 7) }),
        ..Liar::honest()
    };

    // No controller ever came to such a term: it is not believed, and not obeyed either.
    let absurd = Liar::new(claims(u64::MAX), String::new());
    soon("the controller leaves", absurd.serve(main, &thief)).await;
    assert!(absurd.greeted() > 0);
    assert_eq!(main.status().await.standing, "in command");

    // One that could be true stops all orders, and the one who says so is named.
    let claimed = main.status().await.term + 5_000_000;
    let liar = Liar::new(claims(claimed), String::new());
    soon("the controller leaves", liar.serve(main, &thief)).await;
    until("the claim is heard", || async { main.status().await.standing.starts_with("gives no orders") })
        .await;
    let standing = main.status().await.standing;
    assert!(standing.contains("c9") && standing.contains("bunraku takeover"), "{standing}");
    fleet.push("production", &[("manifests/site.pp", "# two\n")]);
    let refused = main.ask_deploy("production").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(fleet.node("c1").live("production"), Some(live));

    // `bunraku nodes revoke` works without being in command, and then `bunraku takeover`.
    let revoke = v1::RevokeNodeRequest { node: "c9".into(), reason: "claims a term".into() };
    main.client().revoke_node(revoke).await.unwrap();
    assert!(main.take_over().await > claimed);
    main.until_connected("c1").await;
    assert_eq!(main.status().await.standing, "in command");

    // It cannot say it again, and the fleet is as it was.
    let greeted = liar.greeted();
    soon("the door stays closed", liar.serve(main, &thief)).await;
    assert_eq!(liar.greeted(), greeted);
    fleet.deploy_change("production", "three").await;
    assert_eq!(main.status().await.standing, "in command");
    fleet.end().await;
}
