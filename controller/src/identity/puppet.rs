//! The door for holders of a Puppet certificate: Puppet's files as they are on the main server, read again whenever
//! they change. A file that is broken closes this door and no other.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bunraku_common::{Digest, NodeName, Role};
use bunraku_proto::{
    peer::hex_serial,
    tls::{self, Credentials, PuppetAuthorities, TlsError},
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, CertificateRevocationListDer},
};
use x509_parser::{
    prelude::{CertificateRevocationList, FromDer, X509Certificate},
    x509::X509Name,
};
use zeroize::Zeroizing;

/// Where Puppet keeps them on the main server (`puppet config print`; never guessed).
#[derive(Debug, Clone)]
pub(crate) struct PuppetFiles {
    /// CA bundle: root and intermediates.
    pub(crate) ca: PathBuf,
    /// Every CRL of that chain.
    pub(crate) crl: PathBuf,
    /// The main server's own certificate and key.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Puppet's trust as it stood at one instant.
#[derive(Debug, Clone)]
pub(crate) struct PuppetTrust {
    /// For [`Doors::enroll_puppet`](bunraku_proto::accept::Doors).
    pub(crate) config: Arc<ServerConfig>,
    /// Certificates that Puppet's CA has revoked, as [`PuppetCertificate::origin`] writes them.
    pub(crate) revoked: BTreeSet<String>,
    /// When the first CRL ends, in Unix seconds: from then on this door accepts nobody.
    pub(crate) crl_ends: Option<u64>,
}

/// Watches the files. The caller asks as often as it likes: unchanged files cost four `stat` calls.
#[derive(Debug)]
pub(crate) struct PuppetDoor {
    files: PuppetFiles,
    seen: Option<[Option<Stamp>; 4]>,
}

impl PuppetDoor {
    pub(crate) const fn new(files: PuppetFiles) -> Self {
        Self { files, seen: None }
    }

    /// `None` when nothing has changed. After an error the door must be closed until the next change.
    pub(crate) fn refresh(&mut self) -> Option<Result<PuppetTrust, PuppetError>> {
        // The stamps are taken first: a change while the files are read shows at the next call.
        let stamps = self.files.all().map(Stamp::of);
        if self.seen.as_ref() == Some(&stamps) {
            return None;
        }
        self.seen = Some(stamps);
        Some(self.files.read())
    }
}

impl PuppetFiles {
    fn all(&self) -> [&Path; 4] {
        [&self.ca, &self.crl, &self.certificate, &self.key]
    }

    fn read(&self) -> Result<PuppetTrust, PuppetError> {
        let [ca, crl, certificate, key] = self.all().map(|path| {
            fs::read(path)
                .map(Zeroizing::new)
                .map_err(|source| PuppetError::Read { path: path.into(), source })
        });
        let authorities = PuppetAuthorities::from_pem(&ca?, &crl?)?;
        let own = Credentials::from_pem("the main server's Puppet certificate", &certificate?, &key?)?;
        let config = tls::puppet_door(&own, &authorities)?;
        let mut trust = PuppetTrust { config, revoked: BTreeSet::new(), crl_ends: None };
        for crl in &authorities.crls {
            trust.add(crl).ok_or_else(|| PuppetError::Crl { path: self.crl.clone() })?;
        }
        Ok(trust)
    }
}

impl PuppetTrust {
    fn add(&mut self, crl: &CertificateRevocationListDer<'_>) -> Option<()> {
        let (_, crl) = CertificateRevocationList::from_der(crl).ok()?;
        for entry in crl.iter_revoked_certificates() {
            self.revoked.insert(origin(crl.issuer(), entry.raw_serial()));
        }
        let ends = crl.next_update().and_then(|at| u64::try_from(at.timestamp()).ok());
        self.crl_ends = self.crl_ends.into_iter().chain(ends).min();
        Some(())
    }
}

/// When a file was last changed, as far as the file system tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
    modified: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            inode: meta.ino(),
            size: meta.len(),
            changed: (meta.ctime(), meta.ctime_nsec()),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PuppetError {
    #[error("could not read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} holds a CRL that cannot be read")]
    Crl { path: PathBuf },
    #[error("Puppet's certificates cannot be used")]
    Tls(#[from] TlsError),
}

/// A Puppet certificate whose holder came through the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PuppetCertificate {
    pub(crate) certname: NodeName,
    /// Issuer and serial, for the journal: an identity that was born from this certificate ends with it. The serial
    /// alone would not do, because Puppet's root and its issuing CA both count from 1.
    pub(crate) origin: String,
}

impl PuppetCertificate {
    /// Reads the subject's only common name. TLS has verified the certificate before.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let Ok(([], parsed)) = X509Certificate::from_der(certificate) else { return None };
        let mut names = parsed.subject().iter_common_name();
        let (Some(name), None) = (names.next(), names.next()) else { return None };
        let certname = NodeName::parse(name.as_str().ok()?).ok()?;
        Some(Self { certname, origin: origin(parsed.issuer(), parsed.raw_serial()) })
    }
}

