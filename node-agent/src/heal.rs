//! Heal: what was changed by hand below the live link, or at the link itself, is made again what was committed.

use std::sync::{Arc, atomic::AtomicBool};

use bunraku_common::{Chain, EnvironmentName, Fence};
use bunraku_proto::v1::HealReply;
use bunraku_versions::VersionsError;
use tokio::runtime::Handle;
use tonic::{Status, transport::Channel};

use crate::{
    commit::Commit,
    content::Packs,
    node::{Compiler, Node},
    stage::CancelOnDrop,
};

/// One heal order.
#[derive(Debug)]
pub(crate) struct Heal {
    pub environment: EnvironmentName,
    pub fence: Fence,
}

impl Heal {
    pub(crate) async fn run(
        &self,
        node: &Arc<Node>,
        compiler: &Compiler,
        channel: Channel,
    ) -> Result<HealReply, Status> {
        let link = self.link(node, compiler).await?;
        let cancel = Arc::new(AtomicBool::new(false));
        let _ends_with_the_call = CancelOnDrop(cancel.clone());
        let (environment, fence) = (self.environment.clone(), self.fence);
        let (versions, node) = (compiler.versions.clone(), node.clone());
        let healed = tokio::task::spawn_blocking(move || {
            let mut packs = Packs::new(Handle::current(), channel);
            let still = || node.memory().is_newest(&environment, fence);
            versions.heal(&environment, &mut packs, &cancel, still)
        });
        match healed.await {
            Ok(Ok(healed)) => Ok(HealReply {
                mended: link.into_iter().chain(healed.mended).collect(),
                checked_files: healed.checked_files,
            }),
            Ok(Err(error @ VersionsError::Overtaken { .. })) => Err(Status::aborted(error.to_string())),
            Ok(Err(error)) => Err(Status::failed_precondition(Chain(&error).to_string())),
            Err(_) => Err(Status::internal("healing ended early")),
        }
    }

    /// A relative link to what was committed here becomes what a commit makes it: the same swap, flush and proof. To
    /// any other version it is left alone, and named: only a controller commits. The answer is the link that was mended.
    async fn link(&self, node: &Arc<Node>, compiler: &Compiler) -> Result<Option<String>, Status> {
        let Some(snapshot) = compiler.versions.relative_link(&self.environment) else { return Ok(None) };
        let committed = node
            .memory()
            .subject(&self.environment)
            .is_some_and(|subject| subject.owed.or(subject.proven) == Some(snapshot));
        if !committed {
            return Ok(None);
        }
        let commit = Commit { environment: self.environment.clone(), snapshot, fence: self.fence };
        // A swap must not stop half way because the call was dropped.
        let node = node.clone();
        let done = tokio::spawn(async move {
            let compiler = node.compiler.as_ref().ok_or_else(|| Status::internal("no code is granted"))?;
            commit.run(&node, compiler).await
        });
        done.await.unwrap_or_else(|_| Err(Status::internal("the commit ended early")))?;
        let link = compiler.versions.layout().environments_dir.join(self.environment.as_str());
        tracing::warn!(environment = %self.environment, "a relative live link was made absolute");
        Ok(Some(link.display().to_string()))
    }
}
