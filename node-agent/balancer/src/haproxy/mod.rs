//! HAProxy through its runtime socket, and through its master's where that is configured.
//!
//! HAProxy forgets at a reload what its runtime socket was told: the server-state file is written after every change, and
//! the incarnation tells the keeper when to look again. Sessions of before a reload live on in the old workers, which
//! only the master's socket shows.

mod socket;
mod tables;

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bunraku_common::crash;
use futures_util::future::BoxFuture;

use self::{
    socket::Socket,
    tables::{Garbled, State},
};
use crate::{
    config::HaproxyConfig,
    driver::{Driver, NewServer, Observed, Server, Trouble, Wanted},
    file,
    name::ServerName,
};

/// HAProxy on this host.
#[derive(Debug)]
pub struct Haproxy {
    socket: Socket,
    master: Option<Socket>,
    state_file: Option<PathBuf>,
    /// What the server-state file says; `None`: to be written.
    saved: Mutex<Option<Vec<State>>>,
    longest_session: Option<Duration>,
    /// When old sessions were last looked for.
    looked: Mutex<Option<Instant>>,
}

/// A session may be open for so much longer than allowed.
const LOOKED_FOR: Duration = Duration::from_secs(60);

impl Haproxy {
    pub fn new(config: &HaproxyConfig) -> Self {
        Self {
            socket: Socket::new(config.socket.clone()),
            master: config.master_socket.clone().map(Socket::new),
            state_file: config.state_file.clone(),
            saved: Mutex::default(),
            longest_session: Some(Duration::from_secs(config.longest_session_s)).filter(|it| !it.is_zero()),
            looked: Mutex::default(),
        }
    }

    async fn observed(&self) -> Result<Observed, Trouble> {
        let answers = self.socket.ask(&["show info", "show stat", "show servers state"]).await?;
        let [info, stat, state] = answers.as_slice() else {
            return Err(Trouble::Half { who: self.socket.who() });
        };
        let garbled = |why| Trouble::Garbled { who: self.socket.who(), why };
        let read = || {
            let pid = tables::information(info, "Pid")?;
            // A pid comes again some day; with the start it does not. Old versions tell no start.
            let start = tables::information(info, "Start_time_sec").unwrap_or_default();
            let servers = tables::servers(&tables::statistics(stat)?, &tables::states(state)?)?;
            Ok::<_, Garbled>((format!("pid {pid} {start}").trim_end().to_owned(), servers, pid.parse().ok()))
        };
        let (incarnation, mut servers, pid) = read().map_err(garbled)?;
        if let Some(master) = &self.master {
            Self::add_old_sessions(master, pid.unwrap_or_default(), &mut servers).await?;
        }
        Ok(Observed { incarnation, servers })
    }

    /// Sessions of all other workers.
    async fn add_old_sessions(master: &Socket, current: u32, servers: &mut [Server]) -> Result<(), Trouble> {
        let garbled = |why| Trouble::Garbled { who: master.who(), why };
        for pid in Self::workers(master).await?.into_iter().filter(|pid| *pid != current) {
            let Some(answer) = Self::old_statistics(master, pid).await? else { continue };
            for old in tables::statistics(&answer).map_err(garbled)? {
                if let Some(server) = servers.iter_mut().find(|server| server.name == old.name) {
                    server.sessions += old.sessions;
                }
            }
        }
        servers.iter_mut().for_each(|server| server.sessions_known = true);
        Ok(())
    }

