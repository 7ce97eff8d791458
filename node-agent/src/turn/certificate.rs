//! A certificate that was staged takes the place of the host's own, and Puppet Server is restarted with it.
//!
//! Restarted, though a reload would read it, too (measured: Puppet Server 7.9.5 shows the new serial after SIGHUP, and not
//! before): a restart leaves a mark by which every driver tells after a crash whether it has happened, a unit need not
//! know how to reload, and a drained server has time.

use std::{path::PathBuf, sync::Arc};

use bunraku_certificates::{Authorities, BUNDLE_BYTES, Certificate};
use bunraku_common::{Chain, crash, limits};
use bunraku_host_certificate::{Files, Kept, PlaceError, Served, World};
use bunraku_puppetserver::{Settings, shown};
use bunraku_services::Verb;

use super::{record::Begun, step::Answer, tell::tell};
use crate::{
    certificate::{files, on_kept},
    commit::wall_ms,
    node::{Compiler, Node},
};

/// What can be found out before the drain. Nothing changes.
pub(super) async fn prepare(node: &Arc<Node>, compiler: &Compiler, fingerprint: &str) -> Answer {
    let settings = match node.settings(compiler).await {
        Ok(settings) => settings,
        Err(error) => return Answer::unchanged(Chain(&error)),
    };
    if let Err(why) = reads_these_files(node, &settings) {
        return Answer::unchanged(why);
    }
    let can = on_files(node, settings, fingerprint, |kept, files, fingerprint, settings| {
        kept.can_place(fingerprint, files, &world(settings))
    });
    match can.await {
        Ok(()) => Answer::Done(String::new()),
        Err(why) => Answer::unchanged(why),
    }
}

/// Puts it in place, or what was there before back, and restarts Puppet Server. `resumed`: it was begun before this agent
/// ended.
pub(super) async fn act(
    node: &Arc<Node>,
    compiler: &Compiler,
    begun: &Begun,
    fingerprint: &str,
    resumed: bool,
) -> Answer {
    let settings = match node.settings(compiler).await {
        Ok(settings) => settings,
        Err(error) => return Answer::unchanged(Chain(&error)),
    };
    if begun.back && matches!(served(node, fingerprint, true).await, Ok(None)) {
        return Answer::Done("it was never put in place".to_owned());
    }
    let back = begun.back;
    let placed =
        on_files(node, settings.clone(), fingerprint, move |kept, files, fingerprint, settings| match back {
            true => kept.put_back(fingerprint, files),
            false => kept.place(fingerprint, files, &world(settings)),
        });
    if let Err(why) = placed.await {
        let touched = back || is_touched(node, settings, fingerprint).await;
        return if touched { Answer::changed(why) } else { Answer::unchanged(why) };
    }
    crash::point("turn-certificate-placed");
    let mark = resumed.then(|| begun.mark.clone());
    let mut told = tell(node, compiler, Verb::Restart, mark, begun.fence).await;
    // What was taken for its restart may have been another's, from before the files were there.
    if resumed && matches!(told, Answer::Done(_)) && shows(node, &settings, fingerprint, back).await.is_err()
    {
        told = tell(node, compiler, Verb::Restart, None, begun.fence).await;
    }
    match told {
        Answer::Failed { reason, .. } => Answer::changed(reason),
        Answer::Done(_) | Answer::GoingOn(_) => told,
    }
}

