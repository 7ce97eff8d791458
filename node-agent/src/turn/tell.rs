//! Puppet Server's service is told to restart or reload, once for an order, whatever is killed meanwhile.

use std::time::Duration;

use bunraku_common::{Chain, Fence};
use bunraku_services::{
    Acted, Mark, Verb,
    puppetserver::{ActError, ConfigCheck, GoodCopies, PuppetserverService, ready},
};

use super::{reach::server, step::Answer};
use crate::node::{Compiler, Node};

/// For each of both, telling a service and its being ready. Puppet Server takes 10 to 60 s, on a loaded machine more.
const SERVICE: Duration = Duration::from_secs(300);
/// A service that was told before a crash is looked at this often.
const LOOK: Duration = Duration::from_millis(500);

/// `mark`: it was begun before this agent ended; what has become of it is looked at first.
pub(super) async fn tell(
    node: &Node,
    compiler: &Compiler,
    verb: Verb,
    mark: Option<Mark>,
    fence: Fence,
) -> Answer {
    let (settings, server) = match server(node, compiler).await {
        Ok(known) => known,
        Err(why) => return Answer::unchanged(why),
    };
    let places = match node.server_places(&settings) {
        Ok(places) => places,
        Err(error) => return Answer::unchanged(Chain(&error)),
    };
    let service = match node.turns.services.granted(&node.config.rollout.service) {
        Ok(service) => service,
        Err(error) => return Answer::unchanged(Chain(&error)),
    };
    let puppetserver = PuppetserverService {
        service,
        server: &server,
        check: ConfigCheck { puppet: &node.puppet, conf_d: &places.conf_d, ruby: None },
        copies: GoodCopies::new(node.turns.directory.join("good"), &places.conf_d, &settings.config),
        restart_file: None,
    };
    let mut told = verb;
    if let Some(mark) = mark {
        let until = tokio::time::Instant::now() + SERVICE;
        loop {
            match service.acted_since(verb, &mark).await {
                Ok(Acted::GoingOn) if tokio::time::Instant::now() < until => tokio::time::sleep(LOOK).await,
                // Told already: it is not told again, also when it does not get well.
                Ok(Acted::Yes) => {
                    return match ready::wait(service, &server, None, SERVICE).await {
                        Ok(()) => Answer::Done(puppetserver.is_good().no_copies.unwrap_or_default()),
                        Err(not_ready) => Answer::changed(format!(
                            "Puppet Server is not ready after the {verb}, during which this agent ended: {not_ready}"
                        )),
                    };
                }
                // Cut short between its stop and its start.
                Ok(Acted::Amiss(_)) => {
                    told = Verb::Start;
                    break;
                }
                // A plain process does not say whether it got the signal; a second reload of a drained server harms nobody.
                Ok(Acted::No | Acted::CannotTell) => break,
                Ok(Acted::GoingOn) => {
                    return Answer::changed(format!(
                        "the {verb} goes on since before this agent was started"
                    ));
                }
                Err(error) => {
                    return Answer::changed(format!("whether it did {verb} is not known: {}", Chain(&error)));
                }
            }
        }
    }
    let name = fence.generation.0.to_string();
    match puppetserver.act(told, &name, SERVICE).await {
        Ok(done) => Answer::Done(done.no_copies.unwrap_or_default()),
        Err(error) => {
            let unchanged = match &error {
                ActError::Check(_) => told == verb,
                ActError::Restored { .. } => true,
                ActError::Service { .. } | ActError::Down { .. } => false,
            };
            Answer::Failed { reason: Chain(&error).to_string(), unchanged }
        }
    }
}
