//! The state as operators see it: what the engine knows, what nodes said, and where snapshots came from, joined.

use std::{sync::Arc, time::Duration};

use bunraku_builder::{ObjectStore, summarize};
use bunraku_common::{
    Chain, Digest, EnvironmentName, NodeName, hint,
    snapshot::{diff, ruby},
};
use bunraku_engine::{Deploy, EnrolledBy, Environment, Millis, NodeRecord, Outcome, Phase, State};
use bunraku_proto::v1;

use crate::{
    clock::wall_ms,
    driver::Shared,
    nodes::{About, Connections},
    provenance::Provenance,
};

/// Clocks that differ by more: certificates may not be good yet, and times in logs mislead.
const ALARMING_DIFFERENCE: Duration = Duration::from_secs(60);

/// Changed files of one node that are shown; the alarm counts those of each environment.
const DRIFT_SHOWN: usize = 100;

/// A compiler that restarts its agent is back sooner.
const ALARMING_ABSENCE: Duration = Duration::from_secs(60);

/// The standing of a controller that gives orders.
pub(crate) const IN_COMMAND: &str = "in command";

/// Everything a report is made from.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    pub shared: Arc<Shared>,
    pub connections: Arc<Connections>,
    pub store: Arc<ObjectStore>,
    pub provenance: Arc<Provenance>,
}

impl Reporter {
    /// Controller time as Unix milliseconds, for people.
    pub(crate) fn shown(&self, at: Millis) -> u64 {
        let now = self.shared.clock.now();
        wall_ms().saturating_sub(now.saturating_sub(at)).saturating_add(at.saturating_sub(now))
    }

    pub(crate) fn deploy(&self, state: &State, deploy: &Deploy) -> v1::DeployInfo {
        let now = self.shared.clock.now();
        let built = deploy.built();
        let snapshot = built.map(|built| built.snapshot).or_else(|| rollback_target(deploy));
        let mut info = v1::DeployInfo {
            id: deploy.id.0,
            environment: deploy.environment.to_string(),
            kind: deploy.kind.name().to_owned(),
            phase: deploy.phase_name().to_owned(),
            who: deploy.who.clone(),
            commit: built.and_then(|built| built.commit.clone()).unwrap_or_default(),
            snapshot: snapshot.map(|s| s.to_string()).unwrap_or_default(),
            previous: deploy.previous.map(|s| s.to_string()).unwrap_or_default(),
            generation: deploy.generation().map_or(0, |generation| generation.0),
            requested_ms: self.shown(deploy.requested_at),
            waiting: deploy.waiting(now),
            renewal: state.renewal_after(deploy),
            nodes: deploy
                .nodes()
                .into_iter()
                .map(|(node, note)| v1::DeployNode {
                    node: node.to_string(),
                    state: note.state,
                    note: note.note,
                })
                .collect(),
            ..v1::DeployInfo::default()
        };
        if let Phase::Ended { outcome, at, .. } = &deploy.phase {
            info.ended_ms = self.shown(*at);
            if let Some((reason, hint)) = outcome.reason() {
                (info.reason, info.hint) = (reason.to_owned(), hint.to_owned());
            }
            if let Outcome::Live { skew_ms } | Outcome::Behind { skew_ms, .. } = outcome {
                info.skew_ms = skew_ms.unwrap_or(0);
                info.live_ms = info.ended_ms;
            }
        }
        info
    }

    /// With modules, the difference to what was committed before, the builder's words and the nodes' notes. Reads files.
    pub(crate) fn deploy_in_full(&self, deploy: &Deploy, mut info: v1::DeployInfo) -> v1::DeployInfo {
        info.output = self.provenance.output(deploy.id);
        let noted = self.provenance.notes(deploy.id);
        for node in info.nodes.iter_mut().filter(|node| node.note.is_empty()) {
            let name = NodeName::parse(&node.node).ok();
            node.note = name.and_then(|name| noted.get(&name).cloned()).unwrap_or_default();
        }
        let Some(snapshot) = deploy.built().map(|built| built.snapshot) else { return info };
        info.modules = self.modules(&snapshot);
        info.difference = self.difference(deploy.previous.as_ref(), &snapshot).ok();
        info
    }

