//! This compiler's turns in rollouts: what the controller orders, carried out by a task of the node's own. Whoever asked
//! may go away and ask again under the same order: it goes on, and once done its result is answered.

mod act;
mod action;
mod certificate;
mod command;
mod counting;
mod health;
mod idle;
pub(crate) mod kept;
mod packages;
mod prepare;
mod reach;
mod record;
mod rest;
mod step;
mod tell;
mod types;
mod verify;

use std::{sync::Arc, time::Duration};

use bunraku_common::{Fence, hint};
use bunraku_proto::v1;

use self::step::Answer;
pub(crate) use self::{
    action::Action,
    health::health,
    idle::idle,
    step::{Consent, Step},
};
use crate::node::Node;

/// An order is answered within this, if only that it goes on. The controller waits for 30 s.
const ANSWER: Duration = Duration::from_secs(15);

/// Changes that are named to whoever plans.
const FORESEEN: usize = 50;

/// Carries a step out, or says how far it is.
pub(crate) async fn ask(node: &Arc<Node>, fence: Fence, step: Step) -> v1::TurnReply {
    let what = step.to_string();
    let own = node.clone();
    let carried_out = {
        let step = step.clone();
        async move { carry_out(&own, fence, &step).await }
    };
    let mut answer = match node.turns.begin(fence, step, carried_out) {
        Ok(answer) => answer,
        Err(before) => {
            return Answer::GoingOn(format!("{before}, ordered before, has not ended yet")).wire();
        }
    };
    let answered = tokio::time::timeout(ANSWER, answer.wait_for(Option::is_some)).await;
    let known = answered.ok().and_then(|known| known.ok()?.clone());
    known.unwrap_or(Answer::GoingOn(what)).wire()
}

/// Whether an action would be done here, and what it would change: for people who plan.
pub(crate) async fn foresee(node: &Arc<Node>, action: &Action, consent: Consent) -> v1::ForeseeReply {
    match action.foresee(node, consent).await {
        Ok(mut changes) => {
            changes.truncate(FORESEEN);
            v1::ForeseeReply { changes, ..v1::ForeseeReply::default() }
        }
        Err(why) => {
            let (refusal, hint) = hint::split(&why);
            v1::ForeseeReply { refusal, hint, ..v1::ForeseeReply::default() }
        }
    }
}

async fn carry_out(node: &Arc<Node>, fence: Fence, step: &Step) -> Answer {
    let Some(compiler) = &node.compiler else {
        return Answer::unchanged("this node's configuration grants no code");
    };
    match step {
        Step::Prepare { action, consent, certname } => {
            match Action::compiles(node, compiler, certname).await {
                Ok(()) => action.prepare(node, compiler, *consent).await,
                Err(why) => Answer::unchanged(why),
            }
        }
        Step::Hold { owner } => rest::hold(node, compiler, owner).await,
        Step::Release => rest::release(node, compiler).await,
        Step::Act(action) => act::once(node, compiler, fence, action, false).await,
        Step::Revert(action) => act::once(node, compiler, fence, action, true).await,
        Step::Verify { action, back, certname } => {
            verify::verify(node, compiler, action.as_ref(), *back, certname).await
        }
    }
}
