//! The journal as operators see it: the audit, its proof, and the stream of events.

use std::{pin::Pin, sync::Arc};

use bunraku_common::Chain;
use bunraku_engine::DeployId;
use bunraku_proto::v1;
use bunraku_store::StoreError;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Api;
use crate::{
    audit::{deploy_key, event, line},
    driver::Shared,
};

/// Records answered when the request does not say how many, and at most.
const LISTED: usize = 100;
const MOST_LISTED: usize = 10_000;
/// Records read at once for a watcher.
const AT_ONCE: usize = 256;
/// Events that wait for a slow watcher: there may be many such.
const AHEAD: usize = 16;

impl Api {
    pub(super) async fn audit_listed(
        &self,
        request: v1::ListAuditRequest,
    ) -> Result<v1::ListAuditReply, Status> {
        let limit = if request.limit == 0 { LISTED } else { (request.limit as usize).min(MOST_LISTED) };
        let shared = self.driver.shared.clone();
        let records = blocking(move || {
            shared.with_store(|store| {
                let newest_only = store.head().sequence.saturating_sub(limit as u64);
                let after = if request.after == 0 { newest_only } else { request.after };
                store.after(after, limit)
            })
        });
        Ok(v1::ListAuditReply { records: records.await?.iter().map(line).collect() })
    }

    /// Reads the whole journal, about 10 s a GiB, while it goes on: the store is asked only what there is to read. One
    /// at a time; it ends when its caller goes away.
    pub(super) async fn audit_verified(&self) -> Result<v1::VerifyAuditReply, Status> {
        let turn = self.verifying.clone().acquire_owned().await;
        let turn = turn.map_err(|_| Status::internal("nothing is verified any more"))?;
        let caller = CancellationToken::new();
        let _dropped_with_the_call = caller.clone().drop_guard();
        let shared = self.driver.shared.clone();
        let verified = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let verification = shared.with_store(|store| store.verification());
            verification.run(|| !caller.is_cancelled())
        });
        match verified.await.map_err(|_| Status::internal("the verification ended early"))? {
            Ok(Some(whole)) => Ok(v1::VerifyAuditReply {
                records: whole.records,
                segments: whole.segments,
                head: whole.head.hash.to_string(),
                error: String::new(),
                pruned_segments: whole.pruned,
            }),
            Ok(None) => Err(Status::cancelled("nobody waits for this verification any more")),
            Err(error) => Ok(v1::VerifyAuditReply { error: Chain(&error).to_string(), ..Default::default() }),
        }
    }

    pub(super) fn watched(&self, request: v1::WatchRequest) -> Events {
        Box::pin(events(self.driver.shared.clone(), request))
    }
}

pub(super) type Events = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

/// Everything behind `after`, then (if asked) what comes, in the journal's order. A watcher that is slow holds up nobody:
/// it reads the journal at its own pace.
fn events(shared: Arc<Shared>, request: v1::WatchRequest) -> ReceiverStream<Result<v1::Event, Status>> {
    let (events, stream) = mpsc::channel(AHEAD);
    let mut head = shared.head.subscribe();
    // Now, and not when the task runs: whoever has the stream asks for the state next, and must miss nothing after it.
    let newest = *head.borrow_and_update();
    let mut seen = match request {
        v1::WatchRequest { from_now: true, .. } => newest,
        v1::WatchRequest { after: 0, last: 1.., .. } => newest.saturating_sub(request.last),
        v1::WatchRequest { after, .. } => after,
    };
    let only = (request.deploy != 0).then(|| deploy_key(DeployId(request.deploy)));
    tokio::spawn(async move {
        loop {
            // The journal has records before the state has them: nobody may hear of an end and then find it going on.
            let published = *head.borrow_and_update();
            let (reader, after) = (shared.clone(), seen);
            let mut records =
                match blocking(move || reader.with_store(|store| store.after(after, AT_ONCE))).await {
                    Ok(records) => records,
                    Err(status) => {
                        let _watcher_gone = events.send(Err(status)).await;
                        return;
                    }
                };
            records.retain(|record| record.sequence <= published);
            for record in &records {
                seen = record.sequence;
                if only.as_ref().is_some_and(|key| !record.keys.contains(key)) {
                    continue;
                }
                if events.send(Ok(event(record))).await.is_err() {
                    return;
                }
            }
            if records.is_empty() && (!request.follow || wait(&mut head, seen, &events).await.is_none()) {
                return;
            }
        }
    });
    ReceiverStream::new(stream)
}

