//! Keeps the connection to the controller: identity, dial, serve, and again.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bunraku_common::{Chain, limits};
use bunraku_proto::{
    Door, backoff, channel,
    dial::dial,
    identity::{self as own, Identity, IdentityFiles},
    serve::{Ended, FINISH, serve_node},
    tls::{self, TlsError},
};
use tokio::{sync::watch, task::JoinSet};
use tonic::{service::Routes, transport::Channel};

use crate::{
    identity::{PuppetFiles, enroll_with_puppet_certificate},
    node::Node,
    service::Service,
};

/// A connection that lasted so long was a good one: the next failure is a first failure again.
const GOOD: Duration = Duration::from_secs(10);
/// A renewal that failed (the controller's clock jumped, this disk is full) is tried again after once to twice this.
const RENEW_AGAIN: Duration = Duration::from_secs(60);

pub(crate) struct Connection {
    node: Arc<Node>,
    files: IdentityFiles,
    redial_spread_ms: Arc<AtomicU32>,
    /// This process's share of every jitter.
    random: u64,
    /// Connections of the identity before, until their calls are done.
    finishing: JoinSet<()>,
    issued: Mutex<Option<Issued>>,
    /// The kept identity and the controller do not know each other's CA, and why nothing could be done about it yet.
    disowned: Mutex<Option<String>>,
}

/// The identity that this process was given last. Its age is known without the wall clock: by a clock that is a month
/// ahead each new identity would be due for renewal at once, again and again.
struct Issued {
    serial: String,
    at: Instant,
}

