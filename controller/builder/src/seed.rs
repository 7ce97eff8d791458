//! A new environment begins with a copy of another one's module cache, so that a feature branch does not fetch every
//! module again. Best effort: without a seed the build only takes longer.

use std::{ffi::OsString, fs, io, path::PathBuf};

use crate::{account::Account, error::BuildError, git::Git, kind::Kind, place::Place, remotes};

/// Fills the cache of `to`, which must not exist yet. Nobody may build in `from` meanwhile.
pub(crate) async fn seed(git: &Git, account: &Account, from: &Place, to: &Place) -> Result<(), BuildError> {
    // Copied beside and renamed, so that a copy that was cut off is not taken for a cache.
    let beside = to.dir().join("seed");
    let prepare = |source| BuildError::Prepare { path: beside.clone(), source };
    match fs::remove_dir_all(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(prepare(error)),
        Ok(()) | Err(_) => account.make_dir(&beside).map_err(prepare)?,
    }
    git.copy(&parts(from), &beside).await?;
    // The repository that `from` was built from is of no use here, and g10k would take it for its own.
    let left = remotes::places_of(&beside, &from.control_url()).map_err(prepare)?;
    git.remove(&beside, &left).await?;
    fs::rename(&beside, to.cache()).map_err(prepare)
}

/// g10k keeps the control repository under a name that is the same for every environment: that part stays behind.
fn parts(from: &Place) -> Vec<OsString> {
    let all: Vec<PathBuf> = match from.kind() {
        Kind::R10k => vec![from.cache().join(".")],
        Kind::G10k => ["modules", "forge"].map(|part| from.cache().join(part)).to_vec(),
    };
    all.into_iter().filter(|path| path.exists()).map(OsString::from).collect()
}
