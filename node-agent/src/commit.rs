//! Commit: swap the link, flush the environment cache, prove it. What Puppet Server does not answer is owed, and done
//! as soon as it answers.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bunraku_common::{Chain, Digest, EnvironmentName, Fence, crash};
use bunraku_proto::v1::CommitReply;
use bunraku_puppetserver::{PuppetServer, SwapLock};
use bunraku_versions::VersionsError;
use tonic::Status;

use crate::{
    memory::MemoryError,
    node::{Compiler, Node},
};

/// No compile learns its code id while the lock is held; those that learned it have begun to compile after this.
const SETTLE: Duration = Duration::from_millis(20);
/// `code-id` holds its lock for milliseconds.
const LOCK_DEADLINE: Duration = Duration::from_secs(5);
/// A flush marks the interpreters and answers in 40 to 230 ms (measured); the lock is not held longer for it.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// One borrowed interpreter must answer; all of them may be compiling.
const PROOF_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub environment: EnvironmentName,
    pub snapshot: Digest,
    pub fence: Fence,
}

impl Commit {
    /// Everything that is not done yet. Repeated: only what is still owed.
    pub(crate) async fn run(&self, node: &Arc<Node>, compiler: &Compiler) -> Result<CommitReply, Status> {
        let began = Instant::now();
        let _under_way = UnderWay::begin(compiler, &self.environment);
        let already = compiler.versions.live(&self.environment) == Some(self.snapshot);
        let known = node.memory().subject(&self.environment).map(|subject| (subject.owed, subject.proven));
        if already && known == Some((None, Some(self.snapshot))) {
            return Ok(CommitReply { committed: true, proven: true, took_ms: 0, ..CommitReply::default() });
        }
        if !compiler.versions.is_sealed(&self.environment, &self.snapshot) {
            return Ok(self.missing());
        }
        let (swapped_ms, flushed) = match self.swap(node, compiler).await {
            // It left between the question and this order's turn.
            Err(_) if !compiler.versions.is_sealed(&self.environment, &self.snapshot) => {
                return Ok(self.missing());
            }
            swapped => swapped?,
        };
        let owed = self.settle(node, compiler, flushed).await;
        crash::point("commit-reported");
        Ok(CommitReply {
            committed: true,
            proven: owed.is_none(),
            owed: owed.unwrap_or_default(),
            swapped_ms,
            took_ms: began.elapsed().as_millis() as u64,
            missing: false,
        })
    }

    fn missing(&self) -> CommitReply {
        let owed = format!("{} is not staged here", self.snapshot.short());
        CommitReply { missing: true, owed, ..CommitReply::default() }
    }

    /// Lock, settle, swap, flush, unlock. Answers when it swapped, and whether the flush was accepted; else it is owed.
    async fn swap(&self, node: &Arc<Node>, compiler: &Compiler) -> Result<(u64, bool), Status> {
        let path = SwapLock::path(&compiler.locks, &self.environment);
        let gate = Gate { node: node.clone(), order: self.clone(), lock: path, group: compiler.group };
        let (versions, order, now) = (compiler.versions.clone(), self.clone(), node.now());
        let swapped = blocking(move || {
            let mut failed = None;
            let swapped = versions.swap_if(&order.environment, &order.snapshot, true, now, || {
                gate.pass().unwrap_or_else(|error| {
                    failed = Some(Status::internal(Chain(&error).to_string()));
                    None
                })
            });
            swapped.map_err(|error| failed.unwrap_or_else(|| refused(&error)))
        });
        let (_, lock) = swapped.await??;
        let swapped_ms = wall_ms();
        crash::point("commit-swapped");
        let flushed = self.flush(node, compiler).await;
        crash::point("commit-flushed");
        drop(lock);
        Ok((swapped_ms, flushed.is_ok()))
    }

    async fn flush(&self, node: &Arc<Node>, compiler: &Compiler) -> Result<(), String> {
        let (server, _) = self.server(node, compiler).await?;
        let flushed = server.with_deadline(FLUSH_DEADLINE).flush(&self.environment).await;
        flushed.map_err(|error| Chain(&error).to_string())
    }

