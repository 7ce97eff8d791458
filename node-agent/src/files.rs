//! What the tables of the configuration have in common that grant a file: its path, whose it is, its permissions, and who
//! is told to read it again.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Component, Path, PathBuf},
};

use bunraku_common::config::nearest_of;
use bunraku_services::service::Grant;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::accounts::{group_id, user_id};

/// Permissions, written as `"0644"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mode(pub u32);

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o666 && mode & 0o111 == 0 && !text.starts_with('+') => Ok(Self(mode)),
            Ok(_) | Err(_) => {
                Err(format!("`{}` is no mode of a file, such as \"0644\"", text.escape_debug()))
            }
        }
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        mode.to_string()
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// Who is to read a file again, one of the services that are granted: by a reload or by a restart.
pub(crate) fn reader(
    path: &Path,
    reload: Option<&String>,
    restart: Option<&String>,
    services: &BTreeMap<String, Grant>,
) -> Result<Option<String>, String> {
    let path = path.display();
    let (key, name) = match (reload, restart) {
        (None, None) => return Ok(None),
        (Some(name), None) => ("reload", name),
        (None, Some(name)) => ("restart", name),
        (Some(_), Some(_)) => {
            return Err(format!(
                "{path} is to be read after a reload and after a restart (hint: keep one of both)"
            ));
        }
    };
    if services.contains_key(name) {
        return Ok(Some(name.clone()));
    }
    let hint = match nearest_of(name, services.keys().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("add a [services.{name}] table"),
    };
    Err(format!("{key} = \"{name}\" of {path} is none of [services] (hint: {hint})"))
}

/// Owner and group of a file, looked up.
pub(crate) fn ids(
    path: &Path,
    owner: Option<&String>,
    group: Option<&String>,
) -> Result<(Option<u32>, Option<u32>), String> {
    let id = |what: &str, name: Option<&String>, id: fn(&str) -> Option<u32>, database: &str| {
        let Some(name) = name else { return Ok(None) };
        let path = path.display();
        let unknown = || {
            format!(
                "the {what} {name} of {path} does not exist (hint: getent {database} names all there are)"
            )
        };
        id(name).map(Some).ok_or_else(unknown)
    };
    Ok((id("owner", owner, user_id, "passwd")?, id("group", group, group_id, "group")?))
}

/// For `deserialize_with`: an absolute path of a file, without detours.
pub(crate) fn straight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    let detours = path.components().any(|part| matches!(part, Component::ParentDir));
    let written = path.to_string_lossy();
    if path.is_absolute() && !detours && path != Path::new("/") && !written.ends_with('/') {
        Ok(path)
    } else {
        Err(D::Error::custom(format!(
            "`{}` is not an absolute path of a file without ..",
            written.escape_debug()
        )))
    }
}
