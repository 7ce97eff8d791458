//! What the CA says of one name: `certificate_status` and `certificate_statuses`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bunraku_certificates::Fingerprint;
use serde::Deserialize;
use serde_json::Value;

use crate::dates;

/// What the CA knows of a name. Where it has both, a certificate hides a request.
///
/// Nothing of it is proven: before something is signed, the request itself is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateStatus {
    /// The certname, as the CA's file is named.
    pub name: String,
    pub state: State,
    /// SHA-256 over the DER of the request or certificate.
    pub fingerprint: Option<Fingerprint>,
    /// Of a certificate: lower-case hex without leading zeros. `None` also above 2^64 - 1.
    pub serial: Option<String>,
    /// As Puppet writes them: `DNS:puppet`, `IP:10.0.0.5`.
    pub alt_names: BTreeSet<String>,
    /// `pp_cli_auth` and its neighbours, which let the holder into the CA, PuppetDB and others.
    pub authorization_extensions: BTreeMap<String, String>,
    /// Of a certificate: Unix seconds, the last one in which it is good.
    pub not_after_s: Option<u64>,
}

/// Where a name stands at the CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A request waits for its signature.
    Requested,
    /// There is a certificate, and the CA's CRL does not name it. It may have expired.
    Signed,
    /// The CA's CRL names it.
    Revoked,
    /// A word that is not known, or none.
    #[default]
    #[serde(other)]
    Other,
}

impl State {
    /// The word that Puppet's CA uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Signed => "signed",
            Self::Revoked => "revoked",
            Self::Other => "in another state",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

pub(crate) fn one(json: &[u8]) -> Result<CertificateStatus, serde_json::Error> {
    serde_json::from_slice::<Raw>(json).map(Raw::read)
}

pub(crate) fn many(json: &[u8]) -> Result<Vec<CertificateStatus>, serde_json::Error> {
    Ok(serde_json::from_slice::<Vec<Raw>>(json)?.into_iter().map(Raw::read).collect())
}

/// `get-cert-or-csr-status*` of 7.9.5. Everything but the name and the state may be missing: requests have neither
/// serial nor dates, older versions no `subject_alt_names`, no extensions and no serial.
#[derive(Deserialize)]
struct Raw {
    name: String,
    #[serde(default)]
    state: State,
    fingerprint: Option<String>,
    #[serde(default)]
    fingerprints: Option<BTreeMap<String, String>>,
    dns_alt_names: Option<Vec<String>>,
    subject_alt_names: Option<Vec<String>>,
    authorization_extensions: Option<BTreeMap<String, Value>>,
    serial_number: Option<Value>,
    not_after: Option<String>,
}

impl Raw {
    fn read(self) -> CertificateStatus {
        let fingerprints = self.fingerprints.unwrap_or_default();
        let named = ["SHA256", "default"].into_iter().filter_map(|kind| fingerprints.get(kind));
        let fingerprint = named.chain(&self.fingerprint).find_map(|text| text.parse().ok());
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let extensions = self.authorization_extensions.unwrap_or_default();
        CertificateStatus {
            name: self.name,
            state: self.state,
            fingerprint,
            serial: self.serial_number.and_then(|number| Some(format!("{:x}", number.as_u64()?))),
            alt_names: [self.dns_alt_names, self.subject_alt_names].into_iter().flatten().flatten().collect(),
            authorization_extensions: extensions.into_iter().map(|(oid, value)| (oid, text(value))).collect(),
            not_after_s: self.not_after.and_then(|date| dates::seconds(&date)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA256: &str =
        "AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99";

    #[test]
    fn a_certificate_is_read_as_7_9_5_tells_of_it() {
        let json = format!(
            r#"{{"name":"c1","state":"signed","dns_alt_names":["DNS:c1"],"subject_alt_names":["DNS:c1","IP:127.0.0.1"],
            "authorization_extensions":{{"pp_cli_auth":"true"}},"fingerprint":"{SHA256}",
            "fingerprints":{{"SHA1":"00","SHA256":"{SHA256}","SHA512":"00","default":"{SHA256}"}},
            "not_after":"2031-11-27T18:41:28UTC","not_before":"2026-11-27T18:41:28UTC","serial_number":26}}"#
        );
        let status = one(json.as_bytes()).unwrap();
        assert_eq!(status.state, State::Signed);
        assert_eq!(status.fingerprint, SHA256.parse().ok());
        assert_eq!(status.serial.as_deref(), Some("1a"));
        assert_eq!(status.alt_names, ["DNS:c1", "IP:127.0.0.1"].map(str::to_owned).into());
        assert_eq!(status.authorization_extensions["pp_cli_auth"], "true");
        assert_eq!(status.not_after_s, Some(1_953_571_288));
    }

    #[test]
    fn what_a_version_does_not_tell_is_missing_and_no_error() {
        let status = one(br#"{"name":"c1","state":"requested"}"#).unwrap();
        assert_eq!((status.fingerprint, status.serial, status.not_after_s), (None, None, None));
        let nulls = br#"[{"name":"c1","state":"new word","fingerprint":null,"dns_alt_names":null,"serial_number":1e99}]"#;
        assert_eq!(many(nulls).unwrap()[0].state, State::Other);
    }

    #[test]
    fn what_is_no_status_is_an_error() {
        for text in ["", "{}", "[]", "null", r#"{"name":7}"#, r#"{"name":"c1","state":"signed""#, "<html>"] {
            assert!(one(text.as_bytes()).is_err(), "{text}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            prop_oneof!["signed", "requested", "[0-9A-F:]{90,97}", "[0-9]{4}-[0-9]{2}-[0-9]{2}T.{8}UTC"]
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 32, 8, |inner| {
            let key = prop_oneof![
                Just("name".to_owned()),
                Just("state".to_owned()),
                Just("fingerprint".to_owned()),
                Just("fingerprints".to_owned()),
                Just("SHA256".to_owned()),
                Just("dns_alt_names".to_owned()),
                Just("subject_alt_names".to_owned()),
                Just("authorization_extensions".to_owned()),
                Just("serial_number".to_owned()),
                Just("not_after".to_owned()),
                any::<String>(),
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_json_makes_it_panic(value in json(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let text = value.to_string();
            one(text.as_bytes()).ok();
            many(text.as_bytes()).ok();
            many(format!("[{text}]").as_bytes()).ok();
            crate::expirations::read(text.as_bytes()).ok();
            one(&bytes).ok();
        }

        #[test]
        fn any_name_and_time_are_read_without_a_panic(name: String, not_after: String, number: u64) {
            let json = serde_json::json!({"name": name, "not_after": not_after, "serial_number": number});
            let status = one(json.to_string().as_bytes()).unwrap();
            prop_assert_eq!((status.name, status.serial), (name, Some(format!("{number:x}"))));
        }
    }
}
