//! The Puppet door with the files of a real Puppet CA (root and issuing CA, RSA-4096, two CRLs).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use bunraku_proto::{
    accept::{Accepted, Doors, Limits, accept},
    dial::dial,
    tls::{Credentials, PuppetAuthorities, puppet_client},
};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::TcpListener, sync::mpsc};

use super::{PuppetCertificate, PuppetDoor, PuppetError, PuppetFiles};

const SOON: Duration = Duration::from_secs(20);
const MAIN: &str = "main.test";

#[tokio::test]
async fn the_door_follows_puppets_files_and_closes_when_they_are_broken() {
    let Some(ca) = RealCa::setup() else {
        eprintln!("not run: puppetserver is not installed");
        return;
    };
    let mut door = PuppetDoor::new(ca.files());
    let trust = door.refresh().unwrap().unwrap();
    assert!(trust.revoked.is_empty() && trust.crl_ends.is_some());
    assert!(door.refresh().is_none(), "nothing has changed");

    let (port, mut accepted) = Port::open(trust.config).await;
    let client = ca.client();
    let came = port.knock(&client, &mut accepted).await.unwrap();
    let certificate = PuppetCertificate::read(&came.caller.certificate.unwrap()).unwrap();
    assert_eq!(certificate.certname.as_str(), MAIN);

    ca.revoke_serial_1();
    let trust = door.refresh().unwrap().unwrap();
    assert_eq!(trust.revoked.iter().collect::<Vec<_>>(), [&certificate.origin]);
    port.doors.store(Arc::new(Doors { enroll_puppet: Some(trust.config), ..Doors::default() }));
    assert!(port.knock(&client, &mut accepted).await.is_none(), "a revoked certificate came in");

    fs::write(ca.crl(), "garbage").unwrap();
    assert!(matches!(door.refresh(), Some(Err(PuppetError::Tls(_)))));
    fs::remove_file(ca.crl()).unwrap();
    assert!(matches!(door.refresh(), Some(Err(PuppetError::Read { .. }))));
    assert!(door.refresh().is_none(), "an error is told once");
}

struct RealCa {
    dir: TempDir,
}

impl RealCa {
    /// Takes about 4 s: RSA-4096 keys.
    fn setup() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        let config = dir.path().join("puppet.conf");
        let dirs = ["conf", "code", "var", "run", "log", "ssl"]
            .map(|name| format!("{name}dir={root}/{name}\n"))
            .concat();
        let text = format!("[main]\n{dirs}certname={MAIN}\nserver={MAIN}\n[server]\ncadir={root}/ca\n");
        fs::write(&config, text).unwrap();
        let made = Command::new("puppetserver")
            .args(["ca", "setup", "--certname", MAIN, "--ca-name", "Puppet CA: test", "--config"])
            .arg(&config)
            .output();
        match made {
            Err(_) => None,
            Ok(output) => {
                succeeded(&output);
                Some(Self { dir })
            }
        }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn crl(&self) -> PathBuf {
        self.path("ca/ca_crl.pem")
    }

    fn files(&self) -> PuppetFiles {
        PuppetFiles {
            ca: self.path("ssl/certs/ca.pem"),
            crl: self.crl(),
            certificate: self.path("ssl/certs/main.test.pem"),
            key: self.path("ssl/private_keys/main.test.pem"),
        }
    }

    /// The main server's own certificate is good for calling, too; the client knows the CRLs as they are at first.
    fn client(&self) -> bunraku_proto::tls::ClientTls {
        let read = |path: &Path| fs::read(path).unwrap();
        let files = self.files();
        let own = Credentials::from_pem("a test", &read(&files.certificate), &read(&files.key)).unwrap();
        let puppet = PuppetAuthorities::from_pem(&read(&files.ca), &read(&files.crl)).unwrap();
        puppet_client(&own, &puppet, MAIN).unwrap()
    }

    /// What `puppetserver ca revoke` does, which needs a running server: a new CRL of the issuing CA, before the
    /// root's, put in place by rename.
    fn revoke_serial_1(&self) {
        let root = self.dir.path().display();
        fs::write(
            self.path("index.txt"),
            format!("R\t410101000000Z\t250101000000Z\t01\tunknown\t/CN={MAIN}\n"),
        )
        .unwrap();
        fs::write(self.path("number"), "01\n").unwrap();
        let config = format!(
            "[ca]\ndefault_ca=x\n[x]\ndatabase={root}/index.txt\ncrlnumber={root}/number\ndefault_md=sha256\n\
             default_crl_days=30\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n"
        );
        fs::write(self.path("openssl.conf"), config).unwrap();
        let issuing = fs::read_to_string(self.path("ca/ca_crt.pem")).unwrap();
        let end = "-----END CERTIFICATE-----\n";
        fs::write(self.path("issuing.pem"), &issuing[..issuing.find(end).unwrap() + end.len()]).unwrap();
        let made = Command::new("openssl")
            .args(["ca", "-gencrl", "-config", "openssl.conf", "-keyfile", "ca/ca_key.pem"])
            .args(["-cert", "issuing.pem", "-out", "new.pem"])
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        succeeded(&made);
        let old = fs::read_to_string(self.crl()).unwrap();
        let roots = &old[old.rfind("-----BEGIN").unwrap()..];
        let new = fs::read_to_string(self.path("new.pem")).unwrap();
        fs::write(self.path("new.pem"), new + roots).unwrap();
        fs::rename(self.path("new.pem"), self.crl()).unwrap();
    }
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

struct Port {
    address: String,
    doors: Arc<ArcSwap<Doors>>,
    task: tokio::task::AbortHandle,
}

impl Port {
    async fn open(config: Arc<rustls::ServerConfig>) -> (Self, mpsc::UnboundedReceiver<Accepted>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let doors =
            Arc::new(ArcSwap::from_pointee(Doors { enroll_puppet: Some(config), ..Doors::default() }));
        let (sender, receiver) = mpsc::unbounded_channel();
        let accepting = accept(listener, Arc::clone(&doors), Limits::default(), move |accepted| {
            let _ = sender.send(accepted);
            async {}
        });
        let task = tokio::spawn(accepting).abort_handle();
        (Self { address, doors, task }, receiver)
    }

    async fn knock(
        &self,
        tls: &bunraku_proto::tls::ClientTls,
        accepted: &mut mpsc::UnboundedReceiver<Accepted>,
    ) -> Option<Accepted> {
        let mut stream = dial(&self.address, tls, SOON).await.unwrap();
        tokio::select! {
            came = accepted.recv() => came,
            _ = stream.read_u8() => None,
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}
