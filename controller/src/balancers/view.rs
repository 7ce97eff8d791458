//! From what a balancer says to what the engine relies on. A balancer that contradicts itself, or says what nobody ever
//! decided, is in trouble: then nothing is drained until somebody has looked (T6).

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::{Generation, NodeName};
use bunraku_engine::{Balance, BalancerView, Millis, ServerSeen, Wish};
use bunraku_proto::v1::{BalancedServer, BalancerStatusReply};

/// A decision rises the number by one, and a restored backup may be some thousands behind. Who claims more would drive
/// the numbers to where no higher one is left.
const FARTHEST: u64 = 1 << 32;

/// `status` is bounded already; `at` is when it was asked for.
pub(super) fn of<'a>(
    at: Millis,
    status: &BalancerStatusReply,
    decided: impl Fn(&NodeName) -> Option<&'a Balance>,
) -> BalancerView {
    if !status.trouble.is_empty() {
        return BalancerView { at, trouble: status.trouble.clone(), ..BalancerView::default() };
    }
    match servers(status, decided) {
        Ok(servers) => {
            let floors: BTreeMap<String, u32> =
                status.backends.iter().map(|backend| (backend.backend.clone(), backend.floor)).collect();
            BalancerView { at, servers, floors, trouble: String::new() }
        }
        Err(trouble) => BalancerView { at, trouble, ..BalancerView::default() },
    }
}

fn servers<'a>(
    status: &BalancerStatusReply,
    decided: impl Fn(&NodeName) -> Option<&'a Balance>,
) -> Result<Vec<ServerSeen>, String> {
    let mut named = BTreeSet::new();
    let mut servers = Vec::new();
    for server in &status.servers {
        let shown = format!("{}/{}", server.backend, server.server);
        if !named.insert((&server.backend, &server.server)) {
            return Err(format!("it names {shown} twice"));
        }
        let compiler = NodeName::parse(&server.compiler)
            .map_err(|error| format!("it maps {shown} to an impossible node: {error}"))?;
        let newest = decided(&compiler).map_or(Generation::default(), |balance| balance.generation);
        if server.generation.saturating_sub(newest.0) > FARTHEST {
            return Err(format!("it claims an order about {compiler} that no controller ever gave"));
        }
        servers.push(seen(server, compiler).ok_or_else(|| {
            format!("it shows {shown} in service, and {} and {}", server.admin, server.health)
        })?);
    }
    Ok(servers)
}

/// `None`: it contradicts itself.
fn seen(server: &BalancedServer, compiler: NodeName) -> Option<ServerSeen> {
    let ready = server.admin == "ready";
    if server.in_service && !(ready && server.health == "up") {
        return None;
    }
    // One that has forgotten the drain is told again, also while its health is what keeps it out.
    let wish =
        |drained| Wish { drained, owner: server.owner.clone(), generation: Generation(server.generation) };
    let wish = match server.wanted.as_str() {
        "drained" => Some(wish(!ready)),
        "ready" => Some(wish(false)),
        _ => None,
    };
    Some(ServerSeen {
        compiler,
        backend: server.backend.clone(),
        server: server.server.clone(),
        in_service: server.in_service,
        sessions: server.sessions_known.then_some(server.sessions),
        foreign: server.foreign,
        wish,
    })
}

#[cfg(test)]
mod tests {
    use bunraku_proto::v1::BalancedBackend;

    use super::*;

    fn server(name: &str) -> BalancedServer {
        BalancedServer {
            compiler: "c1.example".into(),
            backend: "puppet".into(),
            server: name.into(),
            admin: "ready".into(),
            health: "up".into(),
            sessions: 3,
            sessions_known: true,
            in_service: true,
            ..BalancedServer::default()
        }
    }

    fn view_of(servers: Vec<BalancedServer>) -> BalancerView {
        let backends = vec![BalancedBackend { backend: "puppet".into(), floor: 2, in_service: 1 }];
        of(7, &BalancerStatusReply { servers, backends, ..BalancerStatusReply::default() }, |_| None)
    }

    #[test]
    fn what_a_balancer_says_is_what_is_seen() {
        let out = BalancedServer {
            admin: "drain".into(),
            in_service: false,
            wanted: "drained".into(),
            generation: 4,
            sessions_known: false,
            ..server("c2")
        };
        let view = view_of(vec![server("c1"), out]);
        assert_eq!((view.at, view.trouble.as_str(), view.floors["puppet"]), (7, "", 2));
        assert_eq!((view.servers[0].sessions, view.servers[0].wish.clone()), (Some(3), None));
        let wish = Wish { drained: true, owner: String::new(), generation: Generation(4) };
        assert_eq!((view.servers[1].sessions, view.servers[1].wish.clone()), (None, Some(wish)));
    }

    #[test]
    fn t6_a_balancer_that_contradicts_itself_is_in_trouble_and_shows_nothing() {
        let drained = BalancedServer { admin: "drain".into(), ..server("c1") };
        let down = BalancedServer { health: "down".into(), ..server("c1") };
        let nobody = BalancedServer { compiler: "../c1".into(), ..server("c1") };
        let farthest = BalancedServer { generation: u64::MAX, wanted: "ready".into(), ..server("c1") };
        for lies in
            [vec![drained], vec![down], vec![nobody], vec![farthest], vec![server("c1"), server("c1")]]
        {
            let view = view_of(lies.clone());
            assert!(!view.trouble.is_empty() && view.servers.is_empty(), "{lies:?}");
        }
    }

    /// Regression: a server that was down and had forgotten the drain counted as drained.
    #[test]
    fn a_drain_that_the_balancer_has_forgotten_is_not_taken_for_done() {
        let forgot = BalancedServer {
            health: "down".into(),
            in_service: false,
            wanted: "drained".into(),
            generation: 4,
            ..server("c1")
        };
        let wish = view_of(vec![forgot]).servers[0].wish.clone().unwrap();
        assert!(!wish.drained);
        assert_eq!(wish.generation, Generation(4));
    }
}
