//! Files that other programs read: whole at every moment.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::driver::Trouble;

/// Replaces a file by rename, synced; off the runtime's threads.
pub(crate) async fn replace(path: PathBuf, text: String) -> Result<(), Trouble> {
    let doing = format!("write {}", path.display());
    let written = tokio::task::spawn_blocking(move || by_rename(&path, text.as_bytes()));
    written
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the work ended early")))
        .map_err(Trouble::io(doing))
}

fn by_rename(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("bunraku-new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
    file.write_all(text)?;
    file.sync_data()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
