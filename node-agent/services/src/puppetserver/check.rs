//! Finds before a restart what would keep Puppet Server from coming up: conf.d is read as it would be, by Puppet's own
//! Ruby and its HOCON library, and puppet.conf by `puppet config print`.
//!
//! It finds syntax, and settings that stand in two files. What a setting means is known to the server alone.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use bunraku_puppetserver::{
    Puppet,
    command::{CommandError, Invocation},
};
use serde::Deserialize;

/// Puppet's own packages first: their Ruby has the library built in.
const RUBIES: [&str; 2] = ["/opt/puppetlabs/puppet/bin/ruby", "/usr/bin/ruby"];

/// A tenth of a second on an idle machine.
const DEADLINE: Duration = Duration::from_secs(60);

const SCRIPT: &str = include_str!("check_conf_d.rb");

/// The script's, for a Ruby without the library.
const NO_HOCON: i32 = 9;

/// What `puppet` says on stderr, in every locale that we give it, of a file that it leaves out.
const UNREADABLE: &str = "Error: Could not parse ";

/// What is read, and by whom.
#[derive(Debug)]
pub struct ConfigCheck<'a> {
    pub puppet: &'a Puppet,
    pub conf_d: &'a Path,
    /// Without it, that of Puppet's packages or Debian's.
    pub ruby: Option<PathBuf>,
}

/// A file that the server would not take.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Problem {
    pub file: PathBuf,
    pub what: String,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("Puppet Server's configuration has errors: {} (hint: mend them, then try again)", list(.0))]
    Problems(Vec<Problem>),
    #[error("puppet.conf holds what Puppet does not take")]
    PuppetConf(#[source] CommandError),
    #[error("puppet cannot parse {0} (hint: mend that line)")]
    Unreadable(String),
    #[error(
        "{} has no HOCON library, so Puppet Server's configuration cannot be checked \
         (hint: apt-get install ruby-hocon)", ruby.display()
    )]
    NoHocon { ruby: PathBuf },
    #[error(
        "no Ruby was found, so Puppet Server's configuration cannot be checked (hint: name one in the configuration)"
    )]
    NoRuby,
    #[error("could not check {}", conf_d.display())]
    Run {
        conf_d: PathBuf,
        #[source]
        source: CommandError,
    },
    #[error("the check of {} said what cannot be understood: {said}", conf_d.display())]
    Garbled { conf_d: PathBuf, said: String },
}

impl ConfigCheck<'_> {
    pub async fn run(&self) -> Result<(), CheckError> {
        self.conf_d().await?;
        self.puppet_conf().await
    }

    /// All settings, so that every value is looked at.
    async fn puppet_conf(&self) -> Result<(), CheckError> {
        let mut args: Vec<OsString> = ["config", "print", "--section", "server"].map(Into::into).into();
        args.extend(self.puppet.program().1.iter().cloned());
        let run = self.puppet.invocation(args, Path::new("/"), DEADLINE).run().await;
        let output = run.map_err(CheckError::PuppetConf)?;
        // Puppet goes on without the file, with its defaults and exit code 0.
        match output.stderr.split_once(UNREADABLE) {
            Some((_, why)) => Err(CheckError::Unreadable(without_colour(why))),
            None => Ok(()),
        }
    }

    async fn conf_d(&self) -> Result<(), CheckError> {
        let ruby = self.ruby()?;
        let invocation = Invocation {
            program: &ruby,
            args: vec!["-e".into(), SCRIPT.into(), "--".into(), self.conf_d.into()],
            run_as: None,
            home: Path::new("/"),
            deadline: DEADLINE,
        };
        let output = match invocation.run().await {
            Err(CommandError::Failed { status, .. }) if status.code() == Some(NO_HOCON) => {
                return Err(CheckError::NoHocon { ruby });
            }
            run => run.map_err(|source| CheckError::Run { conf_d: self.conf_d.into(), source })?,
        };
        let problems: Vec<(PathBuf, String)> = serde_json::from_str(output.stdout.trim()).map_err(|_| {
            let said = output.stdout.chars().take(300).collect();
            CheckError::Garbled { conf_d: self.conf_d.into(), said }
        })?;
        if problems.is_empty() {
            return Ok(());
        }
        Err(CheckError::Problems(problems.into_iter().map(|(file, what)| Problem { file, what }).collect()))
    }

    fn ruby(&self) -> Result<PathBuf, CheckError> {
        let known = || RUBIES.map(PathBuf::from).into_iter().find(|path| path.exists());
        self.ruby.clone().or_else(known).ok_or(CheckError::NoRuby)
    }
}

