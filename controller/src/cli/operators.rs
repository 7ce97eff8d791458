//! `bunraku operator …` and `bunraku takeover`.

use bunraku_proto::v1::{AddOperatorRequest, ListOperatorsRequest, RevokeOperatorRequest, TakeoverRequest};
use clap::{Args, Subcommand};

use super::{
    Failure, Reach, client,
    output::{confirm, table},
    tokens::clock_time,
};

#[derive(Debug, Subcommand)]
pub(super) enum Operator {
    /// Give somebody a right and print the one-time token for `bunraku login`
    #[command(after_help = "Examples:\n  bunraku operator add alice --right admin\n  \
                            bunraku operator add ci --right 'deployer:feature_*'")]
    Add {
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
    Revoke { name: String },
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
        confirm(
            "Take over? The other controller, if it still runs, will be refused by every node.",
            self.yes,
        )?;
        let mut client = client::connect(reach).await?;
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
