//! `bunraku login`: an operator's key is made here and never leaves.

use std::{fs, path::PathBuf};

use bunraku_common::{Chain, Digest, OperatorName};
use bunraku_proto::{
    Peer,
    identity::{self, IdentityFiles},
};
use clap::Args;
use serde::Serialize;

use super::{
    Exit, Failure, Reach,
    client::{CONTROLLER_FILE, identity_dir},
};

#[derive(Debug, Args)]
pub(super) struct Login {
    /// HOST:PORT of the controller
    #[arg(long, value_name = "HOST:PORT")]
    controller: String,
    /// The controller's CA pin, as `bunraku operator add` printed it
    #[arg(long)]
    pin: String,
    /// Your operator name
    #[arg(long)]
    name: String,
    /// File with the one-time token, `-` for standard input (a token is never an argument)
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
}

#[derive(Debug, Serialize)]
struct LoggedIn {
    name: String,
    controller: String,
    identity: PathBuf,
}

impl Login {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let wrong = |error: &dyn std::fmt::Display| Failure::new(Exit::WrongUse, error);
        let pin: Digest = self.pin.parse().map_err(|error| wrong(&error))?;
        let name: OperatorName = self.name.parse().map_err(|error| wrong(&error))?;
        let token = identity::read_token(&self.token_file).map_err(|error| wrong(&Chain(&error)))?;
        let dir = identity_dir(reach).ok_or_else(|| {
            wrong(&"there is no home directory to keep the identity in").hint("--identity DIR")
        })?;
        let identity = identity::with_token(&self.controller, pin, &token, &Peer::Operator(name))
            .await
            .map_err(|error| Failure::new(Exit::NotAllowed, Chain(&error)))?;
        let failed = |error: String| Failure::new(Exit::Failed, error);
        IdentityFiles::new(&dir).save(&identity).map_err(|error| failed(Chain(&error).to_string()))?;
        let beside = dir.join(CONTROLLER_FILE);
        fs::write(&beside, format!("{}\n", self.controller))
            .map_err(|error| failed(format!("could not write {}: {error}", beside.display())))?;
        let made = LoggedIn { name: self.name, controller: self.controller, identity: dir };
        reach.output.print(&made, |made| {
            format!(
                "logged in as {}; your identity is in {}\nnext: bunraku status\n",
                made.name,
                made.identity.display()
            )
        })
    }
}
