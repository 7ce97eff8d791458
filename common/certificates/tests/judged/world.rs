//! A chain as Puppet makes it (a root, an issuing CA, a CRL of each), but of small and quick P-256 keys; and the files
//! that Puppet and OpenSSL made (see `fixtures/*/make.sh`).

use bunraku_certificates::{Authorities, Crls};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, SigningKey,
};
use time::OffsetDateTime;

/// 28 November 2026, some hours after the fixtures were made.
pub(crate) const NOW_S: u64 = 1_795_900_000;
pub(crate) const DAY_S: u64 = 86_400;

pub(crate) type Ca = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn root(name: &str) -> Ca {
    Ca::self_signed(authority(name), KeyPair::generate().unwrap()).unwrap()
}

pub(crate) fn below(name: &str, issuer: &Ca) -> Ca {
    Ca::signed_by(authority(name), KeyPair::generate().unwrap(), issuer).unwrap()
}

pub(crate) fn authority(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = at(NOW_S - DAY_S);
    params.not_after = at(NOW_S + 365 * DAY_S);
    params.use_authority_key_identifier_extension = true;
    params
}

pub(crate) fn at(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap()).unwrap()
}

pub(crate) fn crl_params(number: &[u8], revoked: &[u64]) -> CertificateRevocationListParams {
    let entry = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: at(NOW_S - 60),
        reason_code: Some(rcgen::RevocationReason::KeyCompromise),
        invalidity_date: None,
    };
    CertificateRevocationListParams {
        this_update: at(NOW_S - 60),
        next_update: at(NOW_S + 30 * DAY_S),
        crl_number: SerialNumber::from_slice(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

pub(crate) fn signed(
    params: &CertificateRevocationListParams,
    ca: &rcgen::Issuer<'_, impl SigningKey>,
) -> String {
    params.signed_by(ca).unwrap().pem().unwrap()
}

pub(crate) fn crl(ca: &Ca, number: u8, revoked: &[u64]) -> String {
    signed(&crl_params(&[number], revoked), ca)
}

/// The chain and its two CRLs.
pub(crate) struct Chain {
    pub(crate) root: Ca,
    pub(crate) ca: Ca,
}

impl Chain {
    pub(crate) fn new() -> Self {
        let root = root("Puppet Root CA");
        let ca = below("Puppet CA", &root);
        Self { root, ca }
    }

    /// The issuing CA first, as Puppet writes it.
    pub(crate) fn authorities(&self) -> Authorities {
        Authorities::parse((self.ca.pem() + &self.root.pem()).as_bytes()).unwrap()
    }

    pub(crate) fn crls(&self, number: u8, revoked: &[u64]) -> String {
        crl(&self.ca, number, revoked) + &crl(&self.root, 1, &[])
    }
}

pub(crate) fn parsed(crls: &str) -> Crls {
    Crls::parse(crls.as_bytes()).unwrap()
}

/// DER in PEM.
pub(crate) fn to_pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for part in line.chunks(3) {
            let bits = part.iter().fold(0_u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - part.len()));
            for at in 0..4 {
                let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
                text.push(if at <= part.len() { digit.into() } else { '=' });
            }
        }
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// One element of DER.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = match u16::try_from(content.len()).unwrap() {
        short @ 0..0x80 => vec![short.to_be_bytes()[1]],
        middle @ 0x80..0x100 => vec![0x81, middle.to_be_bytes()[1]],
        long => [&[0x82][..], &long.to_be_bytes()].concat(),
    };
    [&[tag][..], &length, &content].concat()
}
