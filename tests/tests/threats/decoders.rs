//! F20: everything that reads text or bytes from outside, fed with what nobody wrote. None panics, none takes what it
//! would not write itself.

use std::{fs, path::Path};

use bunraku_common::{Digest, EnvironmentName, NodeName, OperatorName, Role, config, snapshot::pack};
use bunraku_proto::{
    FleetName, PeerIdentity, peer,
    tls::{Credentials, Mesh, PuppetAuthorities},
    v1,
};
use bunraku_store::{LocalStore, NewRecord, Store};
use proptest::prelude::*;
use prost::Message;
use rustls::pki_types::CertificateDer;

const CONTROLLER: &str = "address = 'main.test:8170'\n[build]\nremote = 'https://git.test/control.git'\n[deploy]\npolicy = 'fail'\n[puppet]\nca = '/a'\ncrl = '/b'\ncertificate = '/c'\nkey = '/d'\n[[puppet.allow]]\ncertname = '*.test'\nroles = ['compiler']\n";
const AGENT: &str = "controller = 'main.test:8170'\nname = 'c1.test'\n[code]\nkeep_versions = 5\n[enroll]\nmain_certname = 'main.test'\nroles = ['compiler']\n";

/// A good text with some bytes changed, cut out or put in.
fn spoilt(good: &'static str) -> impl Strategy<Value = String> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_usize), 0..6);
    edits.prop_map(move |edits| {
        let mut bytes = good.as_bytes().to_vec();
        for (at, byte, cut) in edits {
            let at = at.index(bytes.len());
            bytes.splice(at..(at + cut).min(bytes.len()), [byte]);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn certificate() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec!["controller.test.bunraku".to_owned()]).unwrap();
    parameters.subject_alt_names.push(rcgen::SanType::URI("spiffe://test/controller".try_into().unwrap()));
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Decodes as every message of the wire; what is taken is written again as it was understood.
fn decode_all(bytes: &[u8]) {
    fn one<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
        if let Ok(message) = M::decode(bytes) {
            assert_eq!(M::decode(&message.encode_to_vec()[..]).as_ref(), Ok(&message));
        }
    }
    one::<v1::HelloRequest>(bytes);
    one::<v1::HelloReply>(bytes);
    one::<v1::StageRequest>(bytes);
    one::<v1::StageReply>(bytes);
    one::<v1::CommitRequest>(bytes);
    one::<v1::DiscardRequest>(bytes);
    one::<v1::HealReply>(bytes);
    one::<v1::DoctorReply>(bytes);
    one::<v1::PackRequest>(bytes);
    one::<v1::PackChunk>(bytes);
    one::<v1::WithTokenRequest>(bytes);
    one::<v1::Identity>(bytes);
    one::<v1::StatusReply>(bytes);
    one::<v1::DeployRequest>(bytes);
    one::<v1::Event>(bytes);
}

/// A journal of three records, as the controller left it.
fn journal(dir: &Path) {
    let (mut store, _) = LocalStore::open(dir).unwrap();
    for number in 0..3_u8 {
        let record = NewRecord {
            at_ms: 1,
            wall_ms: 2,
            who: "root".into(),
            keys: vec!["kind/x".into()],
            payload: vec![number; 100],
        };
        store.append(vec![record]).unwrap();
    }
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(dir.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file() && fs::metadata(path).unwrap().len() > 0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn f20_a_spoilt_configuration_is_read_or_refused_with_one_line(text in prop_oneof![spoilt(CONTROLLER), spoilt(AGENT), ".{0,200}"]) {
        let path = Path::new("/etc/x.toml");
        for told in [
            config::parse::<bunraku::config::Config>(&text, path).err(),
            config::parse::<bunraku_agent::Config>(&text, path).err(),
        ].into_iter().flatten() {
            prop_assert!(told.to_string().lines().count() == 1, "{told}");
        }
    }

    #[test]
    fn f20_a_configuration_survives_its_own_text(controller in spoilt(CONTROLLER), agent in spoilt(AGENT)) {
        let path = Path::new("/etc/x.toml");
        if let Ok(read) = config::parse::<bunraku::config::Config>(&controller, path) {
            let text = toml::to_string(&read).unwrap();
            let again: bunraku::config::Config = config::parse(&text, path).unwrap();
            prop_assert_eq!(toml::to_string(&again).unwrap(), text);
        }
        if let Ok(read) = config::parse::<bunraku_agent::Config>(&agent, path) {
            let text = toml::to_string(&read).unwrap();
            let again: bunraku_agent::Config = config::parse(&text, path).unwrap();
            prop_assert_eq!(toml::to_string(&again).unwrap(), text);
        }
    }

    #[test]
    fn f20_pem_and_der_that_nobody_signed_are_refused_without_a_panic(
        noise in prop::collection::vec(any::<u8>(), 0..600), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let (pem, key) = certificate();
        let mut spoilt = pem.clone().into_bytes();
        let place = at.index(spoilt.len());
        spoilt[place] ^= 1 << bit;
        for bytes in [&noise, &spoilt] {
            let der = CertificateDer::from(bytes.clone());
            prop_assert!(PeerIdentity::from_certificate(&der).is_err());
            prop_assert!(peer::pin(&der).is_err());
            prop_assert!(PuppetAuthorities::from_pem(bytes, bytes).is_err());
            let _outcome = Credentials::from_pem("x", bytes, key.as_bytes());
            let own = Credentials::from_pem("x", pem.as_bytes(), key.as_bytes()).unwrap();
            if let Ok(mesh) = Mesh::from_pem(bytes, FleetName::parse("test").unwrap(), own) {
                prop_assert!(mesh.own_identity(std::time::SystemTime::now()).is_err());
            }
        }
    }

    #[test]
    fn f20_der_with_one_bit_changed_is_no_panic(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        use rustls::pki_types::pem::PemObject;
        let mut der = CertificateDer::from_pem_slice(certificate().0.as_bytes()).unwrap().to_vec();
        let place = at.index(der.len());
        der[place] ^= 1 << bit;
        let _outcome = PeerIdentity::from_certificate(&CertificateDer::from(der));
    }

    #[test]
    fn f20_names_and_digests_survive_their_own_text_and_nothing_else_is_taken(text in prop_oneof![".{0,80}", "[a-z0-9_./-]{0,80}", "[0-9a-f]{60,68}"]) {
        if let Ok(name) = EnvironmentName::parse(&text) { prop_assert_eq!(name.to_string(), text.clone()); }
        if let Ok(name) = NodeName::parse(&text) { prop_assert_eq!(name.to_string(), text.clone()); }
        if let Ok(name) = OperatorName::parse(&text) { prop_assert_eq!(name.to_string(), text.clone()); }
        if let Ok(name) = FleetName::parse(&text) { prop_assert_eq!(name.to_string(), text.clone()); }
        if let Ok(digest) = text.parse::<Digest>() { prop_assert_eq!(digest.to_string(), text.clone()); }
        if let Ok(role) = text.parse::<Role>() { prop_assert_eq!(role.to_string(), text); }
    }

    #[test]
    fn f20_messages_of_the_wire_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
    }

    #[test]
    fn f20_a_pack_of_noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let packed = zstd::encode_all(&bytes[..], 1).unwrap();
        for stream in [&bytes, &packed] {
            let Ok(decoder) = zstd::Decoder::new(&stream[..]) else { continue };
            let mut reader = pack::Reader::new(decoder);
            loop {
                match reader.next_frame() {
                    Ok(pack::Frame::Tree { .. }) => {}
                    Ok(pack::Frame::Blob { digest, length }) => {
                        if reader.blob(&digest, length, &mut std::io::sink()).is_err() { break; }
                    }
                    Ok(pack::Frame::End) => { prop_assert_eq!(&bytes[..1], b"E"); break; }
                    Err(_) => break,
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn f20_a_spoilt_journal_is_refused_or_is_a_beginning_of_what_was_written(
        at in any::<prop::sample::Index>(), noise in prop::collection::vec(any::<u8>(), 1..40), cut in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        journal(dir.path());
        let path = segments(dir.path()).pop().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let place = at.index(written);
        if cut {
            bytes.truncate(place);
        } else {
            let end = (place + noise.len()).min(bytes.len());
            bytes.splice(place..end, noise);
        }
        fs::write(&path, bytes).unwrap();
        if let Ok((store, recovered)) = LocalStore::open(dir.path()) {
            prop_assert!(recovered.records.len() <= 3);
            for (number, record) in recovered.records.iter().enumerate() {
                prop_assert_eq!(&record.payload, &vec![number as u8; 100]);
            }
            prop_assert!(store.head().sequence <= 3);
        }
    }
}
