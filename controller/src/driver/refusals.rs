//! Refused enrolments, for the audit: somebody had a true token, certificate or key, and tried more than it allows.
//! What nobody ever gave out (a guessed token) does not come this far. Bounded, because whoever was refused can try
//! again without end, and the journal must not be filled by it.

use std::time::{Duration, Instant};

use bunraku_engine::{Fact, Refusal, Request};

/// Refusals on record within one [`PERIOD`]; what exceeds them is counted, and said with the next one.
const MOST: u32 = 100;
const PERIOD: Duration = Duration::from_secs(600);
/// Of a name that came from the wire.
const SHOWN: usize = 80;

/// How many were put on record lately.
#[derive(Debug)]
pub(super) struct Refusals {
    since: Instant,
    recorded: u32,
    passed_over: u64,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), recorded: 0, passed_over: 0 }
    }

    /// The fact for the journal; nothing when there were too many lately. `what` comes from [`of_concern`].
    pub(super) fn on_record(&mut self, what: String, refusal: &Refusal) -> Option<Fact> {
        if self.since.elapsed() >= PERIOD {
            (self.since, self.recorded) = (Instant::now(), 0);
        }
        if self.recorded >= MOST {
            self.passed_over += 1;
            return None;
        }
        self.recorded += 1;
        let reason = match std::mem::take(&mut self.passed_over) {
            0 => refusal.reason.clone(),
            more => format!("{} ({more} more before it were not recorded)", refusal.reason),
        };
        Some(Fact::Refused { what, reason })
    }
}

/// What a request is called when its refusal belongs into the audit. What a person asked for in vain does not: nothing
/// was tried that a right would not cover.
pub(super) fn of_concern(request: &Request) -> Option<String> {
    match request {
        Request::EnrolWithToken { name, .. } => {
            let shown: String = name.chars().take(SHOWN).flat_map(char::escape_debug).collect();
            Some(format!("enrolment of {shown} with a token"))
        }
        Request::EnrolWithPuppet { node, .. } => {
            Some(format!("enrolment of {node} by its puppet certificate"))
        }
        Request::Renew { old_serial, .. } => Some(format!("renewal of identity {old_serial}")),
        Request::Deploy { .. }
        | Request::Rollback { .. }
        | Request::Release { .. }
        | Request::AcceptCrl
        | Request::Certificate { .. }
        | Request::HoldNode { .. }
        | Request::ReleaseNode { .. }
        | Request::RevokeNode { .. }
        | Request::AllowNode { .. }
        | Request::LabelNode { .. }
        | Request::RemoveNode { .. }
        | Request::HealNode { .. }
        | Request::SetUpCompiler { .. }
        | Request::RevokePuppetCertificate { .. }
        | Request::Drain { .. }
        | Request::Enable { .. }
        | Request::StartRollout { .. }
        | Request::PauseRollout { .. }
        | Request::ResumeRollout { .. }
        | Request::AbortRollout { .. }
        | Request::RetryTurn { .. }
        | Request::SkipTurn { .. }
        | Request::RetargetRollout { .. }
        | Request::CreateToken { .. }
        | Request::RevokeToken { .. }
        | Request::AddOperator { .. }
        | Request::RevokeOperator { .. }
        | Request::RotateCa { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use bunraku_engine::RefusalCode;

    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_and_does_not_fill_the_journal() {
        let refusal = Refusal { code: RefusalCode::Denied, reason: "used".into(), hint: String::new() };
        let mut refusals = Refusals::new();
        let recorded = (0..1000).filter_map(|_| refusals.on_record("x".into(), &refusal)).count();
        assert_eq!(recorded, MOST as usize);
        refusals.recorded = 0;
        let Some(Fact::Refused { reason, .. }) = refusals.on_record("x".into(), &refusal) else { panic!() };
        assert_eq!(reason, "used (900 more before it were not recorded)");
    }
}