    fn modules(&self, snapshot: &Digest) -> Vec<v1::ModuleInfo> {
        let origin = self.provenance.origin(snapshot);
        let modules = origin.map(|origin| origin.modules).unwrap_or_default();
        modules.into_iter().map(|(name, version)| v1::ModuleInfo { name, version }).collect()
    }

    /// What leads from one snapshot to another; the reason where the objects are gone.
    pub(crate) fn difference(&self, old: Option<&Digest>, new: &Digest) -> Result<v1::Difference, String> {
        let told = |error| Chain(&error).to_string();
        let summary = summarize(&self.store, old, new).map_err(told)?;
        let flush_jrubies =
            old.is_some() && ruby::flushes_jrubies(&diff(&*self.store, old, new).map_err(told)?);
        Ok(v1::Difference {
            added: summary.added,
            changed: summary.changed,
            removed: summary.removed,
            total: summary.total as u64,
            flush_jrubies,
            modules: summary.modules,
        })
    }

    pub(crate) fn environment(
        &self,
        state: &State,
        name: &EnvironmentName,
        known: &Environment,
    ) -> v1::EnvironmentInfo {
        let committed = known.committed.as_ref();
        // The file is read only where the state does not know: the caller holds it, and there may be many environments.
        let commit = committed.and_then(|c| {
            let kept = known.retained.iter().find(|kept| kept.snapshot == c.snapshot);
            let commit = kept.and_then(|kept| kept.commit.clone());
            commit.or_else(|| self.provenance.origin(&c.snapshot).map(|origin| origin.commit))
        });
        let nodes = state.fleet().nodes.iter().filter(|(_, node)| node.is_compiler());
        v1::EnvironmentInfo {
            name: name.to_string(),
            committed: committed.map(|c| c.snapshot.to_string()).unwrap_or_default(),
            generation: known.generation.0,
            commit: commit.unwrap_or_default(),
            held: known
                .held
                .as_ref()
                .map(|held| format!("by {}: {}", held.who, held.why))
                .unwrap_or_default(),
            nodes: nodes.map(|(node, record)| self.on_node(name, known, node, record)).collect(),
            deploy: known.active.map_or(0, |deploy| deploy.0),
            branch: known.branch.clone(),
        }
    }

    fn on_node(
        &self,
        name: &EnvironmentName,
        known: &Environment,
        node: &NodeName,
        record: &NodeRecord,
    ) -> v1::EnvironmentNode {
        let on_node = record.environments.get(name);
        let live = on_node.and_then(|on_node| on_node.live);
        let proven = known.committed.as_ref().is_some_and(|committed| record.has_proven(name, committed));
        let connected = self.shared.presence().is_connected(node);
        // What was adopted after a takeover is served already, and proven with the next deploy.
        let adopted =
            known.adopting && live.is_some() && live == known.committed.as_ref().map(|c| c.snapshot);
        let state = match (&record.held, proven, connected, &known.committed) {
            (None, false, ..) if adopted => "adopted",
            (Some(_), ..) => "held",
            (None, true, true, _) => "proven",
            (None, true, false, _) => "proven, not connected",
            (None, false, _, None) => "nothing committed",
            (None, false, true, Some(_)) => "behind",
            (None, false, false, Some(_)) => "behind, not connected",
        };
        v1::EnvironmentNode {
            node: node.to_string(),
            live: live.map(|live| live.to_string()).unwrap_or_default(),
            proven,
            state: state.to_owned(),
            note: on_node.map(|on_node| on_node.owed.clone()).unwrap_or_default(),
        }
    }

