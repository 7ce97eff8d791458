//! Facts as journal records, and journal records as events and audit lines.

use bunraku_engine::{DeployId, Fact};
use bunraku_proto::v1;
use bunraku_store::{NewRecord, Record};

use crate::clock::wall_ms;

/// The journal record of one fact. `now` is controller time.
pub(crate) fn record(fact: &Fact, who: &str, now: u64) -> NewRecord {
    let mut keys = vec![format!("kind/{}", fact.kind())];
    keys.extend(fact.deploy().map(deploy_key));
    keys.extend(fact.environment().map(|name| format!("environment/{name}")));
    keys.extend(fact.node().map(|name| format!("node/{name}")));
    NewRecord {
        at_ms: now,
        wall_ms: wall_ms(),
        who: who.to_owned(),
        keys,
        payload: serde_json::to_vec(fact).expect("a fact is plain data with text keys"),
    }
}

pub(crate) fn deploy_key(deploy: DeployId) -> String {
    format!("deploy/{deploy}")
}

/// The fact of a record. A record of a newer controller's kind is no fact of ours.
pub(crate) fn fact(record: &Record) -> Result<Fact, serde_json::Error> {
    serde_json::from_slice(&record.payload)
}

pub(crate) fn event(record: &Record) -> v1::Event {
    let fact = fact(record).ok();
    let about = |name: Option<String>| name.unwrap_or_default();
    v1::Event {
        sequence: record.sequence,
        wall_ms: record.wall_ms,
        kind: fact.as_ref().map_or("unknown", Fact::kind).to_owned(),
        who: record.who.clone(),
        text: fact.as_ref().map_or_else(|| "a record of another version".to_owned(), Fact::to_string),
        environment: about(fact.as_ref().and_then(Fact::environment).map(ToString::to_string)),
        node: about(fact.as_ref().and_then(Fact::node).map(ToString::to_string)),
        deploy: fact.as_ref().and_then(Fact::deploy).map_or(0, |deploy| deploy.0),
    }
}

pub(crate) fn line(record: &Record) -> v1::AuditRecord {
    let v1::Event { sequence, wall_ms, kind, who, text, .. } = event(record);
    v1::AuditRecord {
        sequence,
        wall_ms,
        who,
        what: text,
        kind,
        json: String::from_utf8_lossy(&record.payload).into_owned(),
        hash: record.hash.to_string(),
    }
}
