//! Programs that read Puppet's CRLs and this host's certificate from files of their own: HAProxy and nginx that end TLS, and
//! PuppetDB, as Debian's units on a machine with a systemd, kept by our package's `[[crl.files]]` and `[[bundles]]`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bunraku_common::NodeName;
use bunraku_puppet_ca::PuppetCa;
use bunraku_tests::{
    installed::Bunraku,
    machine::Machine,
    namespace,
    packages::Packages,
    process::wait_for,
    progress::Progress,
    stack::{self, Agent, Options, Setup, Stack, compiler_address},
    suite::{self, Test},
    visitor::{Knocked, Visitor},
    watch::{Door, watched},
};
use serde_json::Value;
use tokio::runtime::Runtime;

const NODE: &str = "edge.stack.test";
const AGENT: &str = "bunraku-agent.service";
/// Names that stand in the stack's hosts, and that this host's certificate carries.
const DOORS: [(&str, &str); 3] =
    [("haproxy", "c9.stack.test"), ("nginx", "c10.stack.test"), ("puppetdb", "c11.stack.test")];
const WITHIN: Duration = Duration::from_secs(60);
/// PuppetDB, on a loaded machine.
const STARTS_WITHIN: Duration = Duration::from_secs(240);
/// A reload of PuppetDB starts all its services anew.
const REFUSED_WITHIN: Duration = Duration::from_secs(180);

const HAPROXY: &str = "\
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend edge
    bind ADDRESS:8140 ssl crt /etc/haproxy/puppet.pem ca-file /etc/haproxy/ca.pem crl-file /etc/haproxy/crl.pem verify required
    http-request return status 200 content-type text/plain string running
";

const NGINX: &str = "\
events {}
http {
    server {
        listen ADDRESS:8140 ssl;
        ssl_certificate /etc/nginx/puppet/cert.pem;
        ssl_certificate_key /etc/nginx/puppet/key.pem;
        ssl_client_certificate /etc/nginx/puppet/ca.pem;
        ssl_crl /etc/nginx/puppet/crl.pem;
        ssl_verify_client on;
        ssl_verify_depth 2;
        location / { default_type text/plain; return 200 running; }
    }
}
";

const JETTY: &str = "\
[jetty]
host = ADDRESS
port = 8080
ssl-host = ADDRESS
ssl-port = 8140
ssl-key = /etc/puppetdb/ssl/key.pem
ssl-cert = /etc/puppetdb/ssl/cert.pem
ssl-ca-cert = /etc/puppetdb/ssl/ca.pem
ssl-crl-path = /etc/puppetdb/ssl/crl.pem
";

const DATABASE: &str = "\
[database]
subname = //127.0.0.1:5432/puppetdb
username = puppetdb
password = x
";

/// PostgreSQL as its package left it, and what PuppetDB needs of it.
const MAKE_DATABASE: &str = "
cd /
set -e
systemctl start postgresql
runuser -u postgres -- psql -q -c \"create role puppetdb login password 'x'\"
runuser -u postgres -- createdb -O puppetdb -E UTF8 -T template0 puppetdb
runuser -u postgres -- psql -q -d puppetdb -c 'create extension pg_trgm'";

const TESTS: &[Test<Site>] = &[
    ("what_is_granted_is_put_in_place_with_its_owner_before_anybody_reads_it", placed),
    ("i8_a_revoked_certificate_is_refused_by_haproxy_nginx_and_puppetdb", revoked),
    ("an_empty_crl_beside_a_running_haproxy_is_put_back", damaged),
];

struct Site {
    stack: Stack,
    bunraku: Bunraku,
    edge: Machine,
    progress: Progress,
    runtime: Runtime,
}

fn main() -> ExitCode {
    if !suite::selects_any(TESTS) {
        return ExitCode::SUCCESS;
    }
    namespace::run(&stack::world(false), |directory| {
        let progress = Progress::default();
        let options = Options { setup: Setup::Prepared, ..Options::default() };
        let stack = Stack::up(directory, &namespace::cache(), &options, &progress)?;
        let mut bunraku = Bunraku::install(&stack, "r10k")?;
        bunraku.start_controller()?;
        // By its Puppet Server changes are proven.
        let c1 = stack.compilers.first().context("no c1")?;
        bunraku.configure_compiler(c1)?;
        bunraku.start_agent(c1.name())?;
        let aliases = DOORS.map(|(_, name)| name.to_owned());
        let host = stack.agent_named("edge", &aliases)?;
        let package = Packages::create(directory)?.add_agent("0.1.0~first")?;
        let edge = Machine::boot("edge", directory, |root| furnish(root, &bunraku, &host))?;
        edge.run(&["dpkg", "--install", &package.display().to_string()])?;
        let mut site = Site { stack, bunraku, edge, progress, runtime: Runtime::new()? };
        suite::run(&mut site, TESTS)?;
        site.edge.stop()?;
        site.bunraku.stop()?;
        site.stack.stop()
    })
}

