//! The engine decides and performs nothing: no clock, file, socket, task or random number, and the same answer every
//! time. The controller's driver calls it: a request or an event goes in, facts come out and are journalled, the
//! journalled facts are applied to the [`State`], and the state says what is still to do ([`State::steps`]).
//!
//! Recovery after a crash is not a code path: replay the facts, ask `steps` again.

mod alarms;
mod apply;
mod apply_fleet;
pub mod authority;
mod balance;
pub mod certificate;
pub mod crl;
mod decide;
mod decide_fleet;
pub mod deploy;
mod describe;
mod due;
pub mod environment;
mod event;
mod fact;
pub mod fleet;
mod follow;
mod observe;
mod presence;
mod renewal;
mod request;
mod retained;
mod right;
pub mod rollout;
mod settings;
mod sight;
mod state;
mod step;
pub mod view;

pub use alarms::Behind;
pub use authority::{Authority, CaHold, CaPhase, CaRotation};
pub use balance::{Balance, DrainOwner, Wanted};
pub use certificate::{CertificateEvent, CertificateFact, CertificatePhase, HostCertificate};
pub use crl::{CrlEvent, CrlFact, CrlHeld, Revocations, SeenCrl};
pub use deploy::{Built, Commit, Deploy, DeployId, Kind, Outcome, Phase, Policy, Stage};
pub use environment::{Committed, Environment, Held, Retained};
pub use event::{Event, Fault, Seen};
pub use fact::{Fact, Serving};
pub use fleet::{
    EnrolledBy, Grant, Identity, NodeRecord, OnNode, Operator, Owner, Proof, Standing, Subject, Token,
};
pub use presence::Presence;
pub use renewal::{OnStaleRuby, StaleRuby};
pub use request::{Refusal, RefusalCode, Request};
pub use right::{BadRight, Need, Right};
pub use rollout::{
    Action, Ask, Batch, Block, JudgedBy, OnDrainDeadline, OnInconclusive, Plan, Retreat, Rollout, RolloutId,
    RolloutOutcome, RolloutPhase, RolloutPolicy, Says, Trial, Turn, TurnPhase, Verdict, Waits, Wave,
};
pub use settings::Settings;
pub use state::State;
pub use step::{Step, StepId};
pub use view::{BalancerView, Health, HealthView, IdleView, ServerSeen, Wish};

/// Controller time in milliseconds: journalled with each record, advanced by the driver's monotonic clock, never back.
pub type Millis = u64;
