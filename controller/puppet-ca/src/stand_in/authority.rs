//! The CA behind the stand-in: what it was handed in, has signed and revoked.

use std::{collections::BTreeMap, time::Duration};

use bunraku_certificates::{Certificate, SigningRequest};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;

use super::{Act, Script};

/// The CA behind it.
pub(crate) struct Authority {
    pub(crate) script: Script,
    pub(crate) requests: BTreeMap<String, String>,
    pub(crate) certificates: BTreeMap<String, String>,
    pub(crate) revoked: Vec<u64>,
    /// Signs what is handed in, as Puppet's `autosign` may say.
    pub(crate) autosign: bool,
    /// Method and path of each request.
    pub(crate) asked: Vec<String>,
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) serial: u64,
}

impl Authority {
    pub(super) fn host(&mut self, name: &str, alt_names: &[&str]) -> (String, String) {
        let names: Vec<String> = alt_names.iter().map(|&it| it.to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.use_authority_key_identifier_extension = true;
        self.serial += 1;
        parameters.serial_number = Some(SerialNumber::from(self.serial));
        let key = KeyPair::generate().unwrap();
        (parameters.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    pub(crate) fn sign(&mut self, name: &str) {
        let request = self.requests.remove(name).unwrap();
        let mut parameters = CertificateSigningRequestParams::from_pem(&request).unwrap();
        self.serial += 1;
        parameters.params.serial_number = Some(SerialNumber::from(self.serial));
        parameters.params.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(&self.issuer).unwrap().pem();
        self.certificates.insert(name.to_owned(), certificate);
    }

    pub(crate) fn crl(&self) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = self.revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        });
        let parameters = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::from_secs(3600),
            crl_number: SerialNumber::from(self.revoked.len() as u64 + 1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        parameters.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    pub(super) fn decide(&mut self, method: &str, path: &str) -> Act {
        let mut script = std::mem::replace(&mut self.script, Box::new(|_, _, _| Act::Work));
        let act = script(self, method, path);
        self.script = script;
        act
    }

    fn is_revoked(&self, certificate: &str) -> bool {
        let serial = Certificate::parse(certificate.as_bytes()).unwrap().serial().to_owned();
        self.revoked.iter().any(|revoked| format!("{revoked:x}") == serial)
    }

    fn status(&self, name: &str) -> Option<String> {
        let (state, fingerprint) = match (self.certificates.get(name), self.requests.get(name)) {
            (Some(pem), _) => {
                let state = if self.is_revoked(pem) { "revoked" } else { "signed" };
                (state, Certificate::parse(pem.as_bytes()).unwrap().fingerprint())
            }
            (None, Some(pem)) => ("requested", SigningRequest::parse(pem.as_bytes()).unwrap().fingerprint()),
            (None, None) => return None,
        };
        Some(format!(r#"{{"name":"{name}","state":"{state}","fingerprint":"{fingerprint}"}}"#))
    }

    pub(super) fn work(&mut self, method: &str, path: &str, body: &str) -> (u16, String) {
        let path = path.strip_prefix("/puppet-ca/v1/").unwrap();
        let (what, name) = path.split_once('/').unwrap_or((path, ""));
        let found = |it: Option<String>| it.map_or((404, "Could not find it".into()), |it| (200, it));
        match (method, what) {
            ("GET", "certificate_status") => found(self.status(name)),
            ("GET", "certificate_statuses") => {
                let names = self.requests.keys().chain(self.certificates.keys());
                let all: Vec<String> = names.filter_map(|name| self.status(name)).collect();
                (200, format!("[{}]", all.join(",")))
            }
            ("GET", "certificate_request") => found(self.requests.get(name).cloned()),
            ("GET", "certificate") => found(self.certificates.get(name).cloned()),
            ("PUT", "certificate_request") => {
                if self.status(name).is_some() {
                    return (400, format!("{name} already has a certificate; ignoring certificate request"));
                }
                self.requests.insert(name.into(), body.into());
                if self.autosign {
                    self.sign(name);
                }
                (200, String::new())
            }
            ("PUT", "certificate_status") if body.contains("signed") => {
                if !self.requests.contains_key(name) {
                    return (404, "Invalid certificate subject.".into());
                }
                self.sign(name);
                (204, String::new())
            }
            ("PUT", "certificate_status") => {
                let Some(pem) = self.certificates.get(name) else { return (409, "Cannot revoke".into()) };
                let serial = Certificate::parse(pem.as_bytes()).unwrap().serial().to_owned();
                self.revoked.push(u64::from_str_radix(&serial, 16).unwrap());
                (204, String::new())
            }
            ("DELETE", "certificate_status") => {
                self.requests.remove(name);
                self.certificates.remove(name);
                (204, String::new())
            }
            _ => (404, "Not Found".into()),
        }
    }
}
