//! Stage: fetch, verify, generate types, and rehearse the commit. Nothing that Puppet Server reads changes.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bunraku_common::{Chain, Digest, EnvironmentName, crash, hint};
use bunraku_proto::v1::{StageFailed, Staged, stage_failed};
use bunraku_puppetserver::ServerError;
use bunraku_versions::{Fault, ForeignFile, RESOURCE_TYPES, Retained, StageError};
use tokio::runtime::Handle;
use tonic::transport::Channel;

use crate::{
    content::Packs,
    node::{Compiler, Node},
    types::{self, GenerateError},
};

/// Files found at an adoption that are named in the answer; all of them are kept.
const FOREIGN_NAMED: usize = 20;
/// What builders write about a deploy. A snapshot holds it without its times, so it always differs.
const DEPLOY_NOTES: [&str; 2] = [".r10k-deploy.json", ".g10k-deploy.json"];

/// One stage order, as far as it concerns the disk and Puppet.
#[derive(Debug)]
pub(crate) struct Stage {
    pub environment: EnvironmentName,
    pub snapshot: Digest,
    pub generate_types: bool,
    pub adopt: bool,
    /// Not empty: only kept beside what is live, in its place among these, newest first.
    pub retained: Vec<Digest>,
}

/// Ends the blocking work when the call is dropped.
pub(crate) struct CancelOnDrop(pub Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Stage {
    pub(crate) async fn run(
        &self,
        node: &Node,
        compiler: &Compiler,
        channel: Channel,
    ) -> Result<Staged, StageFailed> {
        let began = Instant::now();
        let fetched = self.fetch(node, compiler, channel).await.map_err(failed)?;
        crash::point("stage-fetched");
        let mut notes = Vec::new();
        let rehearsed = self.retained.is_empty() && {
            self.types(node, compiler).await?;
            self.foreign(compiler, &mut notes)?;
            self.rehearse(node, compiler, &mut notes).await?
        };
        crash::point("stage-rehearsed");
        Ok(Staged {
            already: fetched.already,
            fetched_bytes: fetched.fetched_bytes,
            fetched_objects: fetched.fetched_objects,
            written_files: fetched.written_files,
            from_spare: fetched.from_spare,
            rehearsed,
            note: notes.join("; "),
            took_ms: began.elapsed().as_millis() as u64,
        })
    }

    async fn fetch(
        &self,
        node: &Node,
        compiler: &Compiler,
        channel: Channel,
    ) -> Result<bunraku_versions::Staged, StageError> {
        let cancel = Arc::new(AtomicBool::new(false));
        let _ends_with_the_call = CancelOnDrop(cancel.clone());
        let (versions, environment, snapshot) =
            (compiler.versions.clone(), self.environment.clone(), self.snapshot);
        let mut packs = Packs::new(Handle::current(), channel);
        let (retained, policy, now) = (self.retained.clone(), compiler.policy(), node.now());
        let staged = tokio::task::spawn_blocking(move || {
            if retained.is_empty() {
                return versions.stage(&environment, &snapshot, &mut packs, &cancel);
            }
            let retained = Retained { newest_first: &retained, policy: &policy, now };
            versions.stage_retained(&environment, &snapshot, &retained, &mut packs, &cancel)
        });
        staged.await.unwrap_or_else(|_| {
            Err(StageError {
                fault: Fault::Node,
                reason: "the stage ended early".into(),
                hint: None,
                source: None,
            })
        })
    }

    /// `.resource_types` of the staged version: generated when types changed, else carried over from the live one.
    async fn types(&self, node: &Node, compiler: &Compiler) -> Result<(), StageFailed> {
        let version = compiler.versions.resolve(&self.environment, &self.snapshot);
        let code = &compiler.config;
        let wanted = code.generate_types && !code.no_types.contains(&self.environment);
        if !wanted || version.join(RESOURCE_TYPES).exists() {
            return Ok(());
        }
        let live = compiler.versions.live(&self.environment).filter(|live| *live != self.snapshot);
        match live {
            Some(live) if !self.generate_types => {
                let carried =
                    compiler.versions.carry_resource_types(&self.environment, &live, &self.snapshot);
                carried.map(drop).map_err(|error| node_fault(&Chain(&error).to_string(), ""))
            }
            Some(_) | None if has_types(&version) => self.generate(node, compiler, &version).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn generate(&self, node: &Node, compiler: &Compiler, version: &Path) -> Result<(), StageFailed> {
        match types::generate(node, compiler, &self.environment, version).await {
            Ok(()) => Ok(()),
            Err(error @ GenerateError::Account(_)) => Err(node_fault(&error.to_string(), "")),
            Err(error) => {
                let fault =
                    if error.is_content() { stage_failed::Fault::Content } else { stage_failed::Fault::Node };
                let otherwise = format!(
                    "mend the type, or leave it out: no_types = [\"{}\"] in the [code] table of agent.toml",
                    self.environment
                );
                Err(stage_failed(fault, &error.to_string(), &otherwise))
            }
        }
    }

    /// At a first adoption: what the directory holds and git does not, named before anything is replaced.
    fn foreign(&self, compiler: &Compiler, notes: &mut Vec<String>) -> Result<(), StageFailed> {
        if !compiler.versions.unmanaged(&self.environment) {
            return Ok(());
        }
        if !self.adopt {
            return Err(node_fault(
                &format!("a directory stands where the link of {} would be", self.environment),
                "bunraku-agent doctor tells what to do",
            ));
        }
        let mut foreign = compiler
            .versions
            .foreign_files(&self.environment, &self.snapshot)
            .map_err(|error| node_fault(&Chain(&error).to_string(), ""))?;
        foreign.retain(|file| !DEPLOY_NOTES.contains(&file.path.as_str()));
        tracing::warn!(environment = %self.environment, files = foreign.len(), "a directory will be adopted; it is kept whole");
        notes.push(adoption(&foreign));
        Ok(())
    }

    /// The new link lies ready, and everything that the commit will ask of Puppet Server was asked once.
    async fn rehearse(
        &self,
        node: &Node,
        compiler: &Compiler,
        notes: &mut Vec<String>,
    ) -> Result<bool, StageFailed> {
        compiler
            .versions
            .link_ready(&self.environment, &self.snapshot)
            .map_err(|error| node_fault(&Chain(&error).to_string(), ""))?;
        let hint = "bunraku-agent doctor, on the compiler";
        let settings =
            node.settings(compiler).await.map_err(|error| node_fault(&Chain(&error).to_string(), hint))?;
        let server = node.server(&settings).map_err(|why| node_fault(&why, hint))?;
        match server.rehearse(&settings).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_owed() => {
                notes.push(format!("not rehearsed: {}", Chain(&error)));
                Ok(false)
            }
            Err(error) => Err(node_fault(&told(&error), hint)),
        }
    }
}

/// What is told of an existing directory before a link takes its place.
fn adoption(foreign: &[ForeignFile]) -> String {
    if foreign.is_empty() {
        return "the existing directory is adopted; it holds nothing that is not in git".to_owned();
    }
    let name = |file: &ForeignFile| {
        let edited = if file.edited { " (changed by hand)" } else { "" };
        format!("{}{edited}", file.path)
    };
    let named: Vec<String> = foreign.iter().take(FOREIGN_NAMED).map(name).collect();
    let more = match foreign.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("the existing directory is adopted and kept; not in git: {}{more}", named.join(", "))
}

fn told(error: &ServerError) -> String {
    format!("the rehearsal failed: {}", Chain(error))
}

/// Whether any module has a type of its own: without one there is nothing to generate.
fn has_types(version: &Path) -> bool {
    let directories = |path: &Path| -> Vec<std::path::PathBuf> {
        std::fs::read_dir(path)
            .map(|all| all.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default()
    };
    directories(version)
        .iter()
        .flat_map(|dir| directories(dir))
        .any(|module| module.join("lib/puppet/type").is_dir())
}

fn failed(error: StageError) -> StageFailed {
    let fault = match error.fault {
        Fault::Content => stage_failed::Fault::Content,
        Fault::Node => stage_failed::Fault::Node,
    };
    let reason = Chain(&error).to_string();
    stage_failed(fault, &reason, error.hint.as_deref().unwrap_or_default())
}

/// Something that only this node lacks.
pub(crate) fn node_fault(told: &str, otherwise: &str) -> StageFailed {
    stage_failed(stage_failed::Fault::Node, told, otherwise)
}

/// With one hint: the error's own knows better than `otherwise`.
fn stage_failed(fault: stage_failed::Fault, told: &str, otherwise: &str) -> StageFailed {
    let (reason, own) = hint::split(told);
    let hint = if own.is_empty() { otherwise.to_owned() } else { own };
    StageFailed { fault: fault.into(), reason, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(number: usize, edited: bool) -> Vec<ForeignFile> {
        (0..number).map(|n| ForeignFile { path: format!("site/{n}"), edited }).collect()
    }

    #[test]
    fn what_an_adoption_finds_is_named_and_what_was_changed_by_hand_is_called_so() {
        assert!(adoption(&[]).ends_with("nothing that is not in git"));
        assert!(adoption(&files(1, false)).ends_with("not in git: site/0"));
        assert!(adoption(&files(1, true)).ends_with("site/0 (changed by hand)"));
        assert!(adoption(&files(FOREIGN_NAMED + 2, false)).ends_with("site/19 and 2 more"));
    }
}
