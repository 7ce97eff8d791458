//! When the CA's own certificates and CRLs end.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::dates;

/// By the common name of the authority, in Unix seconds. `None`: the CA wrote a time that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expirations {
    /// The certificates of the CA bundle.
    pub authorities: BTreeMap<String, Option<u64>>,
    /// The CRLs of `cacrl`, whatever nodes hold.
    pub crls: BTreeMap<String, Option<u64>>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "ca-certs", default)]
    authorities: BTreeMap<String, String>,
    #[serde(default)]
    crls: BTreeMap<String, String>,
}

pub(crate) fn read(json: &[u8]) -> Result<Expirations, serde_json::Error> {
    let raw: Raw = serde_json::from_slice(json)?;
    let times = |dates: BTreeMap<String, String>| {
        dates.into_iter().map(|(name, date)| (name, dates::seconds(&date))).collect()
    };
    Ok(Expirations { authorities: times(raw.authorities), crls: times(raw.crls) })
}
