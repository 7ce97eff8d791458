//! From what is asked for to waves.

use bunraku_common::{Label, Role};
use bunraku_engine::{Ask, Batch, Plan, Request};

use crate::site::{Site, drain, node, restart};

fn names(plan: &Plan) -> Vec<Vec<&str>> {
    plan.waves.iter().map(|wave| wave.nodes.iter().map(|node| node.as_str()).collect()).collect()
}

/// A site with more compilers, named by data centre.
fn large() -> Site {
    let mut site = Site::new();
    for name in ["a1", "a2", "a3", "b1", "b2", "b3", "b4"] {
        site.enrol(&node(name), Role::Compiler);
        site.presence.connected(node(name));
        for balancer in &mut site.balancers {
            let like = balancer.servers[&node("c1")].clone();
            balancer.servers.insert(node(name), like);
        }
    }
    site.look();
    site
}

#[test]
fn one_canary_comes_first_and_then_one_at_a_time() {
    let site = Site::new();
    let plan = site.plan(&restart());
    assert_eq!(names(&plan), [["c1"], ["c2"], ["c3"]]);
    assert!(plan.waves[0].canary && !plan.waves[1].canary);
    assert!(plan.blocks.is_empty());
    assert_eq!(plan.floors[0], "backend puppet of lb1: 3 in service, at least 1 must stay");
}

#[test]
fn batches_are_a_number_or_a_share_and_never_more_than_the_tightest_backend_allows() {
    let mut site = large();
    let mut ask = restart();
    ask.policy.batch = Batch::Percent(40);
    assert_eq!(names(&site.plan(&ask))[1].len(), 4);
    ask.policy.batch = Batch::Count(100);
    assert_eq!(names(&site.plan(&ask))[1].len(), 9);
    site.balancer("lb2").floor = 8;
    site.look();
    assert_eq!(names(&site.plan(&ask))[1].len(), 2);
    ask.policy.min_available = 9;
    assert_eq!(names(&site.plan(&ask))[1].len(), 1);
}

#[test]
fn groups_come_in_their_order_and_no_wave_holds_two_of_them() {
    let site = large();
    let mut ask = Ask { groups: vec!["b*".into(), "a*".into()], ..restart() };
    ask.policy.batch = Batch::Count(3);
    let plan = site.plan(&ask);
    assert_eq!(
        names(&plan),
        [vec!["b1"], vec!["b2", "b3", "b4"], vec!["a1", "a2", "a3"], vec!["c1", "c2", "c3"]]
    );
}

#[test]
fn nodes_are_chosen_by_patterns_of_their_names() {
    let site = large();
    let plan = site.plan(&Ask { nodes: vec!["a*".into(), "c2".into()], ..restart() });
    assert_eq!(names(&plan), [["a1"], ["a2"], ["a3"], ["c2"]]);
    let none = site.plan(&Ask { nodes: vec!["z*".into()], ..restart() });
    assert_eq!(none.blocks[0].reason, "no compiler is called z*");
}

#[test]
fn nodes_are_chosen_by_labels_and_roles_and_all_of_them_count() {
    let mut site = large();
    let labels = |words: &[&str]| words.iter().map(|word| Label::parse(word).unwrap()).collect::<Vec<_>>();
    let label = |site: &mut Site, name, add: &[&str], remove: &[&str]| {
        let (add, remove) = (labels(add).into_iter().collect(), labels(remove).into_iter().collect());
        site.ask(Request::LabelNode { node: node(name), add, remove }).unwrap();
    };
    label(&mut site, "a1", &["dc=paris", "new"], &[]);
    label(&mut site, "b2", &["dc=paris"], &[]);
    label(&mut site, "b3", &["dc=paris", "new"], &[]);
    let by = |site: &Site, words: &[&str]| site.plan(&Ask { labels: labels(words), ..restart() });
    assert_eq!(names(&by(&site, &["dc=paris"])), [["a1"], ["b2"], ["b3"]]);
    assert_eq!(names(&by(&site, &["dc=paris", "new"])), [["a1"], ["b3"]]);
    label(&mut site, "a1", &[], &["new"]);
    assert_eq!(names(&by(&site, &["new"])), [["b3"]]);
    let named = Ask { nodes: vec!["b*".into()], labels: labels(&["dc=paris"]), ..restart() };
    assert_eq!(names(&site.plan(&named)), [["b2"], ["b3"]]);
    assert_eq!(by(&site, &["old"]).blocks[0].reason, "no compiler has the label old");
    let none = site.plan(&Ask { roles: vec![Role::Puppetdb], ..restart() });
    assert_eq!(none.blocks[0].reason, "no compiler is chosen");
    let compilers = site.plan(&Ask { roles: vec![Role::Compiler], ..restart() });
    assert_eq!(compilers.waves.len(), 10);
}

