//! What a file of CRLs revokes, and what has changed since another.

use std::collections::BTreeSet;

use bunraku_certificates::{Certificate, Comparison, Crls};
use proptest::prelude::*;
use rcgen::{KeyPair, SerialNumber};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::world::{Chain, crl, crl_params, named, parsed};

#[test]
fn what_puppet_server_revoked_is_found_by_its_serial() {
    let earlier = Crls::parse(include_bytes!("../fixtures/puppet/ca_crl.pem")).unwrap();
    let later = Crls::parse(include_bytes!("../fixtures/puppet/ca_crl_revoked.pem")).unwrap();
    let new: Vec<_> = later.revoked_since(&earlier).into_iter().map(|revoked| revoked.serial).collect();
    assert_eq!(new, ["10000", "3", "4", "c8"]);
    assert!(later.revokes("c8") && later.revokes("10000"));
    for other in ["C8", "0c8", "1", "", "200"] {
        assert!(!later.revokes(other), "{other}");
    }
    assert_eq!(later.revoked(), later.revoked_since(&earlier));
    assert_eq!(later.removed_since(&earlier), BTreeSet::new());
    assert_eq!(earlier.removed_since(&later), later.revoked());
    assert_eq!(earlier.numbers().compare(&later.numbers()), Comparison::Newer);
    assert!(matches!(later.numbers().compare(&earlier.numbers()), Comparison::Older { .. }));
}

#[test]
fn a_serial_that_the_root_revoked_says_nothing_about_the_ca_s_certificate() {
    let chain = Chain::new();
    let mut params = named("c1.stack.test");
    params.serial_number = Some(SerialNumber::from(2));
    let issued = params.signed_by(&KeyPair::generate().unwrap(), &chain.ca).unwrap();
    let certificate = Certificate::parse(issued.pem().as_bytes()).unwrap();
    let by_root = parsed(&(crl(&chain.ca, 1, &[]) + &crl(&chain.root, 1, &[2])));
    let by_ca = parsed(&(crl(&chain.ca, 1, &[2]) + &crl(&chain.root, 1, &[])));
    assert!(by_root.revokes("2") && !by_root.revokes_certificate(&certificate));
    assert!(by_ca.revokes("2") && by_ca.revokes_certificate(&certificate));
    assert_eq!(by_ca.revoked().first().unwrap().issuer, certificate.issuer());
}

#[test]
fn the_end_of_a_file_is_that_of_its_first_crl() {
    let chain = Chain::new();
    let mut early = crl_params(&[1], &[]);
    early.next_update -= time::Duration::DAY;
    let file = crl(&chain.ca, 1, &[]) + &crate::world::signed(&early, &chain.root);
    let crls = parsed(&file);
    assert_eq!(crls.ends_s(), u64::try_from(early.next_update.unix_timestamp()).unwrap());
    assert_eq!(crls.pem(), file.as_bytes());
    assert_eq!(crls.digest(), bunraku_common::Digest::of(file.as_bytes()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_order_of_the_blocks_and_the_text_between_them_do_not_matter(
        numbers in prop::collection::vec(any::<u8>(), 1..5),
        turn in 0_usize..5,
        text in "[a-z\n]{0,40}",
    ) {
        let chain = Chain::new();
        let mut blocks: Vec<_> = numbers
            .iter()
            .enumerate()
            .map(|(at, number)| crl(&crate::world::below(&format!("CA {at}"), &chain.root), *number, &[1]))
            .collect();
        let one = parsed(&blocks.concat());
        let length = blocks.len();
        blocks.rotate_left(turn % length);
        blocks.reverse();
        let other = parsed(&blocks.join(&format!("\n{text}\n")));
        prop_assert_eq!(one.numbers(), other.numbers());
        prop_assert_eq!(one.revoked(), other.revoked());
        prop_assert!(one.has_same_content(&other));
        prop_assert_eq!(one.numbers().iter().count(), numbers.len());
    }

    #[test]
    fn every_serial_is_read_as_x509_parser_reads_it(serials in prop::collection::vec(any::<u64>(), 0..40)) {
        let chain = Chain::new();
        let list = crl_params(&[1], &serials).signed_by(&chain.ca).unwrap();
        let (_, theirs) = CertificateRevocationList::from_der(list.der()).unwrap();
        let theirs: BTreeSet<_> = theirs.iter_revoked_certificates().map(|r| format!("{:x}", r.serial())).collect();
        let ours = parsed(&list.pem().unwrap());
        prop_assert_eq!(ours.iter().next().unwrap().revoked(), &theirs);
        prop_assert_eq!(theirs, serials.iter().map(|serial| format!("{serial:x}")).collect());
    }
}
