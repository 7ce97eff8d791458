//! Bytes that somebody has made up, cut off or changed.

use std::sync::LazyLock;

use bunraku_certificates::{AltName, Authorities, Certificate, Crls, Fingerprint, SigningRequest, Wanted};
use bunraku_common::NodeName;
use proptest::prelude::*;

use crate::world::{Chain, NOW_S, to_pem};

const LABELS: [&str; 3] = ["X509 CRL", "CERTIFICATE", "CERTIFICATE REQUEST"];

/// A good file of CRLs with its authorities: a small one of this run, and Puppet's own.
struct Good {
    authorities: Authorities,
    crls: Crls,
}

static GOOD: LazyLock<[Good; 2]> = LazyLock::new(|| {
    let chain = Chain::new();
    let small = Crls::parse(chain.crls(7, &[1, 200]).as_bytes()).unwrap();
    let puppet = Crls::parse(include_bytes!("../fixtures/puppet/ca_crl_revoked.pem")).unwrap();
    let bundle = Authorities::parse(include_bytes!("../fixtures/puppet/ca_crt.pem")).unwrap();
    [Good { authorities: chain.authorities(), crls: small }, Good { authorities: bundle, crls: puppet }]
});

impl Good {
    /// Whether another file passes for good. One that differs in white space at the ends of its lines does, and holds the
    /// same CRLs to the byte.
    fn accepts(&self, file: &[u8]) -> bool {
        let Ok(crls) = Crls::parse(file) else { return false };
        let good = crls.check(&self.authorities, NOW_S).is_ok();
        good && !(crls.has_same_content(&self.crls) && trimmed(file) == trimmed(self.crls.pem()))
    }
}

fn trimmed(file: &[u8]) -> Vec<&[u8]> {
    let lines = file.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_good_files_are_good() {
    for good in GOOD.iter() {
        good.crls.check(&good.authorities, NOW_S).unwrap();
    }
}

/// Every place, two changes each: one bit, and all of them.
#[test]
fn no_file_with_a_changed_byte_is_accepted() {
    let good = &GOOD[0];
    for at in 0..good.crls.pem().len() {
        for change in [1, 0xff, 0x20] {
            let mut file = good.crls.pem().to_vec();
            file[at] ^= change;
            assert!(!good.accepts(&file), "byte {at} ^ {change}");
        }
    }
}

#[test]
fn no_file_that_was_cut_off_is_accepted() {
    for good in GOOD.iter() {
        let file = good.crls.pem();
        for end in 0..file.len() {
            assert!(!good.accepts(&file[..end]), "the first {end} bytes");
            assert!(!good.accepts(&file[end + 1..]), "from byte {}", end + 1);
        }
    }
}

/// Behind the PEM, where each change gives good base64 again: the envelope outside of what is signed counts, too.
#[test]
fn no_crl_with_a_changed_bit_is_accepted() {
    let chain = Chain::new();
    let params = crate::world::crl_params(&[7], &[1, 200]);
    let der = params.signed_by(&chain.ca).unwrap().der().to_vec();
    let root = crate::world::crl(&chain.root, 1, &[]);
    let authorities = chain.authorities();
    let check = |der: &[u8]| {
        let file = to_pem(LABELS[0], der) + &root;
        Crls::parse(file.as_bytes()).and_then(|crls| crls.check(&authorities, NOW_S))
    };
    check(&der).unwrap();
    for bit in 0..8 * der.len() {
        let mut changed = der.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&changed).is_err(), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn a_changed_byte_of_puppet_s_file_is_not_accepted(at: prop::sample::Index, value: u8) {
        let good = &GOOD[1];
        let mut file = good.crls.pem().to_vec();
        let at = at.index(file.len());
        file[at] = value;
        prop_assert!(!good.accepts(&file));
    }

    #[test]
    fn arbitrary_files_are_read_without_a_panic(file in prop::collection::vec(any::<u8>(), 0..2000)) {
        read_as_everything(&file);
    }

    #[test]
    fn arbitrary_blocks_are_read_without_a_panic(
        label in prop::sample::select(&LABELS),
        der in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        read_as_everything(to_pem(label, &der).as_bytes());
    }

    /// Most arbitrary bytes end at the first tag; these get further.
    #[test]
    fn documents_with_changes_are_read_without_a_panic(
        which in 0..DOCUMENTS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let (label, document) = &DOCUMENTS[which];
        let mut der = document.clone();
        for (at, value) in changes {
            let at = at.index(der.len());
            der[at] = value;
        }
        read_as_everything(to_pem(label, &der).as_bytes());
    }

    #[test]
    fn texts_are_read_without_a_panic(text: String) {
        let _ = (text.parse::<AltName>(), text.parse::<Fingerprint>());
    }
}

static DOCUMENTS: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
    let chain = Chain::new();
    let request = include_str!("../fixtures/puppet/facts.csr");
    vec![
        (LABELS[0], crate::world::crl_params(&[7], &[1, 200]).signed_by(&chain.ca).unwrap().der().to_vec()),
        (LABELS[1], chain.ca.der().to_vec()),
        (LABELS[2], from_pem(request)),
    ]
});

fn from_pem(file: &str) -> Vec<u8> {
    use x509_parser::pem::Pem;
    Pem::iter_from_buffer(file.as_bytes()).next().unwrap().unwrap().contents
}

/// Whatever can be asked of a file is asked.
fn read_as_everything(file: &[u8]) {
    let good = &GOOD[0];
    if let Ok(crls) = Crls::parse(file) {
        let _ = crls.check(&good.authorities, NOW_S);
        let _ = (crls.numbers().compare(&good.crls.numbers()), crls.revoked_since(&good.crls), crls.ends_s());
    }
    if let Ok(authorities) = Authorities::parse(file) {
        let _ = good.crls.check(&authorities, NOW_S);
    }
    if let Ok(certificate) = Certificate::parse(file) {
        let _ = (certificate.is_issued_by(&good.authorities), certificate.fingerprint());
        let _ = good.crls.revokes_certificate(&certificate);
    }
    if let Ok(request) = SigningRequest::parse(file) {
        let wanted = Wanted::new(NodeName::parse("c1.stack.test").unwrap(), std::iter::empty().collect());
        let _ = request.judge(&wanted).map_err(|refusal| refusal.to_string());
    }
}
