//! The stack with a controller and three agents, and what `bunraku crl status` says of it.

use std::{path::Path, thread::JoinHandle, time::Duration};

use anyhow::{Context, Result, ensure};
use bunraku_common::NodeName;
use bunraku_puppet_ca::PuppetCa;
use bunraku_tests::{
    installed::Bunraku,
    namespace,
    process::wait_for,
    progress::Progress,
    stack::{BALANCER_NAME, Options, PuppetServer, Setup, Stack},
    visitor::Visitor,
};
use serde_json::Value;

pub(crate) const C1: &str = "c1.stack.test";
pub(crate) const C2: &str = "c2.stack.test";
pub(crate) const COMPILERS: [&str; 2] = [C1, C2];
pub(crate) const DOORS: [&str; 3] = [C1, C2, BALANCER_NAME];

/// On a loaded machine, with every wait between two attempts.
pub(crate) const WITHIN: Duration = Duration::from_secs(90);
pub(crate) const SERVER_STARTS_WITHIN: Duration = Duration::from_secs(240);

pub(crate) struct Site {
    pub stack: Stack,
    pub bunraku: Bunraku,
    pub progress: Progress,
    proof: bool,
    lb: String,
    visitors: usize,
    /// How long after its last answer each connection from before ended.
    pub open: Vec<(String, JoinHandle<Result<Duration>>)>,
}

impl Site {
    /// The controller does not prove anything yet.
    pub(crate) fn up(directory: &Path) -> Result<Self> {
        let progress = Progress::default();
        let options = Options { setup: Setup::Prepared, ..Options::default() };
        let stack = Stack::up(directory, &namespace::cache(), &options, &progress)?;
        stack.place_by_hand("production")?;
        stack.compilers.iter().try_for_each(PuppetServer::flush)?;
        let mut bunraku = Bunraku::install(&stack, "r10k")?;
        bunraku.configure_controller("crl", "proof", false)?;
        bunraku.configure_controller("crl", "drain_after_s", 3)?;
        bunraku.start_controller()?;
        for compiler in &stack.compilers {
            bunraku.configure_compiler(compiler)?;
            bunraku.start_agent(compiler.name())?;
        }
        let lb = bunraku.join_balancer(&stack)?;
        let (visitors, open) = (0, Vec::new());
        let site = Self { stack, bunraku, progress, proof: false, lb, visitors, open };
        site.wait_for_nodes()?;
        Ok(site)
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.bunraku.stop()?;
        self.stack.stop()
    }

    fn wait_for_nodes(&self) -> Result<()> {
        self.bunraku.wait_for_nodes(&[C1.to_owned(), C2.to_owned(), self.lb.clone()])
    }

    /// Everything runs, everything is proven, and two canaries are ready.
    pub(crate) fn ready(&mut self) -> Result<()> {
        if !self.proof {
            self.bunraku.stop_controller()?;
            self.bunraku.configure_controller("crl", "proof", true)?;
            self.proof = true;
        }
        self.bunraku.start_what_does_not_run(&["c1", "c2"])?;
        self.wait_for_nodes()?;
        self.until_quiet()
    }

    pub(crate) fn status(&self) -> Result<Value> {
        self.bunraku.json(&["crl", "status"])
    }

    pub(crate) fn row(&self, node: &str) -> Result<Value> {
        let status = self.status()?;
        let found = status["nodes"].as_array().into_iter().flatten().find(|row| row["node"] == node);
        found.cloned().with_context(|| format!("no {node} in {status}"))
    }

    /// Of a compiler.
    pub(crate) fn until(&self, node: &str, state: &str) -> Result<Value> {
        wait_for(&format!("{node} to be {state}"), WITHIN, || {
            let row = self.row(node)?;
            Ok((row["state"] == state).then_some(row))
        })
        .with_context(|| self.told())
    }

    /// Every compiler is proven, and has what the CA's file holds now.
    pub(crate) fn until_proven(&self) -> Result<Value> {
        wait_for("every compiler to be proven", WITHIN, || {
            let status = self.status()?;
            let number = self.stack.main.crl()?.0.to_string();
            let rows: Vec<&Value> = status["nodes"].as_array().into_iter().flatten().collect();
            let proven = rows.iter().all(|row| row["state"] == "proven" && row["number"] == number.as_str());
            Ok((proven && rows.len() == COMPILERS.len()).then(|| status.clone()))
        })
        .with_context(|| self.told())
    }

    /// And nothing is left to do.
    pub(crate) fn until_quiet(&self) -> Result<()> {
        self.until_proven()?;
        wait_for("the canaries of the next changes", WITHIN, || {
            let status = self.status()?;
            Ok((status["canaries"] == 2 && status["trouble"] == "").then_some(()))
        })
        .with_context(|| self.told())
    }

    fn told(&self) -> String {
        match self.bunraku.ask(&["crl", "status"]) {
            Ok(said) => format!("{}{}", said.out, said.err),
            Err(error) => format!("{error:#}"),
        }
    }

    pub(crate) fn alarms(&self) -> Result<String> {
        Ok(self.bunraku.json(&["status"])?["alarms"].to_string())
    }

    pub(crate) fn until_alarm(&self, words: &str) -> Result<()> {
        wait_for(&format!("an alarm: {words}"), WITHIN, || Ok(self.alarms()?.contains(words).then_some(())))
            .with_context(|| self.told())
    }

    /// Stable names of the records, the oldest first.
    pub(crate) fn kinds(&self) -> Result<Vec<String>> {
        let reply = self.bunraku.json(&["audit", "list", "--limit", "100000"])?;
        let records = reply["records"].as_array().context("no records")?;
        let mut records: Vec<_> = records.iter().collect();
        records.sort_by_key(|record| record["sequence"].as_u64());
        Ok(records.iter().filter_map(|record| record["kind"].as_str().map(str::to_owned)).collect())
    }

    pub(crate) fn count(&self, kind: &str) -> Result<usize> {
        Ok(self.kinds()?.iter().filter(|known| *known == kind).count())
    }

    pub(crate) fn ca(&self) -> PuppetCa {
        PuppetCa::new(self.stack.main.ca_config())
    }

    /// Somebody whom the CA has signed, and every compiler lets in.
    pub(crate) fn visitor(&mut self) -> Result<(NodeName, Visitor)> {
        self.visitors += 1;
        let name = NodeName::parse(&format!("visitor{}.stack.test", self.visitors))?;
        let visitor = wait(self.stack.main.sign_visitor(&name))?;
        for host in COMPILERS {
            visitor.visit(host).with_context(|| format!("{host} does not let {name} in"))?;
        }
        Ok((name, visitor))
    }

    /// What `puppetserver ca revoke` does, too, in a fraction of the time.
    pub(crate) fn revoke(&self, name: &NodeName) -> Result<()> {
        let before = self.stack.main.crl()?;
        wait(async { Ok(self.ca().revoke(name).await?) })?;
        ensure!(self.stack.main.crl()? != before, "the CA did not write its CRL");
        Ok(())
    }
}

pub(crate) fn wait<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// Whole milliseconds between two instants of one clock.
pub(crate) fn after(later: std::time::SystemTime, earlier: std::time::SystemTime) -> u128 {
    later.duration_since(earlier).map_or(0, |since| since.as_millis())
}
