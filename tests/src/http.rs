//! HTTPS requests with a Puppet certificate, made by curl: a new connection each time, as a Puppet agent does.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Who asks, and which CA the servers must be known to.
#[derive(Clone, Debug)]
pub struct Client {
    ca: PathBuf,
    identity: Option<(PathBuf, PathBuf)>,
}

/// What a server answered.
#[derive(Debug)]
pub struct Response {
    /// The HTTP status code.
    pub status: u16,
    pub body: String,
}

impl Client {
    /// A client without a certificate.
    pub fn anonymous(ca: &Path) -> Self {
        Self { ca: ca.to_owned(), identity: None }
    }

    /// A client that shows the certificate of `certname` from an ssldir of Puppet's layout.
    pub fn from_ssldir(ssldir: &Path, certname: &str) -> Self {
        let pem = format!("{certname}.pem");
        let identity = (ssldir.join("certs").join(&pem), ssldir.join("private_keys").join(&pem));
        Self { ca: ssldir.join("certs/ca.pem"), identity: Some(identity) }
    }

    pub fn get(&self, url: &str) -> Result<Response> {
        self.send(url, &["--header", "Accept: application/json"])
    }

    pub fn delete(&self, url: &str) -> Result<Response> {
        self.send(url, &["--request", "DELETE"])
    }

    /// A form; each field is encoded here.
    pub fn post_form(&self, url: &str, fields: &[(&str, &str)]) -> Result<Response> {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut options = vec!["--header", "Accept: application/json"];
        options.extend(fields.iter().flat_map(|field| ["--data-urlencode", field.as_str()]));
        self.send(url, &options)
    }

    /// No answer at all (refused, cut off, not trusted) is an error; any HTTP status is an answer.
    fn send(&self, url: &str, options: &[&str]) -> Result<Response> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "60", "--write-out", "%{stderr}%{http_code}"]);
        curl.arg("--cacert").arg(&self.ca);
        if let Some((certificate, key)) = &self.identity {
            curl.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        let output =
            curl.args(options).arg(url).stdin(Stdio::null()).output().context("could not run curl")?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{url} did not answer: {}", told.trim());
        let status = told.trim().parse().with_context(|| format!("curl told no status for {url}: {told}"))?;
        Ok(Response { status, body: String::from_utf8_lossy(&output.stdout).into_owned() })
    }
}
