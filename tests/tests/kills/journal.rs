//! The journal as the witness of what was decided, and in which order.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_proto::v1::AuditRecord;
use serde_json::Value;

/// Every fact, oldest first.
pub(crate) struct Journal {
    facts: Vec<Value>,
}

/// What is known of one deploy while its facts pass by.
#[derive(Default)]
struct Deploy {
    required: BTreeSet<String>,
    staged: BTreeSet<String>,
}

impl Journal {
    pub(crate) fn new(records: Vec<AuditRecord>) -> Self {
        Self { facts: records.iter().map(|record| serde_json::from_str(&record.json).unwrap()).collect() }
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.facts.iter().filter(move |fact| kind_of(fact) == kind)
    }

    pub(crate) fn count(&self, kind: &str) -> usize {
        self.of_kind(kind).count()
    }

    /// Identities that were renewed.
    pub(crate) fn renewals(&self) -> usize {
        self.of_kind("node-enrolled").filter(|fact| fact["by"]["by"] == "renewal").count()
    }

    /// The deploy that was asked for last.
    pub(crate) fn newest_deploy(&self) -> u64 {
        number(self.of_kind("deploy-requested").last().unwrap(), "deploy")
    }

    pub(crate) fn requested(&self) -> BTreeSet<u64> {
        self.of_kind("deploy-requested").map(|fact| number(fact, "deploy")).collect()
    }

    /// I2, I4, I5 and I7, as far as one environment's decisions tell.
    pub(crate) fn check(&self) {
        self.one_deploy_at_a_time_and_none_without_an_end();
        self.nothing_is_decided_before_all_have_staged();
        self.decisions_only_grow();
        self.each_node_proves_a_decision_once();
    }

    fn one_deploy_at_a_time_and_none_without_an_end(&self) {
        let mut active = None;
        for fact in &self.facts {
            match kind_of(fact) {
                "build-started" | "staging-started" | "commit-decided" => {
                    let deploy = number(fact, "deploy");
                    assert!(
                        active.is_none_or(|active| active == deploy),
                        "I4: {active:?} is active at {fact}"
                    );
                    active = Some(deploy);
                }
                "deploy-ended" if active == Some(number(fact, "deploy")) => active = None,
                _ => {}
            }
        }
        assert_eq!(active, None, "I7: a deploy has no end");
    }

    fn nothing_is_decided_before_all_have_staged(&self) {
        let mut deploys: BTreeMap<u64, Deploy> = BTreeMap::new();
        for fact in &self.facts {
            let Some(id) = fact["deploy"].as_u64() else { continue };
            let deploy = deploys.entry(id).or_default();
            match kind_of(fact) {
                "staging-started" => {
                    let nodes = fact["nodes"].as_array().unwrap().iter();
                    deploy.required = nodes.map(|node| node.as_str().unwrap().to_owned()).collect();
                }
                "node-staged" => drop(deploy.staged.insert(node_of(fact))),
                "node-unstaged" => drop(deploy.staged.remove(&node_of(fact))),
                "commit-decided" => assert_eq!(deploy.required, deploy.staged, "I2: {fact}"),
                _ => {}
            }
        }
    }

    fn decisions_only_grow(&self) {
        let decided: Vec<u64> =
            self.of_kind("commit-decided").map(|fact| number(fact, "generation")).collect();
        assert!(decided.is_sorted_by(|a, b| a < b), "I5: generations {decided:?}");
        let terms: Vec<u64> =
            self.of_kind("term-began").map(|fact| number(&fact["term"], "number")).collect();
        assert!(terms.is_sorted_by(|a, b| a < b), "I5: terms {terms:?}");
    }

    fn each_node_proves_a_decision_once(&self) {
        let mut proven = BTreeSet::new();
        for fact in self.of_kind("node-proven") {
            let new = proven.insert((node_of(fact), number(fact, "generation")));
            assert!(new, "I5: {fact} stands twice in the journal");
        }
    }
}

fn kind_of(fact: &Value) -> &str {
    fact["fact"].as_str().unwrap()
}

fn node_of(fact: &Value) -> String {
    fact["node"].as_str().unwrap().to_owned()
}

fn number(fact: &Value, field: &str) -> u64 {
    fact[field].as_u64().unwrap_or_else(|| panic!("no {field} in {fact}"))
}
