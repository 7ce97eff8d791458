//! A stand-in for Puppet Server: it holds environments loaded until they are flushed, answers what a node agent asks,
//! and compiles nothing.
//!
//! Figures with it lack what a real server needs for a flush (40 to 230 ms, measured) and for a proof.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};

/// The certname of every stand-in and of the agent beside it.
const CERTNAME: &str = "compiler.bench.test";

/// A CA such as Puppet's, and one certificate that all nodes share.
#[derive(Debug)]
pub(super) struct Certificates {
    directory: PathBuf,
    config: Arc<ServerConfig>,
}

impl Certificates {
    /// Makes them, with the files below `directory` that an agent reads.
    pub(super) fn make(directory: &Path) -> Result<Self> {
        let ca_key = KeyPair::generate().context("could not make a key")?;
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).context("could not sign a CA")?.pem();
        let key = KeyPair::generate().context("could not make a key")?;
        let params = CertificateParams::new([CERTNAME.to_owned()]).context("could not name a certificate")?;
        let signed =
            params.signed_by(&key, &Issuer::new(ca, ca_key)).context("could not sign a certificate")?;
        let (certificate, key) = (signed.pem(), key.serialize_pem());
        fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
        for (name, text) in [("ca.pem", &ca_pem), ("certificate.pem", &certificate), ("key.pem", &key)] {
            fs::write(directory.join(name), text).with_context(|| format!("could not write {name}"))?;
        }
        let config = Arc::new(server_config(&ca_pem, &certificate, &key)?);
        Ok(Self { directory: directory.to_owned(), config })
    }

    /// What `puppet config print --render-as json` answers on a node with these environments.
    pub(super) fn settings(&self, node: &Path, environments: &Path) -> Value {
        let file = |name: &str| self.directory.join(name);
        json!({
            "confdir": node.join("etc"), "config": node.join("etc/puppet.conf"), "codedir": node.join("code"),
            "environmentpath": environments, "ssldir": self.directory, "hostcert": file("certificate.pem"),
            "hostprivkey": file("key.pem"), "localcacert": file("ca.pem"), "hostcrl": file("crl.pem"),
            "certname": CERTNAME, "serverport": 8140, "user": "puppet", "group": "puppet",
            "versioned_environment_dirs": true, "static_catalogs": true,
        })
    }
}

/// Starts one for the environments below `directory`; it runs until this process ends.
pub(super) fn start(certificates: &Certificates, directory: &Path) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("could not listen for a stand-in")?;
    let address = listener.local_addr().context("could not listen for a stand-in")?;
    let mut server = Server { directory: directory.to_owned(), loaded: BTreeMap::new() };
    let config = certificates.config.clone();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Whoever asks badly gets no answer, and says so itself.
            let _unanswered = server.serve(connection, config.clone());
        }
    });
    Ok(address)
}

struct Server {
    directory: PathBuf,
    /// Where each environment's link led when it was loaded.
    loaded: BTreeMap<String, PathBuf>,
}

impl Server {
    fn serve(&mut self, connection: TcpStream, config: Arc<ServerConfig>) -> Result<()> {
        connection.set_nodelay(true)?;
        let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(config)?, connection));
        let mut first = String::new();
        stream.read_line(&mut first)?;
        let mut header = String::from("x");
        while !header.trim().is_empty() {
            header.clear();
            stream.read_line(&mut header)?;
        }
        let (status, body) = self.answer(&first);
        let mut stream = stream.into_inner();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        stream.conn.send_close_notify();
        stream.flush()?;
        Ok(())
    }

    fn answer(&mut self, request: &str) -> (&'static str, String) {
        let mut words = request.split_whitespace();
        match (words.next(), words.next().unwrap_or_default()) {
            (Some("DELETE"), path) => {
                if let Some((_, environment)) = path.split_once("?environment=") {
                    self.loaded.remove(environment);
                }
                ("204 No Content", String::new())
            }
            (_, "/puppet/v3/environments") => ("200 OK", self.environments().to_string()),
            (_, "/status/v1/simple") => ("200 OK", "running".to_owned()),
            _ => ("404 Not Found", String::new()),
        }
    }

    /// Loads what is not loaded, as Puppet Server does when it is asked for its environments.
    fn environments(&mut self) -> Value {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if let (Some(name), Ok(target)) = (entry.file_name().to_str(), fs::read_link(entry.path()))
                && !name.starts_with('.')
            {
                self.loaded.entry(name.to_owned()).or_insert(target);
            }
        }
        let settings = |at: &PathBuf| {
            json!({ "settings": {
                "modulepath": [at.join("modules")], "manifest": at.join("manifests"), "environment_timeout": "unlimited",
            }})
        };
        let all: BTreeMap<_, _> = self.loaded.iter().map(|(name, at)| (name, settings(at))).collect();
        json!({ "search_paths": [self.directory], "environments": all })
    }
}

fn server_config(ca: &str, certificate: &str, key: &str) -> Result<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build()?;
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?)
}