    /// `None`: the worker ended meanwhile. The master lists it until it has noticed.
    async fn old_statistics(master: &Socket, pid: u32) -> Result<Option<String>, Trouble> {
        const ATTEMPTS: usize = 10;
        const PAUSE: Duration = Duration::from_millis(50);
        let mut attempt = 1;
        loop {
            match master.ask(&[&format!("@!{pid} show stat")]).await {
                Ok(answer) => return Ok(Some(answer.concat())),
                Err(_) if !Self::workers(master).await?.contains(&pid) => return Ok(None),
                Err(trouble @ Trouble::Silent { .. }) => return Err(trouble),
                Err(trouble) if attempt == ATTEMPTS => return Err(trouble),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
            attempt += 1;
        }
    }

    async fn workers(master: &Socket) -> Result<Vec<u32>, Trouble> {
        let answer = master.ask(&["show proc"]).await?.concat();
        tables::workers(&answer).map_err(|why| Trouble::Garbled { who: master.who(), why })
    }

    /// In this worker, and in those that only the master reaches: they serve the sessions of before a reload.
    async fn close_sessions(&self, server: &ServerName) -> Result<(), Trouble> {
        self.tell(&format!("shutdown sessions server {server}")).await?;
        let Some(master) = &self.master else { return Ok(()) };
        for pid in Self::workers(master).await? {
            match Self::close_in(master, pid, server).await {
                // With its last session an old worker ends.
                Err(trouble) if Self::workers(master).await?.contains(&pid) => return Err(trouble),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    async fn close_in(master: &Socket, pid: u32, server: &ServerName) -> Result<(), Trouble> {
        let command = format!("@!{pid} shutdown sessions server {server}");
        let answer = master.tell(&command).await?;
        match answer.trim() {
            "" => return Ok(()),
            // An older configuration may not have had it.
            answer if answer.starts_with("No such") => return Ok(()),
            // So an old worker says, which has no more servers by name. It shows its sessions, and takes no new ones
            // that could get the identifier of one that has ended.
            "Proxy is disabled." => {}
            answer => {
                let (who, answer) = (master.who(), answer.to_owned());
                return Err(Trouble::Refused { who, command, answer });
            }
        }
        let sessions = master.ask(&[&format!("@!{pid} show sess")]).await?.concat();
        for session in tables::sessions(&sessions, server) {
            master.tell(&format!("@!{pid} shutdown session {session}")).await?;
        }
        Ok(())
    }

    /// In this worker, or in all of them where the master is known.
    async fn end_older(&self, servers: &[ServerName], than: Duration) -> Result<usize, Trouble> {
        let Some(master) = &self.master else { return Self::end_in(&self.socket, "", servers, than).await };
        let mut ended = 0;
        for pid in Self::workers(master).await? {
            match Self::end_in(master, &format!("@!{pid} "), servers, than).await {
                Ok(some) => ended += some,
                // With its last session an old worker ends.
                Err(_) if !Self::workers(master).await?.contains(&pid) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(ended)
    }

    async fn end_in(
        socket: &Socket,
        worker: &str,
        servers: &[ServerName],
        than: Duration,
    ) -> Result<usize, Trouble> {
        let answer = socket.ask(&[&format!("{worker}show sess")]).await?.concat();
        let old: Vec<&str> =
            servers.iter().flat_map(|server| tables::sessions_older(&answer, server, than)).collect();
        for session in &old {
            socket.tell(&format!("{worker}shutdown session {session}")).await?;
        }
        Ok(old.len())
    }

    fn is_time_to_look(&self, longest: Duration) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = looked.is_none_or(|at| at.elapsed() >= LOOKED_FOR.min(longest));
        if due {
            *looked = Some(Instant::now());
        }
        due
    }

    /// A command that HAProxy answers with nothing, or with a refusal.
    async fn tell(&self, command: &str) -> Result<(), Trouble> {
        self.tell_and_hear(command, "").await
    }

    async fn tell_and_hear(&self, command: &str, expected: &str) -> Result<(), Trouble> {
        *self.saved() = None;
        let answer = self.socket.tell(command).await?;
        crash::point("haproxy-told");
        let answer = answer.trim();
        if answer == expected || answer.is_empty() {
            return Ok(());
        }
        let mut answer = answer.lines().next().unwrap_or_default().to_owned();
        if answer.contains("ermission denied") {
            answer.push_str(" (hint: `level admin` at the `stats socket` line in haproxy.cfg)");
        }
        Err(Trouble::Refused { who: self.socket.who(), command: command.to_owned(), answer })
    }

    fn saved(&self) -> std::sync::MutexGuard<'_, Option<Vec<State>>> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the server-state file when it says something else than HAProxy: a file that was saved during a drain
    /// brings the drain back at the next reload.
    async fn save(&self) -> Result<(), Trouble> {
        let Some(path) = &self.state_file else { return Ok(()) };
        let text = self.socket.ask(&["show servers state"]).await?.concat();
        let garbled = |why| Trouble::Garbled { who: self.socket.who(), why };
        let states = tables::states(&text).map_err(garbled)?;
        let relevant: Vec<State> = states.into_iter().map(State::without_health).collect();
        if self.saved().as_ref() == Some(&relevant) {
            return Ok(());
        }
        let text = tables::none_down(&text).map_err(garbled)?;
        file::replace(path.clone(), format!("{text}\n\n")).await?;
        crash::point("haproxy-saved");
        *self.saved() = Some(relevant);
        Ok(())
    }
}

impl Driver for Haproxy {
    fn kind(&self) -> &'static str {
        "haproxy"
    }

    fn observe(&self) -> BoxFuture<'_, Result<Observed, Trouble>> {
        Box::pin(self.observed())
    }

    fn set<'a>(&'a self, servers: &'a [ServerName], wanted: Wanted) -> BoxFuture<'a, Result<(), Trouble>> {
        let state = match wanted {
            Wanted::Ready => "ready",
            Wanted::Drained => "drain",
        };
        Box::pin(async move {
            for server in servers {
                self.tell(&format!("set server {server} state {state}")).await?;
            }
            self.save().await
        })
    }

    fn close<'a>(&'a self, servers: &'a [ServerName]) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(async move {
            for server in servers {
                self.close_sessions(server).await?;
            }
            Ok(())
        })
    }