/// Puppet colours its errors before it has read that it should not, and breaks them into lines.
fn without_colour(text: &str) -> String {
    let mut pieces = text.split('\u{1b}');
    let first = pieces.next().unwrap_or_default().to_owned();
    let plain = pieces.fold(first, |text, piece| text + piece.split_once('m').map_or("", |(_, rest)| rest));
    plain.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

fn list(problems: &[Problem]) -> String {
    let each = problems.iter().map(|problem| format!("{}: {}", problem.file.display(), problem.what));
    each.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bunraku_common::Chain;

    use super::*;

    const WEBSERVER: &str = "webserver: {\n  ssl-port: 8140\n  host: ${?NOT_SET}\n}\n";

    /// With the real Ruby, its real HOCON library, and the real Puppet.
    async fn checked(files: &[(&str, &str)], puppet_conf: &str) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let conf_d = dir.path().join("conf.d");
        fs::create_dir(&conf_d).unwrap();
        for (name, text) in files {
            fs::write(conf_d.join(name), text).unwrap();
        }
        let config = dir.path().join("puppet.conf");
        fs::write(&config, puppet_conf).unwrap();
        let puppet = Puppet::new("puppet", ["--config".into(), config.into()]);
        let check = ConfigCheck { puppet: &puppet, conf_d: &conf_d, ruby: None };
        check.run().await.map_err(|error| Chain(&error).to_string())
    }

    #[tokio::test]
    async fn a_sound_configuration_passes_with_substitutions_and_a_section_in_two_files() {
        let more = "webserver: { access-log-config: ${dir}/log.xml, other: ${webserver.host} }";
        let files = [("webserver.conf", WEBSERVER), ("more.conf", more), ("more.conf.bak", "broken {")];
        checked(&files, "[main]\ncertname = c1.example\n").await.unwrap();
        let shipped = Path::new("/etc/puppet/puppetserver/conf.d");
        if shipped.exists() {
            let puppet = Puppet::new("puppet", []);
            ConfigCheck { puppet: &puppet, conf_d: shipped, ruby: None }.run().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_syntax_error_in_conf_d_names_the_file_and_the_line() {
        let files =
            [("webserver.conf", WEBSERVER), ("auth.conf", "authorization: {\n  version: 1\n  rules: [\n")];
        let error = checked(&files, "").await.unwrap_err();
        assert!(error.contains("conf.d/auth.conf: ") && error.contains("hint:"), "{error}");
        assert!(!error.contains("webserver.conf"), "{error}");
    }

    #[tokio::test]
    async fn a_setting_that_stands_in_two_files_is_found_as_the_server_would() {
        let files = [("webserver.conf", WEBSERVER), ("zz.conf", "webserver: { ssl-port: 8150 }")];
        let error = checked(&files, "").await.unwrap_err();
        assert!(error.contains("zz.conf: webserver.ssl-port stands in webserver.conf, too"), "{error}");
    }

    #[tokio::test]
    async fn a_broken_puppet_conf_is_found_though_puppet_goes_on_without_it() {
        let files = [("webserver.conf", WEBSERVER)];
        let unreadable = checked(&files, "[main]\ncertname c1\n").await.unwrap_err();
        let expected = "line: 2) (hint: mend that line)";
        assert!(
            unreadable.starts_with("puppet cannot parse /") && unreadable.ends_with(expected),
            "{unreadable}"
        );
        let wrong = checked(&files, "[main]\nenvironment_timeout = abc\n").await.unwrap_err();
        assert!(wrong.starts_with("puppet.conf holds") && wrong.contains("environment_timeout"), "{wrong}");
    }

    #[tokio::test]
    async fn a_ruby_without_the_library_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let ruby = dir.path().join("ruby");
        fs::write(&ruby, "#!/bin/sh\nexec /usr/bin/ruby --disable-gems -I/nowhere -e 'exit 9'\n").unwrap();
        fs::set_permissions(&ruby, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let puppet = Puppet::new("puppet", []);
        let check = ConfigCheck { puppet: &puppet, conf_d: dir.path(), ruby: Some(ruby) };
        let error = check.run().await.unwrap_err();
        assert!(error.to_string().contains("apt-get install ruby-hocon"), "{error}");
    }
}
