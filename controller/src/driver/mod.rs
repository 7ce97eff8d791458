//! The driver: the one loop that feeds the engine, journals what it decides, and starts what is to do.
//!
//! ask steps → start those not in flight → event → journal → apply → ask again. It runs on a thread of its own, because
//! the journal's fdatasync blocks. Nothing leaves it (an answer, an order, an event for watchers) before the journal
//! has it on disk. Recovery after a crash is not a code path: it is asking for the steps.

mod certificate;
mod crl;
mod flight;
mod orders;
mod refusals;
mod turns;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use bunraku_builder::Pin;
use bunraku_common::{Chain, EnvironmentName, NodeName, Term, crash};
use bunraku_engine::{
    BalancerView, CertificateEvent, CrlEvent, Event, Fact, HealthView, IdleView, Presence, Refusal, Request,
    State,
};
use bunraku_store::{Keep, Store, StoreError};
use tokio::sync::{Semaphore, oneshot, watch};

pub(crate) use self::orders::{Hands, order, order_about};
pub(crate) use self::{certificate::host_certificate, crl::held};
use self::{flight::Flight, orders::Done, refusals::Refusals};
use crate::{audit::record, clock::Clock};

/// Requests that may wait for the loop at once; more are told to come again (I10).
const REQUESTS: usize = 512;
/// Inputs taken into one batch, so one fdatasync.
const BATCH: usize = 256;
/// The loop looks at the time at least this often: connections age, certificates expire.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// While the journal's disk is full, what falls due by itself is tried again this often and not at once.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// How far a takeover jumps above the highest term seen: an older controller that restarts in a loop stays below.
const TAKEOVER_JUMP: u64 = 1000;

/// What the loop shares with the rest of the program.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Exactly what the journal says; never ahead of it.
    state: RwLock<State>,
    presence: RwLock<Presence>,
    pub(crate) store: Mutex<Box<dyn Store>>,
    pub(crate) clock: Clock,
    pub(crate) head: watch::Sender<u64>,
    /// A node's word that another controller's term is higher; while it stands no order leaves.
    superseded: RwLock<Option<Superseded>>,
}

/// Why this controller gives no orders.
#[derive(Debug, Clone)]
pub(crate) struct Superseded {
    pub by: Term,
    pub node: NodeName,
    /// The own term in which the node said so.
    pub own: Term,
    /// The environment about which the node obeyed a decision that is not in this journal; `None`: its term is newer.
    pub unknown: Option<EnvironmentName>,
}

impl Shared {
    /// `state` is what the journal in `store` says.
    pub(crate) fn new(state: State, store: Box<dyn Store>, clock: Clock) -> Self {
        Self {
            state: RwLock::new(state),
            presence: RwLock::new(Presence::new(clock.now())),
            head: watch::Sender::new(store.head().sequence),
            store: Mutex::new(store),
            clock,
            superseded: RwLock::new(None),
        }
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn presence(&self) -> RwLockReadGuard<'_, Presence> {
        self.presence.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn superseded(&self) -> Option<Superseded> {
        self.superseded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn with_store<T>(&self, ask: impl FnOnce(&mut dyn Store) -> T) -> T {
        ask(self.store.lock().unwrap_or_else(PoisonError::into_inner).as_mut())
    }
}

/// The way in to the loop. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Driver {
    inputs: mpsc::Sender<Input>,
    requests: Arc<Semaphore>,
    pub(crate) shared: Arc<Shared>,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

enum Input {
    Request {
        request: Request,
        who: String,
        answer: oneshot::Sender<Result<Vec<Fact>, RequestError>>,
    },
    Takeover {
        reason: String,
        who: String,
        answer: oneshot::Sender<Result<Term, RequestError>>,
    },
    Event(Event),
    Connected(NodeName),
    Gone(NodeName),
    BalancerSeen(NodeName, BalancerView),
    IdleSeen(NodeName, IdleView),
    HealthSeen(NodeName, HealthView),
    Superseded(Superseded),
    Done(Done),
    /// Is anybody there?
    Alive(oneshot::Sender<()>),
    Halt,
}

/// Why a request was not accepted. Nothing of it took effect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Full(String),
    #[error("too many requests wait already\nhint: try again in a few seconds")]
    Busy,
    #[error("the controller is stopping")]
    Stopping,
}

impl Driver {
    /// Starts the loop on its own thread, which lives until [`Driver::halt`]. `state` is what the journal says, `term`
    /// has begun in it.
    pub(crate) fn start(
        state: State,
        store: Box<dyn Store>,
        clock: Clock,
        hands: impl FnOnce(&Arc<Shared>) -> Hands,
    ) -> (Self, JoinHandle<()>) {
        let shared = Arc::new(Shared::new(state.clone(), store, clock));
        let (inputs, incoming) = mpsc::channel();
        let driver = Self {
            inputs: inputs.clone(),
            requests: Arc::new(Semaphore::new(REQUESTS)),
            shared: shared.clone(),
        };
        let hands = Arc::new(hands(&shared));
        let run = Loop {
            state,
            shared,
            incoming,
            inputs,
            hands,
            flight: Flight::default(),
            refusals: Refusals::new(),
            full: false,
        };
        let thread = std::thread::Builder::new()
            .name("driver".into())
            .spawn(move || run.run())
            .expect("a thread can be started at the beginning of the process");
        (driver, thread)
    }