impl Connection {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        let files = IdentityFiles::new(node.config.data_dir.join("identity"));
        Self {
            node,
            files,
            redial_spread_ms: Arc::default(),
            random: crate::random(),
            finishing: JoinSet::new(),
            issued: Mutex::default(),
            disowned: Mutex::default(),
        }
    }

    /// For ever.
    pub(crate) async fn keep(mut self) {
        let mut attempt = 0;
        let mut told = String::new();
        loop {
            let began = tokio::time::Instant::now();
            let outcome = match self.identity().await {
                Ok(identity) => self.serve(identity).await,
                Err(why) => Err(why),
            };
            match outcome {
                Ok(()) => {
                    tracing::info!("the connection to the controller ended");
                    told.clear();
                }
                // Told once: a controller that is away for a night must not fill the log.
                Err(why) if why == told => tracing::debug!(attempt, "{why}"),
                Err(why) => {
                    tracing::warn!(attempt, "{why}");
                    told = why;
                }
            }
            attempt = if began.elapsed() > GOOD { 0 } else { attempt + 1 };
            let spread = Duration::from_millis(self.redial_spread_ms.swap(0, Ordering::Relaxed).into());
            let spread = spread.mul_f64(crate::random() as f64 / u64::MAX as f64);
            tokio::time::sleep(backoff::wait(attempt, None, crate::random()).max(spread)).await;
        }
    }

    /// A usable identity: the kept one, renewed when due; else a new one by the Puppet certificate.
    async fn identity(&self) -> Result<Identity, String> {
        let now = SystemTime::now();
        let kept = self.files.load(now).map_err(|error| Chain(&error).to_string())?;
        if kept.is_some() && self.disowned().is_some() {
            let trouble = "this node's identity is of a mesh CA that no longer counts";
            match self.enrol(trouble).await {
                Ok(enrolled) => return Ok(enrolled),
                // It may not have been the true controller: the kept identity is tried again, too.
                Err(why) => *self.disowned() = Some(why),
            }
        }
        let trouble = match kept {
            Some(identity) if !self.until_renewal(&identity).is_zero() => return Ok(identity),
            Some(identity) => match self.renew(&identity).await {
                Ok(renewed) => return Ok(renewed),
                Err(why) if !identity.certificate().expired(now) => {
                    tracing::warn!("{why}; the present identity is still good");
                    return Ok(identity);
                }
                Err(why) => why,
            },
            None => "this node has no identity yet".to_owned(),
        };
        self.enrol(&trouble).await
    }

    /// By the Puppet certificate, where the configuration says so.
    async fn enrol(&self, trouble: &str) -> Result<Identity, String> {
        let Some(enroll) = &self.node.config.enroll else {
            return Err(format!(
                "{trouble} (hint: on the controller: bunraku token create {} --role compiler, then run the line that it prints here)",
                self.node.name
            ));
        };
        let settings = self.node.puppet.ask().await.map_err(|error| Chain(&error).to_string())?;
        let files = PuppetFiles {
            certificate: settings.hostcert,
            key: settings.hostprivkey,
            ca: settings.localcacert,
            crl: settings.hostcrl,
        };
        let controller = &self.node.config.controller;
        let enrolled = enroll_with_puppet_certificate(
            controller,
            &files,
            &enroll.main_certname,
            &self.node.name,
            &enroll.roles,
        )
        .await
        .map_err(|error| format!("{trouble}; {}", Chain(&error)))?;
        self.files.save(&enrolled).map_err(|error| Chain(&error).to_string())?;
        self.was_issued(&enrolled);
        *self.disowned() = None;
        tracing::info!(name = %self.node.name, "enrolled by the Puppet certificate");
        Ok(enrolled)
    }

    async fn renew(&self, identity: &Identity) -> Result<Identity, String> {
        let told = |error: &(dyn std::error::Error + 'static)| {
            format!("the identity could not be renewed: {}", Chain(error))
        };
        let channel = self.content(identity).map_err(|error| told(&error))?;
        let renewed = own::renew(channel, identity).await.map_err(|error| told(&error))?;
        // A person may have enrolled this node anew: what was asked for then must not be overwritten.
        let kept = self.files.load(SystemTime::now()).map_err(|error| told(&error))?;
        if kept.is_some_and(|kept| kept.certificate().key != identity.certificate().key) {
            return Err("this node was enrolled anew (hint: systemctl restart bunraku-agent)".to_owned());
        }
        self.files.save(&renewed).map_err(|error| told(&error))?;
        self.was_issued(&renewed);
        tracing::info!("identity renewed");
        Ok(renewed)
    }

    fn disowned(&self) -> MutexGuard<'_, Option<String>> {
        self.disowned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says why there is no connection, and what came of it when CAs were the reason.
    fn no_connection(&self, error: &(dyn std::error::Error + 'static)) -> String {
        let told = Chain(error).to_string();
        if !tls::is_disowned(error) {
            return told;
        }
        let why = self.disowned().get_or_insert_default().clone();
        if why.is_empty() { told } else { format!("{told}; {why}") }
    }

    fn was_issued(&self, identity: &Identity) {
        let issued = Issued { serial: identity.certificate().serial.clone(), at: Instant::now() };
        *self.issued.lock().unwrap_or_else(PoisonError::into_inner) = Some(issued);
    }

    fn until_renewal(&self, identity: &Identity) -> Duration {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        match issued.as_ref().filter(|issued| issued.serial == identity.certificate().serial) {
            Some(issued) => identity.renewal_after(self.random).saturating_sub(issued.at.elapsed()),
            None => identity.until_renewal(SystemTime::now(), self.random),
        }
    }

    fn content(&self, identity: &Identity) -> Result<Channel, TlsError> {
        Ok(channel::channel(&self.node.config.controller, tls::mesh_client(identity.mesh(), Door::H2)?))
    }

    /// Serves connections until one ends by itself. When the identity is renewed, the next connection is made first.
    async fn serve(&mut self, mut identity: Identity) -> Result<(), String> {
        let mut serving = self.open(&identity).await?;
        let mut renewal = pin!(tokio::time::sleep(self.until_renewal(&identity)));
        loop {
            tokio::select! {
                ended = &mut serving.task => return match ended {
                    Ok(Ended::Lost(error)) => {
                        Err(format!("the connection to the controller broke: {}", self.no_connection(&error)))
                    }
                    Ok(Ended::Silent) => Err("the controller said no hello".to_owned()),
                    Ok(Ended::Stopped | Ended::Closed | Ended::Expired | Ended::Cut) | Err(_) => Ok(()),
                },
                () = self.renewal_asked(renewal.as_mut()) => match self.go_over(&identity).await {
                    Ok((renewed, next)) => {
                        let older = std::mem::replace(&mut serving, next);
                        while self.finishing.try_join_next().is_some() {}
                        self.finishing.spawn(older.finish());
                        identity = renewed;
                        renewal.set(tokio::time::sleep(self.until_renewal(&identity)));
                    }
                    // The connection is good until the certificate ends: half of its life is left to try again.
                    Err(why) => {
                        tracing::warn!("{why}; the present connection is still good");
                        self.node.forget_anchors();
                        let again = RENEW_AGAIN.mul_f64(1.0 + crate::random() as f64 / u64::MAX as f64);
                        renewal.set(tokio::time::sleep(again));
                    }
                },
            }
        }
    }

    async fn renewal_asked(&self, due: impl Future<Output = ()>) {
        tokio::select! {
            () = due => {}
            () = self.node.renew.notified() => {}
        }
    }

    /// A renewed identity, and a connection of it on which the controller has said hello.
    async fn go_over(&self, identity: &Identity) -> Result<(Identity, Serving), String> {
        let renewed = self.renew(identity).await?;
        let mut next = self.open(&renewed).await?;
        next.until_greeted().await?;
        Ok((renewed, next))
    }

    /// Dials and begins to serve.
    async fn open(&self, identity: &Identity) -> Result<Serving, String> {
        let told = |error: &(dyn std::error::Error + 'static)| Chain(error).to_string();
        let fleet = identity.fleet_pin().map_err(|error| told(&error))?;
        let aside = self.node.memory().belong_to(fleet).map_err(|error| told(&error))?;
        if let Some(aside) = aside {
            tracing::warn!(kept = %aside.display(), "this node came from another fleet: its memory of that one is set aside");
        }
        let tls = tls::mesh_client(identity.mesh(), Door::Node).map_err(|error| told(&error))?;
        let stream = dial(&self.node.config.controller, &tls, limits::HANDSHAKE)
            .await
            .map_err(|error| self.no_connection(&error))?;
        let (greeted, hello) = watch::channel(false);
        let service = Service {
            node: self.node.clone(),
            fleet,
            anchors: identity
                .anchors()
                .map_err(|error| told(&error))?
                .iter()
                .map(ToString::to_string)
                .collect(),
            content: Arc::new(RwLock::new(self.content(identity).map_err(|error| told(&error))?)),
            redial_spread_ms: self.redial_spread_ms.clone(),
            greeted: Arc::new(greeted),
        };
        let routes = Routes::new(service.into_server());
        let task = tokio::spawn(serve_node(stream, routes, limits::HELLO, std::future::pending()));
        Ok(Serving { task, hello })
    }
}

/// One connection that is served. Ends with this value.
struct Serving {
    task: tokio::task::JoinHandle<Ended>,
    hello: watch::Receiver<bool>,
}

impl Serving {
    /// A controller that speaks no protocol of ours never greets, and soon ends the connection.
    async fn until_greeted(&mut self) -> Result<(), String> {
        let greeted = tokio::time::timeout(2 * limits::HELLO, self.hello.wait_for(|greeted| *greeted)).await;
        match greeted {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err("the controller said no hello on the next connection".to_owned()),
        }
    }

    /// The controller gives its next orders on the next connection, and ends this one when its calls are done. Ended
    /// from here, an order could cross the goodbye and be lost.
    async fn finish(mut self) {
        let _ended_by_the_controller = tokio::time::timeout(FINISH, &mut self.task).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}
