//! The mesh CA, and beside it the one that takes its place while it is rotated. Which of them signs, which is shown and
//! which are trusted follows from the journal alone; the files follow the journal.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use bunraku_common::{Digest, crash, whole};
use bunraku_engine::{Authority, CaPhase};
use bunraku_proto::tls::Mesh;
use rustls::pki_types::CertificateDer;

use super::ca::{CERTIFICATE_FILE, CaError, KEY_FILE, MeshCa};

/// Beside the current CA's files.
const NEXT: &str = "next";

#[derive(Debug)]
pub(crate) struct Authorities {
    current: MeshCa,
    /// While it is rotated.
    next: Option<(MeshCa, CaPhase)>,
}

impl Authorities {
    /// As the journal wants them. What a crash left half done after a retirement is finished first.
    pub(crate) fn open(dir: &Path, journalled: &Authority) -> Result<Self, CaError> {
        let next = dir.join(NEXT);
        if let Some(counts) = journalled.current {
            settle(dir, &next, counts)?;
        }
        let current = MeshCa::open(dir)?;
        let next = match &journalled.rotation {
            None => None,
            Some(rotation) => {
                let ca = MeshCa::open(&next)?;
                if ca.pin()? != rotation.to {
                    return Err(CaError::Broken {
                        path: next.join(CERTIFICATE_FILE),
                        reason: "the journal names another one",
                    });
                }
                Some((ca, rotation.phase))
            }
        };
        Ok(Self { current, next })
    }

    /// The pins of the current CA and of its successor, which is made here when it is not there yet. Before the journal
    /// names it, it is nothing but files.
    pub(crate) fn prepare(&self, dir: &Path, now: SystemTime) -> Result<(Digest, Digest), CaError> {
        let next = dir.join(NEXT);
        let made = match MeshCa::open(&next) {
            Err(CaError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                MeshCa::succeed(&next, &self.current, now)?
            }
            opened => opened?,
        };
        crash::point("ca-next-made");
        Ok((self.current.pin()?, made.pin()?))
    }

    /// Whose pin a join line carries: until it is retired.
    pub(crate) const fn current(&self) -> &MeshCa {
        &self.current
    }

    /// Who signs nodes and operators.
    pub(crate) fn signer(&self) -> &MeshCa {
        self.next_from(CaPhase::Overlap)
    }

    /// Who signs what the controller itself shows to those that have an identity.
    fn shown(&self) -> &MeshCa {
        self.next_from(CaPhase::Switch)
    }

    fn next_from(&self, from: CaPhase) -> &MeshCa {
        self.next.as_ref().filter(|(_, phase)| *phase >= from).map_or(&self.current, |(next, _)| next)
    }

    /// All that are trusted, the one that signs first.
    fn trusted(&self) -> impl Iterator<Item = &MeshCa> {
        let signer = self.signer();
        let all = [Some(&self.current), self.next.as_ref().map(|(next, _)| next)].into_iter().flatten();
        std::iter::once(signer).chain(all.filter(move |ca| !std::ptr::eq(*ca, signer)))
    }

    /// For [`Identity`](bunraku_proto::v1::Identity): how nodes and operators learn a new one.
    pub(crate) fn bundle(&self) -> String {
        self.trusted().map(MeshCa::pem).collect()
    }

    /// Of all that are trusted, the one that signs first.
    pub(crate) fn pins(&self) -> Result<Vec<Digest>, CaError> {
        self.trusted().map(MeshCa::pin).collect()
    }

    /// For the doors of those that have an identity.
    pub(crate) fn controller(&self, now: SystemTime) -> Result<Mesh, CaError> {
        self.shown().controller(self.anchors(), now)
    }

    /// For the door of those that have nothing but a pin: that of the current CA, so lines that were printed before a
    /// phase stay good until the retirement.
    pub(crate) fn pinned_controller(&self, now: SystemTime) -> Result<Mesh, CaError> {
        self.current.controller(vec![self.current.der().clone()], now)
    }

    fn anchors(&self) -> Vec<CertificateDer<'static>> {
        self.trusted().map(|ca| ca.der().clone()).collect()
    }
}

