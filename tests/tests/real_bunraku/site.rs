//! The stack with Bunraku on it, and what the tests say about it.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use bunraku_tests::{
    installed::{Bunraku, Said},
    namespace,
    progress::Progress,
    stack::{Options, PuppetServer, Stack},
};
use serde_json::Value;

use crate::{adoption, catalog, doctor};

pub(crate) const C1: &str = "c1.stack.test";
pub(crate) const C2: &str = "c2.stack.test";
pub(crate) const COMPILERS: [&str; 2] = [C1, C2];

/// How long a Puppet Server may take to start or to reload on a loaded machine.
pub(crate) const SERVER_STARTS_WITHIN: Duration = Duration::from_secs(240);

pub(crate) struct Site {
    pub stack: Stack,
    pub bunraku: Bunraku,
    pub progress: Progress,
    /// Whether the compilers were brought into the state that Bunraku needs.
    pub mended: bool,
    /// Whether the environments are links by now.
    pub adopted: bool,
    /// Number of the newest push: the module, its file and the message name it.
    pub version: u64,
}

impl Site {
    /// Compilers as the package leaves them and as r10k fills them; a controller and an agent on each compiler.
    pub(crate) fn up(directory: &Path) -> Result<Self> {
        let progress = Progress::default();
        let stack = Stack::up(directory, &namespace::cache(), &Options::default(), &progress)?;
        for environment in ["production", "testing"] {
            stack.place_by_hand(environment)?;
        }
        let bunraku = Bunraku::install(&stack, "r10k")?;
        let mut site = Self { stack, bunraku, progress, mended: false, adopted: false, version: 1 };
        site.bunraku.start_controller()?;
        for compiler in &site.stack.compilers {
            site.bunraku.configure_compiler(compiler)?;
            site.bunraku.start_agent(compiler.name())?;
        }
        site.bunraku.wait_for_nodes(&COMPILERS.map(str::to_owned))?;
        site.progress.say("Bunraku runs, both compilers have joined");
        Ok(site)
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.bunraku.stop()?;
        self.stack.stop()
    }

    /// For tests that begin with managed environments.
    pub(crate) fn ready(&mut self) -> Result<()> {
        // A test that failed may have left one of them killed.
        self.bunraku.start_what_does_not_run(&["c1", "c2"])?;
        self.bunraku.wait_for_nodes(&COMPILERS.map(str::to_owned))?;
        if !self.mended {
            doctor::mend(self)?;
        }
        if !self.adopted {
            adoption::adopt(self)?;
        }
        Ok(())
    }

    /// A push to the control repository and to the module that names the same number in all places where code can
    /// differ: the manifest, a file with a source, and Hiera's data.
    pub(crate) fn push(&mut self) -> Result<u64> {
        self.version += 1;
        let name = format!("v{}", self.version);
        self.stack.repository.set_motd_module(&name)?;
        self.stack.repository.set_message("production", &name)?;
        Ok(self.version)
    }

    /// Deploys production, which must end live on every compiler; the deploy.
    pub(crate) fn deploy(&self) -> Result<Value> {
        let reply = self.bunraku.json(&["deploy", "production"])?;
        let deploy = reply["deploys"][0].clone();
        ensure!(deploy["phase"] == "live", "the deploy ended {}", deploy["phase"]);
        Ok(deploy)
    }

    /// The number that `host` serves.
    pub(crate) fn served_by(&self, host: &str) -> Result<u64> {
        catalog::version(&self.stack.agent("a1")?, host, "production")
    }

    pub(crate) fn ensure_served_everywhere(&self, version: u64) -> Result<()> {
        for host in COMPILERS {
            let served = self.served_by(host)?;
            ensure!(served == version, "{host} serves v{served}, not v{version}");
        }
        Ok(())
    }

    /// One compiler's row of `environments list`.
    pub(crate) fn row(&self, environment: &str, node: &str) -> Result<Value> {
        let reply = self.bunraku.json(&["environments", "list"])?;
        let found = list(&reply["environments"])?.iter().find(|e| e["name"] == environment);
        let nodes = list(&found.with_context(|| format!("no {environment}"))?["nodes"])?;
        nodes.iter().find(|n| n["node"] == node).cloned().with_context(|| format!("no {node}"))
    }

    /// One node of `nodes list`.
    pub(crate) fn node(&self, name: &str) -> Result<Value> {
        let reply = self.bunraku.json(&["nodes", "list"])?;
        let found = list(&reply["nodes"])?.iter().find(|node| node["name"] == name);
        found.cloned().with_context(|| format!("no node {name}"))
    }

    /// Reloads several compilers at once.
    pub(crate) fn reload_compilers(&mut self) -> Result<()> {
        thread::scope(|scope| {
            let reload = |compiler: &mut PuppetServer| compiler.reload(SERVER_STARTS_WITHIN);
            let compilers = self.stack.compilers.iter_mut();
            let reloads: Vec<_> = compilers.map(|compiler| scope.spawn(move || reload(compiler))).collect();
            for thread in reloads {
                thread.join().map_err(|_| anyhow::anyhow!("a reload panicked"))??;
            }
            Ok(())
        })
    }
}

/// A JSON list.
pub(crate) fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("not a list: {value}"))
}

/// A JSON text; missing is empty.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// That a command ended with this code, and said this somewhere.
pub(crate) fn ensure_said(said: &Said, code: i32, words: &[&str]) -> Result<()> {
    let all = format!("{}{}", said.out, said.err);
    ensure!(said.code == code, "ended with {}, not {code}:\n{all}", said.code);
    for word in words {
        ensure!(all.contains(word), "`{word}` was not said:\n{all}");
    }
    Ok(())
}
