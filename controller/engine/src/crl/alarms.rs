//! What an operator must know of Puppet's CRLs though nobody asked.

use bunraku_common::NodeName;

use super::Revocations;
use crate::{Millis, Presence, State, deploy::span};

/// An authority that ends within this is an alarm, in seconds: its renewal is a project.
const CA_ALARM_S: u64 = 180 * 86_400;
/// A CRL that ends within this is one, and so is one of whose life half is over: whoever should issue the next has
/// stopped.
const CRL_ALARM_S: u64 = 30 * 86_400;

/// A service that has not read its file for this long is one; PuppetDB needs half a minute to start anew.
const UNREAD: Millis = 90_000;

impl State {
    /// One line each, for people. `now_s`: Unix seconds, for the ends of certificates.
    pub fn crl_alarms(&self, presence: &Presence, now: Millis, now_s: u64) -> Vec<String> {
        let known = &self.revocations;
        let mut alarms: Vec<String> = known.rejected_alarm().into_iter().collect();
        alarms.extend(known.ending_alarms(now_s));
        let takes_none = |node: &&NodeName| presence.is_connected(node) && !known.nodes.contains_key(*node);
        let compilers = self.fleet.compilers().map(|(node, _)| node).filter(|_| known.wanted.is_some());
        alarms.extend(compilers.filter(takes_none).map(|node| {
            format!(
                "{node} takes no CRLs: it learns of revocations when its own Puppet agent does\nhint: there, [crl] enabled = \
                 true in agent.toml; an older agent: bunraku rollout start agent-update VERSION"
            )
        }));
        for (name, node) in &known.nodes {
            let active =
                self.fleet.nodes.get(name).is_some_and(|record| record.enrolled && record.held.is_none());
            let late = |since: &Millis| now.saturating_sub(*since) >= self.settings.crl_deadline;
            let unread_for_long = |since: &Millis| now.saturating_sub(*since) >= UNREAD;
            if let Some(since) = node.exposed.filter(|since| active && late(since)) {
                let long = span(now.saturating_sub(since));
                let told = if node.holds.owed.is_empty() { &node.refused } else { &node.holds.owed };
                let why = if told.is_empty() { String::new() } else { format!(": {told}") };
                alarms.push(format!(
                    "{name} lacks what Puppet's CA revoked {long} ago{why}\nhint: systemctl status bunraku-agent there; \
                     bunraku crl status"
                ));
            } else if let Some(since) = node.unread_since.filter(|since| active && unread_for_long(since)) {
                let long = span(now.saturating_sub(since));
                alarms
                    .push(format!("on {name}, for {long}: {}\nhint: bunraku crl status", node.holds.unread));
            } else if active && !node.unproven.is_empty() && !known.is_proven(node) {
                alarms.push(format!(
                    "it is not proven that {name} refuses what Puppet's CA revokes: {}\nhint: bunraku crl status",
                    node.unproven
                ));
            }
        }
        if self.settings.crl_proof && !known.trouble.is_empty() {
            alarms.push(format!("no canary for Puppet's CRL: {}", known.trouble));
        }
        alarms
    }
}

impl Revocations {
    fn rejected_alarm(&self) -> Option<String> {
        let rejected = self.rejected.as_ref()?;
        let hint =
            if rejected.hint.is_empty() { String::new() } else { format!("\nhint: {}", rejected.hint) };
        Some(format!("the CRL of Puppet's CA is not sent to anybody: {}{hint}", rejected.reason))
    }

    fn ending_alarms(&self, now_s: u64) -> Vec<String> {
        let Some(wanted) = &self.wanted else { return Vec::new() };
        let days = |ends_s: u64| ends_s.saturating_sub(now_s) / 86_400;
        let mut alarms = Vec::new();
        let soon = wanted.ends_s.saturating_sub(now_s) < CRL_ALARM_S;
        if wanted.ends_s <= now_s {
            alarms.push(
                "Puppet's CRL has ended: servers that read it anew refuse everybody\nhint: any revocation makes a new one: \
                 puppetserver ca revoke"
                    .to_owned(),
            );
        } else if soon || wanted.half_s <= now_s {
            alarms.push(format!(
                "Puppet's CRL ends in {} days, and no newer one has come\nhint: any revocation makes a new one: puppetserver \
                 ca revoke",
                days(wanted.ends_s)
            ));
        }
        if wanted.ca_ends_s.saturating_sub(now_s) < CA_ALARM_S {
            alarms.push(format!(
                "Puppet's CA certificate ends in {} days; then no agent trusts anybody\nhint: renew the CA: \
                 https://www.puppet.com/docs/puppet/latest/ssl_regenerate_certificates.html",
                days(wanted.ca_ends_s)
            ));
        }
        alarms
    }
}