/// Whether Puppet Server shows what it should, and nothing else. On the way `back`: what was there before.
pub(super) async fn shows(
    node: &Arc<Node>,
    settings: &Settings,
    fingerprint: &str,
    back: bool,
) -> Result<(), String> {
    let Some(Served { fingerprint: Some(wanted), alt_names }) = served(node, fingerprint, back).await? else {
        return Ok(());
    };
    let address = node.server_address(settings)?;
    let seen = shown(address, Some(&settings.certname), limits::SHOW).await;
    let seen = seen.map_err(|error| Chain(&error).to_string())?;
    let seen = Certificate::from_der(&seen.certificate)
        .map_err(|error| format!("what {address} shows: {}", Chain(&error)))?;
    let found = seen.fingerprint().hex();
    if found != wanted {
        return Err(format!(
            "Puppet Server at {address} shows the certificate {}, not {} \
             (hint: compare with openssl x509 -in {} -noout -fingerprint -sha256)",
            short(&found),
            short(&wanted),
            settings.hostcert.display()
        ));
    }
    // On the way back it is what it was, good or not.
    if back {
        return Ok(());
    }
    let missing: Vec<String> =
        alt_names.iter().filter(|name| !seen.alt_names().contains(*name)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        return Err(format!("the certificate that Puppet Server shows lacks {}", missing.join(", ")));
    }
    is_of(&settings.localcacert, seen).await
}

fn world(settings: &Settings) -> World<'_> {
    World { ca: &settings.localcacert, crl: &settings.hostcrl, now_s: wall_ms() / 1000 }
}

async fn is_of(ca: &std::path::Path, seen: Certificate) -> Result<(), String> {
    let ca: PathBuf = ca.into();
    let judged = tokio::task::spawn_blocking(move || {
        let bytes = bunraku_files::read(&ca, BUNDLE_BYTES)
            .map_err(|error| format!("could not read {}: {error}", ca.display()))?;
        let authorities =
            Authorities::parse(&bytes).map_err(|error| format!("{}: {}", ca.display(), Chain(&error)))?;
        match seen.is_issued_by(&authorities) {
            true => Ok(()),
            false => Err(format!("what Puppet Server shows is not of an authority in {}", ca.display())),
        }
    });
    judged.await.unwrap_or_else(|_| Err("the certificate could not be judged".to_owned()))
}

/// Whether some of the new pair lies where Puppet Server reads it.
async fn is_touched(node: &Arc<Node>, settings: Settings, fingerprint: &str) -> bool {
    let fingerprint = fingerprint.to_owned();
    let touched = on_kept(node, move |_, kept| kept.has_begun(&fingerprint, &files(&settings)));
    touched.await.is_none_or(|touched| touched.unwrap_or(true))
}

/// `None`: nothing was ever put in place.
async fn served(node: &Arc<Node>, fingerprint: &str, back: bool) -> Result<Option<Served>, String> {
    let fingerprint = fingerprint.to_owned();
    let known = on_kept(node, move |_, kept| match back {
        true => kept.served_before(&fingerprint),
        false => kept.served_after(&fingerprint).map(Some),
    });
    known.await.unwrap_or_else(|| Ok(None)).map_err(|error| Chain(&error).to_string())
}

/// Puppet Server takes `hostcert` and `hostprivkey` only where webserver.conf names no others.
fn reads_these_files(node: &Node, settings: &Settings) -> Result<(), String> {
    let places = node.server_places(settings).map_err(|error| Chain(&error).to_string())?;
    let (certificate, key) =
        places.webserver_pair().map_err(|error| format!("could not read conf.d: {error}"))?;
    for (named, own) in [(certificate, &settings.hostcert), (key, &settings.hostprivkey)] {
        if let Some(named) = named.filter(|named| named != own) {
            return Err(format!(
                "webserver.conf names {}, so that Puppet Server would not show what is put in {} \
                 (hint: name that there, or remove all of ssl-cert, ssl-key, ssl-ca-cert and ssl-crl-path)",
                named.display(),
                own.display()
            ));
        }
    }
    Ok(())
}

async fn on_files(
    node: &Arc<Node>,
    settings: Settings,
    fingerprint: &str,
    work: impl FnOnce(&mut Kept, &Files, &str, &Settings) -> Result<(), PlaceError> + Send + 'static,
) -> Result<(), String> {
    let fingerprint = fingerprint.to_owned();
    let done = on_kept(node, move |_, kept| work(kept, &files(&settings), &fingerprint, &settings));
    match done.await {
        Some(done) => done.map_err(|error| Chain(&error).to_string()),
        None => Err("the files could not be worked on".to_owned()),
    }
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}