/// What an operator writes: the three programs, and what the agent may do for them.
fn furnish(root: &Path, bunraku: &Bunraku, host: &Agent) -> Result<()> {
    let write = |path: &str, text: String| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().context("a file lies in a directory")?)?;
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))
    };
    let at = |text: &str, number: u8| text.replace("ADDRESS", &compiler_address(number).to_string());
    write("etc/haproxy/haproxy.cfg", at(HAPROXY, 9))?;
    write("etc/nginx/nginx.conf", at(NGINX, 10))?;
    write("etc/puppetdb/conf.d/jetty.ini", at(JETTY, 11))?;
    write("etc/puppetdb/conf.d/database.ini", DATABASE.to_owned())?;
    for directory in ["etc/nginx/puppet", "etc/puppetdb/ssl"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let mut config = format!(
        "controller = '{}'\nname = '{NODE}'\n[puppet]\narguments = ['--config', '{}']\n",
        bunraku.address(),
        host.puppet_conf().display()
    );
    for (service, _) in DOORS {
        config.push_str(&format!("[services.{service}]\ndriver = 'systemd'\nunit = '{service}.service'\n"));
    }
    // Debian's PuppetDB 7.12.1 does not survive its reload: it ends with a ClassNotFoundException.
    let mut file = |table: &str, what: &str, path: &str, service: &str| {
        let verb = if service == "puppetdb" { "restart" } else { "reload" };
        let what = if what.is_empty() { String::new() } else { format!("what = '{what}'\n") };
        let owner = if service == "puppetdb" { "owner = 'puppetdb'\ngroup = 'puppetdb'\n" } else { "" };
        config.push_str(&format!("[[{table}]]\n{what}path = '{path}'\n{verb} = '{service}'\n{owner}"));
    };
    for (path, service) in
        [("/etc/haproxy", "haproxy"), ("/etc/nginx/puppet", "nginx"), ("/etc/puppetdb/ssl", "puppetdb")]
    {
        file("crl.files", "", &format!("{path}/crl.pem"), service);
        file("bundles", "ca", &format!("{path}/ca.pem"), service);
        if service == "haproxy" {
            file("bundles", "certificate-and-key", &format!("{path}/puppet.pem"), service);
        } else {
            file("bundles", "certificate", &format!("{path}/cert.pem"), service);
            file("bundles", "key", &format!("{path}/key.pem"), service);
        }
    }
    write("etc/bunraku/agent.toml", config)
}

fn placed(site: &mut Site) -> Result<()> {
    let said = site.enrol()?;
    site.progress.say(said.trim());
    site.until_delivered()?;
    for (path, owner, mode) in [
        ("/etc/haproxy/puppet.pem", "root", 0o600),
        ("/etc/nginx/puppet/key.pem", "root", 0o600),
        ("/etc/puppetdb/ssl/key.pem", "puppetdb", 0o600),
        ("/etc/puppetdb/ssl/crl.pem", "puppetdb", 0o644),
    ] {
        let file = site.edge.root().join(path.trim_start_matches('/'));
        let meta = wait_for(path, WITHIN, || Ok(fs::metadata(&file).ok()))?;
        let owned = site.edge.run(&["stat", "-c", "%U", path])?;
        ensure!(
            (owned.trim(), meta.permissions().mode() & 0o777) == (owner, mode),
            "{path}: {owned}, {meta:?}"
        );
    }
    site.edge.run(&["sh", "-c", MAKE_DATABASE])?;
    let began = Instant::now();
    for (service, _) in DOORS {
        site.edge.run(&["systemctl", "start", service]).with_context(|| site.why(service))?;
    }
    let (_, visitor) = site.visitor("first")?;
    for (service, host) in DOORS {
        wait_for(&format!("{service} to let somebody in"), STARTS_WITHIN, || {
            Ok(visitor.visit(host).is_ok().then_some(()))
        })
        .with_context(|| format!("{}\n{:?}", site.why(service), visitor.knock(host)))?;
    }
    site.progress.say(format_args!("all of them run after {:.1?}", began.elapsed()));
    Ok(())
}

