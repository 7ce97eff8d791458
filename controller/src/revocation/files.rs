//! CRL files as they were sent out, named by their digest.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bunraku_certificates::Crls;
use bunraku_common::Digest;

/// A folder of them. Public data: no secret is in a CRL.
#[derive(Debug, Clone)]
pub(crate) struct CrlFiles {
    dir: PathBuf,
    /// Every node is sent the same: it is read and parsed once.
    newest: Arc<Mutex<Option<Newest>>>,
}

#[derive(Debug)]
struct Newest {
    digest: Digest,
    crls: Arc<Crls>,
}

impl CrlFiles {
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let dir = data_dir.join("crls");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir, newest: Arc::default() })
    }

    /// On disk when it returns, beside `known`; all others are removed. Nobody else removes any: until a record speaks of
    /// this one only its keeper knows that it is needed.
    pub(crate) fn keep(&self, crls: &Crls, known: &BTreeSet<Digest>) -> io::Result<()> {
        let digest = crls.digest();
        self.sweep(|named| named == digest || known.contains(&named))?;
        if self.has(&digest) && self.read(&digest).is_some() {
            return Ok(());
        }
        let path = self.path(&digest);
        let beside = path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(crls.pem())?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(&self.dir)?.sync_all()
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// `None` when it is not there, or not what its name says.
    pub(crate) fn read(&self, digest: &Digest) -> Option<Arc<Crls>> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = newest.as_ref().filter(|kept| kept.digest == *digest) {
            return Some(kept.crls.clone());
        }
        let crls = Crls::parse(&fs::read(self.path(digest)).ok()?).ok()?;
        let crls = (crls.digest() == *digest).then(|| Arc::new(crls))?;
        *newest = Some(Newest { digest: *digest, crls: crls.clone() });
        Some(crls)
    }

    fn sweep(&self, keep: impl Fn(Digest) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let named = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            if !named.is_some_and(&keep) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{digest}.pem"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &[u8] = include_bytes!("../../../common/certificates/tests/fixtures/puppet/ca_crl.pem");

    /// Regression: housekeeping removed a file between its keeping and the record that speaks of it.
    #[test]
    fn a_file_stays_until_another_is_kept_and_no_record_speaks_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let files = CrlFiles::open(dir.path()).unwrap();
        let old = Crls::parse(OLD).unwrap();
        let new = Crls::parse(&[OLD, b"\n"].concat()).unwrap();
        files.keep(&old, &BTreeSet::new()).unwrap();
        files.keep(&old, &BTreeSet::new()).unwrap();
        assert!(files.has(&old.digest()));
        files.keep(&new, &BTreeSet::from([old.digest()])).unwrap();
        assert!(files.has(&old.digest()) && files.has(&new.digest()));
        files.keep(&new, &BTreeSet::new()).unwrap();
        assert!(!files.has(&old.digest()) && files.read(&new.digest()).is_some());
    }
}