/// Waits for a newer record; `None`: the watcher or the controller is gone.
async fn wait(
    head: &mut tokio::sync::watch::Receiver<u64>,
    seen: u64,
    events: &mpsc::Sender<Result<v1::Event, Status>>,
) -> Option<()> {
    tokio::select! {
        newer = head.wait_for(|head| *head > seen) => match newer {
            Ok(head) if *head != u64::MAX => Some(()),
            Ok(_) | Err(_) => None,
        },
        () = events.closed() => None,
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Status> {
    let read = tokio::task::spawn_blocking(read)
        .await
        .map_err(|_| Status::internal("the journal could not be read"))?;
    read.map_err(|error| Status::data_loss(Chain(&error).to_string()))
}

#[cfg(test)]
mod tests {
    use bunraku_engine::{Fact, State};
    use bunraku_store::MemoryStore;
    use tokio_stream::StreamExt;

    use super::*;
    use crate::{audit::record, clock::Clock};

    fn shared() -> Arc<Shared> {
        let clock = Clock::continuing(None);
        Arc::new(Shared::new(State::default(), Box::new(MemoryStore::new()), clock))
    }

    fn journal(shared: &Shared) {
        let environment = "production".parse().unwrap();
        let fact = Fact::EnvironmentReleased { environment, who: "root".to_owned() };
        shared.with_store(|store| store.append(vec![record(&fact, "root", 1)])).unwrap();
    }

    /// A watcher asks for the state after its stream has begun; a stream that began only when its task ran missed what
    /// came in between.
    #[tokio::test]
    async fn what_is_journalled_right_after_a_watch_began_is_not_missed() {
        let shared = shared();
        let request = v1::WatchRequest { from_now: true, follow: true, ..Default::default() };
        let mut stream = events(shared.clone(), request);

        // On this runtime's one thread, the watch's own task has not run yet.
        journal(&shared);
        shared.head.send_replace(1);

        let told = tokio::time::timeout(std::time::Duration::from_secs(10), stream.next()).await;
        let told = told.expect("the event is told").expect("the stream goes on").unwrap();
        assert_eq!(told.kind, "environment-released");
    }

    /// `bunraku deploy` heard of its deploy's end, asked, was shown the state from before it, and waited for ever.
    #[tokio::test]
    async fn a_record_is_told_only_when_the_state_has_it_too() {
        let shared = shared();
        journal(&shared);
        let told =
            async || events(shared.clone(), v1::WatchRequest::default()).collect::<Vec<_>>().await.len();
        assert_eq!(told().await, 0, "journalled, and not yet in the state");
        shared.head.send_replace(1);
        assert_eq!(told().await, 1);
    }

    #[tokio::test]
    async fn i10_the_events_of_years_are_told_only_to_who_asks_for_them() {
        let shared = shared();
        for _ in 0..5 {
            journal(&shared);
        }
        shared.head.send_replace(5);
        let told = async |after, last| {
            let request = v1::WatchRequest { after, last, ..Default::default() };
            let told: Vec<_> = events(shared.clone(), request).collect().await;
            told.into_iter().map(|event| event.unwrap().sequence).collect::<Vec<_>>()
        };
        assert_eq!(told(0, 2).await, [4, 5], "the newest");
        assert_eq!(told(0, 9).await, [1, 2, 3, 4, 5], "fewer than asked for");
        assert_eq!(told(1, 2).await, [2, 3, 4, 5], "whoever goes on misses none");
        assert_eq!(told(0, 0).await.len(), 5);
    }
}
