//! `bunraku operator …` and `bunraku takeover`.

use bunraku_proto::v1::{
    AddOperatorRequest, ListOperatorsRequest, RevokeOperatorRequest, StatusRequest, TakeoverRequest,
};
use clap::{Args, Subcommand};

use super::{
    Exit, Failure, Reach, client,
    output::{confirm, table},
    tokens::clock_time,
};
use crate::report::IN_COMMAND;

#[derive(Debug, Subcommand)]
pub(super) enum Operator {
    /// Give somebody a right and print the one-time token for `bunraku login`
    #[command(after_help = "Examples:\n  bunraku operator add alice --right admin\n  \
                            bunraku operator add ci --right 'deployer:feature_*'")]
    Add {
        /// A person or a pipeline: a-z 0-9 . _ -
        name: String,
        /// viewer, deployer[:PATTERN], operator or admin
        #[arg(long)]
        right: String,
    },
    /// Who may call the controller
    #[command(after_help = "Example: bunraku operator list")]
    List,
    /// Take the right away, at once
    #[command(after_help = "Example: bunraku operator revoke alice")]
    Revoke {
        /// The operator
        name: String,
    },
}

impl Operator {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        match self {
            Self::Add { name, right } => {
                let reply = client.add_operator(AddOperatorRequest { name, right }).await?.into_inner();
                reach.output.print(&reply, |token| {
                    format!(
                        "{} may act as {} once this token is used (good until {}):\n\n  \
                         echo {} | bunraku login --controller {} --pin {} --name {} --token-file -\n",
                        token.name,
                        token.roles.join(", "),
                        clock_time(token.expires),
                        token.token,
                        token.controller,
                        token.pin,
                        token.name
                    )
                })
            }
            Self::List => {
                let reply = client.list_operators(ListOperatorsRequest {}).await?.into_inner();
                reach.output.print(&reply, |reply| {
                    table(
                        &["OPERATOR", "RIGHT", "STATE", "CERTIFICATE UNTIL"],
                        reply.operators.iter().map(|o| {
                            let until = match o.certificate_expires {
                                0 => "-".to_owned(),
                                s => clock_time(s),
                            };
                            vec![o.name.clone(), o.right.clone(), o.state.clone(), until]
                        }),
                        "no operators: only root on this host may call the controller\n\
                         hint: bunraku operator add NAME --right viewer",
                    )
                })
            }
            Self::Revoke { name } => {
                let reply = client.revoke_operator(RevokeOperatorRequest { name }).await?.into_inner();
                reach.output.print(&reply, |operator| format!("{} is {}\n", operator.name, operator.state))
            }
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Takeover {
    /// Goes into the audit log
    #[arg(long)]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Takeover {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        let status = client.status(StatusRequest {}).await?.into_inner();
        if status.standing == IN_COMMAND && !self.yes {
            let why =
                format!("no node has seen a newer controller: this one is in command, term {}", status.term);
            return Err(Failure::new(Exit::Refused, why)
                .hint("nothing needs to be done; to begin a new term all the same, add --yes"));
        }
        confirm(
            "Take over? The other controller, if it still runs, will be refused by every node.",
            self.yes,
        )?;
        let reply = client.takeover(TakeoverRequest { reason: self.reason }).await?.into_inner();
        reach.output.print(&reply, |reply| {
            format!(
                "in command, term {}\nwhat the nodes serve is adopted; nothing changes until the next deploy\n\
                 next: bunraku status\n",
                reply.term
            )
        })
    }
}
