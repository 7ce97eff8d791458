//! Keeps the connection to the controller: identity, dial, serve, and again.

use std::{
    pin::pin,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use bunraku_common::{Chain, limits};
use bunraku_proto::{
    Door, backoff, channel,
    dial::dial,
    identity::{self as own, Identity, IdentityFiles},
    serve::{Ended, serve_node},
    tls::{self, TlsError},
};
use tokio::sync::oneshot;
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
}

impl Connection {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        let files = IdentityFiles::new(node.config.data_dir.join("identity"));
        Self { node, files, redial_spread_ms: Arc::default(), random: crate::random() }
    }

    /// For ever.
    pub(crate) async fn keep(self) {
        let mut attempt = 0;
        let mut told = String::new();
        loop {
            let began = tokio::time::Instant::now();
            let outcome = match self.identity().await {
                Ok(identity) => self.serve(identity).await,
                Err(why) => Err(why),
            };
            match outcome {
                Ok(Renewed::Yes) => {
                    attempt = 0;
                    continue;
                }
                Ok(Renewed::No) => {
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
        let trouble = match kept {
            Some(identity) if !identity.renewal_due(now, self.random) => return Ok(identity),
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
        tracing::info!(name = %self.node.name, "enrolled by the Puppet certificate");
        Ok(enrolled)
    }

    async fn renew(&self, identity: &Identity) -> Result<Identity, String> {
        let told = |error: &(dyn std::error::Error + 'static)| {
            format!("the identity could not be renewed: {}", Chain(error))
        };
        let channel = self.content(identity).map_err(|error| told(&error))?;
        let renewed = own::renew(channel, identity).await.map_err(|error| told(&error))?;
        self.files.save(&renewed).map_err(|error| told(&error))?;
        tracing::info!("identity renewed");
        Ok(renewed)
    }

    fn content(&self, identity: &Identity) -> Result<Channel, TlsError> {
        Ok(channel::channel(&self.node.config.controller, tls::mesh_client(identity.mesh(), Door::H2)?))
    }

    /// Serves one connection to its end, or until the identity should be renewed: then the next connection is made
    /// while this one finishes its calls.
    async fn serve(&self, identity: Identity) -> Result<Renewed, String> {
        let told = |error: &(dyn std::error::Error + 'static)| Chain(error).to_string();
        let tls = tls::mesh_client(identity.mesh(), Door::Node).map_err(|error| told(&error))?;
        let stream = dial(&self.node.config.controller, &tls, limits::HANDSHAKE)
            .await
            .map_err(|error| told(&error))?;
        let service = Service {
            node: self.node.clone(),
            content: Arc::new(RwLock::new(self.content(&identity).map_err(|error| told(&error))?)),
            redial_spread_ms: self.redial_spread_ms.clone(),
            greeted: Arc::default(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let mut serving = Serving(tokio::spawn(serve_node(
            stream,
            Routes::new(service.into_server()),
            limits::HELLO,
            async {
                let _dropped_or_sent = stopped.await;
            },
        )));
        let mut renewal = pin!(tokio::time::sleep(identity.until_renewal(SystemTime::now(), self.random)));
        loop {
            tokio::select! {
                ended = &mut serving.0 => return match ended {
                    Ok(Ended::Lost(error)) => Err(format!("the connection to the controller broke: {}", Chain(&error))),
                    Ok(Ended::Silent) => Err("the controller said no hello".to_owned()),
                    Ok(Ended::Stopped | Ended::Closed | Ended::Expired | Ended::Cut) | Err(_) => Ok(Renewed::No),
                },
                () = renewal.as_mut() => match self.renew(&identity).await {
                    Ok(_kept_in_its_files) => {
                        let _it_may_have_ended_meanwhile = stop.send(());
                        serving.finish_by_itself();
                        return Ok(Renewed::Yes);
                    }
                    // The connection is good until the certificate ends: half of its life is left to try again.
                    Err(why) => {
                        tracing::warn!("{why}; the present identity is still good");
                        let again = RENEW_AGAIN.mul_f64(1.0 + crate::random() as f64 / u64::MAX as f64);
                        renewal.set(tokio::time::sleep(again));
                    }
                },
            }
        }
    }
}

enum Renewed {
    Yes,
    No,
}

/// Ends with the agent, unless it is told to finish by itself.
struct Serving(tokio::task::JoinHandle<Ended>);

impl Serving {
    fn finish_by_itself(mut self) {
        self.0 = tokio::spawn(std::future::pending());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}
