//! The load of a site: Puppet agents that ask for catalogs through the balancer all the while, some of them slow ones, and
//! real agent runs. It counts what failed, and looks at HAProxy's own statistics to see who was in service.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    process::wait_for,
    progress::Progress,
    stack::{BALANCER_NAME, ServerState, Stack},
};

/// Agents that ask for small catalogs, each this often: ten a second together.
const QUICK: usize = 2;
const PAUSE: Duration = Duration::from_millis(200);
/// How long a slow catalog takes.
const SLOW_SECONDS: u64 = 5;
/// Several slow catalogs, on a loaded machine.
const WARM_WITHIN: Duration = Duration::from_secs(120);
const BETWEEN_RUNS: Duration = Duration::from_secs(3);
/// Statistics are looked at this often.
const LOOK: Duration = Duration::from_millis(20);

/// A catalog that was answered.
#[derive(Clone, Debug)]
pub struct Answered {
    pub began: Instant,
    pub ended: Instant,
    /// Who compiled it.
    pub compiler: String,
    pub slow: bool,
}

/// What came of the load.
#[derive(Clone, Debug)]
pub struct Counted {
    pub answered: Vec<Answered>,
    pub failed: Vec<String>,
    /// Real agent runs that succeeded.
    pub runs: usize,
    /// The least number of compilers that HAProxy showed UP at any look, and how many looks there were.
    pub fewest: usize,
    pub looks: usize,
    /// When each compiler, by its name in the balancer, was first seen not UP.
    pub left: BTreeMap<String, Instant>,
}

impl Counted {
    /// Whether a slow catalog was being compiled on the compiler when it was taken out.
    pub fn was_busy_when_it_left(&self, name: &str, certname: &str) -> bool {
        let Some(left) = self.left.get(name) else { return false };
        let under_way =
            |it: &&Answered| it.slow && it.compiler == certname && it.began < *left && *left < it.ended;
        self.answered.iter().any(|it| under_way(&it))
    }
}

impl Counted {
    /// Says what came of it, and fails when an agent noticed anything, or when this load could not have shown it.
    pub fn ensure_nobody_noticed(&self, what: &str, stack: &Stack, progress: &Progress) -> Result<()> {
        self.report(what, progress);
        ensure!(self.failed.is_empty(), "{what}: {:#?}", self.failed);
        ensure!(self.fewest == 1, "I3: {} compilers were in service at the least", self.fewest);
        ensure!(self.looks > 100 && self.runs > 0, "{} looks, {} runs", self.looks, self.runs);
        for compiler in &stack.compilers {
            ensure!(
                self.was_busy_when_it_left(compiler.name(), &compiler.certname()),
                "{} had no slow catalog under way when its turn came",
                compiler.name()
            );
        }
        Ok(())
    }

    pub fn report(&self, what: &str, progress: &Progress) {
        progress.say(format_args!(
            "{what}: {} catalogs answered, {} agent runs, {} failed; at least {} in service in {} looks",
            self.answered.len(),
            self.runs,
            self.failed.len(),
            self.fewest,
            self.looks
        ));
    }
}

/// A load that goes on.
#[derive(Debug)]
pub struct Load<'a> {
    stack: &'a Stack,
    counted: &'a Mutex<Counted>,
}

impl Load<'_> {
    /// Waits until every compiler has answered a slow catalog: whoever asked for it asks at once for the next one.
    pub fn wait_until_all_are_busy(&self) -> Result<()> {
        wait_for("a slow catalog of each compiler", WARM_WITHIN, || {
            let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            let busy =
                |certname: String| counted.answered.iter().any(|it| it.slow && it.compiler == certname);
            let all = self.stack.compilers.iter().all(|compiler| busy(compiler.certname()));
            Ok(all.then_some(()))
        })
    }
}

