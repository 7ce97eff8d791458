//! Puppet's own settings, asked from Puppet: nothing here knows where a package keeps its files.
//!
//! The agent asks once (a second of Ruby) and keeps the answer; the doctor asks afresh.

use std::{
    collections::HashMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::OnceCell;

use crate::command::{CommandError, Invocation, Output};

/// A loaded machine needs several seconds for what takes one otherwise.
const ASKING: Duration = Duration::from_secs(60);

const NAMES: [&str; 16] = [
    "confdir",
    "config",
    "codedir",
    "environmentpath",
    "ssldir",
    "hostcert",
    "hostprivkey",
    "localcacert",
    "hostcrl",
    "cadir",
    "certname",
    "serverport",
    "user",
    "group",
    "versioned_environment_dirs",
    "static_catalogs",
];

/// The `puppet` program, how to call it, and its settings once asked.
#[derive(Debug)]
pub struct Puppet {
    program: PathBuf,
    args: Vec<OsString>,
    settings: OnceCell<Settings>,
}

/// What Puppet answers for its section `server`.
///
/// `environment_timeout` is not here: `puppet config print` shows 0 whatever puppet.conf says (measured on 7.23), so the
/// doctor reads it from the file and from the running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub confdir: PathBuf,
    /// puppet.conf itself.
    pub config: PathBuf,
    pub codedir: PathBuf,
    /// The first directory of the setting, where managed environments live.
    pub environmentpath: PathBuf,
    pub ssldir: PathBuf,
    pub hostcert: PathBuf,
    pub hostprivkey: PathBuf,
    pub localcacert: PathBuf,
    pub hostcrl: PathBuf,
    /// Where a CA's own files would be.
    pub cadir: Option<PathBuf>,
    pub certname: String,
    /// The port agents are told to use: possibly the load balancer's, so only a fallback for the local one.
    pub serverport: u16,
    /// The user that Puppet Server runs as.
    pub user: String,
    pub group: String,
    /// `None`: this Puppet does not know the setting (before 6.19 and 7.1).
    pub versioned_environment_dirs: Option<bool>,
    pub static_catalogs: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("could not ask puppet for its settings")]
    Ask(#[source] CommandError),
    #[error("could not ask puppet for its version")]
    Version(#[source] CommandError),
    /// Puppet ends with success, and answers what it would do without the file.
    #[error(
        "puppet does not understand its configuration: {said}\nhint: mend that line; `puppet config print` says when it is right"
    )]
    Ignored { said: String },
    #[error("`{command}` did not answer with a JSON object")]
    NotJson {
        command: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{command}` did not answer with a usable value of `{setting}`")]
    Missing { command: String, setting: &'static str },
}

impl Puppet {
    /// `program` is a name or a path; `args` say which configuration to ask for (such as `--config FILE`).
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = OsString>) -> Self {
        Self { program: program.into(), args: args.into_iter().collect(), settings: OnceCell::new() }
    }

    /// The settings, asked at the first call.
    pub async fn settings(&self) -> Result<&Settings, SettingsError> {
        self.settings.get_or_try_init(|| self.ask()).await
    }

    /// The settings as they are at this moment.
    pub async fn ask(&self) -> Result<Settings, SettingsError> {
        let mut args: Vec<OsString> =
            ["config", "print", "--color=false", "--section", "server", "--render-as", "json"]
                .map(Into::into)
                .into();
        args.extend(self.args.iter().cloned());
        args.extend(NAMES.map(Into::into));
        let run = self.invocation(args, Path::new("/"), ASKING);
        let Output { stdout, stderr } = run.run().await.map_err(SettingsError::Ask)?;
        if let Some(said) = not_understood(&stderr) {
            return Err(SettingsError::Ignored { said });
        }
        parse(&stdout, &run.to_string())
    }

    /// Puppet's version, such as `7.23.0`: types are generated again after it has changed.
    pub async fn version(&self) -> Result<String, SettingsError> {
        let run = self.invocation(vec!["--version".into()], Path::new("/"), ASKING);
        Ok(run.run().await.map_err(SettingsError::Version)?.stdout.trim().to_owned())
    }

    /// The program and the arguments that every subcommand needs after it.
    pub fn program(&self) -> (&Path, &[OsString]) {
        (&self.program, &self.args)
    }

    /// A call of this program, with every argument given by the caller.
    pub fn invocation<'a>(
        &'a self,
        args: Vec<OsString>,
        home: &'a Path,
        deadline: Duration,
    ) -> Invocation<'a> {
        Invocation { program: &self.program, args, run_as: None, home, deadline }
    }
}

/// What Puppet says of a configuration file that it leaves out, on one line.
fn not_understood(stderr: &str) -> Option<String> {
    let (_, said) = stderr.split_once("Error: Could not parse ")?;
    let mut lines = said.lines();
    let first = lines.next()?;
    let more = lines.take_while(|line| line.starts_with(' '));
    Some(std::iter::once(first).chain(more).map(str::trim).collect::<Vec<_>>().join(" "))
}

fn parse(stdout: &str, command: &str) -> Result<Settings, SettingsError> {
    // A warning of Ruby or of a plugin may come before the object.
    let object = &stdout[stdout.find('{').unwrap_or(0)..];
    let values: HashMap<String, Value> = serde_json::from_str(object.trim())
        .map_err(|source| SettingsError::NotJson { command: command.into(), source })?;
    let missing = |setting| SettingsError::Missing { command: command.into(), setting };
    let text = |setting: &'static str| match values.get(setting) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(Value::Bool(yes)) => Ok(yes.to_string()),
        Some(Value::String(_) | Value::Null | Value::Array(_) | Value::Object(_)) | None => {
            Err(missing(setting))
        }
    };
    let path = |setting| text(setting).map(PathBuf::from);
    Ok(Settings {
        confdir: path("confdir")?,
        config: path("config")?,
        codedir: path("codedir")?,
        environmentpath: text("environmentpath")?.split(':').next().unwrap_or_default().into(),
        ssldir: path("ssldir")?,
        hostcert: path("hostcert")?,
        hostprivkey: path("hostprivkey")?,
        localcacert: path("localcacert")?,
        hostcrl: path("hostcrl")?,
        cadir: text("cadir").ok().map(PathBuf::from),
        certname: text("certname")?,
        serverport: text("serverport")?.parse().map_err(|_| missing("serverport"))?,
        user: text("user")?,
        group: text("group")?,
        versioned_environment_dirs: text("versioned_environment_dirs").ok().map(|text| text == "true"),
        static_catalogs: text("static_catalogs")? == "true",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"certname":"c1.example","codedir":"/c","confdir":"/e","config":"/e/puppet.conf",
        "environmentpath":"/c/environments:/c/more","group":"puppet","hostcert":"/s/c.pem","hostcrl":"/s/crl.pem",
        "hostprivkey":"/s/k.pem","localcacert":"/s/ca.pem","serverport":8140,"ssldir":"/s","static_catalogs":true,
        "user":"puppet","versioned_environment_dirs":null}"#;

    #[test]
    fn puppets_answer_is_understood_also_after_a_warning_and_from_a_puppet_that_knows_less() {
        let settings = parse(&format!("warning: something\n{ANSWER}\n"), "puppet").unwrap();
        assert_eq!(settings.environmentpath, Path::new("/c/environments"));
        assert_eq!((settings.serverport, settings.versioned_environment_dirs), (8140, None));
    }

    #[test]
    fn a_setting_that_is_not_answered_is_named() {
        let error = parse(&ANSWER.replace("\"/s/k.pem\"", "null"), "puppet config print").unwrap_err();
        let expected = "`puppet config print` did not answer with a usable value of `hostprivkey`";
        assert_eq!(error.to_string(), expected);
    }

    #[tokio::test]
    async fn the_installed_puppet_is_asked_once_and_reads_the_given_file() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("puppet.conf");
        std::fs::write(
            &config,
            "[main]\ncertname = c9.example\n[server]\nversioned_environment_dirs = true\n",
        )
        .unwrap();
        let puppet = Puppet::new("puppet", ["--config".into(), config.clone().into()]);
        let settings = puppet.settings().await.unwrap();
        assert_eq!((settings.certname.as_str(), &settings.config), ("c9.example", &config));
        assert_eq!(settings.versioned_environment_dirs, Some(true));
        std::fs::remove_file(config).unwrap();
        assert_eq!(puppet.settings().await.unwrap().certname, "c9.example");
        assert!(puppet.version().await.unwrap().split('.').all(|part| part.parse::<u32>().is_ok()));
    }
    /// Regression: Puppet ends with success then, and everything else was done with its defaults.
    #[tokio::test]
    async fn a_puppet_conf_that_puppet_leaves_out_is_an_error_and_a_finding_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("puppet.conf");
        let puppet = Puppet::new("puppet", ["--config".into(), config.clone().into()]);
        for broken in ["[main]\ncertname = c9.example\n[server\n", "[main]\ncertname = c9.example\nhm\n"] {
            std::fs::write(&config, broken).unwrap();
            let error = puppet.ask().await.unwrap_err();
            assert!(matches!(error, SettingsError::Ignored { .. }), "{error:?}");
            let finding = crate::doctor::FactsError::Settings(error).finding().unwrap();
            assert_eq!((finding.check, finding.severity), ("puppet-conf", crate::doctor::Severity::Error));
            let place = format!("(file: {}, line: 3)", config.display());
            assert!(finding.found.contains(&place), "{}", finding.found);
            assert!(
                !finding.found.contains("hint") && finding.mend.contains("mend that line"),
                "{finding:?}"
            );
        }
        // What Puppet only does not know is no reason to stop.
        std::fs::write(&config, "[main]\ncertname = c9.example\nunknown_to_puppet = 1\n").unwrap();
        assert_eq!(puppet.ask().await.unwrap().certname, "c9.example");
    }
}
