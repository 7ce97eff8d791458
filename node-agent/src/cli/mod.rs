//! The node agent's commands.

mod doctor;
mod enroll;
mod first_config;
mod run;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use bunraku_common::{
    Chain,
    config::{self, ConfigError},
    hint,
};
use clap::{CommandFactory, Parser, Subcommand};

use crate::config::Config;

/// Where the packaged configuration stands.
pub const DEFAULT_CONFIG: &str = "/etc/bunraku/agent.toml";

#[derive(Debug, Parser)]
#[command(
    name = "bunraku-agent",
    version,
    about = "Bunraku's node agent, and the helpers that Puppet Server calls",
    after_help = "Exit codes:\n  0 done   1 failed   2 wrong use\n\nExample: bunraku-agent doctor"
)]
struct Cli {
    /// Configuration file
    #[arg(long, global = true, env = "BUNRAKU_AGENT_CONFIG", default_value = DEFAULT_CONFIG, value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node agent
    #[command(after_help = "Example: bunraku-agent run --config /etc/bunraku/agent.toml")]
    Run(run::Run),
    /// Join: by a one-time token, or by this host's Puppet certificate
    #[command(
        after_help = "Examples:\n  bunraku-agent enroll --controller main.example.com:8170 --pin 3f… --token-file token\n  \
                            bunraku-agent enroll --controller main.example.com:8170 --main-certname main.example.com --role compiler\n\n\
                            As `bunraku compiler add` prints it:\n  \
                            echo TOKEN | bunraku-agent enroll --controller main.example.com:8170 --pin 3f… --name c3.example.com --token-file - --compiler"
    )]
    Enroll(enroll::Enroll),
    /// What this compiler needs, and the exact line that mends what it lacks
    #[command(after_help = "Examples:\n  bunraku-agent doctor\n  bunraku-agent doctor --fix")]
    Doctor(doctor::Doctor),
    /// Print the digest that an environment serves (called by Puppet Server as code-id-command)
    #[command(after_help = "Example: bunraku-agent code-id production")]
    CodeId { environment: String },
    /// Print a file of a retained version (called by Puppet Server as code-content-command)
    #[command(
        after_help = "Example: bunraku-agent code-content production DIGEST modules/ntp/files/ntp.conf"
    )]
    CodeContent { environment: String, code_id: String, path: String },
    /// Print shell completions
    #[command(after_help = "Example: bunraku-agent completions bash > /etc/bash_completion.d/bunraku-agent")]
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Parses the arguments and does what they say.
pub fn main() -> ExitCode {
    if let Some(code) = crate::helpers::called_as() {
        return code;
    }
    let cli = Cli::parse();
    // A node agent is small: two threads carry its work, blocking work has threads of its own.
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::Failed(format!("could not start: {error}"))),
    };
    let data_dir =
        || read(&cli.config).map_or_else(|_| crate::config::default_data_dir(), |config| config.data_dir);
    let done = match &cli.command {
        Command::Run(run) => runtime.block_on(run.run(&cli.config)),
        Command::Enroll(enroll) => runtime.block_on(enroll.run(&cli.config)),
        Command::Doctor(doctor) => runtime.block_on(doctor.run(&cli.config)),
        Command::CodeId { environment } => return crate::helpers::code_id(&data_dir(), environment),
        Command::CodeContent { environment, code_id, path } => {
            return crate::helpers::code_content(&data_dir(), environment, code_id, path);
        }
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "bunraku-agent", &mut std::io::stdout());
            Ok(())
        }
    };
    done.map_or_else(|failure| report(&failure), |()| ExitCode::SUCCESS)
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub(crate) enum Failure {
    Failed(String),
    WrongUse(String),
    /// Everything was said already.
    Silent,
}

impl Failure {
    pub(crate) fn failed(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Failed(Chain(error).to_string())
    }
}

fn report(failure: &Failure) -> ExitCode {
    let (code, text) = match failure {
        Failure::Failed(text) => (1, text.as_str()),
        Failure::WrongUse(text) => (2, text.as_str()),
        Failure::Silent => (1, ""),
    };
    let (reason, hint) = hint::split(text);
    if !reason.is_empty() {
        eprintln!("error: {reason}");
    }
    if !hint.is_empty() {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(code)
}

pub(crate) fn read(path: &Path) -> Result<Config, Failure> {
    config::read(path).map_err(|error| {
        let told = Chain(&error).to_string();
        Failure::WrongUse(match error {
            ConfigError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => hint::join(
                &told,
                &format!("cp {DEFAULT_CONFIG}.example {}, and set `controller`", path.display()),
            ),
            ConfigError::Read { .. } | ConfigError::Parse { .. } => told,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent_and_every_command_shows_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        for below in command.get_subcommands() {
            let help = below.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{}", below.get_name());
        }
    }
}
