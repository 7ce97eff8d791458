//! T11, T14, I5: orders that come twice, in another order, hours late, or from yesterday's controller.

use bunraku_common::{Digest, snapshot::Tree};
use bunraku_proto::{
    link::NodeLink,
    v1::{self, node_client::NodeClient, stage_reply::Outcome},
};
use bunraku_tests::fleet::{Fleet, digest_of, until};
use tonic::{Code, Status};

use super::usurper::{Forged, TERM, Usurper, commit, file, hello, order, stage};

/// A snapshot of one file that says which it is, with its pack.
fn version(number: u8) -> (Digest, Vec<u8>) {
    let listing = file(b"version", &[number]);
    (Tree::digest_of(&listing), Forged::default().tree(&listing).blob(&[number]).end())
}

async fn staged(client: &mut NodeClient<NodeLink>, request: v1::StageRequest) {
    let reply = client.stage(request).await.unwrap().into_inner();
    assert!(matches!(reply.outcome, Some(Outcome::Staged(_))), "{reply:?}");
}

fn is_late<T: std::fmt::Debug>(answer: Result<T, Status>) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t11_orders_that_come_twice_swapped_or_hours_late_are_executed_once_or_refused() {
    let mut fleet = Fleet::new().nodes(1).up().await;
    let node = fleet.node("c1");
    let mut usurper = Usurper::rise(fleet.main()).await;
    let mut client = usurper.capture(node).await;
    client.hello(hello(TERM)).await.unwrap();
    let ((one, pack_one), (two, pack_two)) = (version(1), version(2));

    // Twice, and many times at once.
    usurper.serve(pack_one);
    staged(&mut client, stage(TERM, 1, &one)).await;
    staged(&mut client, stage(TERM, 1, &one)).await;
    let mut copies = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut client = client.clone();
        copies.spawn(async move { client.commit(commit(TERM, 1, &one)).await });
    }
    for copy in copies.join_all().await {
        assert!(copy.unwrap().into_inner().committed);
    }
    assert_eq!(node.puppet_server().history("production"), [one]);
    let flushes = node.puppet_server().flushes();

    // Swapped: the commit before its stage, then the stage of a decision before it.
    usurper.serve(pack_two);
    let early = client.commit(commit(TERM, 3, &two)).await.unwrap().into_inner();
    assert!(early.missing && !early.committed, "{early:?}");
    is_late(client.stage(stage(TERM, 2, &two)).await);
    assert_eq!(node.live("production"), Some(one));
    staged(&mut client, stage(TERM, 3, &two)).await;
    client.commit(commit(TERM, 3, &two)).await.unwrap();

    // Hours late: each order that was good in its time, also after the agent has started anew.
    for restarted in [false, true] {
        if restarted {
            node.restart().await;
            client = usurper.next_link().await;
            client.hello(hello(TERM)).await.unwrap();
        }
        is_late(client.commit(commit(TERM, 1, &one)).await);
        is_late(client.stage(stage(TERM, 1, &one)).await);
        let discard = v1::DiscardRequest { order: order(TERM, 1), snapshot: two.to_string() };
        is_late(client.discard(discard).await);
        is_late(client.heal(v1::HealRequest { order: order(TERM, 2) }).await);
        // The newest again: already so.
        assert!(client.commit(commit(TERM, 3, &two)).await.unwrap().into_inner().committed);
    }
    assert_eq!(node.puppet_server().history("production"), [one, two]);
    assert_eq!(node.live("production"), Some(two));
    assert!(node.puppet_server().flushes() > flushes);
    // What is live cannot be thrown away by the newest order either.
    let discard = v1::DiscardRequest { order: order(TERM, 3), snapshot: two.to_string() };
    assert_eq!(client.discard(discard).await.unwrap_err().code(), Code::FailedPrecondition);
    // Not `end`: what the usurper committed is on no record.
    node.stop().await;
    fleet.main_mut().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_orders_of_an_older_term_or_of_a_twin_with_the_same_number_are_refused() {
    let fleet = Fleet::new().nodes(1).up().await;
    let node = fleet.node("c1");
    let live = fleet.deploy_change("production", "one").await;
    let mut usurper = Usurper::rise(fleet.main()).await;
    let mut client = usurper.capture(node).await;
    let greeted = client.hello(hello(TERM)).await.unwrap().into_inner();
    assert_eq!(greeted.highest_term.unwrap().number, TERM);
    let (other, pack) = version(9);
    usurper.serve(pack);
    let twin = v1::Term { number: TERM, id: format!("{:032x}", 1) };
    let told = client.hello(v1::HelloRequest { term: Some(twin.clone()), ..hello(TERM) }).await;
    assert_eq!(told.unwrap().into_inner().highest_term, greeted_again(&mut client).await);
    let mut from_twin = stage(TERM, 90, &other);
    from_twin.order.as_mut().unwrap().term = Some(twin);
    is_late(client.stage(from_twin).await);
    for older in [0, 1, TERM - 1] {
        client.hello(hello(older)).await.unwrap();
        is_late(client.stage(stage(older, 90, &other)).await);
        is_late(client.commit(commit(older, 90, &live)).await);
        is_late(client.heal(v1::HealRequest { order: order(older, 90) }).await);
    }
    for broken in [
        None,
        Some(v1::Order { term: None, ..order(TERM, 90).unwrap() }),
        Some(v1::Order { environment: "../../etc".into(), ..order(TERM, 90).unwrap() }),
        Some(v1::Order { term: Some(v1::Term { number: TERM, id: "x".into() }), ..order(TERM, 90).unwrap() }),
    ] {
        let request = v1::StageRequest { order: broken, snapshot: other.to_string(), ..Default::default() };
        assert_eq!(client.stage(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(node.live("production"), Some(live));
    fleet.end().await;
}

async fn greeted_again(client: &mut NodeClient<NodeLink>) -> Option<v1::Term> {
    client.hello(hello(TERM)).await.unwrap().into_inner().highest_term
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_of_two_controllers_only_the_one_with_the_higher_term_acts() {
    let mut fleet = Fleet::new().nodes(1).up().await;
    fleet.deploy_change("production", "one").await;
    fleet.main_mut().stop().await;
    let backup = fleet.path("backup");
    fleet.main().back_up(&backup);
    let mut twin = fleet.main().twin(&backup);
    // The twin runs twice: its term is the higher one.
    twin.start().await.unwrap();
    twin.restart().await;
    fleet.node("c1").link().lead_to(twin.address());
    twin.until_connected("c1").await;
    fleet.push("production", &[("manifests/site.pp", "# by the twin\n")]);
    let by_twin = twin.until_ended(twin.ask_deploy("production").await.unwrap()).await;
    assert_eq!(by_twin.phase, "live", "{by_twin:#?}");

    fleet.main_mut().start().await.unwrap();
    fleet.node("c1").link().lead_to(fleet.main().address());
    let main = fleet.main();
    until("the older controller knows that it is not in command", || async {
        main.status().await.standing.starts_with("gives no orders")
    })
    .await;
    fleet.push("production", &[("manifests/site.pp", "# by the older one\n")]);
    let asked = main.ask_deploy("production").await;
    fleet.node("c1").link().lead_to(twin.address());
    twin.until_connected("c1").await;
    if let Ok(id) = asked {
        let phase = main.show_deploy(id).await.phase;
        assert!(["queued", "building", "staging"].contains(&phase.as_str()), "{phase}");
    }
    let history = fleet.node("c1").puppet_server().history("production");
    assert_eq!(history.last(), Some(&digest_of(&by_twin)));
    assert_eq!(fleet.node("c1").live("production"), Some(digest_of(&by_twin)));
    twin.stop().await;
    fleet.node("c1").stop().await;
    fleet.main_mut().stop().await;
}
