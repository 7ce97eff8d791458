//! The same server under systemd: Debian's own unit, in a [`Machine`].

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context, Result, ensure};

use super::{
    CA_NAME, PuppetServer, aot::PACKAGED_JAR, make_directory, puppet_server::java_arguments, read_file,
    write_file,
};
use crate::machine::Machine;

/// Debian's unit, but for the class path: see [`super::aot`].
const FASTER: &str = "[Service]
ExecStart=
ExecStart=/usr/bin/java $JAVA_ARGS -Djruby.lib=/usr/share/jruby/lib -XX:+CrashOnOutOfMemoryError \\
    -cp /usr/local/share/puppetserver-aot.jar:PACKAGED clojure.main -m puppetlabs.trapperkeeper.main \\
    --config /etc/puppet/puppetserver/conf.d --bootstrap-config /etc/puppet/puppetserver/services.d \\
    --restart-file ${RUNTIME_DIRECTORY}/restart
";

impl PuppetServer {
    /// Lets `puppetserver.service` of a machine that is about to boot be this server, with all that it has.
    pub fn furnish(&self, root: &Path) -> Result<()> {
        for below in ["conf.d", "services.d"] {
            let packaged = root.join("etc/puppet/puppetserver").join(below);
            fs::remove_dir_all(&packaged)
                .with_context(|| format!("could not remove {}", packaged.display()))?;
            let own = self.conf_d().with_file_name(below);
            symlink(&own, &packaged).with_context(|| format!("could not link to {}", own.display()))?;
        }
        self.start_faster(root)
    }

    /// Lets it be the server of a machine on which the package was just installed, and nothing was started: everything
    /// is where Debian has it, and only its names and its address are its own.
    pub fn furnish_as_packaged(&self, root: &Path) -> Result<()> {
        write_file(
            &root.join("etc/puppet/puppet.conf"),
            format!("[main]\ncertname = {}\nserver = {CA_NAME}\n", self.certname()),
        )?;
        let webserver = root.join("etc/puppet/puppetserver/conf.d/webserver.conf");
        let packaged = read_file(&webserver)?;
        let own = packaged.replace("ssl-host: 0.0.0.0", &format!("ssl-host: {}", self.address()));
        ensure!(own != packaged, "{} has no address for all", webserver.display());
        write_file(&webserver, own)?;
        self.start_faster(root)
    }

    fn start_faster(&self, root: &Path) -> Result<()> {
        let jar = root.join("usr/local/share/puppetserver-aot.jar");
        fs::copy(self.jar(), &jar).with_context(|| format!("could not make {}", jar.display()))?;
        let changed = root.join("etc/systemd/system/puppetserver.service.d");
        make_directory(&changed)?;
        write_file(&changed.join("faster.conf"), FASTER.replace("PACKAGED", PACKAGED_JAR))?;
        let arguments = java_arguments(self.interpreters()).join(" ");
        write_file(
            &root.join("etc/default/puppetserver"),
            format!("JAVA_ARGS=\"{arguments}\"\nTK_ARGS=\"\"\n"),
        )
    }

    /// Starts it there and waits until it is ready.
    pub fn start_in(&self, machine: &Machine) -> Result<()> {
        machine.run(&["systemctl", "enable", "--now", "puppetserver.service"]).map(drop)
    }
}
