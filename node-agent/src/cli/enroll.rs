//! `bunraku-agent enroll`: the key is made here and never leaves.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bunraku_common::{Chain, Digest, NodeName, Role};
use bunraku_proto::identity::{Identity, IdentityFiles, read_token};
use bunraku_puppetserver::Puppet;
use clap::Args;

use super::{Failure, first_config, read};
use crate::{
    config::Config,
    identity::{PuppetFiles, enroll_with_puppet_certificate, enroll_with_token},
};

#[derive(Debug, Args)]
pub(super) struct Enroll {
    /// HOST:PORT of the controller; without it the configured one
    #[arg(long, value_name = "HOST:PORT")]
    controller: Option<String>,
    /// The controller's CA pin, as `bunraku token create` printed it
    #[arg(long, requires = "token_file")]
    pin: Option<String>,
    /// File with the one-time token, `-` for standard input (a token is never an argument)
    #[arg(long, value_name = "FILE", requires = "pin")]
    token_file: Option<PathBuf>,
    /// This node's name; without it the configured one, else Puppet's certname
    #[arg(long)]
    name: Option<NodeName>,
    /// Without a token: certname of the main Puppet server, never its alias
    #[arg(long, value_name = "CERTNAME", conflicts_with = "token_file")]
    main_certname: Option<String>,
    /// Without a token: role to ask for
    #[arg(long = "role", value_name = "ROLE", conflicts_with = "token_file")]
    roles: Vec<Role>,
    /// This host becomes a compiler: a configuration that grants what a compiler needs is written where there is none,
    /// and the agent is started
    #[arg(long)]
    compiler: bool,
}

impl Enroll {
    pub(super) async fn run(&self, path: &Path) -> Result<(), Failure> {
        if self.compiler {
            first_config::write(path, self.controller.as_deref(), self.name.as_ref())?;
        }
        let config = if path.exists() { Some(read(path)?) } else { None };
        let controller = self.controller.clone().or_else(|| config.as_ref().map(|c| c.controller.clone()));
        let controller = controller.ok_or_else(|| {
            Failure::WrongUse(format!(
                "no controller is named (hint: --controller HOST:PORT, or write {})",
                path.display()
            ))
        })?;
        let puppet = puppet(config.as_ref());
        let name = self.node_name(config.as_ref(), &puppet).await?;
        let identity = match &self.token_file {
            Some(file) => self.by_token(&controller, file, &name).await?,
            None => self.by_puppet_certificate(&controller, config.as_ref(), &puppet, &name).await?,
        };
        let data_dir = config.map_or_else(crate::config::default_data_dir, |config| config.data_dir);
        let dir = data_dir.join("identity");
        let made = fs::create_dir_all(&data_dir)
            .map_err(|error| Failure::Failed(format!("could not make {}: {error}", data_dir.display())));
        made.and_then(|()| {
            IdentityFiles::new(&dir).save(&identity).map_err(|error| Failure::failed(&error))
        })?;
        println!("{name} is enrolled; its identity is in {}", dir.display());
        match self.compiler {
            true => first_config::start_agent(path),
            false => {
                println!("next: {}", first_config::START);
                Ok(())
            }
        }
    }

    async fn node_name(&self, config: Option<&Config>, puppet: &Puppet) -> Result<NodeName, Failure> {
        if let Some(name) = self.name.clone().or_else(|| config.and_then(|config| config.name.clone())) {
            return Ok(name);
        }
        let settings = puppet
            .settings()
            .await
            .map_err(|error| Failure::Failed(format!("{} (hint: --name NAME)", Chain(&error))))?;
        NodeName::parse(&settings.certname).map_err(|error| Failure::failed(&error))
    }

    async fn by_token(&self, controller: &str, file: &Path, name: &NodeName) -> Result<Identity, Failure> {
        let pin = self.pin.as_deref().unwrap_or_default();
        let pin: Digest = pin.parse().map_err(|error| Failure::WrongUse(format!("{error}")))?;
        let token = read_token(file).map_err(|error| Failure::WrongUse(Chain(&error).to_string()))?;
        enroll_with_token(controller, pin, &token, name).await.map_err(|error| Failure::failed(&error))
    }

    async fn by_puppet_certificate(
        &self,
        controller: &str,
        config: Option<&Config>,
        puppet: &Puppet,
        name: &NodeName,
    ) -> Result<Identity, Failure> {
        let configured = config.and_then(|config| config.enroll.as_ref());
        let main =
            self.main_certname.clone().or_else(|| configured.map(|enroll| enroll.main_certname.clone()));
        let main = main.ok_or_else(|| {
            Failure::WrongUse(
                "neither a token nor the main server's certname is given (hint: --token-file FILE --pin PIN, or --main-certname CERTNAME)".into(),
            )
        })?;
        let roles = if self.roles.is_empty() {
            configured.map(|e| e.roles.clone()).unwrap_or_default()
        } else {
            self.roles.clone()
        };
        let settings = puppet.settings().await.map_err(|error| Failure::failed(&error))?;
        let files = PuppetFiles {
            certificate: settings.hostcert.clone(),
            key: settings.hostprivkey.clone(),
            ca: settings.localcacert.clone(),
            crl: settings.hostcrl.clone(),
        };
        enroll_with_puppet_certificate(controller, &files, &main, name, &roles)
            .await
            .map_err(|error| Failure::failed(&error))
    }
}

fn puppet(config: Option<&Config>) -> Puppet {
    let configured = config.map(|config| config.puppet.clone()).unwrap_or_default();
    Puppet::new(configured.program, configured.arguments.iter().map(Into::into))
}
