//! The service `Content`: streams to a node what it lacks of a snapshot that it was ordered to have.

use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bunraku_builder::ObjectStore;
use bunraku_common::{Digest, NodeName, limits};
use bunraku_proto::v1::{PackChunk, PackRequest, content_server::Content};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::{
    caller,
    outgoing::{Outgoing, PackFailed},
};
use crate::driver::Shared;

/// Chunks that wait between the packer and a slow node: bounds what one stream holds to half a MiB and the packer's
/// own two.
const CHUNKS_AHEAD: usize = 8;
/// Packs of one node under way at once; more wait. What they hold in memory must stay bounded however slowly they are
/// read (T15).
const PACKS_PER_NODE: usize = 16;
/// A chunk that is not taken within this ends the pack: half a KiB a second is less than any link that is one.
const CHUNK_PATIENCE: Duration = Duration::from_secs(120);
/// The same while others wait for a place: 6 KiB a second. A pack that broke off is resumed where it was.
const CROWDED_PATIENCE: Duration = Duration::from_secs(10);
/// A node that waits for its place hears so often that it is not forgotten; it gives up after 30 s of silence.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct ContentService {
    store: Arc<ObjectStore>,
    shared: Arc<Shared>,
    /// One entry for each node that ever asked.
    turns: Mutex<BTreeMap<NodeName, Arc<Semaphore>>>,
    /// Places of all nodes together, given in the order of asking.
    places: Arc<Semaphore>,
}

impl ContentService {
    pub(crate) fn new(store: Arc<ObjectStore>, shared: Arc<Shared>) -> Self {
        Self { store, shared, turns: Mutex::default(), places: Arc::new(Semaphore::new(limits::PACKS)) }
    }

    fn turns_of(&self, node: &NodeName) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(node.clone()).or_insert_with(|| Arc::new(Semaphore::new(PACKS_PER_NODE))).clone()
    }
}

#[tonic::async_trait]
impl Content for ContentService {
    type PackStream = Pin<Box<dyn Stream<Item = Result<PackChunk, Status>> + Send>>;

    async fn pack(&self, request: Request<PackRequest>) -> Result<Response<Self::PackStream>, Status> {
        let node = caller::node(&request)?;
        let PackRequest { want, have, after } = request.into_inner();
        let want = digest(&want)?;
        if !self.shared.state().may_fetch(&node, &want) {
            return Err(Status::permission_denied(format!(
                "{node} was not ordered to have {}",
                want.short()
            )));
        }
        if have.len() > limits::HAVES {
            return Err(Status::invalid_argument(format!(
                "`have` names more than {} snapshots",
                limits::HAVES
            )));
        }
        let have = have.iter().map(|text| digest(text)).collect::<Result<Vec<_>, _>>()?;
        let after = if after.is_empty() { None } else { Some(digest(&after)?) };
        let turn = self.turns_of(&node).acquire_owned().await;
        let turn = turn.map_err(|_| Status::internal("packs are closed"))?;
        let (chunks, stream) = mpsc::channel(CHUNKS_AHEAD);
        let (store, places) = (self.store.clone(), self.places.clone());
        tokio::spawn(async move {
            let _turn = turn;
            let Some(_place) = place(&places, &chunks).await else { return };
            let begun = blocking(move || Outgoing::begin(store, &want, &have, after)).await;
            if let Err(failed) = hand_over(begun, &chunks, &places).await {
                tracing::warn!(%node, snapshot = %want.short(), reason = failed.message(), "pack broke off");
                let _receiver_gone = timeout(CHUNK_PATIENCE, chunks.send(Err(failed))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Waits for a place. The node hears an empty chunk now and then meanwhile; None: it does not wait any more.
async fn place(
    places: &Arc<Semaphore>,
    to: &mpsc::Sender<Result<PackChunk, Status>>,
) -> Option<OwnedSemaphorePermit> {
    let mut place = pin!(places.clone().acquire_owned());
    loop {
        tokio::select! {
            place = &mut place => return place.ok(),
            () = to.closed() => return None,
            () = sleep(SIGN_OF_LIFE) => {
                // One that was not taken yet serves as well.
                let _full = to.try_send(Ok(PackChunk::default()));
            }
        }
    }
}

/// Makes chunk after chunk as fast as they are taken.
async fn hand_over(
    begun: Result<Outgoing, Status>,
    to: &mpsc::Sender<Result<PackChunk, Status>>,
    places: &Semaphore,
) -> Result<(), Status> {
    let mut outgoing = begun?;
    loop {
        let (data, rest) = blocking(move || outgoing.next_chunk().map(|data| (data, outgoing))).await?;
        outgoing = rest;
        if data.is_empty() {
            return Ok(());
        }
        let patience = if places.available_permits() == 0 { CROWDED_PATIENCE } else { CHUNK_PATIENCE };
        match timeout(patience, to.send(Ok(PackChunk { data }))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Status::cancelled("the node closed the stream")),
            Err(_) => return Err(Status::cancelled("the node does not read any more")),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PackFailed> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Status::internal("the pack ended early"))?.map_err(Status::from)
}

fn digest(text: &str) -> Result<Digest, Status> {
    text.parse()
        .map_err(|error: bunraku_common::digest::NotADigest| Status::invalid_argument(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn i10_ten_thousand_nodes_that_ask_at_once_get_their_places_in_the_order_of_asking() {
        let (places, served) =
            (Arc::new(Semaphore::new(limits::PACKS)), Arc::new(Mutex::new((0, Vec::new()))));
        let all: Vec<_> = (0..10_000)
            .map(|number| {
                let (places, served) = (places.clone(), served.clone());
                tokio::spawn(async move {
                    let (chunks, _stream) = mpsc::channel(CHUNKS_AHEAD);
                    let place = place(&places, &chunks).await.unwrap();
                    {
                        let mut served = served.lock().unwrap();
                        served.0 = served.0.max(limits::PACKS - places.available_permits());
                        served.1.push(number);
                    }
                    tokio::task::yield_now().await;
                    drop(place);
                })
            })
            .collect();
        for one in all {
            one.await.unwrap();
        }
        let (most, order) = &*served.lock().unwrap();
        assert!(*most <= limits::PACKS && *most > 1, "{most} at once");
        assert_eq!(order, &(0..10_000).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn i10_who_waits_for_a_pack_hears_so_and_who_gave_up_holds_nobody_up() {
        let places = Arc::new(Semaphore::new(1));
        let taken = places.clone().acquire_owned().await.unwrap();
        let wait = |chunks: mpsc::Sender<_>| {
            let places = places.clone();
            tokio::spawn(async move { place(&places, &chunks).await })
        };
        let ((one, mut first), (two, second)) = (mpsc::channel(CHUNKS_AHEAD), mpsc::channel(CHUNKS_AHEAD));
        let (gave_up, waits) = (wait(two), wait(one));
        drop(second);
        assert!(gave_up.await.unwrap().is_none());
        for _ in 0..20 {
            assert_eq!(first.recv().await.unwrap().unwrap().data, Vec::<u8>::new());
        }
        drop(taken);
        assert!(waits.await.unwrap().is_some());
    }
}