    fn end_old<'a>(&'a self, servers: &'a [ServerName]) -> BoxFuture<'a, Result<usize, Trouble>> {
        Box::pin(async move {
            match self.longest_session {
                Some(longest) if self.is_time_to_look(longest) => self.end_older(servers, longest).await,
                Some(_) | None => Ok(0),
            }
        })
    }

    fn weighs(&self) -> bool {
        true
    }

    fn weigh<'a>(&'a self, server: &'a ServerName, percent: u32) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(async move {
            self.tell(&format!("set server {server} weight {percent}%")).await?;
            self.save().await
        })
    }

    fn add<'a>(&'a self, new: &'a NewServer) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(async move {
            let NewServer { name, address, parameters } = new;
            let add = format!("add server {name} {address} {}", parameters.join(" "));
            self.tell_and_hear(add.trim_end(), "New server registered.").await.map_err(cannot_add)?;
            // It comes in maintenance, and its checks do not run yet.
            if parameters.iter().any(|word| word == "check") {
                self.tell(&format!("enable health {name}")).await?;
            }
            self.tell(&format!("set server {name} state ready")).await?;
            self.save().await
        })
    }

    fn remove<'a>(&'a self, server: &'a ServerName) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(async move {
            self.tell(&format!("set server {server} state maint")).await?;
            self.tell_and_hear(&format!("del server {server}"), "Server deleted.").await?;
            self.save().await
        })
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), Trouble>> {
        Box::pin(self.save())
    }
}

/// Before 2.5 there is no `add server`, and of some parameters HAProxy never heard.
fn cannot_add(trouble: Trouble) -> Trouble {
    let Trouble::Refused { who, command, answer } = trouble else { return trouble };
    let answer = if answer.starts_with("Unknown command") {
        format!(
            "this HAProxy cannot add servers while it runs (hint: add `{command}` to haproxy.cfg and reload)"
        )
    } else {
        answer
    };
    Trouble::Refused { who, command, answer }
}
