//! The operator's commands: `bunraku …`. Each file is one noun; every command asks the controller over its unix socket
//! (root on the controller's host) or over mTLS (an operator who did `bunraku login`).

mod audit;
mod ca;
mod cert;
mod client;
mod compiler;
mod crl;
mod deploy;
mod doctor;
mod environments;
mod events;
mod exit;
mod init;
mod lb;
mod login;
mod nodes;
mod operators;
mod output;
mod progress;
mod rollout;
mod screen;
mod serve;
#[cfg(test)]
mod shown;
mod snapshots;
mod status;
mod tokens;
mod waiting;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use exit::{EXIT_CODES, Exit, Failure};
pub(crate) use output::Output;

use crate::config::DEFAULT_SOCKET;

/// Where the packaged configuration stands.
pub const DEFAULT_CONFIG: &str = "/etc/bunraku/bunraku.toml";

#[derive(Debug, Parser)]
#[command(
    name = "bunraku",
    version,
    about = "One code, one moment, on every Puppet compiler",
    after_help = "Exit codes:\n  0 done   1 failed   2 wrong use   3 no answer from the controller   4 not allowed\n  \
                  5 not found   6 refused in this state   7 live, but a compiler is behind   8 outcome unknown\n  \
                  9 a rollout halted\n\n\
                  Example: bunraku deploy production"
)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(subcommand)]
    command: Command,
}

/// How to reach the controller, and how to print.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Reach {
    /// The controller's unix socket (root on its host) [env: BUNRAKU_SOCKET] [default: /run/bunraku/control.sock]
    #[arg(long, global = true, default_value_os_t = usual_socket(), hide_default_value = true, value_name = "PATH")]
    pub socket: PathBuf,
    /// The folder with your operator identity (made by `bunraku login`); used when it exists and the socket does not
    /// [env: BUNRAKU_IDENTITY]
    #[arg(long, global = true, value_name = "DIR")]
    pub identity: Option<PathBuf>,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Read here and not by clap, whose usage lines then demand the option from whoever has set the variable.
