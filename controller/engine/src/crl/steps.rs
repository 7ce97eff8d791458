//! What is still to do about Puppet's CRLs.

use super::{CanaryState, CrlNode};
use crate::{Presence, State, Step};

impl State {
    pub(crate) fn crl_steps(&self, presence: &Presence, steps: &mut Vec<Step>) {
        let known = &self.revocations;
        let Some(wanted) = &known.wanted else { return };
        for (name, node) in known.nodes.iter().filter(|(name, _)| presence.is_connected(name)) {
            if !wanted.is_held(&node.holds) {
                steps.push(Step::InstallCrl {
                    node: name.clone(),
                    crl: wanted.crl,
                    generation: wanted.generation,
                    // One that was never given any has nothing to go back from.
                    number_reset: node.holds.crl.is_some() && node.holds.generation < wanted.reset,
                });
            } else if let Some((canary, revoked)) = known.spent()
                && self.settings.crl_proof
                && self.is_to_prove(node)
            {
                let (node, canary) = (name.clone(), canary.clone());
                steps.push(Step::ProveCrl { node, canary, revoked, generation: wanted.generation });
            }
        }
        self.canary_steps(steps);
    }

    fn is_to_prove(&self, node: &CrlNode) -> bool {
        node.holds.provable && node.holds.owed.is_empty() && !self.revocations.is_proven(node)
    }

    fn canary_steps(&self, steps: &mut Vec<Step>) {
        let canaries = &self.revocations.canaries;
        let newest = self.revocations.spent().map(|(name, _)| name);
        let mut ready = 0;
        for (name, canary) in canaries {
            match canary.state {
                CanaryState::Ready => ready += 1,
                CanaryState::Chosen => steps.push(Step::RevokeCanary { name: name.clone() }),
                CanaryState::Spent { .. } if Some(name) == newest => {}
                CanaryState::Spent { .. } | CanaryState::Retired => {
                    steps.push(Step::ForgetCanary { name: name.clone() })
                }
            }
        }
        if self.settings.crl_proof && ready < self.settings.crl_canaries {
            steps.push(Step::MakeCanary { more: self.settings.crl_canaries - ready });
        }
    }
}
