//! `bunraku crl status|accept`.

use bunraku_proto::v1::{AcceptCrlRequest, CrlNodeInfo, CrlStatusReply, CrlStatusRequest};
use clap::Subcommand;

use super::{
    Failure, Reach, client,
    output::{ago, hinted, or_dash, since, span, table},
};
use crate::clock::wall_s;

#[derive(Debug, Subcommand)]
pub(super) enum Crl {
    /// What Puppet's CA has revoked: who has it, since when, and whose Puppet Server was seen to enforce it
    #[command(
        after_help = "AGE is how long the node has had its CRL. DELIVERED, ENFORCED and PROVEN are times after the CA wrote the change: until the file was in place, \
                      until Puppet Server was first seen to refuse a canary that the same file revokes (by the node's \
                      clock), and until the controller knew it.\n\nExample: bunraku crl status"
    )]
    Status,
    /// After the CA was restored or replaced: what its file holds now goes out, though its numbers are lower
    #[command(after_help = "Example: bunraku crl accept --number-reset")]
    Accept {
        /// Says what is accepted: numbers that go back, or other authorities
        #[arg(long, required = true)]
        number_reset: bool,
    },
}

impl Crl {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        let reply = match self {
            Self::Status => client.crl_status(CrlStatusRequest {}).await?.into_inner(),
            Self::Accept { number_reset } => {
                client.accept_crl(AcceptCrlRequest { number_reset }).await?.into_inner()
            }
        };
        reach.output.print(&reply, status_text)
    }
}

pub(crate) fn status_text(reply: &CrlStatusReply) -> String {
    if !reply.watched {
        return "no CRL is watched: the controller's configuration has no [puppet] section\nhint: bunraku init asks Puppet \
                where its files are\n"
            .to_owned();
    }
    let mut out = head(reply);
    let heads = ["NODE", "STATE", "NUMBER", "AGE", "DELIVERED", "ENFORCED", "PROVEN", "NOTE"];
    let rows = reply.nodes.iter().map(|node| row(node, reply));
    let empty =
        "no node takes CRLs yet\nhint: nodes with [code] do, and those with [[crl.files]] in agent.toml";
    out.push('\n');
    out.push_str(&table(&heads, rows, empty));
    out
}

fn head(reply: &CrlStatusReply) -> String {
    let mut out = String::new();
    if reply.crl.is_empty() {
        out.push_str("nothing was sent out yet\n");
    } else {
        out.push_str(&format!(
            "CRL number {} ({}), {} revoked, written {}\n",
            reply.number,
            &reply.crl[..reply.crl.len().min(12)],
            reply.revoked,
            ago(reply.written_ms)
        ));
        out.push_str(&format!(
            "ends in {}, the CA in {}; last change by others {}\n",
            left(reply.ends),
            left(reply.ca_ends),
            ago(reply.changed_ms)
        ));
    }
    out.push_str(&proof(reply));
    if !reply.rejected.is_empty() {
        let told = format!("! what the CA's file holds now is sent to nobody: {}", reply.rejected);
        out.push_str(&format!("{told} ({})\n", ago(reply.rejected_ms)));
        if !reply.rejected_hint.is_empty() {
            out.push_str(&format!("hint: {}\n", reply.rejected_hint));
        }
    }
    out
}

fn proof(reply: &CrlStatusReply) -> String {
    match (reply.proof, reply.trouble.as_str(), reply.canaries) {
        (false, ..) => {
            "proof is switched off ([crl] proof = false): delivered is all that is known\n".to_owned()
        }
        (true, "", 1) => "1 canary is ready to prove the next change\n".to_owned(),
        (true, "", ready) => format!("{ready} canaries are ready to prove the next changes\n"),
        (true, trouble, _) => format!("! no canary can be made or revoked: {}", hinted("  ", trouble)),
    }
}

fn row(node: &CrlNodeInfo, reply: &CrlStatusReply) -> Vec<String> {
    let away = if node.connected { "" } else { ", not connected" };
    // A node without a Puppet Server is not sent what only a canary changed.
    let newest = node.crl == reply.crl || node.state == "delivered";
    let number = match (node.number.as_str(), newest) {
        ("", _) => or_dash("").to_owned(),
        (number, true) => number.to_owned(),
        (number, false) => format!("{number} (not the newest)"),
    };
    let note = match (node.note.as_str(), node.exposed_ms) {
        ("", 0) => or_dash("").to_owned(),
        ("", at) => format!("lacks a revocation for {}", since(at)),
        (note, _) => note.to_owned(),
    };
    vec![
        node.node.clone(),
        format!("{}{away}", node.state),
        number,
        if node.delivered_ms == 0 { or_dash("").to_owned() } else { since(node.delivered_ms) },
        after(node.delivery_ms),
        after(node.enforcement_ms),
        after(node.proof_ms),
        note,
    ]
}

/// A time after the CA's writing; 0: unknown.
fn after(ms: u64) -> String {
    match ms {
        0 => or_dash("").to_owned(),
        1..60_000 => format!("+{}.{:02} s", ms / 1000, ms % 1000 / 10),
        _ => format!("+{}", span(ms / 1000)),
    }
}

fn left(ends_s: u64) -> String {
    match ends_s.saturating_sub(wall_s()) {
        0 => "the past".to_owned(),
        left => span(left),
    }
}