    /// Proves what is live, after a flush that was accepted (it marks every interpreter, a proof asks only one).
    /// `None`: proven. Else why it is still owed.
    pub(crate) async fn settle(
        &self,
        node: &Arc<Node>,
        compiler: &Compiler,
        flushed: bool,
    ) -> Option<String> {
        let proven = self.prove(node, compiler, flushed).await;
        crash::point("commit-proven");
        let owed = match proven {
            Err(why) => Some(why),
            Ok(()) => match node.memory().proven(&self.environment, self.fence, self.snapshot) {
                Ok(true) => None,
                Ok(false) => return Some("a newer order came before this was proven".to_owned()),
                Err(error) => Some(Chain(&error).to_string()),
            },
        };
        let news = compiler.set_owed(&self.environment, owed.clone());
        if let Some(why) = owed.as_ref().filter(|_| news) {
            tracing::warn!(environment = %self.environment, why, "flush and proof are owed");
        }
        if owed.is_none() {
            compiler.successor_is_proven(&self.environment, self.snapshot);
            compiler.committed.notify_one();
        }
        owed
    }

    async fn prove(&self, node: &Arc<Node>, compiler: &Compiler, flushed: bool) -> Result<(), String> {
        if !flushed {
            self.flush(node, compiler).await?;
        }
        let (server, version) = self.server(node, compiler).await?;
        let proven = server.with_deadline(PROOF_DEADLINE).prove(&self.environment, &version).await;
        proven.map(drop).map_err(|error| Chain(&error).to_string())
    }

    async fn server(
        &self,
        node: &Arc<Node>,
        compiler: &Compiler,
    ) -> Result<(PuppetServer, std::path::PathBuf), String> {
        let settings = node.settings(compiler).await.map_err(|error| Chain(&error).to_string())?;
        let server = node.server(&settings)?;
        Ok((server, compiler.versions.resolve(&self.environment, &self.snapshot)))
    }
}

/// While it lives, an order of this environment is being carried out.
struct UnderWay<'a> {
    compiler: &'a Compiler,
    environment: &'a EnvironmentName,
}

impl<'a> UnderWay<'a> {
    fn begin(compiler: &'a Compiler, environment: &'a EnvironmentName) -> Self {
        compiler.ordered().push(environment.clone());
        Self { compiler, environment }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut ordered = self.compiler.ordered();
        if let Some(at) = ordered.iter().position(|environment| environment == self.environment) {
            ordered.swap_remove(at);
        }
    }
}

/// What stands between a commit and its swap. Passed when it is the commit's turn, so that no compile waits for the
/// lock while another's work on the environment (a stage, healing) goes on, and so that no order that was overtaken
/// while it waited takes effect (I5).
struct Gate {
    node: Arc<Node>,
    order: Commit,
    lock: PathBuf,
    group: Option<u32>,
}

impl Gate {
    /// `None`: a newer order has come.
    fn pass(self) -> Result<Option<Option<SwapLock>>, MemoryError> {
        let Commit { environment, snapshot, fence } = &self.order;
        // Save, then act: after a crash the flush is still owed.
        if !self.node.memory().owe(environment, *fence, *snapshot)? {
            return Ok(None);
        }
        crash::point("commit-owed");
        let lock = match SwapLock::exclusive(&self.lock, self.group, LOCK_DEADLINE) {
            Ok(lock) => Some(lock),
            Err(error) => {
                // Compiles must not hold up a deploy for ever: the swap is atomic without the lock, too.
                tracing::warn!(error = %Chain(&error), "the swap goes on without the lock");
                None
            }
        };
        std::thread::sleep(SETTLE);
        Ok(self.node.memory().is_newest(environment, *fence).then_some(lock))
    }
}

fn refused(error: &VersionsError) -> Status {
    let reason = Chain(error).to_string();
    if matches!(error, VersionsError::Overtaken { .. }) {
        Status::aborted(reason)
    } else {
        Status::failed_precondition(reason)
    }
}

impl Compiler {
    /// Whether an order is at work on this environment. It flushes by itself, and each flush costs every interpreter
    /// a new load of the environment.
    pub(crate) fn is_ordered(&self, environment: &EnvironmentName) -> bool {
        self.ordered().contains(environment)
    }

    fn ordered(&self) -> std::sync::MutexGuard<'_, Vec<EnvironmentName>> {
        self.ordered.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From now on the longest compile counts until an older version may be recycled.
    fn successor_is_proven(&self, environment: &EnvironmentName, proven: Digest) {
        let now = Instant::now();
        let mut left = self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        left.remove(&(environment.clone(), proven));
        for older in self.versions.list(environment).into_iter().filter(|digest| *digest != proven) {
            left.entry((environment.clone(), older)).or_insert(now);
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Status::internal("the work ended early"))
}

pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