    /// Asks the engine; the answer comes when the facts are on disk.
    pub(crate) async fn request(&self, request: Request, who: &str) -> Result<Vec<Fact>, RequestError> {
        let Ok(_waiting) = self.requests.try_acquire() else { return Err(RequestError::Busy) };
        let (answer, answered) = oneshot::channel();
        self.put(Input::Request { request, who: who.to_owned(), answer });
        answered.await.unwrap_or(Err(RequestError::Stopping))
    }

    pub(crate) async fn takeover(&self, reason: String, who: &str) -> Result<Term, RequestError> {
        let (answer, answered) = oneshot::channel();
        self.put(Input::Takeover { reason, who: who.to_owned(), answer });
        answered.await.unwrap_or(Err(RequestError::Stopping))
    }

    pub(crate) fn event(&self, event: Event) {
        self.put(Input::Event(event));
    }

    pub(crate) fn connected(&self, node: NodeName) {
        self.put(Input::Connected(node));
    }

    pub(crate) fn gone(&self, node: NodeName) {
        self.put(Input::Gone(node));
    }

    /// What a balancer showed: never journalled, decided upon at once.
    pub(crate) fn balancer_seen(&self, balancer: NodeName, view: BalancerView) {
        self.put(Input::BalancerSeen(balancer, view));
    }

    /// How busy a compiler said that it is: the same.
    pub(crate) fn idle_seen(&self, compiler: NodeName, view: IdleView) {
        self.put(Input::IdleSeen(compiler, view));
    }

    /// How a compiler said that it fares: the same.
    pub(crate) fn health_seen(&self, compiler: NodeName, view: HealthView) {
        self.put(Input::HealthSeen(compiler, view));
    }

    pub(crate) fn superseded(&self, superseded: Superseded) {
        self.put(Input::Superseded(superseded));
    }

    /// Whether the loop takes what comes in; resolves when it came to this question.
    pub(crate) async fn answers(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.put(Input::Alive(answer));
        answered.await.is_ok()
    }

    /// Ends the loop after what came in before; orders under way are left to the next run.
    pub(crate) fn halt(&self) {
        self.put(Input::Halt);
    }

    fn put(&self, input: Input) {
        // The loop has ended: the process is about to.
        let _nobody_listens = self.inputs.send(input);
    }
}

struct Loop {
    /// Ahead of `shared.state` only while a batch is being journalled.
    state: State,
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<Input>,
    inputs: mpsc::Sender<Input>,
    hands: Arc<Hands>,
    flight: Flight,
    refusals: Refusals,
    /// The last batch could not be journalled for want of room.
    full: bool,
}

/// What is told once the batch is on disk.
enum Answer {
    Request(oneshot::Sender<Result<Vec<Fact>, RequestError>>, Result<Vec<Fact>, RequestError>),
    Takeover(oneshot::Sender<Result<Term, RequestError>>, Term),
}

#[derive(Default)]
struct Batch {
    facts: Vec<(Fact, String)>,
    answers: Vec<Answer>,
    /// Snapshots that this batch puts on record: kept from the sweeper until then.
    pins: Vec<Pin>,
}

impl Loop {
    fn run(mut self) {
        // The first round is what fell due while nobody looked.
        let mut inputs = Vec::new();
        loop {
            let halt = inputs.iter().any(|input| matches!(input, Input::Halt));
            if let Err(error) = self.take(inputs) {
                // Nobody knows what is on disk until the journal is read again.
                tracing::error!(error = %Chain(&error), "the journal failed: the controller ends");
                break;
            }
            if halt {
                break;
            }
            self.start_steps();
            inputs = match self.incoming.recv_timeout(self.until_next()) {
                Ok(input) => vec![input],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            inputs.extend(self.incoming.try_iter().take(BATCH));
        }
        self.flight.abort_all();
        self.shared.head.send_replace(u64::MAX);
    }

    fn until_next(&self) -> Duration {
        let now = self.shared.clock.now();
        let deadline = self.state.deadline(&self.shared.presence());
        let until_deadline =
            deadline.map_or(LONGEST_WAIT, |at| Duration::from_millis(at.saturating_sub(now)));
        let wait =
            until_deadline.min(self.flight.until_next_retry().unwrap_or(LONGEST_WAIT)).min(LONGEST_WAIT);
        if self.full { wait.max(FULL_PAUSE) } else { wait }
    }

    fn take(&mut self, inputs: Vec<Input>) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        let mut batch = Batch::default();
        for input in inputs {
            self.take_one(input, now, &mut batch);
        }
        self.observe(Event::Tick, now, &mut batch);
        self.save(batch, now)
    }

