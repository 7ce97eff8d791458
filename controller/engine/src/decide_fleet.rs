//! Whether a request about nodes, operators, tokens and identities is accepted.

use std::collections::BTreeSet;

use bunraku_common::{Label, NodeName, OperatorName};

use crate::{
    EnrolledBy, Fact, Grant, Owner, Refusal, RefusalCode, Request, Standing, State, Subject, Token,
    fleet::TokenState,
};

/// Certificates that one owner may get by renewal within an hour. A lost answer is asked for again, so some are needed;
/// each costs a record and is remembered until it expires (I10).
const RENEWALS: usize = 8;
const HOUR_S: u64 = 3600;
/// Labels of one node: more are a mistake of a script (I10).
const LABELS: usize = 64;

impl State {
    pub(crate) fn decide_fleet(&self, request: Request, who: &str) -> Result<Vec<Fact>, Refusal> {
        let who = || who.to_owned();
        let fleet = &self.fleet;
        let fact = match request {
            Request::HoldNode { node, reason } => {
                self.known_node(&node)?;
                Fact::NodeHeld { node, reason, who: who() }
            }
            Request::ReleaseNode { node } => {
                if self.known_node(&node)?.held.is_none() {
                    return Ok(Vec::new());
                }
                Fact::NodeReleased { node, who: who() }
            }
            Request::RevokeNode { node, reason } => {
                let invited = fleet
                    .tokens
                    .values()
                    .any(|token| matches!(&token.grant, Grant::Node { name, .. } if *name == node));
                if !invited && !fleet.barred.contains_key(&node) {
                    self.known_node(&node)?;
                }
                let enrolled = fleet.nodes.get(&node).is_some_and(|record| record.enrolled);
                if fleet.barred.contains_key(&node) && !enrolled {
                    return Ok(Vec::new());
                }
                Fact::NodeRevoked { node, reason, who: who() }
            }
            Request::AllowNode { node } => {
                if !fleet.barred.contains_key(&node) {
                    self.known_node(&node)?;
                    return Ok(Vec::new());
                }
                Fact::NodeAllowed { node, who: who() }
            }
            Request::LabelNode { node, add, remove } => {
                let known = &self.known_node(&node)?.labels;
                let labels: BTreeSet<Label> = (known | &add).difference(&remove).cloned().collect();
                if labels.len() > LABELS {
                    let reason =
                        format!("{node} would have {} labels, and {LABELS} are allowed", labels.len());
                    return Err(invalid(&reason, format!("bunraku nodes label {node} --remove LABEL")));
                }
                if labels == *known {
                    return Ok(Vec::new());
                }
                Fact::NodeLabelled { node, labels, who: who() }
            }
            Request::HealNode { node } => {
                self.known_node(&node)?;
                Fact::HealAsked { node, who: who() }
            }
            Request::SetUpCompiler { node } => {
                let record = self.known_compiler(&node)?;
                if !record.is_active_compiler() {
                    let reason = format!("{node} is held, or has no identity");
                    return Err(conflict(reason, format!("bunraku nodes show {node}")));
                }
                Fact::CompilerSetUp { node, who: who() }
            }
            Request::RevokePuppetCertificate { node } => {
                self.known_compiler(&node)?;
                Fact::PuppetCertificateRevoked { node, who: who() }
            }
            Request::RemoveNode { node } => {
                self.known_node(&node)?;
                Fact::NodeRemoved { node, who: who() }
            }
            Request::CreateToken { id, hash, node, roles, expires_s } => {
                self.not_barred(&node)?;
                if roles.is_empty() {
                    let hint = format!("bunraku token create {node} --role compiler");
                    return Err(invalid("a token for a node needs a role", hint));
                }
                self.new_token(&id)?;
                Fact::TokenCreated {
                    id,
                    hash,
                    grant: Grant::Node { name: node, roles },
                    expires_s,
                    by: who(),
                }
            }
            Request::RevokeToken { id } => match fleet.tokens.get(&id).map(|token| token.state) {
                None => return Err(not_found(format!("no token {id}"), "bunraku token list")),
                Some(TokenState::Revoked) => return Ok(Vec::new()),
                Some(TokenState::Used) => {
                    let reason = format!("token {id} was used already");
                    return Err(conflict(
                        reason,
                        "bunraku nodes revoke NODE, or bunraku operator revoke NAME",
                    ));
                }
                Some(TokenState::Waiting) => Fact::TokenRevoked { id, who: who() },
            },
            Request::AddOperator { name, right, token, hash, expires_s } => {
                if fleet.operators.get(&name).is_some_and(|operator| !operator.revoked) {
                    let hint = format!("bunraku operator revoke {name}");
                    return Err(conflict(format!("operator {name} exists"), hint));
                }
                self.new_token(&token)?;
                let grant = Grant::Operator { name: name.clone() };
                return Ok(vec![
                    Fact::OperatorAdded { name, right, by: who() },
                    Fact::TokenCreated { id: token, hash, grant, expires_s, by: who() },
                ]);
            }
            Request::RevokeOperator { name } => match fleet.operators.get(&name) {
                None => return Err(not_found(format!("no operator {name}"), "bunraku operator list")),
                Some(operator) if operator.revoked => return Ok(Vec::new()),
                Some(_) => Fact::OperatorRevoked { name, who: who() },
            },
            Request::EnrolWithToken { hash, name, serial, key, expires_s, now_s } => {
                let (id, token) = self.usable_token(&hash, &name, now_s)?;
                self.grant(&token.grant, serial, key, EnrolledBy::Token { id: id.clone() }, expires_s)?
            }
            Request::EnrolWithPuppet { node, roles, puppet_serial, serial, key, expires_s } => {
                if roles.is_empty() {
                    let reason = format!("no allow-list entry for Puppet certificates covers {node}");
                    return Err(denied(reason, format!("bunraku token create {node} --role compiler")));
                }
                let by = EnrolledBy::Puppet { serial: puppet_serial };
                self.grant(&Grant::Node { name: node, roles }, serial, key, by, expires_s)?
            }
            Request::Renew { old_serial, old_key, serial, key, expires_s, now_s } => {
                self.renewal(old_serial, &old_key, serial, key, expires_s, now_s)?
            }
            Request::Deploy { .. }
            | Request::Rollback { .. }
            | Request::Release { .. }
            | Request::Drain { .. }
            | Request::Enable { .. }
            | Request::AcceptCrl
            | Request::Certificate { .. }
            | Request::StartRollout { .. }
            | Request::PauseRollout { .. }
            | Request::ResumeRollout { .. }
            | Request::RetargetRollout { .. }
            | Request::AbortRollout { .. }
            | Request::RetryTurn { .. }
            | Request::SkipTurn { .. } => {
                return Ok(Vec::new());
            }
            Request::RotateCa { phase, from, to, leave } => {
                return self.rotate_ca(phase, from, to, leave, &who());
            }
        };
        Ok(vec![fact])
    }

