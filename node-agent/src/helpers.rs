//! The helpers that Puppet Server runs as its own user on every compile: links to this program, named after what they
//! do, and a small file that tells them where code stands. They never read the agent's configuration.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use bunraku_common::Chain;
use bunraku_puppetserver::{
    code_content::Code,
    code_id::{self, CodeId},
};
use serde::{Deserialize, Serialize};

const PLACES: &str = "places.json";
const BIN: &str = "bin";
/// A fetch of a file begins to be slow for the Puppet agent after this.
const PATIENCE: Duration = code_id::PATIENCE;

/// Where code stands on this host, for the helpers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places {
    pub environments_dir: PathBuf,
    /// The directory with one directory of versions for each environment.
    pub versions: PathBuf,
    pub locks: PathBuf,
}

/// `code-id` and `code-content` of the agent with this data directory.
pub(crate) fn links(data_dir: &Path) -> (PathBuf, PathBuf) {
    (data_dir.join(BIN).join("code-id"), data_dir.join(BIN).join("code-content"))
}

/// Makes the links and writes the file; both can be read by everybody, and neither holds a secret.
pub(crate) fn install(data_dir: &Path, places: &Places) -> io::Result<()> {
    let bin = data_dir.join(BIN);
    fs::create_dir_all(&bin)?;
    for dir in [data_dir, &bin] {
        // The service manager may have made it for its owner only; Puppet Server must pass through.
        let mode = fs::metadata(dir)?.permissions().mode();
        fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o011))?;
    }
    let program = std::env::current_exe()?;
    let (id, content) = links(data_dir);
    for link in [id, content] {
        if fs::read_link(&link).is_ok_and(|target| target == program) {
            continue;
        }
        let temporary = link.with_extension("new");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => symlink(&program, &temporary)?,
        }
        fs::rename(&temporary, &link)?;
    }
    let path = data_dir.join(PLACES);
    let temporary = path.with_extension("new");
    fs::write(&temporary, serde_json::to_vec(places)?)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644))?;
    fs::rename(temporary, path)
}

/// The helper that this program was called as, if it was.
pub(crate) fn called_as() -> Option<ExitCode> {
    let mut arguments = std::env::args();
    let program = PathBuf::from(arguments.next()?);
    let rest: Vec<String> = arguments.collect();
    let data_dir = data_dir_of(&program);
    match program.file_name()?.to_str()?.trim_start_matches("bunraku-") {
        "code-id" => Some(with(&rest, |[environment]| code_id(&data_dir, environment))),
        "code-content" => {
            Some(with(&rest, |[environment, id, path]| code_content(&data_dir, environment, id, path)))
        }
        _ => None,
    }
}

fn with<const N: usize>(arguments: &[String], run: impl FnOnce(&[String; N]) -> ExitCode) -> ExitCode {
    match <&[String; N]>::try_from(arguments) {
        Ok(arguments) => run(arguments),
        Err(_) => {
            eprintln!("error: {N} arguments are expected (hint: this is called by Puppet Server)");
            ExitCode::from(2)
        }
    }
}

/// `<data_dir>/bin/code-id`; anywhere else the packaged place.
fn data_dir_of(program: &Path) -> PathBuf {
    let beside =
        program.parent().filter(|bin| bin.file_name().is_some_and(|name| name == BIN)).and_then(Path::parent);
    match beside {
        Some(dir) if dir.join(PLACES).exists() => dir.into(),
        Some(_) | None => crate::config::default_data_dir(),
    }
}

fn places(data_dir: &Path) -> Result<Places, String> {
    let path = data_dir.join(PLACES);
    let bytes = fs::read(&path).map_err(|error| {
        format!("could not read {}: {error} (hint: bunraku-agent run writes it)", path.display())
    })?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{} is damaged: {error}", path.display()))
}

/// Puppet Server logs what comes on standard error and compiles all the same; a nonzero exit would fail every compile.
pub(crate) fn code_id(data_dir: &Path, environment: &str) -> ExitCode {
    let answer = places(data_dir).and_then(|places| {
        code_id::code_id(&places.environments_dir, environment, &places.locks, PATIENCE)
            .map_err(|error| Chain(&error).to_string())
    });
    let id = answer.unwrap_or_else(|reason| {
        eprintln!("bunraku code-id: {reason}");
        CodeId::Live
    });
    println!("{id}");
    ExitCode::SUCCESS
}

pub(crate) fn code_content(data_dir: &Path, environment: &str, id: &str, path: &str) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = places(data_dir).and_then(|places| {
        let code = Code { versions: &places.versions, environmentpath: &places.environments_dir };
        code.content(environment, id, path, &mut out).map_err(|error| Chain(&error).to_string())?;
        out.flush().map_err(|error| error.to_string())
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("bunraku code-content: {reason}");
            ExitCode::FAILURE
        }
    }
}
