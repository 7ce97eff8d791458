//! The service `Content`: streams to a node what it lacks of a snapshot that it was ordered to have.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bunraku_builder::ObjectStore;
use bunraku_common::{Digest, NodeName, limits};
use bunraku_proto::v1::{PackChunk, PackRequest, content_server::Content};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
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

#[derive(Debug)]
pub(crate) struct ContentService {
    store: Arc<ObjectStore>,
    shared: Arc<Shared>,
    /// One entry for each node that ever asked.
    turns: Mutex<BTreeMap<NodeName, Arc<Semaphore>>>,
}

impl ContentService {
    pub(crate) fn new(store: Arc<ObjectStore>, shared: Arc<Shared>) -> Self {
        Self { store, shared, turns: Mutex::default() }
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
        let store = self.store.clone();
        tokio::spawn(async move {
            let _turn = turn;
            let begun = blocking(move || Outgoing::begin(store, &want, &have, after)).await;
            if let Err(failed) = hand_over(begun, &chunks).await {
                tracing::warn!(%node, snapshot = %want.short(), reason = failed.message(), "pack broke off");
                let _receiver_gone = timeout(CHUNK_PATIENCE, chunks.send(Err(failed))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Makes chunk after chunk as fast as they are taken.
async fn hand_over(
    begun: Result<Outgoing, Status>,
    to: &mpsc::Sender<Result<PackChunk, Status>>,
) -> Result<(), Status> {
    let mut outgoing = begun?;
    loop {
        let (data, rest) = blocking(move || outgoing.next_chunk().map(|data| (data, outgoing))).await?;
        outgoing = rest;
        if data.is_empty() {
            return Ok(());
        }
        match timeout(CHUNK_PATIENCE, to.send(Ok(PackChunk { data }))).await {
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
