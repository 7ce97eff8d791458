//! One Puppet Server with a configuration of its own, run as Puppet's user, as its systemd unit would run it.
//!
//! A restart file makes readiness exact: Puppet Server writes `1` there when all services run.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::lchown,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{
    CA_NAME, DOMAIN, MAIN_ADDRESS, User, aot::PACKAGED_JAR, compiler_address, copy_file, make_directory,
    read_file, write_file,
};
use crate::{
    http::Client,
    process::{Service, output_of, wait_for},
    progress::Progress,
};

/// Debian's configuration, which is copied and changed only where instances must differ.
const PACKAGED: &str = "/etc/puppet/puppetserver";

/// C1 and the serial collector make a start three times cheaper; JRuby's own compiler would cost another second, and
/// pays only in servers that live longer.
const JVM_FLAGS: [&str; 3] = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Djruby.jit.threshold=-1"];

/// What /etc/default/puppetserver holds elsewhere. 384 MB are enough for one interpreter.
pub(super) fn java_arguments(interpreters: u64) -> Vec<String> {
    let megabytes = 256 + 128 * interpreters;
    let mut arguments: Vec<String> = JVM_FLAGS.map(str::to_owned).into();
    arguments.extend([format!("-Xms{megabytes}m"), format!("-Xmx{megabytes}m")]);
    arguments.push("-Djruby.logger.class=com.puppetlabs.jruby_utils.jruby.Slf4jLogger".to_owned());
    arguments
}

/// A compiler's CA services: the CA is off, the watch on CRL files stays on.
const CA_OFF: &str = "\
puppetlabs.services.ca.certificate-authority-disabled-service/certificate-authority-disabled-service
puppetlabs.trapperkeeper.services.watcher.filesystem-watch-service/filesystem-watch-service
";

/// How a compiler is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// As the package leaves it: environments are read again at each request, and nobody may flush a cache.
    AsInstalled,
    /// As Bunraku wants it: environments are cached until flushed, links are resolved once per load, and the
    /// compiler's own certificate may flush.
    Prepared,
}

/// One instance, started or not.
#[derive(Debug)]
pub struct PuppetServer {
    name: String,
    address: Ipv4Addr,
    directory: PathBuf,
    jar: PathBuf,
    has_ca: bool,
    interpreters: u64,
    service: Option<Service>,
    /// The pid file, where a node agent restarts it.
    handed_over: Option<PathBuf>,
}

impl PuppetServer {
    pub(super) fn main(parent: &Path, jar: &Path) -> Self {
        Self::new("ca", MAIN_ADDRESS, parent, jar, 1)
    }

    pub(super) fn compiler(parent: &Path, number: u8, jar: &Path, interpreters: u64) -> Self {
        Self::new(&format!("c{number}"), compiler_address(number), parent, jar, interpreters)
    }

    fn new(name: &str, address: Ipv4Addr, parent: &Path, jar: &Path, interpreters: u64) -> Self {
        let (name, directory, jar) = (name.to_owned(), parent.join(name), jar.to_owned());
        let has_ca = name == "ca";
        Self { name, address, directory, jar, has_ca, interpreters, service: None, handed_over: None }
    }

    /// `ca`, `c1`, `c2`, …; also its name in the balancer.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn certname(&self) -> String {
        format!("{}.{DOMAIN}", self.name)
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub(super) fn jar(&self) -> &Path {
        &self.jar
    }

    pub(super) fn interpreters(&self) -> u64 {
        self.interpreters
    }

    /// Its `puppet.conf`, for `puppet … --config`.
    pub fn puppet_conf(&self) -> PathBuf {
        self.directory.join("etc/puppet.conf")
    }

    /// Puppet Server's own configuration: auth.conf and its neighbours.
    pub fn conf_d(&self) -> PathBuf {
        self.directory.join("conf.d")
    }

    pub fn ssldir(&self) -> PathBuf {
        self.directory.join("ssl")
    }

    /// Where the CA keeps its files (only the main server has them).
    pub fn cadir(&self) -> PathBuf {
        self.directory.join("ca")
    }

    pub fn codedir(&self) -> PathBuf {
        self.directory.join("code")
    }

    /// The directory of the live environments.
    pub fn environments(&self) -> PathBuf {
        self.codedir().join("environments")
    }

    /// The file that tells readiness: `0` while starting, `1` when ready.
    pub fn restart_file(&self) -> PathBuf {
        self.directory.join("run/restart")
    }

