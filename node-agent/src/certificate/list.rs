//! Every certificate of this host that matters, as its files have it and as its servers show it. Everything is looked at
//! side by side, each within its own deadline.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bunraku_certificates::{BUNDLE_BYTES, Certificate};
use bunraku_common::{Chain, limits};
use bunraku_host_certificate::What;
use bunraku_proto::v1::{self, CertificateOnNode};
use bunraku_puppetserver::{Settings, shown};
use tokio::{net::lookup_host, task::JoinSet, time::timeout};

use super::host::names;
use crate::node::Node;

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";
/// Of one file: a CA bundle with a company's chain has some.
const BLOCKS: usize = 16;
/// Puppet for its settings, where they are not known yet: a second of Ruby, on a loaded machine more.
const ASKING: Duration = Duration::from_secs(15);

pub(crate) async fn list(node: &Arc<Node>) -> v1::CertificatesReply {
    let mut looks: JoinSet<(usize, Vec<CertificateOnNode>)> = JoinSet::new();
    let mut at = 0;
    let mut next = || {
        at += 1;
        at
    };
    let (first, own) = (next(), node.clone());
    looks.spawn(async move { (first, puppets(&own).await) });
    let (second, identity) = (next(), node.config.data_dir.join("identity/current/certificate.pem"));
    looks.spawn(async move { (second, file("identity", identity).await) });
    for path in files(node) {
        let (at, own) = (next(), node.clone());
        looks.spawn(async move {
            let mut rows = file("file", path.clone()).await;
            if let Some(why) = own.copies.as_ref().and_then(|copies| copies.why(&path)) {
                rows.iter_mut().for_each(|row| row.trouble.clone_from(&why));
            }
            (at, rows)
        });
    }
    for address in node.config.certificates.servers.clone() {
        let at = next();
        looks.spawn(async move { (at, vec![named_server(address).await]) });
    }
    let mut rows = looks.join_all().await;
    rows.sort_by_key(|(at, _)| *at);
    v1::CertificatesReply { certificates: rows.into_iter().flat_map(|(_, rows)| rows).collect() }
}

/// Those that the configuration names, and copies of the certificate.
fn files(node: &Node) -> Vec<PathBuf> {
    let copies = node.config.bundles.iter().filter(|bundle| bundle.what != What::Key);
    let mut files = node.config.certificates.files.clone();
    files.extend(
        copies
            .map(|bundle| bundle.path.clone())
            .filter(|path| !node.config.certificates.files.contains(path)),
    );
    files
}

/// The host's own, and what the Puppet Server beside shows.
async fn puppets(node: &Node) -> Vec<CertificateOnNode> {
    let settings = match timeout(ASKING, node.puppet_settings()).await {
        Ok(Ok(settings)) => settings,
        // A host without Puppet has no certificate of it.
        Ok(Err(_)) if node.compiler.is_none() => return Vec::new(),
        Ok(Err(error)) => return vec![trouble("host", String::new(), Chain(&error))],
        Err(_) => {
            return vec![trouble(
                "host",
                String::new(),
                format!("puppet did not say where it is within {ASKING:?}"),
            )];
        }
    };
    let host = file("host", settings.hostcert.clone());
    if node.compiler.is_none() {
        return host.await;
    }
    let (mut rows, server) = tokio::join!(host, puppet_server(node, &settings));
    rows.push(server);
    rows
}

async fn puppet_server(node: &Node, settings: &Settings) -> CertificateOnNode {
    match node.server_address(settings) {
        Ok(address) => server("puppet server", address.to_string(), address, Some(&settings.certname)).await,
        Err(why) => trouble("puppet server", String::new(), why),
    }
}

async fn named_server(named: String) -> CertificateOnNode {
    let found = timeout(limits::SHOW, lookup_host(&named)).await;
    let address = found.ok().and_then(|found| found.ok()?.next());
    match address {
        Some(address) => {
            let host = named.rsplit_once(':').map(|(host, _)| host.to_owned());
            // A name picks the certificate where a server has several; an address picks none.
            let name = host.filter(|host| host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err());
            server("server", named, address, name.as_deref()).await
        }
        None => trouble("server", named, "its name does not lead to an address"),
    }
}

async fn server(what: &str, at: String, address: SocketAddr, name: Option<&str>) -> CertificateOnNode {
    match shown(address, name, limits::SHOW).await {
        Ok(seen) => match Certificate::from_der(&seen.certificate) {
            Ok(certificate) => row(what, at, &certificate),
            Err(error) => trouble(what, at, Chain(&error)),
        },
        Err(error) => trouble(what, at, Chain(&error)),
    }
}

/// One row for each certificate in it; other blocks, such as a key, are passed over.
async fn file(what: &'static str, path: PathBuf) -> Vec<CertificateOnNode> {
    let at = path.display().to_string();
    let one = at.clone();
    let read = tokio::task::spawn_blocking(move || {
        let bytes = match bunraku_files::read(&path, BUNDLE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => return vec![trouble(what, one, format!("it cannot be read: {error}"))],
        };
        let rows = blocks(&bytes).take(BLOCKS).map(|block| match Certificate::parse(block) {
            Ok(certificate) => row(what, one.clone(), &certificate),
            Err(error) => trouble(what, one.clone(), Chain(&error)),
        });
        let rows: Vec<_> = rows.collect();
        if rows.is_empty() { vec![trouble(what, one, "it holds no certificate")] } else { rows }
    });
    // A disk that hangs keeps its thread, not whoever asks.
    match timeout(limits::SHOW, read).await {
        Ok(Ok(rows)) => rows,
        Ok(Err(_)) | Err(_) => vec![trouble(what, at, "it could not be read in time")],
    }
}

fn blocks(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let begins = find(text, BEGIN)?;
        let block = &text[begins..];
        // One without an end is cut off: whoever parses it says so.
        let ends = find(block, END).map_or(block.len(), |at| at + END.len());
        text = &block[ends..];
        Some(&block[..ends])
    })
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn row(what: &str, at: String, certificate: &Certificate) -> CertificateOnNode {
    CertificateOnNode {
        what: what.to_owned(),
        r#where: at,
        subject: certificate.subject().to_owned(),
        issuer: certificate.issuer_name().to_owned(),
        serial: certificate.serial().to_owned(),
        fingerprint: certificate.fingerprint().hex(),
        dns_alt_names: names(certificate),
        not_before: certificate.not_before_s(),
        not_after: certificate.not_after_s(),
        trouble: String::new(),
    }
}

fn trouble(what: &str, at: String, why: impl std::fmt::Display) -> CertificateOnNode {
    let (what, trouble) = (what.to_owned(), why.to_string());
    CertificateOnNode { what, r#where: at, trouble, ..CertificateOnNode::default() }
}
