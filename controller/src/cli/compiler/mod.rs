//! `bunraku compiler …`: a host becomes a compiler, and is one no more, each in one command. Every step looks first at what
//! is so already, so that running the command again goes on where the last one ended.

mod add;
mod balancer;
mod certificate;
mod enrol;
mod ready;
mod remove;
mod set_up;
mod told;

use clap::Subcommand;

#[cfg(test)]
pub(super) use self::{
    balancer::by_hand,
    enrol::join_line,
    told::{Step, step_line},
};
use super::{Failure, Reach};

/// What Ctrl-C does not end.
const GOES_ON: &str = "what was ordered goes on, and the same command goes on from here";

#[derive(Debug, Subcommand)]
pub(super) enum Compiler {
    /// Make a host with a bare Puppet Server a compiler: enrolled, set up, certified, on what is committed, in service
    #[command(
        after_help = "On the host: Puppet Server is installed and was never started, and bunraku-agent is installed. The \
                      command prints one line to paste there, and does the rest:\n  \
                      1/5 enrol        the node agent joins with a one-time token\n  \
                      2/5 set up       the CA service off, ca_server, what the doctor can mend; a copy of each file is kept\n  \
                      3/5 certificate  a key on the host, a request with the names, signed; Puppet Server's start\n  \
                      4/5 ready        every committed environment proven, the CRL in place\n  \
                      5/5 balancer     into service, with slow start; before that it gets no agents\n\n\
                      Run it again after any failure: what is so already is left as it is. Ctrl-C ends only the waiting.\n\
                      It ends with 6 where a person must do something first, and says what: then run it again.\n\n\
                      Example: bunraku compiler add c3.example.com --dns-alt-names puppet.example.com,puppet"
    )]
    Add(add::Add),
    /// Take a compiler out of service and forget it; adding it again works
    #[command(
        after_help = "It is drained first, and refused where too few compilers would stay in service. Its Puppet certificate \
                      stays valid without --revoke-certificate.\n\n\
                      Example: bunraku compiler remove c3.example.com --revoke-certificate --yes"
    )]
    Remove(remove::Remove),
}

impl Compiler {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        match self {
            Self::Add(add) => add.run(reach).await,
            Self::Remove(remove) => remove.run(reach).await,
        }
    }
}