fn origin(issuer: &X509Name<'_>, serial: &[u8]) -> String {
    format!("{}:{}", Digest::of(issuer.as_raw()).short(), hex_serial(serial))
}

/// Which certnames may join through the door, and as what. Empty: none.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllowList(Vec<(String, Vec<Role>)>);

impl AllowList {
    /// Patterns are certnames, `*` standing for any run of characters.
    pub(crate) fn new(entries: impl IntoIterator<Item = (String, Vec<Role>)>) -> Self {
        Self(entries.into_iter().collect())
    }

    /// The asked roles that some matching entry grants (all of those when none is asked), each once. `None`: no entry
    /// matches, or none grants what was asked.
    pub(crate) fn grants(&self, certname: &NodeName, asked: &[Role]) -> Option<Vec<Role>> {
        let granted: BTreeSet<Role> = self
            .0
            .iter()
            .filter(|(pattern, _)| matches(pattern, certname.as_str()))
            .flat_map(|(_, roles)| roles.iter().copied())
            .filter(|role| asked.is_empty() || asked.contains(role))
            .collect();
        (!granted.is_empty()).then(|| granted.into_iter().collect())
    }
}

/// Greedy with one step back: linear in practice, never worse than the product of both lengths.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
#[path = "puppet_door_test.rs"]
mod puppet_door_test;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_allow_list_lets_nobody_in() {
        assert_eq!(AllowList::default().grants(&name("c1.stack.test"), &[Role::Compiler]), None);
    }

    #[test]
    fn roles_are_granted_as_far_as_the_entries_that_match_say() {
        let list = AllowList::new([
            ("c*.stack.test".to_owned(), vec![Role::Compiler]),
            ("c1.stack.test".to_owned(), vec![Role::Puppetdb, Role::Compiler]),
        ]);
        assert_eq!(list.grants(&name("c2.stack.test"), &[]), Some(vec![Role::Compiler]));
        assert_eq!(list.grants(&name("c1.stack.test"), &[]), Some(vec![Role::Compiler, Role::Puppetdb]));
        let asked = [Role::Puppetdb, Role::LoadBalancer];
        assert_eq!(list.grants(&name("c1.stack.test"), &asked), Some(vec![Role::Puppetdb]));
        assert_eq!(list.grants(&name("c2.stack.test"), &asked), None);
        assert_eq!(list.grants(&name("x.stack.test"), &[]), None);
    }

    #[test]
    fn a_pattern_matches_the_whole_certname() {
        for (pattern, text, yes) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "a", true),
            ("*.test", "c1.stack.test", true),
            ("*.test", "c1.stack.test.evil", false),
            ("c*.s*k.test", "c1.stack.test", true),
            ("c*.s*k.test", "c1.stack.tes", false),
            ("*", "anything", true),
            ("", "a", false),
            ("c1.stack.test", "c1xstack.test", false),
        ] {
            assert_eq!(matches(pattern, text), yes, "{pattern} {text}");
        }
    }

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).unwrap()
    }
}
