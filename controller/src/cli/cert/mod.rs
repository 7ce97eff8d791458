//! `bunraku cert …`: compilers' Puppet certificates, and every certificate that matters.

mod follow;
mod shown;

use std::time::Duration;

use bunraku_proto::v1::{AskCertificateRequest, ListCertificatesRequest, ShowCertificateRequest};
use clap::{Args, Subcommand};

pub(super) use self::follow::look;
pub(crate) use self::shown::{list_text, show_text};
use super::{Failure, Reach, client, output::given, tokens::parse_span};

#[derive(Debug, Subcommand)]
pub(super) enum Cert {
    /// Every certificate that matters, the one that ends first on top: Puppet's CA, servers as they show them, identities
    #[command(after_help = "Example: bunraku cert list")]
    List,
    /// A compiler's Puppet certificate: what it has, and how far a new one has come
    #[command(after_help = "Example: bunraku cert show c1.example.com")]
    Show {
        /// The compiler's node name
        #[arg(value_parser = given())]
        node: String,
    },
    /// Give a compiler a Puppet certificate with these names, and wait until its Puppet Server shows it
    #[command(
        after_help = "The key is made on the compiler and stays there. Puppet's CA signs only a request that asks for these \
                      names and nothing else. The new certificate is put in place while the compiler is drained; the old \
                      one stays valid until the new one is served, and is never revoked. Renewals ask for the same names \
                      by themselves.\n\nCtrl-C ends only the waiting.\n\n\
                      Example: bunraku cert request c1.example.com --dns-alt-names puppet.example.com,puppet"
    )]
    Request(Ask),
}

#[derive(Debug, Args)]
pub(super) struct Ask {
    /// The compiler's node name
    #[arg(value_parser = given())]
    node: String,
    /// Names that Puppet's agents dial, beside the node's own; without them those that were declared before
    #[arg(long, value_delimiter = ',', value_name = "NAME,…", value_parser = given())]
    dns_alt_names: Vec<String>,
    /// How long to wait: 90s, 10m, 1h. What was ordered stays ordered after it
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = parse_span)]
    timeout: u64,
    /// Return as soon as it is decided
    #[arg(long)]
    no_wait: bool,
}

impl Cert {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        match self {
            Self::List => {
                let reply = client.list_certificates(ListCertificatesRequest {}).await?.into_inner();
                reach.output.print(&reply, list_text)
            }
            Self::Show { node } => {
                let reply = client.show_certificate(ShowCertificateRequest { node }).await?.into_inner();
                reach.output.print(&reply, show_text)
            }
            Self::Request(Ask { node, dns_alt_names, timeout, no_wait }) => {
                let request = AskCertificateRequest { node, dns_alt_names };
                let decided = client.ask_certificate(request).await?.into_inner();
                if no_wait {
                    return reach.output.print(&decided, show_text);
                }
                let timeout = Duration::from_secs(timeout);
                let reached = follow::follow(client, &decided.node, timeout, reach.output).await?;
                reach.output.print(&reached, show_text)
            }
        }
    }
}
