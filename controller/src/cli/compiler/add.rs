//! `bunraku compiler add`: the five steps in their order.

use std::time::Duration;

use bunraku_proto::v1::ShowCertificateRequest;
use clap::Args;
use tonic::Code;

use super::{GOES_ON, balancer, certificate, enrol, ready, set_up, told::Told};
use crate::cli::{
    Exit, Failure, Reach, client,
    client::Control,
    output::given,
    tokens::parse_span,
    waiting::{Waiting, interruptible},
};

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// The host's name: its certname
    #[arg(value_parser = given())]
    pub(super) node: String,
    /// Names that Puppet's agents dial, beside the host's own; needed the first time
    #[arg(long, value_delimiter = ',', value_name = "NAME,…", value_parser = given())]
    pub(super) dns_alt_names: Vec<String>,
    /// Leave its Puppet certificate as it is, and do not start Puppet Server
    #[arg(long, conflicts_with = "dns_alt_names")]
    pub(super) no_certificate: bool,
    /// How long the token in the printed line is good; another line is printed when it has ended
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_span)]
    pub(super) ttl: u64,
    /// How long each step may take: 90s, 10m, 1h. What was ordered stays ordered after it
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = parse_span)]
    timeout: u64,
}

impl Add {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let again = self.again();
        interruptible(GOES_ON, &again, self.steps(reach, &again)).await
    }

    /// As it is to be typed again.
    fn again(&self) -> String {
        let mut again = format!("bunraku compiler add {}", self.node);
        if self.no_certificate {
            again.push_str(" --no-certificate");
        }
        if !self.dns_alt_names.is_empty() {
            again.push_str(&format!(" --dns-alt-names {}", self.dns_alt_names.join(",")));
        }
        again
    }

    async fn steps(&self, reach: &Reach, again: &str) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        self.names_are_known(&mut client).await?;
        let mut told = Told::new(reach.output, &self.node, 5);
        let timeout = Duration::from_secs(self.timeout);
        let mut waiting = Waiting::new(client, &self.node, again.to_owned(), timeout, reach.output);
        told.step(enrol::enrol(&mut waiting, self.ttl, reach.output).await?)?;
        balancer::keep_out(&mut waiting).await?;
        let set_up = set_up::set_up(&mut waiting).await?;
        told.step(set_up.step)?;
        let restarted = match self.no_certificate {
            true => told.step(certificate::left()).map(|()| false)?,
            false => {
                let (step, restarted) = certificate::certify(&mut waiting, &self.dns_alt_names).await?;
                told.step(step)?;
                restarted
            }
        };
        told.step(ready::ready(&mut waiting, set_up.due && !restarted).await?)?;
        let end = balancer::into_service(&mut waiting, again).await?;
        told.step(end.step)?;
        told.end(end.state, &end.text)?;
        match end.exit {
            None => Ok(()),
            Some(exit) => Err(Failure::silent(exit)),
        }
    }

    /// Asked before anything is printed: nobody should paste a line and then hear that something lacks.
    async fn names_are_known(&self, client: &mut Control) -> Result<(), Failure> {
        if self.no_certificate || !self.dns_alt_names.is_empty() {
            return Ok(());
        }
        let asked = client.show_certificate(ShowCertificateRequest { node: self.node.clone() }).await;
        let known = match asked {
            Ok(reply) => {
                let info = reply.into_inner();
                !info.declared.is_empty() || !info.phase.is_empty()
            }
            Err(status) if status.code() == Code::NotFound => false,
            Err(status) => return Err(status.into()),
        };
        match known {
            true => Ok(()),
            false => Err(Failure::new(
                Exit::WrongUse,
                format!("which names the certificate of {} is to carry is not known yet", self.node),
            )
            .hint(
                "--dns-alt-names puppet.example.com,puppet (what Puppet's agents dial), or --no-certificate if it has one",
            )),
        }
    }
}
