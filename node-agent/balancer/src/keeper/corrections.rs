//! What a balancer must be told again. Pure: what was wanted and what was seen go in.

use std::collections::BTreeMap;

use super::wishes::{Part, Record};
use crate::{
    driver::{Admin, Observed, Wanted},
    name::ServerName,
};

/// What differs from what is wanted of one compiler.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub drain: Vec<ServerName>,
    pub enable: Vec<ServerName>,
    /// `ours` as it should be on record before anything is told.
    pub ours: BTreeMap<ServerName, Part>,
}

/// `before`: the last observation of this process, if the balancer was reloaded or restarted since.
pub(super) fn due(servers: &[ServerName], record: &Record, now: &Observed, before: Option<&Observed>) -> Due {
    let mut due = Due { ours: record.ours.clone(), ..Due::default() };
    for name in servers {
        let Some(admin) = now.server(name).map(|server| server.admin) else { continue };
        match (record.wanted, record.ours.get(name), admin) {
            // Forgotten at a reload; or made ready by hand, and then it is ours from now on.
            (Wanted::Drained, _, Admin::Ready) => {
                due.ours.insert(name.clone(), Part::Out);
                due.drain.push(name.clone());
            }
            (Wanted::Drained, _, Admin::Drain | Admin::Maint) | (Wanted::Ready, None, _) => {}
            (Wanted::Ready, Some(Part::Out), Admin::Drain) => due.enable.push(name.clone()),
            (Wanted::Ready, Some(_), Admin::Ready) => {
                due.ours.insert(name.clone(), Part::In);
            }
            // An old server-state file brought the drain back: it was ready when we last looked, before the reload.
            (Wanted::Ready, Some(Part::In), Admin::Drain) if was_ready(name, before) => {
                due.ours.insert(name.clone(), Part::Out);
                due.enable.push(name.clone());
            }
            // Somebody else took it out since.
            (Wanted::Ready, Some(_), Admin::Drain | Admin::Maint) => {
                due.ours.remove(name);
            }
        }
    }
    due
}

fn was_ready(name: &ServerName, before: Option<&Observed>) -> bool {
    before.and_then(|seen| seen.server(name)).is_some_and(|server| server.admin == Admin::Ready)
}

#[cfg(test)]
mod tests {
    use bunraku_common::{Fence, Generation, Term};

    use super::*;
    use crate::driver::{Health, Server};

    fn c1() -> ServerName {
        ServerName::parse("p/c1").unwrap()
    }

    fn seen(admin: Admin) -> Observed {
        let server = Server {
            name: c1(),
            admin,
            health: Health::Up,
            sessions: 0,
            sessions_known: true,
            weight: 1,
            backup: false,
        };
        Observed { incarnation: "1".into(), servers: vec![server] }
    }

    fn record(wanted: Wanted, part: Option<Part>) -> Record {
        Record {
            wanted,
            owner: "rollout 7".into(),
            reason: String::new(),
            fence: Fence { term: Term { number: 1, id: 1 }, generation: Generation(1) },
            min_available: 1,
            slow_start_s: 0,
            ours: part.map(|part| (c1(), part)).into_iter().collect(),
            growing: Default::default(),
        }
    }

    fn ask(
        wanted: Wanted,
        part: Option<Part>,
        now: Admin,
        before: Option<Admin>,
    ) -> (bool, bool, Option<Part>) {
        let due = due(&[c1()], &record(wanted, part), &seen(now), before.map(seen).as_ref());
        (!due.drain.is_empty(), !due.enable.is_empty(), due.ours.get(&c1()).copied())
    }

    #[test]
    fn a_drain_that_was_forgotten_is_asserted_again() {
        assert_eq!(ask(Wanted::Drained, Some(Part::Out), Admin::Ready, None), (true, false, Some(Part::Out)));
    }

    #[test]
    fn an_enable_that_a_crash_cut_short_is_finished() {
        assert_eq!(ask(Wanted::Ready, Some(Part::Out), Admin::Drain, None), (false, true, Some(Part::Out)));
    }

    #[test]
    fn a_drain_that_came_back_with_a_reload_is_ended() {
        let back = ask(Wanted::Ready, Some(Part::In), Admin::Drain, Some(Admin::Ready));
        assert_eq!(back, (false, true, Some(Part::Out)));
    }

    #[test]
    fn what_somebody_else_took_out_is_never_enabled_by_us() {
        for part in [None, Some(Part::In)] {
            for admin in [Admin::Drain, Admin::Maint] {
                for before in [None, Some(Admin::Drain), Some(Admin::Maint)] {
                    assert_eq!(
                        ask(Wanted::Ready, part, admin, before),
                        (false, false, None),
                        "{part:?} {admin:?}"
                    );
                }
            }
        }
        assert_eq!(ask(Wanted::Ready, Some(Part::Out), Admin::Maint, None), (false, false, None));
        // Nor does a reload make it ours.
        assert_eq!(ask(Wanted::Ready, None, Admin::Drain, Some(Admin::Ready)), (false, false, None));
    }
}