    fn take_one(&mut self, input: Input, now: u64, batch: &mut Batch) {
        match input {
            Input::Request { request, who, answer } => {
                let concern = refusals::of_concern(&request);
                let decided = self.state.decide(request, &who, &self.shared.presence(), now);
                if let (Err(refusal), Some(what)) = (&decided, concern)
                    && let Some(fact) = self.refusals.on_record(what, refusal)
                {
                    self.apply(&[fact], &who, now, batch);
                }
                let decided = decided.map(|facts| self.settle(facts, &who, false, now, batch));
                batch.answers.push(Answer::Request(answer, decided.map_err(RequestError::from)));
            }
            Input::Takeover { reason, who, answer } => {
                let seen = self.shared.superseded().map_or(0, |s| s.by.number);
                let own = self.state.term().map_or(0, |term| term.number);
                let term = Term { number: seen.max(own).saturating_add(TAKEOVER_JUMP), id: random_id() };
                self.apply(&[Fact::TermBegan { term, takeover: Some(reason) }], &who, now, batch);
                batch.answers.push(Answer::Takeover(answer, term));
            }
            Input::Event(event) => self.observe(event, now, batch),
            Input::Connected(node) => {
                self.presence_mut().connected(node.clone());
                self.flight.retry_now(&node);
            }
            Input::Gone(node) => {
                // Its next connection may have been registered before this end was told, and told before it.
                if !self.hands.connections.is_connected(&node) {
                    self.presence_mut().gone(&node, now);
                }
            }
            Input::BalancerSeen(balancer, view) => self.presence_mut().balancer_seen(balancer, view),
            Input::IdleSeen(compiler, view) => self.presence_mut().idle_seen(compiler, view),
            Input::HealthSeen(compiler, view) => self.presence_mut().health_seen(compiler, view),
            Input::Superseded(superseded) => {
                // A hello that was under way during a takeover was said in the term before it.
                if self.state.term() == Some(superseded.own) {
                    self.set_superseded(Some(superseded));
                }
            }
            Input::Done(done) => {
                // A node that cannot be brought up may work for minutes each time: the pauses must grow.
                let failed = matches!(
                    done.event,
                    None | Some(
                        Event::BringFailed { .. }
                            | Event::Crl(
                                CrlEvent::Refused { .. }
                                    | CrlEvent::CanaryTrouble { .. }
                                    | CrlEvent::Proof { refused: Err(_), .. }
                            )
                            | Event::Certificate(CertificateEvent::Trouble { .. })
                    )
                );
                self.flight.landed(&done.step, done.flight, !failed);
                batch.pins.extend(done.pin);
                if let Some(event) = done.event {
                    self.observe(event, now, batch);
                }
            }
            // Whoever asked may have given up meanwhile.
            Input::Alive(answer) => drop(answer.send(())),
            Input::Halt => {}
        }
    }

    fn presence_mut(&self) -> std::sync::RwLockWriteGuard<'_, Presence> {
        self.shared.presence.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_superseded(&self, superseded: Option<Superseded>) {
        *self.shared.superseded.write().unwrap_or_else(PoisonError::into_inner) = superseded;
    }

    fn observe(&mut self, event: Event, now: u64, batch: &mut Batch) {
        self.presence_mut().learn(&event, &self.state);
        let facts = self.state.observe(event, &self.shared.presence());
        self.settle(facts, "controller", true, now, batch);
    }

    /// Applies the facts and everything that follows from them; answers all of it. `looks`: who is unreachable counts.
    fn settle(
        &mut self,
        mut facts: Vec<Fact>,
        who: &str,
        looks: bool,
        now: u64,
        batch: &mut Batch,
    ) -> Vec<Fact> {
        self.apply(&facts, who, now, batch);
        loop {
            let due = self.state.due(looks.then(|| self.shared.presence()).as_deref(), now);
            if due.is_empty() {
                return facts;
            }
            self.apply(&due, who, now, batch);
            facts.extend(due);
        }
    }