fn usual_socket() -> PathBuf {
    let named = std::env::var_os("BUNRAKU_SOCKET").filter(|path| !path.is_empty());
    named.map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the mesh CA, the controller's identity and a config file
    #[command(after_help = "Example: bunraku init --address puppet-main.example.com:8170")]
    Init(init::Init),
    /// Run the controller
    #[command(after_help = "Example: bunraku serve --config /etc/bunraku/bunraku.toml")]
    Serve(serve::Serve),
    /// One screen: controller, nodes, environments, what is going on
    #[command(after_help = "Examples:\n  bunraku status\n  bunraku status --wide")]
    Status(status::Status),
    /// Bring environments to the newest (or a given) commit on every compiler
    #[command(after_help = "Examples:\n  bunraku deploy production\n  bunraku deploy --all\n  \
                            bunraku deploy production --plan\n  bunraku deploy production --commit 4b825dc6…")]
    Deploy(deploy::Deploy),
    /// What was deployed
    #[command(subcommand)]
    Deploys(deploy::Deploys),
    /// Bring an environment back to a retained snapshot, without git and without a build; holds the environment
    #[command(after_help = "Example: bunraku rollback production")]
    Rollback(deploy::Rollback),
    /// Lift the hold that a rollback placed on an environment
    #[command(after_help = "Example: bunraku release production")]
    Release(environments::Release),
    /// Environments and what each compiler serves
    #[command(subcommand)]
    Environments(environments::Environments),
    /// Retained snapshots
    #[command(subcommand)]
    Snapshots(snapshots::Snapshots),
    /// Hosts with a node agent
    #[command(subcommand)]
    Nodes(nodes::Nodes),
    /// A host becomes a compiler in one command, and is one no more
    #[command(subcommand)]
    Compiler(compiler::Compiler),
    /// Hash every file that a node serves again and mend what was changed by hand
    #[command(after_help = "Example: bunraku heal c1.example.com")]
    Heal(nodes::Heal),
    /// Compilers at the load balancers: take one out of service, bring it back
    #[command(subcommand)]
    Lb(lb::Lb),
    /// Certificates: a compiler's Puppet certificate, and the end of every other
    #[command(subcommand)]
    Cert(cert::Cert),
    /// Puppet's revocations: on every compiler, in seconds, proven
    #[command(subcommand)]
    Crl(crl::Crl),
    /// Change compilers in waves: each one drained, changed, verified and enabled
    #[command(subcommand)]
    Rollout(rollout::Rollout),
    /// One-time tokens that let a node join
    #[command(subcommand)]
    Token(tokens::Token),
    /// People and pipelines that may call the controller
    #[command(subcommand)]
    Operator(operators::Operator),
    /// Make your operator identity on this machine, with a one-time token
    #[command(
        after_help = "Example: bunraku login --controller main.example.com:8170 --pin 3f… --name alice --token-file -"
    )]
    Login(login::Login),
    /// The mesh CA, which signs nodes and operators: how it stands, and its rotation
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Give orders although nodes have seen a newer controller (after a restored backup)
    #[command(after_help = "Example: bunraku takeover --reason 'restored from last night' --yes")]
    Takeover(operators::Takeover),
    /// What happened, and what happens
    #[command(after_help = "Example: bunraku events --follow")]
    Events(events::Events),
    /// The journal as an audit log
    #[command(subcommand)]
    Audit(audit::Audit),
    /// What every compiler needs, and the exact line that mends what it lacks
    #[command(after_help = "Example: bunraku doctor")]
    Doctor(doctor::Doctor),
    /// Print shell completions
    #[command(after_help = "Example: bunraku completions bash > /etc/bash_completion.d/bunraku")]
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Parses the arguments, does what they say, and prints errors the way every command does.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new(Exit::Failed, format!("could not start: {error}")).report(),
    };
    let reach = cli.reach.clone();
    let done = runtime.block_on(async {
        match run(cli).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(client::explained(&reach, failure).await),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let reach = &cli.reach;
    match cli.command {
        Command::Init(init) => init.run(reach.output),
        Command::Serve(serve) => serve.run().await,
        Command::Login(login) => login.run(reach).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "bunraku", &mut std::io::stdout());
            Ok(())
        }
        Command::Status(status) => status.run(reach).await,
        Command::Deploy(deploy) => deploy.run(reach).await,
        Command::Deploys(deploys) => deploys.run(reach).await,
        Command::Rollback(rollback) => rollback.run(reach).await,
        Command::Release(release) => release.run(reach).await,
        Command::Environments(environments) => environments.run(reach).await,
        Command::Snapshots(snapshots) => snapshots.run(reach).await,
        Command::Nodes(nodes) => nodes.run(reach).await,
        Command::Compiler(compiler) => compiler.run(reach).await,
        Command::Lb(lb) => lb.run(reach).await,
        Command::Cert(cert) => cert.run(reach).await,
        Command::Crl(crl) => crl.run(reach).await,
        Command::Rollout(rollout) => rollout.run(reach).await,
        Command::Heal(heal) => heal.run(reach).await,
        Command::Token(token) => token.run(reach).await,
        Command::Operator(operator) => operator.run(reach).await,
        Command::Ca(ca) => ca.run(reach).await,
        Command::Takeover(takeover) => takeover.run(reach).await,
        Command::Events(events) => events.run(reach).await,
        Command::Audit(audit) => audit.run(reach).await,
        Command::Doctor(doctor) => doctor.run(reach).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Regression: with BUNRAKU_SOCKET set, every usage line demanded `--socket <PATH>`.
    #[test]
    fn no_usage_line_demands_what_a_variable_says() {
        let cli = Cli::command();
        let from_variables = cli.get_arguments().filter(|argument| argument.get_env().is_some());
        assert_eq!(from_variables.map(|argument| argument.get_id().as_str()).next(), None);
    }

    /// House rule: every command has help with an example.
    #[test]
    fn every_command_that_does_something_shows_an_example() {
        fn walk(command: &clap::Command, path: &str, lacking: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            if command.get_subcommands().next().is_none() && !help.contains("Example") {
                lacking.push(path.clone());
            }
            for below in command.get_subcommands() {
                walk(below, &path, lacking);
            }
        }
        let mut lacking = Vec::new();
        walk(&Cli::command(), "", &mut lacking);
        assert_eq!(lacking, Vec::<String>::new());
    }
}
