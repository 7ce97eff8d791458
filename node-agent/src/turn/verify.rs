//! Whether Puppet Server is up and well after it was changed.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bunraku_common::{Chain, EnvironmentName};
use bunraku_packages::Target;
use bunraku_puppetserver::server::Status;
use bunraku_services::State;

use super::{action::Action, certificate, packages, reach::server, step::Answer};
use crate::node::{Compiler, Node};

/// A catalog of a large site takes half a minute on a cold server.
pub(super) const CATALOG: Duration = Duration::from_secs(120);

pub(super) async fn verify(
    node: &Arc<Node>,
    compiler: &Compiler,
    action: Option<&Action>,
    back: bool,
    certname: &str,
) -> Answer {
    let target = match action.filter(|_| !back) {
        Some(Action::Update { package, version }) => Some((package.as_str(), version)),
        Some(Action::AgentUpdate { version }) => Some((packages::OWN, version)),
        Some(
            Action::Restart
            | Action::Reload
            | Action::FlushPool
            | Action::PuppetRun
            | Action::Exec(_)
            | Action::Certificate(_),
        )
        | None => None,
    };
    if let Some((package, version)) = target {
        let target = Target { package: package.to_owned(), version: version.clone() };
        if let Some(why) = packages::differs(node, &target).await {
            return Answer::changed(why);
        }
    }
    if let Ok(service) = node.turns.services.granted(&node.config.rollout.service) {
        match service.status().await {
            Ok(status) if status.state == State::Running => {}
            Ok(status) => return Answer::changed(format!("its Puppet Server is {}", status.detail)),
            Err(error) => return Answer::changed(Chain(&error)),
        }
    }
    let (settings, server) = match server(node, compiler).await {
        Ok(known) => known,
        Err(why) => return Answer::changed(why),
    };
    match server.status().await {
        Status::Running => {}
        Status::Starting => return Answer::changed("its Puppet Server is starting"),
        Status::Stopping => return Answer::changed("its Puppet Server is stopping"),
        Status::Ailing(why) | Status::Down(why) => {
            return Answer::changed(format!("its Puppet Server does not answer: {why}"));
        }
    }
    if let Some(Action::Certificate(fingerprint)) = action
        && let Err(why) = certificate::shows(node, &settings, fingerprint, back).await
    {
        return Answer::changed(why);
    }
    if let Err(error) = server.prove_all(&committed(node, compiler)).await {
        return Answer::changed(Chain(&error));
    }
    if !certname.is_empty()
        && let Err(error) = server.with_deadline(CATALOG).catalog(certname).await
    {
        return Answer::changed(Chain(&error));
    }
    Answer::Done(String::new())
}

/// What was proven before and is live: a server that came back with other settings may not serve it.
fn committed(node: &Node, compiler: &Compiler) -> BTreeMap<EnvironmentName, PathBuf> {
    let environments = compiler.versions.observe().into_iter().map(|state| state.environment);
    let proven = |name: EnvironmentName| {
        let proven = node.memory().subject(&name)?.proven?;
        let version = compiler.versions.resolve(&name, &proven);
        (compiler.versions.live(&name) == Some(proven)).then_some((name, version))
    };
    environments.filter_map(proven).collect()
}