    pub(crate) fn node(&self, state: &State, name: &NodeName) -> Option<v1::NodeInfo> {
        let barred = state.fleet().barred.get(name);
        let Some(record) = state.fleet().nodes.get(name) else {
            return barred.map(|reason| barred_only(name, reason));
        };
        let connected = self.connections.about(name);
        let last = self.connections.last_seen(name);
        let about = connected.clone().or_else(|| last.clone().map(|(about, _)| about));
        let since_ms = match (&connected, &last) {
            (Some(about), _) => about.since_ms,
            (None, Some((_, until))) => *until,
            (None, None) => 0,
        };
        let observed = about.as_ref().and_then(|about| about.hello.observed.clone()).unwrap_or_default();
        let drift = drifted(state, &observed);
        let drift = drift.flat_map(|e| e.drift.iter().map(|path| format!("{}/{path}", e.environment)));
        let behind = state.behind().into_iter().filter(|behind| behind.node == *name);
        let mut alarms = self.alarms_of(state, name, connected.as_ref(), &observed);
        let needed = record.is_compiler() && record.enrolled && record.held.is_none() && barred.is_none();
        if needed && connected.is_none() {
            let up = self.shared.clock.up();
            let away =
                last.map_or(up, |(_, until_ms)| Duration::from_millis(wall_ms().saturating_sub(until_ms)));
            alarms.extend(away_alarm(name, away));
        }
        Some(v1::NodeInfo {
            name: name.to_string(),
            roles: record.roles.iter().map(ToString::to_string).collect(),
            labels: record.labels.iter().map(ToString::to_string).collect(),
            connected: connected.is_some(),
            version: about.as_ref().map(|about| about.hello.version.clone()).unwrap_or_default(),
            standing: standing(record, barred),
            enrolled_by: match &record.by {
                EnrolledBy::Token { .. } => "token".to_owned(),
                EnrolledBy::Puppet { .. } => "puppet certificate".to_owned(),
                EnrolledBy::Renewal { .. } => "renewal".to_owned(),
            },
            certificate_expires: record.expires_s,
            since_ms,
            behind: behind.map(|behind| behind.environment.to_string()).collect(),
            drift: drift.take(DRIFT_SHOWN).collect(),
            alarms,
            puppetserver: observed.puppetserver.clone(),
            address: about.map(|about| about.address).unwrap_or_default(),
            environments: observed.environments,
            unchanged: false,
            turn: self.turn_of(state, name).unwrap_or_default(),
        })
    }

    /// What an operator must know of a node; its being behind is told with the environment.
    fn alarms_of(
        &self,
        state: &State,
        name: &NodeName,
        connected: Option<&About>,
        observed: &v1::ObserveReply,
    ) -> Vec<String> {
        let mut alarms = Vec::new();
        if self.connections.is_contested(name) {
            let who =
                format!("bunraku nodes revoke {name} --reason 'two hosts', then enrol the right one anew");
            alarms.push(hint::join(&format!("two hosts use the identity of {name}"), &who));
        }
        for on_node in drifted(state, observed) {
            let (environment, files) = (&on_node.environment, on_node.drift.len());
            // Nodes name at most 100.
            let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
            alarms.push(hint::join(
                &format!("{files} of {environment} on {name} changed by hand"),
                &format!("bunraku heal {name}"),
            ));
        }
        alarms.extend(connected.and_then(|about| clock_alarm(name, about)));
        alarms
    }

    /// All nodes, without what each holds of each environment: that would not fit into one answer.
    pub(crate) fn nodes(&self, state: &State) -> Vec<v1::NodeInfo> {
        let all = state.fleet().nodes.keys().filter_map(|name| self.node(state, name));
        all.map(|node| v1::NodeInfo { environments: Vec::new(), ..node }).collect()
    }

    /// Reads two files for each snapshot, when the state is no longer held.
    pub(crate) fn snapshots(&self, only: Option<&EnvironmentName>) -> Vec<v1::SnapshotInfo> {
        let state = self.shared.state();
        let chosen = state.environments().iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
        let known: Vec<(Digest, v1::SnapshotInfo)> = chosen
            .flat_map(|(name, environment)| {
                let committed = environment.committed.as_ref().map(|committed| committed.snapshot);
                environment.retained.iter().map(move |kept| {
                    let info = v1::SnapshotInfo {
                        digest: kept.snapshot.to_string(),
                        environment: name.to_string(),
                        commit: kept.commit.clone().unwrap_or_default(),
                        who: kept.who.clone(),
                        live: committed == Some(kept.snapshot),
                        ..v1::SnapshotInfo::default()
                    };
                    (kept.snapshot, info)
                })
            })
            .collect();
        drop(state);
        known.into_iter().map(|(snapshot, info)| self.with_origin(&snapshot, info)).collect()
    }

