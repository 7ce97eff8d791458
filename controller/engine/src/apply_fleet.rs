//! Facts about nodes, operators, tokens and identities.

use std::collections::{BTreeMap, BTreeSet};

use bunraku_common::NodeName;

use crate::{
    Commit, EnrolledBy, Fact, Grant, Held, Identity, Millis, NodeRecord, Operator, Owner, Phase, Stage,
    State, Token,
    fleet::{Denied, Fleet, TokenState},
};

impl State {
    pub(crate) fn apply_fleet(&mut self, fact: &Fact, at: Millis) {
        let fleet = &mut self.fleet;
        match fact {
            Fact::NodeEnrolled { node, roles, serial, key, by, expires_s } => {
                let owner = Owner::Node(node.clone());
                fleet.give(owner, serial, key, by, *expires_s);
                let record = fleet.nodes.entry(node.clone()).or_insert_with(|| NodeRecord {
                    roles: roles.clone(),
                    labels: BTreeSet::new(),
                    enrolled: true,
                    enrolled_at: at,
                    by: by.clone(),
                    expires_s: *expires_s,
                    held: None,
                    environments: BTreeMap::new(),
                    observed_in: 0,
                });
                record.enrolled = true;
                record.expires_s = *expires_s;
                if !matches!(by, EnrolledBy::Renewal { .. }) {
                    // It may be another host: nothing that was proven of the one before is true of it.
                    self.revocations.nodes.remove(node);
                    record.roles = roles.clone();
                    record.by = by.clone();
                    record.enrolled_at = at;
                    // It may be another host under the same name: nothing is known of what it serves.
                    record.environments.clear();
                    record.observed_in = 0;
                    self.forget_progress(node);
                }
            }
            Fact::NodeRevoked { node, reason, who } => {
                let why = format!("node {node} was revoked by {who}: {reason}");
                fleet.barred.insert(node.clone(), reason.clone());
                fleet.deny_owner(&Owner::Node(node.clone()), &why);
                fleet.void_tokens(|grant| matches!(grant, Grant::Node { name, .. } if name == node));
                if let Some(record) = fleet.nodes.get_mut(node) {
                    record.enrolled = false;
                }
                self.drop_node(node, "revoked");
            }
            Fact::IdentityCut { node, reason } => {
                fleet.deny_owner(&Owner::Node(node.clone()), reason);
                if let Some(record) = fleet.nodes.get_mut(node) {
                    record.enrolled = false;
                }
                self.drop_node(node, reason);
            }
            Fact::NodeAllowed { node, who: _ } => {
                fleet.barred.remove(node);
            }
            Fact::NodeHeld { node, reason, who } => {
                if let Some(record) = fleet.nodes.get_mut(node) {
                    record.held = Some(Held { who: who.clone(), why: reason.clone(), since: at });
                }
                self.drop_node(node, "held");
            }
            Fact::NodeReleased { node, who: _ } => {
                if let Some(record) = fleet.nodes.get_mut(node) {
                    record.held = None;
                }
            }
            Fact::NodeLabelled { node, labels, who: _ } => {
                if let Some(record) = fleet.nodes.get_mut(node) {
                    record.labels.clone_from(labels);
                }
            }
            Fact::NodeRemoved { node, who } => {
                let why = format!("node {node} was removed by {who}");
                fleet.deny_owner(&Owner::Node(node.clone()), &why);
                fleet.void_tokens(|grant| matches!(grant, Grant::Node { name, .. } if name == node));
                fleet.nodes.remove(node);
                self.drop_node(node, "removed");
                self.stale_ruby.remove(node);
                self.revocations.nodes.remove(node);
                self.certificates.nodes.remove(node);
            }
            Fact::TokenCreated { id, hash, grant, expires_s, by } => {
                let token = Token {
                    hash: hash.clone(),
                    grant: grant.clone(),
                    expires_s: *expires_s,
                    by: by.clone(),
                    state: TokenState::Waiting,
                };
                fleet.tokens.insert(id.clone(), token);
            }
            Fact::TokenRevoked { id, who: _ } => {
                if let Some(token) = fleet.tokens.get_mut(id) {
                    token.state = TokenState::Revoked;
                }
            }
            Fact::OperatorAdded { name, right, by } => {
                let operator = Operator {
                    right: right.clone(),
                    added_at: at,
                    by: by.clone(),
                    enrolled: false,
                    revoked: false,
                    expires_s: 0,
                };
                fleet.operators.insert(name.clone(), operator);
            }
            Fact::OperatorEnrolled { name, serial, key, by, expires_s } => {
                fleet.give(Owner::Operator(name.clone()), serial, key, by, *expires_s);
                if let Some(operator) = fleet.operators.get_mut(name) {
                    operator.enrolled = true;
                    operator.expires_s = *expires_s;
                }
            }
            Fact::OperatorRevoked { name, who } => {
                let why = format!("operator {name} was revoked by {who}");
                fleet.deny_owner(&Owner::Operator(name.clone()), &why);
                fleet.void_tokens(|grant| matches!(grant, Grant::Operator { name: other } if other == name));
                if let Some(operator) = fleet.operators.get_mut(name) {
                    operator.enrolled = false;
                    operator.revoked = true;
                }
            }
            Fact::Expired { tokens, identities, denied_serials, denied_keys } => {
                fleet.tokens.retain(|id, _| !tokens.contains(id));
                fleet.identities.retain(|serial, _| !identities.contains(serial));
                fleet.denied_serials.retain(|serial, _| !denied_serials.contains(serial));
                fleet.denied_keys.retain(|key, _| !denied_keys.contains(key));
            }
            Fact::TermBegan { .. }
            | Fact::SettingsChanged { .. }
            | Fact::DeployRequested { .. }
            | Fact::DeployJoined { .. }
            | Fact::BuildStarted { .. }
            | Fact::StagingStarted { .. }
            | Fact::NodeStaged { .. }
            | Fact::NodeUnstaged { .. }
            | Fact::NodeUnable { .. }
            | Fact::NodeSkipped { .. }
            | Fact::CommitDecided { .. }
            | Fact::NodeOwes { .. }
            | Fact::NodeProven { .. }
            | Fact::DeployEnded { .. }
            | Fact::Discarded { .. }
            | Fact::EnvironmentReleased { .. }
            | Fact::EnvironmentAdopted { .. }
            | Fact::NodeObserved { .. }
            | Fact::HealAsked { .. }
            | Fact::CompilerSetUp { .. }
            | Fact::PuppetCertificateRevoked { .. }
            | Fact::BalanceWanted { .. }
            | Fact::BalanceAgreed { .. }
            | Fact::RolloutStarted { .. }
            | Fact::TurnMoved { .. }
            | Fact::PuppetReleased { .. }
            | Fact::RolloutPaused { .. }
            | Fact::RolloutResumed { .. }
            | Fact::RolloutRetargeted { .. }
            | Fact::RolloutAimed { .. }
            | Fact::TurnJudged { .. }
            | Fact::RolloutAborting { .. }
            | Fact::RolloutEnded { .. }
            | Fact::Crl(_)
            | Fact::Certificate(_)
            | Fact::Refused { .. }
            | Fact::CaRotationMoved { .. }
            | Fact::AnchorsHeld { .. } => {}
        }
    }

