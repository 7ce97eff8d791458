//! Where Puppet Server keeps its own configuration, found from Puppet's `confdir`: the packages differ.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use crate::{
    Settings,
    doctor::hocon::{self, Value},
};

/// Puppet Server's standard port (`ssl-port` in webserver.conf).
const PORT: u16 = 8140;

/// Puppet Server's directories of configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub conf_d: PathBuf,
    /// Beside conf.d in every package.
    pub services_d: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum PlacesError {
    #[error(
        "no Puppet Server configuration at {} (hint: name its conf.d in the agent's configuration)",
        .looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" nor at ")
    )]
    NotFound { looked: Vec<PathBuf> },
}

impl Places {
    /// `configured` if given, else conf.d in the known places relative to Puppet's confdir.
    pub fn find(settings: &Settings, configured: Option<&Path>) -> Result<Self, PlacesError> {
        let known = || {
            let debian = settings.confdir.join("puppetserver/conf.d");
            // /etc/puppetlabs/puppet beside /etc/puppetlabs/puppetserver.
            let upstream = settings.confdir.parent().map(|above| above.join("puppetserver/conf.d"));
            std::iter::once(debian).chain(upstream).collect()
        };
        let looked: Vec<PathBuf> = configured.map_or_else(known, |path| vec![path.into()]);
        match looked.iter().find(|path| path.is_dir()) {
            Some(conf_d) => {
                let services_d = conf_d.with_file_name("services.d");
                Ok(Self { conf_d: conf_d.clone(), services_d })
            }
            None => Err(PlacesError::NotFound { looked }),
        }
    }

    /// The address on this host at which webserver.conf makes Puppet Server answer. Of all addresses loopback is the
    /// nearest.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let mut address = self.listens()?;
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        Ok(address)
    }

    /// Where webserver.conf makes it listen: at one address, or (`0.0.0.0`, as packages ship it, a name, or none) at all.
    pub fn listens(&self) -> io::Result<SocketAddr> {
        let mut address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT);
        for path in conf_files(&self.conf_d)? {
            let Ok(root) = hocon::parse(&fs::read_to_string(path)?) else { continue };
            let Some(webserver) = root.get("webserver") else { continue };
            if let Some(port) = webserver.get("ssl-port").and_then(Value::text) {
                address.set_port(port.parse().unwrap_or(PORT));
            }
            let host = webserver.get("ssl-host").and_then(Value::text);
            if let Some(ip) = host.and_then(|host| host.parse::<IpAddr>().ok()) {
                address.set_ip(ip);
            }
        }
        Ok(address)
    }

    /// Certificate and key as webserver.conf names them, where it does not leave that to puppet.conf.
    pub fn webserver_pair(&self) -> io::Result<(Option<PathBuf>, Option<PathBuf>)> {
        let (mut certificate, mut key) = (None, None);
        for path in conf_files(&self.conf_d)? {
            let Ok(root) = hocon::parse(&fs::read_to_string(path)?) else { continue };
            let Some(webserver) = root.get("webserver") else { continue };
            let named = |name| webserver.get(name).and_then(Value::text).map(PathBuf::from);
            certificate = named("ssl-cert").or(certificate);
            key = named("ssl-key").or(key);
        }
        Ok((certificate, key))
    }
}

/// The files of conf.d that Puppet Server merges, in order.
pub(crate) fn conf_files(conf_d: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = fs::read_dir(conf_d)?
        .map(|entry| entry.map(|entry| entry.path()))
        .filter(|path| path.as_ref().map_or(true, |path| path.extension().is_some_and(|end| end == "conf")))
        .collect::<io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(webserver: &str, ask: impl FnOnce(Places) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("webserver.conf"), webserver).unwrap();
        ask(Places { conf_d: dir.path().into(), services_d: dir.path().into() })
    }

    fn address(webserver: &str) -> SocketAddr {
        with(webserver, |places| places.address().unwrap())
    }

    fn listens(webserver: &str) -> String {
        with(webserver, |places| places.listens().unwrap().to_string())
    }

    /// Connections to the host's own address were not seen, and compilers drained under load.
    #[test]
    fn a_server_that_listens_everywhere_is_not_taken_for_one_at_loopback() {
        assert_eq!(listens(include_str!("../tests/samples/webserver.conf")), "0.0.0.0:8140");
        assert_eq!(listens("webserver: { ssl-host: puppet.example, ssl-port: 8150 }"), "0.0.0.0:8150");
        assert_eq!(listens("webserver: { ssl-host: 192.0.2.11 }"), "192.0.2.11:8140");
        assert_eq!(listens("webserver: { ssl-host: \"::\" }"), "[::]:8140");
    }

    #[test]
    fn a_pair_that_webserver_conf_names_is_found() {
        let pair = |webserver: &str| with(webserver, |places| places.webserver_pair().unwrap());
        assert_eq!(pair(include_str!("../tests/samples/webserver.conf")), (None, None));
        let own = pair("webserver: { ssl-cert: /c.pem, ssl-key: /k.pem }");
        assert_eq!(own, (Some("/c.pem".into()), Some("/k.pem".into())));
    }

    #[test]
    fn the_address_comes_from_webserver_conf() {
        assert_eq!(address(include_str!("../tests/samples/webserver.conf")).to_string(), "127.0.0.1:8140");
        let own = "webserver: { ssl-host: 127.0.1.11, ssl-port = 8150 }";
        assert_eq!(address(own).to_string(), "127.0.1.11:8150");
        assert_eq!(address("webserver: { ssl-host: puppet.example }").to_string(), "127.0.0.1:8140");
    }
}
