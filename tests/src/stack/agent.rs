//! A Puppet agent: real runs for what only a real agent shows, and bare catalog requests for everything else.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{BALANCER_NAME, CA_NAME, DOMAIN, make_directory, write_file};
use crate::http::Client;

/// An agent with directories of its own.
#[derive(Clone, Debug)]
pub struct Agent {
    name: String,
    directory: PathBuf,
}

/// How a real agent run ended.
#[derive(Debug)]
pub struct AgentRun {
    /// Puppet's detailed exit code: 0 nothing to change, 2 changed, 4 and 6 with failures, 1 no run.
    pub exit: i32,
    /// Standard output, then standard error. (Facter may complain about a container's /proc on the latter.)
    pub output: String,
    pub took: Duration,
}

impl AgentRun {
    /// Whether the catalog was applied without a failure.
    pub fn succeeded(&self) -> bool {
        matches!(self.exit, 0 | 2)
    }
}

impl Agent {
    pub(super) fn new(parent: &Path, name: &str) -> Self {
        Self { name: name.to_owned(), directory: parent.join("agents").join(name) }
    }

    pub fn certname(&self) -> String {
        format!("{}.{DOMAIN}", self.name)
    }

    pub fn ssldir(&self) -> PathBuf {
        self.directory.join("ssl")
    }

    /// Requests with this agent's certificate.
    pub fn client(&self) -> Client {
        Client::from_ssldir(&self.ssldir(), &self.certname())
    }

    /// One real run through the balancer.
    pub fn run(&self, environment: &str) -> Result<AgentRun> {
        let start = Instant::now();
        let output = Command::new("puppet")
            .args(["agent", "--onetime", "--no-daemonize", "--no-usecacheonfailure", "--detailed-exitcodes"])
            .args(["--verbose", "--show_diff", "--color=false", "--environment", environment, "--config"])
            .arg(self.puppet_conf())
            .stdin(Stdio::null())
            .output()
            .context("could not run puppet agent")?;
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
        let exit = output.status.code().context("puppet agent was killed")?;
        Ok(AgentRun { exit, output: stdout + &stderr, took: start.elapsed() })
    }

    /// The catalog that `host` compiles for this agent; anything but 200 is an error that shows the answer.
    pub fn catalog(&self, host: &str, environment: &str) -> Result<Value> {
        self.catalog_with(host, environment, json!({ "os": { "family": "Debian" } }))
    }

    /// The same, with these facts.
    pub fn catalog_with(&self, host: &str, environment: &str, facts: Value) -> Result<Value> {
        let facts = json!({ "name": self.certname(), "values": facts });
        let fields = [
            ("environment", environment),
            ("facts_format", "application/json"),
            // Puppet encodes the facts once more than the form does.
            ("facts", &percent_encode(&facts.to_string())),
            ("static_catalog", "true"),
            ("checksum_type", "sha256.sha256lite.md5"),
            ("transaction_uuid", "00000000-0000-4000-8000-000000000000"),
        ];
        let url = format!("https://{host}:8140/puppet/v3/catalog/{}", self.certname());
        let response = self.client().post_form(&url, &fields)?;
        ensure!(
            response.status == 200,
            "{host} answered {} for a catalog: {}",
            response.status,
            response.body
        );
        serde_json::from_str(&response.body).with_context(|| format!("{host} answered no JSON"))
    }

    pub(super) fn has_certificate(&self) -> bool {
        self.ssldir().join("certs").join(format!("{}.pem", self.certname())).exists()
    }

    /// `http_keepalive_timeout = 0`: a kept-alive connection to a JDK 17 server can hang for 30 s (ruby/net-http 233).
    pub(super) fn configure(&self) -> Result<()> {
        make_directory(&self.directory)?;
        let directory = self.directory.display();
        write_file(
            &self.puppet_conf(),
            format!(
                "[main]
confdir = {directory}/etc
codedir = {directory}/code
vardir = {directory}/var
rundir = {directory}/run
logdir = {directory}/log
ssldir = {directory}/ssl
certname = {}
keylength = 2048
[agent]
server = {BALANCER_NAME}
ca_server = {CA_NAME}
http_keepalive_timeout = 0
number_of_facts_soft_limit = 0\n",
                self.certname()
            ),
        )
    }

    pub fn puppet_conf(&self) -> PathBuf {
        self.directory.join("puppet.conf")
    }
}

fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::percent_encode;

    #[test]
    fn only_unreserved_characters_stay_as_they_are() {
        assert_eq!(percent_encode("a-Z.9_~{\"ü"), "a-Z.9_~%7B%22%C3%BC");
    }
}