    /// What the node did for deploys under way counts no more: it is asked again.
    fn forget_progress(&mut self, node: &NodeName) {
        for deploy in self.deploys.values_mut() {
            match &mut deploy.phase {
                Phase::Staging { nodes, .. } => {
                    if let Some(stage) = nodes.get_mut(node)
                        && matches!(stage, Stage::Staged | Stage::Unable { .. })
                    {
                        *stage = Stage::Waiting;
                    }
                }
                Phase::Committing { nodes, .. } => {
                    if let Some(commit) = nodes.get_mut(node)
                        && matches!(commit, Commit::Owing { .. } | Commit::Proven { .. })
                    {
                        *commit = Commit::Waiting;
                    }
                }
                Phase::Queued | Phase::Building { .. } | Phase::Ended { .. } => {}
            }
        }
    }

    /// No deploy waits for this node any more, so that each can end.
    fn drop_node(&mut self, node: &NodeName, reason: &str) {
        for deploy in self.deploys.values_mut() {
            match &mut deploy.phase {
                Phase::Staging { nodes, .. } => {
                    if let Some(stage) = nodes.get_mut(node) {
                        *stage = Stage::Dropped { reason: reason.to_owned() };
                    }
                }
                Phase::Committing { nodes, .. } => {
                    if let Some(commit) = nodes.get_mut(node).filter(|commit| commit.is_open()) {
                        *commit = Commit::Dropped { reason: reason.to_owned() };
                    }
                }
                Phase::Queued | Phase::Building { .. } | Phase::Ended { .. } => {}
            }
        }
        for environment in self.environments.values_mut() {
            if let Some(discard) = &mut environment.discard {
                discard.nodes.remove(node);
            }
        }
    }
}

impl Fleet {
    /// A new identity. Any way but a renewal ends the owner's earlier ones; a renewal leaves them their time, because
    /// the answer may be lost.
    fn give(&mut self, owner: Owner, serial: &str, key: &str, by: &EnrolledBy, expires_s: u64) {
        match by {
            EnrolledBy::Renewal { .. } => {}
            EnrolledBy::Token { .. } | EnrolledBy::Puppet { .. } => {
                self.deny_owner(&owner, "a later enrolment took the place of this identity");
                // The holder may have kept its key: only the earlier certificate is denied then.
                self.denied_keys.remove(key);
            }
        }
        if let EnrolledBy::Token { id } = by
            && let Some(token) = self.tokens.get_mut(id)
        {
            token.state = TokenState::Used;
        }
        self.identities.insert(serial.to_owned(), Identity { owner, key: key.to_owned(), expires_s });
    }

    pub(crate) fn deny_owner(&mut self, owner: &Owner, reason: &str) {
        let (ended, kept) =
            std::mem::take(&mut self.identities).into_iter().partition(|(_, known)| known.owner == *owner);
        self.identities = kept;
        let ended: BTreeMap<String, Identity> = ended;
        for (serial, Identity { key, expires_s, .. }) in ended {
            let denied = Denied { reason: reason.to_owned(), expires_s };
            self.denied_serials.insert(serial, denied.clone());
            let of_key = self.denied_keys.entry(key).or_insert(denied);
            of_key.expires_s = of_key.expires_s.max(expires_s);
        }
    }

    fn void_tokens(&mut self, concerns: impl Fn(&Grant) -> bool) {
        let waiting = self.tokens.values_mut().filter(|token| token.state == TokenState::Waiting);
        for token in waiting.filter(|token| concerns(&token.grant)) {
            token.state = TokenState::Revoked;
        }
    }
}