    fn apply(&mut self, facts: &[Fact], who: &str, now: u64, batch: &mut Batch) {
        for fact in facts {
            self.presence_mut().decided(fact, &self.state);
            self.state.apply(fact, now);
            batch.facts.push((fact.clone(), who.to_owned()));
        }
    }

    /// Save, then speak.
    fn save(&mut self, batch: Batch, now: u64) -> Result<(), StoreError> {
        if !batch.facts.is_empty() {
            for (fact, _) in &batch.facts {
                crash::point(format_args!("before:{}", fact.kind()));
            }
            let records = batch.facts.iter().map(|(fact, who)| record(fact, who, now)).collect();
            let appended =
                self.shared.with_store(|store| store.append(records).map(|_| store.head().sequence));
            match appended {
                Ok(head) => {
                    self.full = false;
                    self.publish(&batch.facts, now, head);
                }
                Err(full @ (StoreError::Full { .. } | StoreError::TooLarge { .. })) => {
                    self.take_back(batch, &full);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            for (fact, _) in &batch.facts {
                crash::point(format_args!("after:{}", fact.kind()));
            }
        }
        for answer in batch.answers {
            match answer {
                Answer::Request(to, answer) => drop(to.send(answer)),
                Answer::Takeover(to, term) => {
                    self.set_superseded(None);
                    drop(to.send(Ok(term)));
                }
            }
        }
        self.checkpoint_if_due()
    }

    fn publish(&self, facts: &[(Fact, String)], now: u64, head: u64) {
        let mut published = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
        for (fact, _) in facts {
            published.apply(fact, now);
        }
        drop(published);
        self.shared.head.send_replace(head);
        for (fact, who) in facts {
            tracing::info!(who, kind = fact.kind(), "{fact}");
        }
        if facts.iter().any(|(fact, _)| ends_identities(fact)) {
            self.hands.cut_denied(&self.shared.state());
        }
    }

    /// Nothing was written: the state goes back to what the journal says, requests are refused, events were not seen
    /// (their steps will be asked for again).
    fn take_back(&mut self, batch: Batch, why: &StoreError) {
        tracing::error!(error = %Chain(why), "nothing was journalled");
        self.full = true;
        self.state = self.shared.state().clone();
        for answer in batch.answers {
            match answer {
                Answer::Request(to, Ok(_)) => drop(to.send(Err(RequestError::Full(why.to_string())))),
                Answer::Request(to, refused) => drop(to.send(refused)),
                Answer::Takeover(to, _) => drop(to.send(Err(RequestError::Full(why.to_string())))),
            }
        }
    }

    fn checkpoint_if_due(&self) -> Result<(), StoreError> {
        self.shared.with_store(|store| {
            if !store.wants_checkpoint() {
                return Ok(());
            }
            let state = serde_json::to_vec(&self.state).expect("the state is plain data with text keys");
            match store.checkpoint(&state) {
                // The journal goes on in its old segment and asks again.
                Err(full @ StoreError::Full { .. }) => {
                    tracing::error!(error = %Chain(&full), "no checkpoint could be written");
                    Ok(())
                }
                done => done,
            }
        })
    }

    fn start_steps(&mut self) {
        if self.shared.superseded().is_some() {
            self.flight.abort_all();
            return;
        }
        let Some(term) = self.state.term() else { return };
        let steps = self.state.steps(&self.shared.presence(), self.shared.clock.now());
        let wanted: BTreeSet<_> = steps.iter().map(bunraku_engine::Step::id).collect();
        self.flight.abort_others(&wanted);
        for step in steps {
            if self.flight.may_start(&step.id()) {
                let inputs = self.inputs.clone();
                let done = move |done| drop(inputs.send(Input::Done(done)));
                let hands = &self.hands;
                self.flight.start(step.id(), |flight| hands.start(step, term, flight, done));
            }
        }
    }
}

/// How much of the audit is kept; called from time to time by the program.
pub(crate) fn prune(shared: &Shared, keep: Keep) {
    match shared.with_store(|store| store.prune(keep)) {
        Ok(0) => {}
        Ok(freed) => tracing::info!(freed, "old journal segments removed"),
        Err(error) => tracing::warn!(error = %Chain(&error), "old journal segments could not be removed"),
    }
}

/// Whether connections may have to be cut after this fact.
fn ends_identities(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::NodeEnrolled { .. }
            | Fact::NodeRevoked { .. }
            | Fact::IdentityCut { .. }
            | Fact::NodeRemoved { .. }
            | Fact::OperatorEnrolled { .. }
            | Fact::OperatorRevoked { .. }
            | Fact::CaRotationMoved { .. }
    )
}

/// A random id of a term: tells two controllers with one number apart.
pub(crate) fn random_id() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel gives random numbers");
    u128::from_le_bytes(bytes)
}