/// Lets a catalog take as long as the fact `slow` says: what [`under_load`] needs in the control repository.
pub fn allow_slow_catalogs(stack: &Stack, environment: &str) -> Result<()> {
    let function = b"# Waits, as a compile with much to do.
Puppet::Functions.create_function(:'slow::wait') do
  dispatch :wait do
    param 'Numeric', :seconds
  end

  def wait(seconds)
    sleep(seconds)
    seconds
  end
end
";
    let path = "site/slow/lib/puppet/functions/slow/wait.rb";
    stack.repository.add_file(environment, path, function)?;
    let manifest = b"if $facts['slow'] {\n  $waited = slow::wait(Numeric($facts['slow']))\n}\n";
    stack.repository.add_file(environment, "manifests/slow.pp", manifest).map(drop)
}

/// Keeps the load up while `during` lasts; so many agents ask for slow catalogs, one after the other without a pause.
pub fn under_load<T>(
    stack: &Stack,
    slow: usize,
    during: impl FnOnce(&Load<'_>) -> Result<T>,
) -> Result<(Counted, T)> {
    let stop = AtomicBool::new(false);
    let counted = Mutex::new(Counted {
        answered: Vec::new(),
        failed: Vec::new(),
        runs: 0,
        fewest: usize::MAX,
        looks: 0,
        left: BTreeMap::new(),
    });
    let count = |change: &dyn Fn(&mut Counted)| {
        change(&mut counted.lock().unwrap_or_else(PoisonError::into_inner));
    };
    let agent = stack.agent("a1")?;
    let goes_on = || !stop.load(Ordering::Relaxed);
    let ask = |slow: bool| {
        while goes_on() {
            let facts = if slow { json!({ "slow": SLOW_SECONDS }) } else { json!({}) };
            let began = Instant::now();
            let catalog = agent.catalog_with(BALANCER_NAME, "production", facts);
            let ended = Instant::now();
            match catalog.and_then(|catalog| compiler_of(&catalog)) {
                Ok(compiler) => {
                    let answered = Answered { began, ended, compiler, slow };
                    count(&|counted| counted.answered.push(answered.clone()));
                }
                Err(error) => count(&|counted| counted.failed.push(format!("{error:#}"))),
            }
            if !slow {
                thread::sleep(PAUSE.saturating_sub(began.elapsed()));
            }
        }
    };
    let run = || {
        while goes_on() {
            match stack.agent_run("a2") {
                Ok(run) if run.succeeded() => count(&|counted| counted.runs += 1),
                Ok(run) => count(&|counted| {
                    counted.failed.push(format!("puppet agent ended with {}: {}", run.exit, run.output));
                }),
                Err(error) => count(&|counted| counted.failed.push(format!("{error:#}"))),
            }
            let until = Instant::now() + BETWEEN_RUNS;
            while goes_on() && Instant::now() < until {
                thread::sleep(LOOK);
            }
        }
    };
    let look = || {
        while goes_on() {
            if let Ok(servers) = stack.balancer.servers() {
                count(&|counted| {
                    let up = servers.iter().filter(|server| is_up(server)).count();
                    counted.fewest = counted.fewest.min(up);
                    counted.looks += 1;
                    for server in servers.iter().filter(|server| !is_up(server)) {
                        counted.left.entry(server.name.clone()).or_insert_with(Instant::now);
                    }
                });
            }
            thread::sleep(LOOK);
        }
    };
    let done = thread::scope(|scope| {
        for _ in 0..QUICK {
            scope.spawn(|| ask(false));
        }
        for _ in 0..slow {
            scope.spawn(|| ask(true));
        }
        scope.spawn(run);
        scope.spawn(look);
        let done = during(&Load { stack, counted: &counted });
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    Ok((counted.into_inner().unwrap_or_else(PoisonError::into_inner), done))
}

/// `UP 1/3`, too: a check has failed, and it is served still.
fn is_up(server: &ServerState) -> bool {
    server.status.starts_with("UP")
}

/// Every catalog of the stack's control repository names its compiler.
fn compiler_of(catalog: &Value) -> Result<String> {
    let text = catalog.to_string();
    let (_, after) = text.split_once("compiler=").context("the catalog does not name its compiler")?;
    Ok(after.chars().take_while(|character| !character.is_whitespace()).collect())
}
