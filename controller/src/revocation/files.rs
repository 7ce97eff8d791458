//! CRL files as they were sent out, named by their digest.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use bunraku_certificates::Crls;
use bunraku_common::Digest;

/// A folder of them. Public data: no secret is in a CRL.
#[derive(Debug, Clone)]
pub(crate) struct CrlFiles {
    dir: PathBuf,
}

impl CrlFiles {
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let dir = data_dir.join("crls");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir })
    }

    /// On disk when it returns.
    pub(crate) fn keep(&self, crls: &Crls) -> io::Result<()> {
        let path = self.path(&crls.digest());
        if self.read(&crls.digest()).is_some() {
            return Ok(());
        }
        let beside = path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(crls.pem())?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(&self.dir)?.sync_all()
    }

    /// `None` when it is not there, or not what its name says.
    pub(crate) fn read(&self, digest: &Digest) -> Option<Crls> {
        let crls = Crls::parse(&fs::read(self.path(digest)).ok()?).ok()?;
        (crls.digest() == *digest).then_some(crls)
    }

    /// Removes all but these.
    pub(crate) fn sweep(&self, keep: &BTreeSet<Digest>) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let named = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            if !named.is_some_and(|digest| keep.contains(&digest)) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{digest}.pem"))
    }
}
