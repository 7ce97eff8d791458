//! The node agent's commands.

mod doctor;
mod enroll;
mod run;

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

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
    Run,
    /// Join: by a one-time token, or by this host's Puppet certificate
    #[command(after_help = "Examples:\n  bunraku-agent enroll --controller main.example.com:8170 --pin 3f… --token-file token\n  \
                            bunraku-agent enroll --controller main.example.com:8170 --main-certname main.example.com --role compiler")]
    Enroll(enroll::Enroll),
    /// What this compiler needs, and the exact line that mends what it lacks
    #[command(after_help = "Examples:\n  bunraku-agent doctor\n  bunraku-agent doctor --fix")]
    Doctor(doctor::Doctor),
    /// Print the digest that an environment serves (called by Puppet Server as code-id-command)
    #[command(after_help = "Example: bunraku-agent code-id production")]
    CodeId { environment: String },
    /// Print a file of a retained version (called by Puppet Server as code-content-command)
    #[command(after_help = "Example: bunraku-agent code-content production DIGEST modules/ntp/files/ntp.conf")]
    CodeContent { environment: String, code_id: String, path: String },
    /// Print shell completions
    #[command(after_help = "Example: bunraku-agent completions bash > /etc/bash_completion.d/bunraku-agent")]
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}