#[test]
fn a_word_that_chooses_nobody_is_named_also_beside_others() {
    let site = large();
    let ask = Ask { nodes: vec!["a*".into(), "z9".into()], groups: vec!["b*".into()], ..restart() };
    let blocks: Vec<_> = site.plan(&ask).blocks.into_iter().map(|block| block.reason).collect();
    assert_eq!(blocks, ["no compiler is called z9", "no chosen compiler is in the group b*"]);
}

#[test]
fn a_labelled_compiler_that_cannot_be_drained_is_told_of() {
    let mut site = Site::new();
    site.enrol(&node("main"), Role::Compiler);
    site.presence.connected(node("main"));
    let label = Label::parse("old").unwrap();
    let add = [label.clone()].into();
    site.ask(Request::LabelNode { node: node("main"), add, remove: [].into() }).unwrap();
    let plan = site.plan(&Ask { labels: vec![label], ..restart() });
    assert_eq!(plan.blocks[0].reason, "main is in no backend, so it cannot be drained");
}

#[test]
fn everything_that_stands_in_the_way_is_named_with_the_command_that_mends_it() {
    let mut site = large();
    site.drain("a1").unwrap();
    site.tell_balancers();
    site.presence.gone(&node("a2"), site.now);
    site.enrol(&node("main"), Role::Compiler);
    site.presence.connected(node("main"));
    let plan = site.plan(&Ask { nodes: vec!["a*".into(), "main".into()], ..restart() });
    let blocks: Vec<_> =
        plan.blocks.iter().map(|block| (block.reason.as_str(), block.hint.as_str())).collect();
    assert_eq!(
        blocks,
        [
            ("a1 is drained by operator ann", "bunraku lb enable a1"),
            ("a2 is not connected", "bunraku nodes show a2"),
            ("main is in no backend, so it cannot be drained", "add --undrained"),
        ]
    );
}

#[test]
fn i3_a_backend_without_room_blocks_the_rollout() {
    let mut site = Site::new();
    site.balancer("lb1").floor = 3;
    site.look();
    let refusal = site.ask_rollout(restart()).unwrap_err();
    assert_eq!(refusal.reason, "backend puppet of lb1 has 3 compilers in service and 3 must stay");
}

#[test]
fn a_balancer_that_cannot_be_seen_blocks_every_rollout() {
    let mut site = Site::new();
    site.presence.gone(&node("lb1"), site.now);
    assert!(site.ask_rollout(restart()).unwrap_err().reason.contains("lb1 cannot be seen"));
    assert!(site.ask(drain("c1", 0)).is_err());
}

#[test]
fn a_second_rollout_over_the_same_nodes_is_refused_with_the_firsts_id() {
    let mut site = Site::new();
    let first = site.ask_rollout(Ask { nodes: vec!["c1".into()], ..restart() }).unwrap();
    let refusal = site.ask_rollout(restart()).unwrap_err();
    assert_eq!(refusal.reason, format!("c1 is part of rollout {first}"));
    assert_eq!(refusal.hint, format!("bunraku rollout show {first}"));
    site.ask_rollout(Ask { nodes: vec!["c2".into()], ..restart() }).unwrap();
}
