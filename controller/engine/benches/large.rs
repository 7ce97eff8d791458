//! What one piece of news costs in a large fleet: `cargo bench -p bunraku-engine`.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "it measures time")]

use std::{collections::BTreeSet, error::Error, time::Instant};

use bunraku_common::{Digest, EnvironmentName, Generation, NodeName, Role, Term};
use bunraku_engine::{Built, DeployId, EnrolledBy, Event, Fact, Kind, Policy, Presence, State};

const NODES: usize = 10_000;
const ENVIRONMENTS: u64 = 50;

fn main() -> Result<(), Box<dyn Error>> {
    let mut state = State::default();
    let mut presence = Presence::new(0);
    let mut apply = |fact: Fact| state.apply(&fact, 1);
    apply(Fact::TermBegan { term: Term { number: 1, id: 1 }, takeover: None });
    let nodes: BTreeSet<NodeName> =
        (0..NODES).map(|n| NodeName::parse(&format!("c{n}"))).collect::<Result<_, _>>()?;
    for (n, node) in nodes.iter().enumerate() {
        apply(Fact::NodeEnrolled {
            node: node.clone(),
            roles: BTreeSet::from([Role::Compiler]),
            serial: format!("{n:x}"),
            key: format!("{n:x}"),
            by: EnrolledBy::Token { id: String::new() },
            expires_s: 1,
        });
        presence.connected(node.clone());
    }
    let snapshot = Digest::of(b"live");
    let built = Built { snapshot, commit: None, generate_types: false, stale_ruby: false };
    let generation = Generation(1);
    for number in 1..=ENVIRONMENTS {
        let (deploy, environment) = (DeployId(number), EnvironmentName::parse(&format!("e{number}"))?);
        apply(Fact::DeployRequested {
            deploy,
            environment: environment.clone(),
            branch: "main".into(),
            kind: Kind::Build { commit: None },
            policy: Policy::Fail,
            who: "ann".into(),
        });
        let (name, nodes_of, built) = (environment.clone(), nodes.clone(), built.clone());
        apply(Fact::StagingStarted { deploy, environment: name, built, generation, nodes: nodes_of });
        if number < ENVIRONMENTS {
            apply(Fact::CommitDecided { deploy, environment: environment.clone(), snapshot, generation });
            for node in &nodes {
                let (environment, node) = (environment.clone(), node.clone());
                apply(Fact::NodeProven { environment, node, snapshot, generation, swapped_ms: None });
            }
            let outcome = bunraku_engine::Outcome::Live { skew_ms: None };
            apply(Fact::DeployEnded { deploy, environment, outcome });
        }
    }
    let node = nodes.first().ok_or("no nodes")?.clone();
    let began = Instant::now();
    let facts = state.observe(Event::Staged { deploy: DeployId(ENVIRONMENTS), node }, &presence);
    println!("observe with news: {:?} ({} fact)", began.elapsed(), facts.len());
    let began = Instant::now();
    facts.iter().for_each(|fact| state.apply(fact, 2));
    println!("apply: {:?}", began.elapsed());
    let began = Instant::now();
    assert!(state.due(Some(&presence), 2).is_empty());
    println!("what is due: {:?}", began.elapsed());
    let began = Instant::now();
    let steps = state.steps(&presence, 2).len();
    println!("{steps} steps: {:?}", began.elapsed());
    Ok(())
}