fn revoked(site: &mut Site) -> Result<()> {
    let ((name, revoked), (_, other)) = (site.visitor("second")?, site.visitor("third")?);
    let starts = site.edge.starts("puppetdb.service")?;
    let visits = DOORS.map(|(_, host)| (host, &revoked));
    let watched = watched(&site.stack.main.crl_file(), &visits, || {
        let ca = PuppetCa::new(site.stack.main.ca_config());
        site.runtime.block_on(ca.revoke(&name))?;
        for (service, host) in DOORS {
            wait_for(&format!("{service} to refuse"), REFUSED_WITHIN, || {
                Ok((revoked.knock(host) == Knocked::Refused).then_some(()))
            })
            .with_context(|| site.why(service))?;
        }
        site.until_delivered()
    })?;
    wait_for("c1 to be proven", WITHIN, || {
        Ok((site.row("c1.stack.test")?["state"] == "proven").then_some(()))
    })?;
    site.until_delivered()?;
    // Regression: once more for the canary that proved it.
    let after = site.edge.starts("puppetdb.service")?;
    ensure!(after == starts + 1, "{starts} starts became {after}");
    let written = *watched.writes.first().context("the CA wrote nothing")?;
    for ((service, host), door) in DOORS.iter().zip(&watched.doors) {
        let closed = Door::closed_at(door)?.duration_since(written).unwrap_or_default();
        site.progress
            .say(format_args!("{service} refuses {:.2} s after the CA wrote it", closed.as_secs_f64()));
        ensure!(other.visit(host).is_ok(), "{service} lets the others in");
    }
    Ok(())
}

fn damaged(site: &mut Site) -> Result<()> {
    let path = site.edge.root().join("etc/haproxy/crl.pem");
    let before = fs::read(&path)?;
    site.edge.run(&["truncate", "--size=0", "/etc/haproxy/crl.pem"])?;
    wait_for("the CRL to be put back", WITHIN, || Ok((fs::read(&path)? == before).then_some(())))?;
    let (_, visitor) = site.visitor("fourth")?;
    site.edge.run(&["systemctl", "reload", "haproxy"])?;
    visitor.visit(DOORS[0].1)?;
    wait_for("the doctor to find nothing wrong there", WITHIN, || {
        Ok(site.bunraku.ask(&["doctor", NODE])?.succeeded().then_some(()))
    })
}

impl Site {
    fn enrol(&self) -> Result<String> {
        let token = self.bunraku.json(&["token", "create", NODE, "--role", "service"])?;
        let secret = token["token"].as_str().context("no token")?;
        let line = format!(
            "echo {secret} | bunraku-agent enroll --pin {} --token-file - && systemctl enable --now {AGENT}",
            self.bunraku.pin
        );
        let out = self.edge.run(&["sh", "-c", &line])?;
        self.bunraku.wait_for_nodes(&[NODE.to_owned()])?;
        Ok(out)
    }

    /// Its files hold every change but our canaries, and everybody has read them.
    fn until_delivered(&self) -> Result<()> {
        wait_for("the CRL to be delivered", REFUSED_WITHIN, || {
            Ok((self.row(NODE)?["state"] == "delivered").then_some(()))
        })
        .with_context(|| format!("{:?}\n{}", self.bunraku.ask(&["crl", "status"]), self.why("bunraku-agent")))
    }

    fn row(&self, node: &str) -> Result<Value> {
        let status = self.bunraku.json(&["crl", "status"])?;
        let row = status["nodes"].as_array().into_iter().flatten().find(|row| row["node"] == node);
        Ok(row.cloned().unwrap_or_default())
    }

    fn why(&self, service: &str) -> String {
        self.edge.journal(&format!("{service}.service")).unwrap_or_default()
    }

    fn visitor(&self, name: &str) -> Result<(NodeName, Visitor)> {
        let name = NodeName::parse(&format!("{name}.stack.test"))?;
        let visitor = self.runtime.block_on(self.stack.main.sign_visitor(&name))?;
        Ok((name, visitor))
    }
}
