//! `bunraku lb …`: compilers at the load balancers, by hand.

mod shown;
mod wait;

use std::time::Duration;

use bunraku_proto::v1::{BalanceStatusRequest, CompilerBalance, DrainCompilerRequest, EnableCompilerRequest};
use clap::{Args, Subcommand};

#[cfg(test)]
pub(super) use self::wait::{lines, one_line};
pub(super) use self::{
    shown::{compiler_line, status_text},
    wait::Goal,
};
use super::{Failure, Output, Reach, client, output::given, tokens::parse_span};

#[derive(Debug, Subcommand)]
pub(super) enum Lb {
    /// Every server of every balancer: what it is, what is wanted of it, by whom and why
    #[command(after_help = "Example: bunraku lb status")]
    Status,
    /// Take a compiler out of service at every balancer, and wait until it is seen to be empty
    #[command(
        after_help = "Ctrl-C ends only the waiting. A drain stays until `bunraku lb enable`, also over a restart of the \
                      controller, the node agents or the balancers. It is refused where too few compilers would stay in \
                      service, and undone where one balancer does not agree.\n\n\
                      Example: bunraku lb drain c1.example.com --reason 'new memory'"
    )]
    Drain(Drain),
    /// Bring a compiler back into service at every balancer, and wait until it is
    #[command(
        after_help = "What somebody else has put out of service at a balancer stays out: enable it there.\n\n\
                      Example: bunraku lb enable c1.example.com"
    )]
    Enable(Enable),
}

#[derive(Debug, Args)]
pub(super) struct Drain {
    /// The compiler's node name
    #[arg(value_parser = given())]
    compiler: String,
    /// Shown to everybody who meets the drain, and at the balancers
    #[arg(long)]
    reason: String,
    /// Compilers that must stay in service in each backend; a balancer's own floor rules where it is higher
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_available: u32,
    #[command(flatten)]
    patience: Patience,
}

#[derive(Debug, Args)]
pub(super) struct Enable {
    /// The compiler's node name
    #[arg(value_parser = given())]
    compiler: String,
    #[command(flatten)]
    patience: Patience,
}

#[derive(Debug, Args)]
struct Patience {
    /// How long to wait: 90s, 10m, 1h. What was ordered stays ordered after it
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_span)]
    timeout: u64,
    /// Return as soon as it is decided
    #[arg(long)]
    no_wait: bool,
}

impl Lb {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        let (goal, decided, patience) = match self {
            Self::Status => {
                let reply = client.balancer_status(BalanceStatusRequest {}).await?.into_inner();
                return reach.output.print(&reply, status_text);
            }
            Self::Drain(Drain { compiler, reason, min_available, patience }) => {
                let request = DrainCompilerRequest { compiler, reason, min_available };
                (Goal::Drained, client.drain_compiler(request).await?.into_inner(), patience)
            }
            Self::Enable(Enable { compiler, patience }) => {
                let request = EnableCompilerRequest { compiler };
                (Goal::InService, client.enable_compiler(request).await?.into_inner(), patience)
            }
        };
        if patience.no_wait {
            return reach.output.print(&decided, |decided| goal.decided(decided));
        }
        let timeout = Duration::from_secs(patience.timeout);
        let reached = wait::follow(client, goal, decided, timeout, reach.output).await?;
        print(reach.output, goal, &reached)
    }
}

fn print(output: Output, goal: Goal, reached: &CompilerBalance) -> Result<(), Failure> {
    output.print(reached, |reached| goal.reached(reached))
}
