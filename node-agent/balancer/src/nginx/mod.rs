//! nginx's `stream` module, without its commercial parts: a file of ours holds the upstreams, a change is a reload.
//!
//! What the running nginx has loaded it says itself, through a server in the same file. How many sessions it carries it
//! does not say: the compiler's own count decides.

mod health;
mod include;

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bunraku_common::{Chain, NodeName};
use futures_util::future::{BoxFuture, join_all};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, interval, sleep, timeout},
};

use self::{
    health::Checked,
    include::{Frame, Mark, Marks},
};
use crate::{
    command,
    config::{BalancerConfig, NginxConfig},
    driver::{Admin, Driver, Health, Observed, Server, Trouble, Wanted},
    file,
    name::ServerName,
};

/// nginx reads its configuration and its certificates.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(20);
/// New workers start in milliseconds.
const RELOAD_DEADLINE: Duration = Duration::from_secs(10);
const PROBE_DEADLINE: Duration = Duration::from_secs(3);
/// Old workers may take a few more connections while the new ones start already.
const ANSWERS_IN_A_ROW: usize = 3;
/// Each reload leaves workers behind that live as long as their sessions.
const HEALTH_RELOADS_APART: Duration = Duration::from_secs(5);

/// nginx on this host.
#[derive(Debug)]
pub struct Nginx {
    config: NginxConfig,
    frame: Frame,
    compilers: BTreeMap<ServerName, NodeName>,
    checked: Mutex<BTreeMap<ServerName, Checked>>,
    /// One reload at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Nginx {
    /// The configuration was checked.
    pub(crate) fn new(config: &BalancerConfig) -> Self {
        let owners = config.compilers.iter();
        let compilers: BTreeMap<_, _> =
            owners.flat_map(|(node, names)| names.iter().map(|name| (name.clone(), node.clone()))).collect();
        let nginx = config.nginx.clone();
        let frame = Frame {
            servers: nginx.servers.clone(),
            balance: nginx.balance.clone(),
            parameters: nginx.parameters.clone(),
            probe: nginx.probe,
        };
        Self {
            config: nginx,
            frame,
            compilers,
            checked: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    fn checked(&self) -> MutexGuard<'_, BTreeMap<ServerName, Checked>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn who(&self) -> String {
        format!("nginx at {}", self.frame.probe)
    }

    /// What the running nginx has loaded.
    async fn loaded(&self) -> Result<Marks, Trouble> {
        let asked = async {
            let mut text = String::new();
            let stream = TcpStream::connect(self.frame.probe).await?;
            stream.take(1 << 20).read_to_string(&mut text).await?;
            Ok(text)
        };
        let silent = |_| Trouble::Silent { who: self.who(), seconds: PROBE_DEADLINE.as_secs() };
        let said = timeout(PROBE_DEADLINE, asked).await.map_err(silent)?;
        let said = said.map_err(|error: io::Error| Trouble::Io {
            doing: format!(
                "ask {} which configuration it runs (hint: `include {};` belongs into its stream block)",
                self.who(),
                self.config.include.display()
            ),
            source: error,
        })?;
        let why = || format!("`{}`", said.chars().take(80).flat_map(char::escape_debug).collect::<String>());
        include::heard(&said).ok_or_else(|| Trouble::Garbled { who: self.who(), why: why() })
    }

    /// What the file says, without servers that are no longer configured.
    async fn file(&self) -> Result<(Option<String>, Marks), Trouble> {
        let text = match tokio::fs::read_to_string(&self.config.include).await {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Trouble::io(format!("read {}", self.config.include.display()))(error)),
        };
        let known = text.as_deref().map(include::marks).unwrap_or_default();
        let mark = |name: &ServerName| (name.clone(), known.get(name).copied().unwrap_or(Mark::Ready));
        let marks = self.frame.servers.keys().map(mark).collect();
        Ok((text, marks))
    }

    /// Writes the file, has it tested, loaded, and shown by the running nginx. A file that nginx refuses is put back.
    async fn apply(&self, change: impl FnOnce(&mut Marks)) -> Result<(), Trouble> {
        let _turn = self.turn.lock().await;
        let (before, mut marks) = self.file().await?;
        change(&mut marks);
        let marks = health::marked(&marks, &self.checked());
        let text = self.frame.render(&marks);
        let written = before.as_deref() == Some(&text);
        if written && self.loaded().await.is_ok_and(|loaded| loaded == marks) {
            return Ok(());
        }
        if !written {
            self.write(&text).await?;
        }
        if let Err(refused) = self.nginx(&["-t", "-q"]).await {
            if let Some(before) = before.filter(|_| !written) {
                self.write(&before).await?;
            }
            return Err(refused);
        }
        self.nginx(&["-s", "reload"]).await?;
        self.until_loaded(&marks).await
    }

