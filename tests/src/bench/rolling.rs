//! What a rollout adds to the restarts themselves: drain, proof that nobody is served, verification, enable.
//!
//! Real node agents and a real HAProxy; the service that is restarted is up in a few milliseconds, and nobody is served,
//! so that what is measured is Bunraku's own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bunraku_services::{Services, service::Verb};

use super::{
    Bench,
    figures::{median, shown},
    machine,
};
use crate::fleet::{Fleet, end_services, grant, restart, until};

const TASK: &str = "rolling restart, a service that is up at once";
const COMPILERS: [&str; 3] = ["c1", "c2", "c3"];
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// So many rounds, each of them once by Bunraku, once by a script, and once without any care.
pub(super) fn figures(bench: &mut Bench, rounds: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("could not start a runtime")?.block_on(measure(bench, rounds))
}

async fn measure(bench: &mut Bench, rounds: usize) -> Result<()> {
    let mut fleet = Fleet::new().nodes(COMPILERS.len()).agents(grant).up().await;
    fleet.deploy_change("production", "rolled").await;
    fleet.add_balancer("lb1", &COMPILERS).await;
    let services: Vec<Services> =
        fleet.nodes().iter().map(|node| Services::new(node.config().services)).collect();
    for services in &services {
        restarted(services).await?;
    }
    for name in COMPILERS {
        fleet.main().until_balanced(name, "in service").await;
    }
    let (mut rolled, mut scripted, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        bench.figures.load(machine::load());
        let began = Instant::now();
        let id = fleet.main().start_rollout(restart()).await.context("the rollout did not start")?;
        fleet.main().until_rollout(id, "done").await;
        rolled.push(began.elapsed());
        scripted.push(by_hand(&fleet, &services).await?);
        bare.push(alone(&services).await?);
    }
    for (tool, times) in [
        ("`bunraku rollout start restart`", &rolled),
        ("a script: drain, no session, restart, enable", &scripted),
        ("the restarts alone, without a drain", &bare),
    ] {
        times.iter().for_each(|took| bench.figures.time(TASK, COMPILERS.len(), tool, *took));
    }
    let adds = median(&rolled).saturating_sub(median(&bare)) / COMPILERS.len() as u32;
    bench.figures.fact("a rollout adds to the restart of each compiler", shown(adds), "under 2 s");
    fleet.nodes().iter().for_each(end_services);
    fleet.end().await;
    bench.progress.say(format_args!("rolling restart: {rounds} rounds, load {:.1}", machine::load()));
    Ok(())
}

async fn restarted(services: &Services) -> Result<()> {
    let service = services.granted("puppetserver").context("no service is granted")?;
    service.act(Verb::Restart, ENDS_WITHIN).await.context("could not restart the service")
}

/// One after the other, by the same code as in a rollout.
async fn alone(services: &[Services]) -> Result<Duration> {
    let began = Instant::now();
    for services in services {
        restarted(services).await?;
    }
    Ok(began.elapsed())
}

/// As scripts do it: nothing is proven, nothing survives a crash, and the floor is nobody's business.
async fn by_hand(fleet: &Fleet, services: &[Services]) -> Result<Duration> {
    let haproxy = fleet.balancer("lb1").haproxy();
    let began = Instant::now();
    for (name, services) in COMPILERS.iter().zip(services) {
        haproxy.set(name, "drain").await;
        until("nobody is served", || async { haproxy.sessions(name).await == Some(0) }).await;
        restarted(services).await?;
        haproxy.set(name, "ready").await;
        until("it is in service", || async { haproxy.shows(name).await.starts_with("UP") }).await;
    }
    Ok(began.elapsed())
}