    fn usable_token(&self, hash: &str, name: &str, now_s: u64) -> Result<(&String, &Token), Refusal> {
        let for_a_node = "ask for a new token: bunraku token create NODE --role ROLE";
        let found = self.fleet.tokens.iter().find(|(_, token)| token.hash == hash);
        let (id, token) = found.ok_or_else(|| denied("this token is not known", for_a_node))?;
        let hint = || match token.grant {
            Grant::Node { .. } => for_a_node,
            Grant::Operator { .. } => {
                "ask for a new token: bunraku operator revoke NAME, then bunraku operator add NAME --right RIGHT"
            }
        };
        match token.state {
            TokenState::Used => return Err(denied(format!("token {id} was used already"), hint())),
            TokenState::Revoked => return Err(denied(format!("token {id} was revoked"), hint())),
            TokenState::Waiting => {}
        }
        if token.expires_s <= now_s {
            return Err(denied(format!("token {id} has expired"), hint()));
        }
        if token.grant.name() != name {
            return Err(denied(format!("token {id} was made for another name"), hint()));
        }
        Ok((id, token))
    }

    /// Gives a new identity to whom the grant names.
    fn grant(
        &self,
        grant: &Grant,
        serial: String,
        key: String,
        by: EnrolledBy,
        expires_s: u64,
    ) -> Result<Fact, Refusal> {
        match grant {
            Grant::Node { name, roles } => {
                self.not_barred(name)?;
                self.new_identity(&Owner::Node(name.clone()), &serial, &key)?;
                let (node, roles) = (name.clone(), roles.clone());
                Ok(Fact::NodeEnrolled { node, roles, serial, key, by, expires_s })
            }
            Grant::Operator { name } => {
                self.known_operator(name)?;
                self.new_identity(&Owner::Operator(name.clone()), &serial, &key)?;
                Ok(Fact::OperatorEnrolled { name: name.clone(), serial, key, by, expires_s })
            }
        }
    }