    fn with_origin(&self, snapshot: &Digest, info: v1::SnapshotInfo) -> v1::SnapshotInfo {
        let Some(origin) = self.provenance.origin(snapshot) else { return info };
        let modules = origin.modules.into_iter().map(|(name, version)| v1::ModuleInfo { name, version });
        v1::SnapshotInfo {
            built_ms: origin.built_ms,
            files: origin.files,
            bytes: origin.bytes,
            modules: modules.collect(),
            builder: origin.builder,
            ..info
        }
    }
}

/// What a node says was changed by hand, in environments that are ours.
fn drifted<'a>(
    state: &'a State,
    observed: &'a v1::ObserveReply,
) -> impl Iterator<Item = &'a v1::EnvironmentOnNode> {
    let ours = |on_node: &v1::EnvironmentOnNode| {
        let name = on_node.environment.parse::<EnvironmentName>();
        name.is_ok_and(|name| state.environments().contains_key(&name))
    };
    observed.environments.iter().filter(move |on_node| !on_node.drift.is_empty() && ours(on_node))
}

/// Wall clocks, compared when the node said hello, and now and then since.
fn clock_alarm(name: &NodeName, about: &About) -> Option<String> {
    let (theirs, ours) = (about.hello.wall_ms, about.compared_ms);
    let off = Duration::from_millis(theirs.abs_diff(ours));
    if theirs == 0 || off <= ALARMING_DIFFERENCE {
        return None;
    }
    let way = if theirs > ours { "ahead of" } else { "behind" };
    let told = format!("the clock of {name} is {} s {way} the controller's", off.as_secs());
    Some(hint::join(&told, "set both by NTP, then systemctl restart bunraku-agent there"))
}

/// A compiler that deploys need, and that nobody hears of.
fn away_alarm(name: &NodeName, away: Duration) -> Option<String> {
    let minutes = away.as_secs() / 60;
    let told = format!("{name} is not connected for {minutes} min, and deploys need it");
    let mend = format!("on {name}: systemctl status bunraku-agent");
    let without = format!("or go on without it: bunraku nodes hold {name} --reason '…'");
    (away >= ALARMING_ABSENCE).then(|| hint::join(&told, &format!("{mend}; {without}")))
}

fn rollback_target(deploy: &Deploy) -> Option<Digest> {
    match deploy.kind {
        bunraku_engine::Kind::Rollback { snapshot } => Some(snapshot),
        bunraku_engine::Kind::Build { .. } | bunraku_engine::Kind::Plan { .. } => None,
    }
}

fn standing(record: &NodeRecord, barred: Option<&String>) -> String {
    match (barred, &record.held, record.enrolled) {
        (Some(reason), ..) => format!("revoked: {reason}"),
        (None, Some(held), _) => format!("held by {}: {}", held.who, held.why),
        (None, None, true) => "enrolled".to_owned(),
        (None, None, false) => "identity ended, must enrol again".to_owned(),
    }
}

fn barred_only(name: &NodeName, reason: &str) -> v1::NodeInfo {
    v1::NodeInfo { name: name.to_string(), standing: format!("revoked: {reason}"), ..v1::NodeInfo::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_is_away_for_a_minute_is_an_alarm_with_both_ways_out() {
        let c1 = NodeName::parse("c1").unwrap();
        assert_eq!(away_alarm(&c1, Duration::from_secs(59)), None);
        assert_eq!(
            away_alarm(&c1, Duration::from_secs(190)).unwrap(),
            "c1 is not connected for 3 min, and deploys need it\nhint: on c1: systemctl status bunraku-agent; or go \
             on without it: bunraku nodes hold c1 --reason '…'"
        );
    }

    #[test]
    fn f11_a_clock_is_judged_by_the_newest_comparison_and_not_by_the_one_at_hello() {
        let node = NodeName::parse("c1").unwrap();
        let about = |theirs, ours| About {
            hello: v1::HelloReply { wall_ms: theirs, ..v1::HelloReply::default() },
            address: String::new(),
            since_ms: 1_000_000,
            compared_ms: ours,
        };
        assert_eq!(clock_alarm(&node, &about(90_000_500, 90_000_000)), None, "connected a day ago");
        let alarm = clock_alarm(&node, &about(90_000_000, 93_600_000)).unwrap();
        assert!(alarm.starts_with("the clock of c1 is 3600 s behind the controller's"), "{alarm}");
    }
}
