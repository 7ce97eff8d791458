//! A chain as Puppet makes it, and a host with files of CRLs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bunraku_certificates::{Authorities, Crls};
use bunraku_common::{Digest, Fence, Generation, Term};
use bunraku_crl::{InstallError, Keeper, Offer, Place};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;

pub(crate) const NOW_S: u64 = 1_795_900_000;
pub(crate) const NOW_MS: u64 = NOW_S * 1000;
pub(crate) const DAY_S: u64 = 86_400;

type Ca = CertifiedIssuer<'static, KeyPair>;

pub(crate) struct Chain {
    root: Ca,
    ca: Ca,
}

impl Chain {
    pub(crate) fn new() -> Self {
        let root = Ca::self_signed(authority("Puppet Root CA"), KeyPair::generate().unwrap()).unwrap();
        let ca = Ca::signed_by(authority("Puppet CA"), KeyPair::generate().unwrap(), &root).unwrap();
        Self { root, ca }
    }

    pub(crate) fn bundle(&self) -> String {
        self.ca.pem() + &self.root.pem()
    }

    pub(crate) fn authorities(&self) -> Authorities {
        Authorities::parse(self.bundle().as_bytes()).unwrap()
    }

    pub(crate) fn crls(&self, number: u64, revoked: &[u64]) -> String {
        self.until(number, revoked, NOW_S + 30 * DAY_S)
    }

    pub(crate) fn until(&self, number: u64, revoked: &[u64], ends_s: u64) -> String {
        crl(&self.ca, number, revoked, ends_s) + &crl(&self.root, 1, &[], NOW_S + 60 * DAY_S)
    }

    /// Only the issuing CA's own: what Puppet Server takes, and Puppet's agents do not.
    pub(crate) fn first(&self, number: u64) -> String {
        crl(&self.ca, number, &[], NOW_S + 30 * DAY_S)
    }

    /// The same CRLs in another order and with text around them, as another program would write them.
    pub(crate) fn rewritten(crls: &str) -> String {
        let at = crls.rfind("-----BEGIN").unwrap();
        format!("# kept by hand\n{}{}", &crls[at..], &crls[..at])
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = at(NOW_S - DAY_S);
    params.not_after = at(NOW_S + 365 * DAY_S);
    params.use_authority_key_identifier_extension = true;
    params
}

fn at(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap()).unwrap()
}

fn crl(ca: &Ca, number: u64, revoked: &[u64], ends_s: u64) -> String {
    let entry = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: at(NOW_S - 60),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: at(NOW_S - 3600),
        next_update: at(ends_s),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(ca).unwrap().pem().unwrap()
}

pub(crate) fn fence(generation: u64) -> Fence {
    Fence { term: Term { number: 1, id: 7 }, generation: Generation(generation) }
}

/// A host with two files: Puppet Server's, and one of a load balancer that must be reloaded.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) chain: Chain,
    pub(crate) keeper: Keeper,
}

impl Host {
    pub(crate) fn new() -> Self {
        let (dir, chain) = (tempfile::tempdir().unwrap(), Chain::new());
        for below in ["ssl", "haproxy"] {
            fs::create_dir(dir.path().join(below)).unwrap();
        }
        fs::write(dir.path().join("ssl/ca.pem"), chain.bundle()).unwrap();
        let keeper = Keeper::open(&dir.path().join("data")).unwrap();
        let mut host = Self { dir, chain, keeper };
        host.keeper.keep(host.places());
        host
    }

    /// As after `kill -9`: what is on disk is all that is left.
    pub(crate) fn start_again(&mut self) {
        self.keeper = Keeper::open(&self.dir.path().join("data")).unwrap();
        self.keeper.keep(self.places());
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) fn puppets(&self) -> PathBuf {
        self.path("ssl/crl.pem")
    }

    pub(crate) fn balancers(&self) -> PathBuf {
        self.path("haproxy/crl.pem")
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        vec![self.place(self.puppets(), None), self.place(self.balancers(), Some("haproxy"))]
    }

    pub(crate) fn place(&self, path: PathBuf, reload: Option<&str>) -> Place {
        Place {
            path,
            owner: None,
            group: None,
            mode: None,
            ca: self.path("ssl/ca.pem"),
            reload: reload.map(str::to_owned),
        }
    }

    pub(crate) fn install(&mut self, crls: &str, generation: u64) -> Result<(), InstallError> {
        let offer = Offer { crls: crls.as_bytes(), fence: fence(generation), number_reset: false };
        self.keeper.install(&offer, NOW_MS)
    }

    pub(crate) fn install_reset(&mut self, crls: &str, generation: u64) -> Result<(), InstallError> {
        let offer = Offer { crls: crls.as_bytes(), fence: fence(generation), number_reset: true };
        self.keeper.install(&offer, NOW_MS)
    }

    pub(crate) fn refused(&mut self, crls: &str, generation: u64) -> String {
        let error = self.install(crls, generation).unwrap_err();
        bunraku_common::Chain(&error).to_string()
    }

    pub(crate) fn look(&mut self) {
        // Far from when anything was written: nobody's hand is on a file any more.
        self.keeper.look(NOW_MS + 5 * DAY_S * 1000);
    }

    pub(crate) fn digest(crls: &str) -> Option<Digest> {
        Some(Digest::of(crls.as_bytes()))
    }

    /// Every file holds these bytes, and nobody is owed anything.
    pub(crate) fn expect(&self, crls: &str) {
        for path in [self.puppets(), self.balancers()] {
            assert_eq!(fs::read_to_string(&path).unwrap(), crls, "{}", path.display());
        }
        assert_eq!(self.keeper.seen().owed, "");
    }

    /// I11 of one file: complete, genuine, not older than this number.
    pub(crate) fn expect_sound(&self, path: &Path, at_least: u128) {
        let crls = Crls::parse(&fs::read(path).unwrap()).unwrap();
        crls.check(&self.chain.authorities(), NOW_S).unwrap();
        let newest = crls.iter().map(bunraku_certificates::Crl::number).max().unwrap();
        assert!(newest >= at_least.into(), "{newest} is older than {at_least}");
    }
}