    /// The running process.
    pub fn service(&mut self) -> Result<&mut Service> {
        self.service.as_mut().with_context(|| format!("{} is not started", self.name))
    }

    /// Requests with this server's own certificate.
    pub fn client(&self) -> Client {
        Client::from_ssldir(&self.ssldir(), &self.certname())
    }

    /// Drops every cached environment; its auth.conf must allow that ([`Setup::Prepared`]).
    pub fn flush(&self) -> Result<()> {
        let url = format!("https://{}:8140/puppet-admin-api/v1/environment-cache", self.certname());
        let status = self.client().delete(&url)?.status;
        ensure!(status == 204, "{} answered {status} to a flush", self.name);
        Ok(())
    }

    /// Writes a complete configuration, apart from certificates.
    pub(super) fn configure(&self, setup: Setup) -> Result<()> {
        for below in ["etc", "conf.d", "services.d", "code/environments", "var", "run", "log", "ssl"] {
            make_directory(&self.directory.join(below))?;
        }
        self.copy_packaged_files()?;
        self.write_own_files()?;
        if setup == Setup::Prepared {
            self.set_in_puppet_conf("environment_timeout", "unlimited")?;
            self.set_in_puppet_conf("versioned_environment_dirs", "true")?;
            self.allow_flush()?;
        }
        self.give_to_puppet(&self.directory)
    }

    /// Adds a setting to `[server]` in puppet.conf; a running server needs a reload.
    pub fn set_in_puppet_conf(&self, setting: &str, value: &str) -> Result<()> {
        let before = read_file(&self.puppet_conf())?;
        let after = before.replacen("[server]\n", &format!("[server]\n{setting} = {value}\n"), 1);
        ensure!(before != after, "{} has no [server] section", self.puppet_conf().display());
        write_file(&self.puppet_conf(), after)
    }

