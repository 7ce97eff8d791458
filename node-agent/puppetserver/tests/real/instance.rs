//! A real Puppet Server with its own CA, below one temporary directory; killed with everything it started when dropped.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use bunraku_puppetserver::{Puppet, code_id::CodeId};

pub(crate) const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 21, 11)), 8140);
const CERTNAME: &str = "c21.bunraku.test";
/// Debian's puppetserver compiles its own code at every start: 30 s of CPU, on a machine that does other things too.
const STARTING: Duration = Duration::from_secs(300);
const PACKAGED: &str = "/etc/puppet/puppetserver";

pub(crate) struct Instance {
    root: tempfile::TempDir,
    server: Option<Child>,
}

impl Instance {
    /// Debian's own files, with paths below a directory of ours, and a new CA.
    pub(crate) fn install() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let instance = Self { root, server: None };
        for dir in [
            "etc",
            "conf.d",
            "services.d",
            "code/environments",
            "code/versions",
            "var",
            "run",
            "log",
            "helpers",
            "locks",
        ] {
            fs::create_dir_all(instance.path(dir)).unwrap();
        }
        for file in ["auth.conf", "ca.conf", "metrics.conf", "web-routes.conf"] {
            fs::copy(Path::new(PACKAGED).join("conf.d").join(file), instance.path("conf.d").join(file))
                .unwrap();
        }
        for file in ["bootstrap.cfg", "ca.cfg"] {
            fs::copy(
                Path::new(PACKAGED).join("services.d").join(file),
                instance.path("services.d").join(file),
            )
            .unwrap();
        }
        for file in ["logback.xml", "request-logging.xml"] {
            let text = fs::read_to_string(Path::new(PACKAGED).join(file)).unwrap();
            instance.write(file, &text.replace("/var/log/puppetserver", &instance.shown("log")));
        }
        instance.write(
            "conf.d/global.conf",
            &format!("global: {{ logging-config: {} }}\n", instance.shown("logback.xml")),
        );
        instance.write("conf.d/webserver.conf", &format!(
            "webserver: {{\n  access-log-config: {}\n  client-auth: want\n  ssl-host: {}\n  ssl-port: {}\n}}\n",
            instance.shown("request-logging.xml"), ADDRESS.ip(), ADDRESS.port()
        ));
        instance.write(
            "conf.d/puppetserver.conf",
            &format!(
                "jruby-puppet: {{\n  ruby-load-path: [/usr/lib/puppetserver/ruby/vendor_ruby]\n  \
             gem-home: /var/lib/puppetserver/jruby-gems\n  \
             gem-path: [${{jruby-puppet.gem-home}}, \"/usr/lib/puppetserver/vendored-jruby-gems\"]\n  \
             server-conf-dir: {0}/etc\n  server-code-dir: {0}/code\n  server-var-dir: {0}/var\n  \
             server-run-dir: {0}/run\n  server-log-dir: {0}/log\n  max-active-instances: 1\n}}\n\
             http-client: {{}}\nprofiler: {{}}\n",
                instance.root.path().display()
            ),
        );
        instance.write("etc/puppet.conf", &format!(
            "[main]\nconfdir = {0}/etc\ncodedir = {0}/code\nvardir = {0}/var\nrundir = {0}/run\nlogdir = {0}/log\n\
             ssldir = {0}/ssl\ncertname = {CERTNAME}\nserver = {CERTNAME}\n[server]\ncadir = {0}/ca\n\
             autosign = false\nstoreconfigs = false\nreports = none\n",
            instance.root.path().display()
        ));
        instance.install_helpers();
        run(Command::new("puppetserver")
            .args(["ca", "setup", "--ca-name", "Puppet CA: test", "--config"])
            .arg(instance.path("etc/puppet.conf"))
            .args(["--certname", CERTNAME, "--subject-alt-names", CERTNAME]));
        run(Command::new("chown").args(["-R", "puppet:puppet"]).arg(instance.root.path()));
        instance
    }

    /// This very program, under the names that Puppet Server calls.
    fn install_helpers(&self) {
        let program = self.path("helpers/program");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["bunraku-code-id", "bunraku-code-content"] {
            symlink(&program, self.path("helpers").join(name)).unwrap();
        }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    fn shown(&self, below: &str) -> String {
        self.path(below).display().to_string()
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    pub(crate) fn puppet(&self) -> Puppet {
        Puppet::new("puppet", ["--config".into(), self.path("etc/puppet.conf").into()])
    }

    pub(crate) fn start(&mut self) {
        self.write("run/restart", "0");
        run(Command::new("chown").arg("puppet:puppet").arg(self.path("run/restart")));
        let log = fs::File::create(self.path("log/stdout.log")).unwrap();
        let server = Command::new("setpriv")
            .args(["--reuid", "puppet", "--regid", "puppet", "--clear-groups", "java"])
            .args(["-Xms384m", "-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dlogappender=F1"])
            .args(["-Djruby.logger.class=com.puppetlabs.jruby_utils.jruby.Slf4jLogger"])
            .arg("-Djruby.lib=/usr/share/jruby/lib")
            .arg(format!("-Djava.io.tmpdir={}", self.shown("run")))
            .args(["-jar", "/usr/share/puppetserver/puppetserver.jar", "--config"])
            .arg(self.path("conf.d"))
            .arg("--bootstrap-config")
            .arg(self.path("services.d"))
            .arg("--restart-file")
            .arg(self.path("run/restart"))
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("HOME", &self.shown("run"))])
            .current_dir(self.root.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        self.server = Some(server);
        self.wait_ready();
    }

    /// As the packaged unit does it: the restart file says when it is ready again.
    pub(crate) fn reload(&mut self) {
        self.write("run/restart", "0");
        self.signal("-HUP");
        self.wait_ready();
    }

    pub(crate) fn stop(&mut self) {
        self.signal("-TERM");
        self.server.take().unwrap().wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let pid = self.server.as_ref().unwrap().id().to_string();
        run(Command::new("kill").args([signal, &pid]));
    }

    fn wait_ready(&mut self) {
        let began = Instant::now();
        while !fs::read_to_string(self.path("run/restart")).unwrap().starts_with('1') {
            let ended = self.server.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < STARTING, "it did not start:\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
        println!("Puppet Server is ready after {:.1} s", began.elapsed().as_secs_f64());
    }

    fn log(&self) -> String {
        let logs = ["log/stdout.log", "log/puppetserver.log"].map(|file| fs::read_to_string(self.path(file)));
        logs.into_iter().flatten().collect()
    }

    /// A catalog says which version it was compiled from.
    pub(crate) fn expect_text(&self, text: &str) -> String {
        let catalog = self.catalog();
        assert!(catalog.contains(&format!("this is {text}")), "{catalog}\n{}", self.log());
        catalog
    }

    /// A static catalog, with this label.
    pub(crate) fn expect_catalog(&self, text: &str, code_id: CodeId) {
        let catalog = self.expect_text(text);
        assert!(catalog.contains(&format!("\"code_id\":\"{code_id}\"")), "{catalog}");
        assert!(catalog.contains("content_uri"), "file metadata is inlined: {catalog}");
    }

    fn catalog(&self) -> String {
        // Facts travel twice percent-encoded.
        let facts =
            "%257B%2522name%2522%253A%2522c21.bunraku.test%2522%252C%2522values%2522%253A%257B%257D%257D";
        let data = format!(
            "environment=production&facts_format=application/json&facts={facts}&static_catalog=true&checksum_type=sha256"
        );
        self.curl(&format!("puppet/v3/catalog/{CERTNAME}"), &["--data", &data]).1
    }

    pub(crate) fn static_content(&self, code_id: CodeId) -> (u16, String) {
        let path = "puppet/v3/static_file_content/modules/demo/files/hello.txt";
        self.curl(&format!("{path}?environment=production&code_id={code_id}"), &[])
    }

    fn curl(&self, path: &str, more: &[&str]) -> (u16, String) {
        let output = Command::new("curl")
            .args(["-s", "--max-time", "120", "-w", "\n%{http_code}", "-H", "Accept: application/json, */*"])
            .arg("--connect-to")
            .arg(format!("{CERTNAME}:8140:{ADDRESS}"))
            .arg("--cacert")
            .arg(self.path("ssl/certs/ca.pem"))
            .arg("--cert")
            .arg(self.path(&format!("ssl/certs/{CERTNAME}.pem")))
            .arg("--key")
            .arg(self.path(&format!("ssl/private_keys/{CERTNAME}.pem")))
            .args(more)
            .arg(format!("https://{CERTNAME}:8140/{path}"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // Its group: the helper it may be running goes too.
            Command::new("kill").args(["-KILL", "--", &format!("-{}", server.id())]).status().ok();
            server.wait().ok();
        }
    }
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}: {said}");
}
