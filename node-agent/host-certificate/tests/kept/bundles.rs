//! Copies for other programs.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
};

use bunraku_host_certificate::{Bundle, Bundles, Sources, What};

use crate::world::Host;

struct Copies {
    host: Host,
    bundles: Bundles,
}

impl Copies {
    fn new(whats: &[What]) -> Self {
        let host = Host::new();
        let bundle = |what: &What| Bundle {
            what: *what,
            path: host.path(&what.to_string()),
            owner: None,
            group: None,
            mode: if what.is_secret() { 0o600 } else { 0o644 },
            reload: Some("haproxy".to_owned()),
        };
        let all = whats.iter().map(bundle).collect();
        let bundles = Bundles::open(&host.path("bundles.json"), all).unwrap();
        Self { host, bundles }
    }

    fn look(&mut self) -> usize {
        let path = |name: &str| self.host.path("ssl").join(name);
        let sources = Sources { certificate: path("cert.pem"), key: path("key.pem"), ca: path("ca.pem") };
        self.bundles.look(&sources);
        self.bundles.owed().len()
    }

    fn copy(&self, what: What) -> Option<Vec<u8>> {
        fs::read(self.host.path(&what.to_string())).ok()
    }

    fn pay(&mut self) {
        for reload in self.bundles.reloads() {
            self.bundles.reloaded(&reload).unwrap();
        }
    }

    fn source(&self, name: &str) -> PathBuf {
        self.host.path("ssl").join(name)
    }
}

const ALL: [What; 4] = [What::Ca, What::Certificate, What::Key, What::CertificateAndKey];

#[test]
fn every_copy_is_like_its_source_and_its_service_reads_it_once() {
    let mut copies = Copies::new(&ALL);
    assert_eq!(copies.look(), 0, "{:?}", copies.bundles.owed());
    let (certificate, key) = copies.host.read();
    assert_eq!(copies.copy(What::Ca).unwrap(), copies.host.ca.pem().as_bytes());
    assert_eq!(copies.copy(What::Certificate).unwrap(), certificate);
    assert_eq!(copies.copy(What::Key).unwrap(), key);
    assert_eq!(copies.copy(What::CertificateAndKey).unwrap(), [certificate, key].concat());
    let mode = |what: What| {
        let path = copies.host.path(&what.to_string());
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!(ALL.map(mode), [0o644, 0o644, 0o600, 0o600]);

    assert_eq!(copies.bundles.reloads().len(), 1);
    copies.pay();
    copies.look();
    assert!(copies.bundles.reloads().is_empty(), "nothing has changed since");
    let (certificate, key) = copies.host.ca.issue(2);
    fs::write(copies.source("cert.pem"), certificate).unwrap();
    fs::write(copies.source("key.pem"), key).unwrap();
    copies.look();
    let owed = copies.bundles.reloads();
    assert_eq!(owed.len(), 1);
    let again = Bundles::open(&copies.host.path("bundles.json"), copies.bundles.bundles().to_vec()).unwrap();
    assert_eq!(again.reloads(), owed, "owed until it is done, also after a restart");
}

#[test]
fn a_source_that_is_cut_or_half_of_a_pair_is_not_copied() {
    let mut copies = Copies::new(&ALL);
    copies.look();
    copies.pay();
    let before = ALL.map(|what| copies.copy(what));
    let (certificate, key) = copies.host.read();
    fs::write(copies.source("cert.pem"), &certificate[..certificate.len() / 2]).unwrap();
    assert_eq!(copies.look(), 3);
    let (other, other_key) = copies.host.ca.issue(2);
    fs::write(copies.source("cert.pem"), &other).unwrap();
    assert_eq!(copies.look(), 3, "the new certificate with the old key");
    let why: Vec<&String> = copies.bundles.owed().values().collect();
    assert!(why.iter().all(|why| why.contains("does not belong to the certificate")), "{why:?}");
    fs::write(copies.source("cert.pem"), &certificate).unwrap();
    fs::write(copies.source("key.pem"), &other_key).unwrap();
    assert_eq!(copies.look(), 3, "the old certificate with the new key");
    fs::write(copies.source("ca.pem"), "").unwrap();
    assert_eq!(copies.look(), 4);
    assert_eq!(ALL.map(|what| copies.copy(what)), before);
    assert!(copies.bundles.reloads().is_empty());
    fs::write(copies.source("key.pem"), &key).unwrap();
    fs::write(copies.source("ca.pem"), copies.host.ca.pem()).unwrap();
    assert_eq!(copies.look(), 0);
    assert!(copies.bundles.reloads().is_empty(), "they were right all the time");
}

#[test]
fn a_copy_that_somebody_changed_or_opened_to_others_is_put_right() {
    let mut copies = Copies::new(&[What::Key]);
    copies.look();
    copies.pay();
    let path = copies.host.path("key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    copies.look();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(copies.bundles.reloads().is_empty(), "its content is the same");
    fs::write(&path, "changed").unwrap();
    copies.look();
    assert_eq!(fs::read(&path).unwrap(), copies.host.read().1);
    assert_eq!(copies.bundles.reloads().len(), 1);
}

#[test]
fn a_copy_in_the_place_of_puppets_own_file_or_through_a_link_is_never_made() {
    let mut copies = Copies::new(&[What::CertificateAndKey]);
    let target = copies.host.path("precious");
    fs::write(&target, "precious").unwrap();
    symlink(&target, copies.host.path("certificate-and-key")).unwrap();
    assert_eq!(copies.look(), 1);
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    let bundle = Bundle { path: copies.source("key.pem"), ..copies.bundles.bundles()[0].clone() };
    copies.bundles = Bundles::open(&copies.host.path("bundles.json"), vec![bundle]).unwrap();
    let before = copies.host.read();
    assert_eq!(copies.look(), 1);
    assert_eq!(copies.host.read(), before);
}