    async fn until_loaded(&self, marks: &Marks) -> Result<(), Trouble> {
        let deadline = Instant::now() + RELOAD_DEADLINE;
        let mut in_a_row = 0;
        while in_a_row < ANSWERS_IN_A_ROW {
            let loaded = self.loaded().await;
            in_a_row = if loaded.as_ref().is_ok_and(|loaded| loaded == marks) { in_a_row + 1 } else { 0 };
            if Instant::now() > deadline {
                let shown = loaded.map(|loaded| self.frame.said(&loaded))?;
                return Err(Trouble::Unconfirmed { who: self.who(), wanted: "to reload", shown });
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn nginx(&self, words: &[&str]) -> Result<(), Trouble> {
        let arguments: Vec<&str> =
            self.config.arguments.iter().map(String::as_str).chain(words.iter().copied()).collect();
        let said = command::run(&self.config.program, &arguments, &[], PROGRAM_DEADLINE).await?;
        if said.success {
            return Ok(());
        }
        let command = format!("{} {}", self.config.program.display(), words.join(" "));
        Err(Trouble::Refused { who: "nginx".into(), command, answer: said.complaint })
    }

    async fn write(&self, text: &str) -> Result<(), Trouble> {
        file::replace(self.config.include.clone(), text.to_owned()).await
    }

    /// Every server's status, side by side.
    async fn check(&self) -> Result<(), Trouble> {
        let client = health::client(&self.config.ca)?;
        let checks = self.frame.servers.iter().filter_map(|(name, address)| {
            let compiler = self.compilers.get(name)?;
            let client = &client;
            Some(async move { (name.clone(), health::is_well(client, *address, compiler).await) })
        });
        for (name, good) in join_all(checks).await {
            let mut checked = self.checked();
            let server = checked.entry(name.clone()).or_default();
            let after = server.after(good, self.config.fall, self.config.rise);
            if after.health != server.health {
                tracing::warn!(server = %name, health = after.health.as_str(), "health changed");
            }
            *server = after;
        }
        Ok(())
    }

    /// Without the file nginx does not start.
    async fn lay(&self) -> Result<(), Trouble> {
        let _turn = self.turn.lock().await;
        match self.file().await? {
            (None, marks) => self.write(&self.frame.render(&marks)).await,
            (Some(_), _) => Ok(()),
        }
    }

    async fn check_for_ever(&self) {
        let mut ticks = interval(Duration::from_secs(self.config.check_every_s.max(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = String::new();
        let mut reloaded: Option<Instant> = None;
        loop {
            ticks.tick().await;
            let outcome = async {
                self.lay().await?;
                self.check().await?;
                self.follow_health(&mut reloaded).await
            };
            let outcome = outcome.await;
            let trouble = outcome.err().map(|trouble| Chain(&trouble).to_string()).unwrap_or_default();
            if !trouble.is_empty() && trouble != told {
                tracing::warn!("{trouble}");
            }
            told = trouble;
        }
    }

    async fn follow_health(&self, reloaded: &mut Option<Instant>) -> Result<(), Trouble> {
        let (_, marks) = self.file().await?;
        let due = health::marked(&marks, &self.checked()) != marks;
        if !due || reloaded.is_some_and(|at| at.elapsed() < HEALTH_RELOADS_APART) {
            return Ok(());
        }
        *reloaded = Some(Instant::now());
        self.apply(|_| ()).await
    }
}

impl Driver for Nginx {
    fn kind(&self) -> &'static str {
        "nginx"
    }

    fn observe(&self) -> BoxFuture<'_, Result<Observed, Trouble>> {
        Box::pin(async move {
            let loaded = self.loaded().await?;
            let checked = self.checked();
            let server = |(name, mark): (ServerName, Mark)| Server {
                admin: mark.admin(),
                health: checked.get(&name).map_or(Health::Unknown, |checked| checked.health),
                name,
                sessions: 0,
                sessions_known: false,
                weight: 1,
                backup: false,
            };
            // Only a file of ours changes anything, and it outlives every restart.
            Ok(Observed { incarnation: String::new(), servers: loaded.into_iter().map(server).collect() })
        })
    }

    fn set<'a>(&'a self, servers: &'a [ServerName], wanted: Wanted) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(self.apply(move |marks| {
            for (_, mark) in marks.iter_mut().filter(|(name, _)| servers.contains(name)) {
                match (wanted, mark.admin()) {
                    (Wanted::Drained, Admin::Ready) => *mark = Mark::Drain,
                    (Wanted::Ready, Admin::Drain) => *mark = Mark::Ready,
                    (Wanted::Drained | Wanted::Ready, _) => {}
                }
            }
        }))
    }

    fn background(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.check_for_ever())
    }

    /// A file that was edited by hand, and a reload that did not take effect.
    fn settle(&self) -> BoxFuture<'_, Result<(), Trouble>> {
        Box::pin(async move {
            let (text, marks) = self.file().await?;
            let as_rendered = text.as_deref() == Some(&self.frame.render(&marks));
            if as_rendered && self.loaded().await? == marks {
                return Ok(());
            }
            self.apply(|_| ()).await
        })
    }
}