/// Once the journal says that the successor counts, its files take the place of the current ones, the key first; the
/// old key is gone with that.
fn settle(dir: &Path, next: &Path, counts: Digest) -> Result<(), CaError> {
    if MeshCa::pin_in(next)? != Some(counts) {
        // Empty, where a crash came after the last file.
        let _absent_or_in_use = fs::remove_dir(next);
        return Ok(());
    }
    let moved = |path: PathBuf| move |source| CaError::Io { what: "put in place", path, source };
    for file in [KEY_FILE, CERTIFICATE_FILE] {
        match fs::rename(next.join(file), dir.join(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.and_then(|()| whole::sync_dir(dir)),
        }
        .map_err(moved(dir.join(file)))?;
        crash::point("ca-file-moved");
    }
    fs::remove_dir_all(next).map_err(moved(next.into()))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use bunraku_engine::CaRotation;
    use bunraku_proto::{FleetName, peer};
    use tempfile::TempDir;
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    struct Place(TempDir);

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            MeshCa::create(dir.path(), &FleetName::parse("f").unwrap(), SystemTime::now()).unwrap();
            Self(dir)
        }

        fn open(&self, journalled: &Authority) -> Authorities {
            Authorities::open(self.0.path(), journalled).unwrap()
        }

        fn prepare(&self) -> (Digest, Digest) {
            self.open(&Authority::default()).prepare(self.0.path(), SystemTime::now()).unwrap()
        }
    }

    fn rotating(from: Digest, to: Digest, phase: CaPhase) -> Authority {
        let (nodes, operators, left) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let rotation = CaRotation { from, to, phase, since: 0, nodes, operators, left };
        Authority { current: Some(from), rotation: Some(rotation) }
    }

    /// The pin of the CA that signed what the controller shows.
    fn issuer(open: &Authorities, mesh: &Mesh) -> Digest {
        let (_, leaf) = X509Certificate::from_der(mesh.own.leaf()).unwrap();
        let signed = |ca: &&MeshCa| {
            let (_, ca) = X509Certificate::from_der(ca.der()).unwrap();
            leaf.verify_signature(Some(ca.public_key())).is_ok()
        };
        open.trusted().find(signed).unwrap().pin().unwrap()
    }

    #[test]
    fn what_signs_what_is_shown_and_what_is_trusted_follow_the_phase() {
        let place = Place::new();
        let (from, to) = place.prepare();
        for (phase, signer, shown) in
            [(CaPhase::Announce, from, from), (CaPhase::Overlap, to, from), (CaPhase::Switch, to, to)]
        {
            let open = place.open(&rotating(from, to, phase));
            assert_eq!(open.signer().pin().unwrap(), signer, "{phase:?}");
            let mesh = open.controller(SystemTime::now()).unwrap();
            assert_eq!(issuer(&open, &mesh), shown, "{phase:?}");
            assert_eq!(mesh.anchors.len(), 2, "{phase:?}: the doors trust both");
            let pins = open.pins().unwrap();
            assert!(pins.len() == 2 && pins[0] == signer, "{phase:?}: {pins:?}");
            assert_eq!(open.bundle().matches("BEGIN CERTIFICATE").count(), 2);
            let pinned = open.pinned_controller(SystemTime::now()).unwrap();
            assert_eq!(issuer(&open, &pinned), from, "{phase:?}: a join line is good");
        }
    }

    #[test]
    fn f22_a_successor_that_the_journal_does_not_know_yet_is_taken_again_and_changes_nothing() {
        let place = Place::new();
        let (from, to) = place.prepare();
        assert_eq!(place.prepare(), (from, to));
        let open = place.open(&Authority::default());
        assert_eq!(open.pins().unwrap(), [from]);
    }

    #[test]
    fn f22_files_that_a_crash_left_half_moved_are_moved_at_the_next_start() {
        for moved in 0..=2 {
            let place = Place::new();
            let (_, to) = place.prepare();
            let next = place.0.path().join(NEXT);
            for file in [KEY_FILE, CERTIFICATE_FILE].into_iter().take(moved) {
                fs::rename(next.join(file), place.0.path().join(file)).unwrap();
            }
            let retired = Authority { current: Some(to), rotation: None };
            for _ in 0..2 {
                assert_eq!(place.open(&retired).pins().unwrap(), [to], "{moved} moved");
            }
            assert!(!next.exists(), "{moved} moved");
        }
    }

    #[test]
    fn the_successor_names_the_fleets_first_ca_and_its_key_is_its_owners_alone() {
        use std::os::unix::fs::MetadataExt;
        let place = Place::new();
        let (from, to) = place.prepare();
        let key = place.0.path().join(NEXT).join(KEY_FILE);
        assert_eq!(fs::metadata(key).unwrap().mode() & 0o777, 0o600);
        let retired = Authority { current: Some(to), rotation: None };
        let open = place.open(&retired);
        assert_eq!(peer::founder(open.current().der()).unwrap(), from);
        let (second, third) = open.prepare(place.0.path(), SystemTime::now()).unwrap();
        assert_eq!(second, to);
        let open = place.open(&rotating(second, third, CaPhase::Switch));
        assert!(open.trusted().all(|ca| peer::founder(ca.der()).unwrap() == from));
    }
}