    /// Lets it compile an agent's catalog for itself, too, as docs/rollouts.md says; a running server needs a reload.
    pub fn allow_catalogs_of(&self, agent: &str) -> Result<()> {
        let own = self.certname();
        self.add_rule(&format!(
            "{{
            match-request: {{ path: \"/puppet/v3/catalog/{agent}\", type: path, method: get }}
            allow: [\"{agent}\", \"{own}\"]
            sort-order: 400
            name: \"bunraku test catalog\"
        }}"
        ))
    }

    /// How many catalogs it was asked for, by its access log.
    pub fn catalogs_asked(&self) -> Result<usize> {
        let log = read_file(&self.directory.join("log/puppetserver-access.log"))?;
        Ok(log.lines().filter(|line| line.contains("/puppet/v3/catalog/")).count())
    }

    /// Lets Puppet Server ask these programs for code ids and contents; a running server needs a reload.
    pub fn set_versioned_code(&self, code_id: &Path, code_content: &Path) -> Result<()> {
        let text = format!(
            "versioned-code: {{\n    code-id-command: {}\n    code-content-command: {}\n}}\n",
            code_id.display(),
            code_content.display()
        );
        write_file(&self.conf_d().join("versioned-code.conf"), text)
    }

    /// Starts it; see [`PuppetServer::wait_until_ready`].
    pub fn start(&mut self) -> Result<()> {
        self.write_restart_file()?;
        let mut command = Command::new("sh");
        command
            .args(["-c", "umask 027; exec \"$@\"", "sh"])
            .args(self.words())
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")])
            .env("HOME", &self.directory)
            .current_dir(&self.directory);
        let command = User::named("puppet")?.runs(&mut command);
        let service = Service::spawn(&self.name, command, &self.directory.join("log/stdout.log"))?;
        self.service = Some(service);
        Ok(())
    }

    /// The server in the foreground.
    fn words(&self) -> Vec<String> {
        let shown = |below: &str| self.directory.join(below).display().to_string();
        let mut words = vec!["java".to_owned()];
        words.extend(java_arguments(self.interpreters));
        words.extend(
            ["-Dlogappender=F1", "-Djruby.lib=/usr/share/jruby/lib", "-XX:+CrashOnOutOfMemoryError"]
                .map(str::to_owned),
        );
        words.push(format!("-XX:ErrorFile={}", shown("log/hs_err_pid%p.log")));
        words.push(format!("-Djava.io.tmpdir={}", shown("run")));
        words.extend(["-cp".to_owned(), format!("{}:{PACKAGED_JAR}", self.jar.display())]);
        words.extend(["clojure.main", "-m", "puppetlabs.trapperkeeper.main"].map(str::to_owned));
        words.extend(["--config".to_owned(), shown("conf.d")]);
        words.extend(["--bootstrap-config".to_owned(), shown("services.d")]);
        words.extend(["--restart-file".to_owned(), shown("run/restart")]);
        words
    }

    /// Gives the running server to a node agent, as systemd has it elsewhere: a `[services]` entry with its pid file
    /// and the words that start it as Puppet's user.
    pub fn hand_over(&mut self, pid_file: &Path) -> Result<toml::Table> {
        write_file(pid_file, self.service()?.pid().to_string())?;
        self.handed_over = Some(pid_file.to_owned());
        let directory = self.directory.display().to_string();
        let mut words: Vec<String> =
            ["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "LANG=C.UTF-8"].map(str::to_owned).into();
        words.push(format!("HOME={directory}"));
        words.extend(
            ["setpriv", "--reuid", "puppet", "--regid", "puppet", "--clear-groups"].map(str::to_owned),
        );
        words.extend(["sh", "-c", "cd \"$1\"; shift; umask 027; exec \"$@\"", "sh"].map(str::to_owned));
        words.push(directory);
        words.extend(self.words());
        let shown = |path: PathBuf| toml::Value::from(path.display().to_string());
        let mut entry = toml::Table::new();
        entry.insert("driver".into(), "process".into());
        entry.insert("pid_file".into(), shown(pid_file.to_owned()));
        entry.insert("command".into(), words.into());
        entry.insert("log".into(), shown(self.directory.join("log/stdout.log")));
        entry.insert("restart_file".into(), shown(self.restart_file()));
        Ok(entry)
    }

    /// The process id of a server that was handed over.
    pub fn handed_over_pid(&self) -> Result<u32> {
        let path = self.handed_over.as_ref().with_context(|| format!("{} was not handed over", self.name))?;
        read_file(path)?.trim().parse().with_context(|| format!("no process id in {}", path.display()))
    }

    /// Waits until all its services run, and says how long that took and how much memory it has.
    pub fn wait_until_ready(&mut self, within: Duration, progress: &Progress) -> Result<()> {
        let start = Instant::now();
        self.wait_for_restart_file(within)?;
        let (name, service) = (self.name.clone(), self.service()?);
        progress.say(format_args!(
            "{name}: running after {:.1} s ({:.0} s of processor time, {} MB)",
            start.elapsed().as_secs_f64(),
            service.cpu_time()?.as_secs_f64(),
            service.resident_memory()? >> 20,
        ));
        Ok(())
    }

    /// `systemctl reload`: `HUP`, and ready again. The port is closed meanwhile (4 to 8 s).
    pub fn reload(&mut self, within: Duration) -> Result<()> {
        self.write_restart_file()?;
        self.service()?.signal(Signal::HUP)?;
        self.wait_for_restart_file(within)
    }

    /// `systemctl stop`.
    pub fn stop(&mut self) -> Result<()> {
        if self.handed_over.is_some() {
            return self.stop_handed_over();
        }
        let service = self.service.take().with_context(|| format!("{} is not started", self.name))?;
        service.stop(Duration::from_secs(60)).map(drop)
    }

    /// Whoever started it.
    fn stop_handed_over(&mut self) -> Result<()> {
        let pid = self.handed_over_pid()?;
        self.handed_over = None;
        let own = self.service.take().filter(|service| service.pid() == pid);
        if let Some(service) = own {
            return service.stop(Duration::from_secs(60)).map(drop);
        }
        output_of(Command::new("kill").arg(pid.to_string()))?;
        let process = PathBuf::from(format!("/proc/{pid}/exe"));
        // A process that nobody has waited for yet has no program any more.
        wait_for(&format!("the end of {}", self.name), Duration::from_secs(60), || {
            Ok(fs::read_link(&process).is_err().then_some(()))
        })
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        let service = self.service.take().with_context(|| format!("{} is not started", self.name))?;
        service.kill()
    }

    /// Puts a built environment in place as a plain directory.
    pub(super) fn place(&self, environment: &str, built: &Path) -> Result<()> {
        let live = self.environments().join(environment);
        if live.exists() {
            fs::remove_dir_all(&live).with_context(|| format!("could not remove {}", live.display()))?;
        }
        output_of(Command::new("cp").arg("-a").args([built, live.as_path()]))?;
        self.give_to_puppet(&live)
    }

    pub(super) fn leave_running(self) {
        if let Some(service) = self.service {
            service.leave_running();
        }
    }

    /// Makes Puppet's user the owner of `path` and all below.
    pub(super) fn give_to_puppet(&self, path: &Path) -> Result<()> {
        User::named("puppet")?.owns(path)
    }

    fn copy_packaged_files(&self) -> Result<()> {
        let packaged = Path::new(PACKAGED);
        for file in ["auth.conf", "ca.conf", "metrics.conf", "web-routes.conf"] {
            copy_file(&packaged.join("conf.d").join(file), &self.conf_d().join(file))?;
        }
        let logs = self.directory.join("log").display().to_string();
        for file in ["logback.xml", "request-logging.xml"] {
            let text = read_file(&packaged.join(file))?.replace("/var/log/puppetserver", &logs);
            write_file(&self.directory.join(file), text)?;
        }
        let services = self.directory.join("services.d");
        copy_file(&packaged.join("services.d/bootstrap.cfg"), &services.join("bootstrap.cfg"))?;
        if self.has_ca {
            copy_file(&packaged.join("services.d/ca.cfg"), &services.join("ca.cfg"))
        } else {
            write_file(&services.join("ca.cfg"), CA_OFF)
        }
    }

    fn write_own_files(&self) -> Result<()> {
        let (directory, conf_d) = (self.directory.display(), self.conf_d());
        write_file(
            &conf_d.join("global.conf"),
            format!("global: {{ logging-config: {directory}/logback.xml }}\n"),
        )?;
        write_file(
            &conf_d.join("webserver.conf"),
            format!(
                "webserver: {{
    access-log-config: {directory}/request-logging.xml
    client-auth: want
    ssl-host: {}
    ssl-port: 8140
}}\n",
                self.address
            ),
        )?;
        write_file(
            &conf_d.join("puppetserver.conf"),
            format!(
                "jruby-puppet: {{
    ruby-load-path: [/usr/lib/puppetserver/ruby/vendor_ruby]
    gem-home: /var/lib/puppetserver/jruby-gems
    gem-path: [${{jruby-puppet.gem-home}}, \"/usr/lib/puppetserver/vendored-jruby-gems\"]
    server-conf-dir: {directory}/etc
    server-code-dir: {directory}/code
    server-var-dir: {directory}/var
    server-run-dir: {directory}/run
    server-log-dir: {directory}/log
    max-active-instances: {}
}}
http-client: {{}}
profiler: {{}}\n",
                self.interpreters
            ),
        )?;
        if self.has_ca {
            // Compilers have aliases, which the CA signs only when told so.
            write_file(
                &conf_d.join("ca.conf"),
                "certificate-authority: { allow-subject-alt-names: true }\n",
            )?;
        }
        let cadir = if self.has_ca { format!("cadir = {directory}/ca\n") } else { String::new() };
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
server = {CA_NAME}
ca_server = {CA_NAME}
[server]
{cadir}autosign = false
storeconfigs = false
reports = none\n",
                self.certname()
            ),
        )
    }

    /// The rule that the packaged auth.conf lacks, in the way of `bunraku-agent doctor --fix`.
    fn allow_flush(&self) -> Result<()> {
        self.add_rule(&format!(
            "{{
            match-request: {{
                path: \"^/puppet-admin-api/v1/(environment-cache|jruby-pool)$\"
                type: regex
                method: [delete]
            }}
            allow: [\"{}\"]
            sort-order: 200
            name: \"bunraku: flush caches\"
        }}",
            self.certname()
        ))
    }

    fn add_rule(&self, rule: &str) -> Result<()> {
        let path = self.conf_d().join("auth.conf");
        let before = read_file(&path)?;
        let after = before.replacen("    rules: [\n", &format!("    rules: [\n        {rule},\n"), 1);
        ensure!(before != after, "{} has no list of rules", path.display());
        write_file(&path, after)
    }

    fn write_restart_file(&self) -> Result<()> {
        let path = self.restart_file();
        write_file(&path, "0")?;
        let User { uid, gid } = User::named("puppet")?;
        lchown(&path, Some(uid), Some(gid)).with_context(|| format!("could not give {} away", path.display()))
    }

    fn wait_for_restart_file(&mut self, within: Duration) -> Result<()> {
        let (path, name) = (self.restart_file(), self.name.clone());
        let service = self.service()?;
        wait_for(&format!("{name} to be ready"), within, || {
            service.ensure_running()?;
            Ok(read_file(&path)?.starts_with('1').then_some(()))
        })
    }
}