    fn renewal(
        &self,
        old_serial: String,
        old_key: &str,
        serial: String,
        key: String,
        expires_s: u64,
        now_s: u64,
    ) -> Result<Fact, Refusal> {
        let subject = match self.fleet.standing(&old_serial, old_key) {
            Standing::Allowed(subject) => subject,
            Standing::Denied(reason) => return Err(denied(reason, "enrol again")),
        };
        let old_expires_s = self.fleet.identities.get(&old_serial).map_or(0, |known| known.expires_s);
        if old_expires_s.saturating_add(self.settings.renew_grace_s) < now_s {
            return Err(denied("this identity expired too long ago to renew itself", "enrol again"));
        }
        let owner = match &subject {
            Subject::Node { name, .. } => Owner::Node(name.clone()),
            Subject::Operator { name, .. } => Owner::Operator(name.clone()),
        };
        // They live equally long, so the end tells the beginning.
        let lately = self
            .fleet
            .identities
            .values()
            .filter(|known| known.owner == owner && known.expires_s.saturating_add(HOUR_S) > expires_s);
        if lately.count() >= RENEWALS {
            return Err(conflict(
                "this identity was renewed too often within an hour",
                "try again in an hour",
            ));
        }
        let by = EnrolledBy::Renewal { serial: old_serial };
        match subject {
            Subject::Node { name, roles } => {
                self.grant(&Grant::Node { name, roles }, serial, key, by, expires_s)
            }
            Subject::Operator { name, .. } => {
                self.grant(&Grant::Operator { name }, serial, key, by, expires_s)
            }
        }
    }

    fn new_identity(&self, owner: &Owner, serial: &str, key: &str) -> Result<(), Refusal> {
        let fleet = &self.fleet;
        if let Some(entry) = fleet.denied_keys.get(key) {
            return Err(denied(
                format!("this key is denied: {}", entry.reason),
                "make a new key and enrol again",
            ));
        }
        if fleet.identities.contains_key(serial) || fleet.denied_serials.contains_key(serial) {
            return Err(conflict(format!("serial {serial} was given out before"), "try again"));
        }
        if fleet.identities.values().any(|known| known.key == key && known.owner != *owner) {
            return Err(denied("this key belongs to another identity", "make a new key and enrol again"));
        }
        Ok(())
    }

    fn new_token(&self, id: &str) -> Result<(), Refusal> {
        match self.fleet.tokens.contains_key(id) {
            true => Err(conflict(format!("token {id} exists"), "try again")),
            false => Ok(()),
        }
    }

    fn not_barred(&self, node: &NodeName) -> Result<(), Refusal> {
        self.fleet.barred.get(node).map_or(Ok(()), |reason| {
            Err(denied(format!("node {node} was revoked: {reason}"), format!("bunraku nodes allow {node}")))
        })
    }

    pub(crate) fn known_node(&self, node: &NodeName) -> Result<&crate::NodeRecord, Refusal> {
        let found = self.fleet.nodes.get(node);
        found.ok_or_else(|| not_found(format!("node {node} is not known here"), "bunraku nodes list"))
    }

    fn known_compiler(&self, node: &NodeName) -> Result<&crate::NodeRecord, Refusal> {
        let record = self.known_node(node)?;
        match record.is_compiler() {
            true => Ok(record),
            false => Err(invalid(format!("{node} is no compiler"), "bunraku nodes list")),
        }
    }

    fn known_operator(&self, name: &OperatorName) -> Result<(), Refusal> {
        match self.fleet.operators.get(name) {
            Some(operator) if !operator.revoked => Ok(()),
            Some(_) | None => Err(denied(
                format!("operator {name} is not known here"),
                format!("bunraku operator add {name}"),
            )),
        }
    }
}

impl Grant {
    /// Of the node or operator.
    pub fn name(&self) -> &str {
        match self {
            Self::Node { name, .. } => name.as_str(),
            Self::Operator { name } => name.as_str(),
        }
    }
}

fn denied(reason: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Denied, reason, hint)
}

fn conflict(reason: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Conflict, reason, hint)
}

fn invalid(reason: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Invalid, reason, hint)
}

fn not_found(reason: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::NotFound, reason, hint)
}
