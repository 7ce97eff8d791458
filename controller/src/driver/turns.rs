//! The orders of a compiler's turn in a rollout. A node answers within seconds; where it needs longer it goes on by
//! itself, and is asked again under the same order until it is done, cannot, or the step is no longer wanted.

use std::time::Duration;

use bunraku_common::{Generation, NodeName, Term};
use bunraku_engine::{Action, Event, Step};
use bunraku_proto::{
    backoff,
    v1::{
        self, ActRequest, PrepareRequest, SettleRequest, TurnFailed, TurnReply, VerifyRequest, action::Kind,
        turn_reply::Outcome,
    },
};
use tonic::{Request, Response, Status};

use super::orders::{Client, Hands, NoReply, order_about};
use crate::{turns::TOO_OLD, words::plain};

/// A node answers within 20 s, also that it goes on.
const DEADLINE: Duration = Duration::from_secs(30);
/// Before a node that goes on is asked again; a random part comes on top.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Hands {
    /// Does a step of a turn; other steps are none of it.
    pub(super) async fn turn(&self, step: Step, term: Term) -> Option<Event> {
        let about =
            |node: &NodeName, generation| Some(order_about(term, generation, &format!("turn {node}")));
        match step {
            Step::Prepare { node, generation, action, no_revert, downgrade, certname } => {
                let (order, action) = (about(&node, generation), Some(wire_action(&action)));
                let request = PrepareRequest { order, action, no_revert, downgrade, certname };
                self.asked(node, generation, request, async |mut c: Client, r| c.prepare(r).await).await
            }
            Step::Settle { node, generation, hold, owner } => {
                let request = SettleRequest { order: about(&node, generation), hold, owner };
                self.asked(node, generation, request, async |mut c: Client, r| c.settle(r).await).await
            }
            Step::Act { node, generation, action, back } => {
                let order = about(&node, generation);
                let request = ActRequest { order, action: Some(wire_action(&action)), revert: back };
                self.asked(node, generation, request, async |mut c: Client, r| c.act(r).await).await
            }
            Step::Verify { node, generation, action, back, certname } => {
                let (order, action) = (about(&node, generation), Some(wire_action(&action)));
                let request = VerifyRequest { order, action, certname, back };
                self.asked(node, generation, request, async |mut c: Client, r| c.verify(r).await).await
            }
            Step::Build { .. }
            | Step::Stage { .. }
            | Step::Commit { .. }
            | Step::Discard { .. }
            | Step::Bring { .. }
            | Step::Retain { .. }
            | Step::Balance { .. }
            | Step::InstallCrl { .. }
            | Step::ProveCrl { .. }
            | Step::MakeCanary { .. }
            | Step::RevokeCanary { .. }
            | Step::ForgetCanary { .. }
            | Step::RequestCertificate { .. }
            | Step::SignCertificate { .. }
            | Step::StageCertificate { .. } => None,
        }
    }

    async fn asked<Q, F>(&self, node: NodeName, generation: Generation, request: Q, call: F) -> Option<Event>
    where
        Q: Clone,
        F: AsyncFn(Client, Request<Q>) -> Result<Response<TurnReply>, Status>,
    {
        loop {
            let failed = match self.call(&node, request.clone(), DEADLINE, &call).await {
                Ok(TurnReply { outcome: Some(Outcome::Done(done)) }) => {
                    self.turns.heard(&node, generation, String::new());
                    self.noted(&node, &done.note);
                    return Some(Event::TurnStepDone { node, generation });
                }
                Ok(TurnReply { outcome: Some(Outcome::GoingOn(going_on)) }) => {
                    self.turns.heard(&node, generation, plain(&going_on.what));
                    let random = getrandom::u64().unwrap_or_default();
                    tokio::time::sleep(backoff::wait(0, Some(ASK_AGAIN), random)).await;
                    continue;
                }
                Ok(TurnReply { outcome: Some(Outcome::Failed(failed)) }) => failed,
                Err(NoReply::NotUnderstood(why)) => {
                    // What a program does not know at all it has no words for.
                    let reason = if why.is_empty() { TOO_OLD.to_owned() } else { why };
                    TurnFailed { reason, unchanged: true, ..TurnFailed::default() }
                }
                // A newer order was obeyed, or it is not known what became of this one.
                Err(NoReply::Refused(why) | NoReply::Failed(why)) => {
                    self.turns.heard(&node, generation, why);
                    return None;
                }
                Ok(TurnReply { outcome: None }) | Err(NoReply::Unknown) => return None,
            };
            let (reason, hint) = (plain(&failed.reason), plain(&failed.hint));
            // Within the text: the engine adds what becomes of the compiler.
            let reason = if hint.is_empty() { reason } else { format!("{reason} (hint: {hint})") };
            self.turns.heard(&node, generation, reason.clone());
            let unchanged = failed.unchanged;
            return Some(Event::TurnStepFailed { node, generation, reason, unchanged });
        }
    }

    /// What an operator should know though it went well.
    pub(super) fn noted(&self, node: &NodeName, note: &str) {
        if note.is_empty() {
            return;
        }
        let note = plain(note);
        tracing::info!(%node, note, "the node notes");
        let Some(shared) = self.shared.upgrade() else { return };
        let state = shared.state();
        let mut open = state.rollouts().values().filter(|rollout| !rollout.is_ended());
        if let Some(rollout) = open.find(|rollout| rollout.turns.contains_key(node)) {
            self.turns.noted(node, rollout.id, note);
        }
    }
}

fn wire_action(action: &Action) -> v1::Action {
    let only = |kind: Kind| v1::Action { kind: kind.into(), ..v1::Action::default() };
    match action {
        Action::Restart => only(Kind::Restart),
        Action::Reload => only(Kind::Reload),
        Action::FlushPool => only(Kind::FlushPool),
        Action::Update { package, version } => {
            v1::Action { package: package.clone(), version: version.clone(), ..only(Kind::Update) }
        }
        Action::PuppetRun => only(Kind::PuppetRun),
        Action::AgentUpdate { version } => v1::Action { version: version.clone(), ..only(Kind::AgentUpdate) },
        Action::Exec { command } => v1::Action { command: command.clone(), ..only(Kind::Exec) },
        Action::Certificate { certificate } => {
            v1::Action { certificate: certificate.clone(), ..only(Kind::Certificate) }
        }
    }
}
