//! Step 1: the host's node agent joins. Prints one line to paste there, and another when its token has ended.

use bunraku_proto::v1::{CreateTokenRequest, NodeInfo, NodeRequest, TokenInfo};
use tonic::Code;

use super::told::Step;
use crate::{
    cli::{
        Exit, Failure, Output,
        client::Control,
        output::write,
        tokens::clock_time,
        waiting::{Look, Waiting},
    },
    clock::wall_s,
};

const STEP: &str = "enrol";
const COMPILER: &str = "compiler";

pub(super) async fn enrol(waiting: &mut Waiting, ttl_s: u64, output: Output) -> Result<Step, Failure> {
    let node = waiting.node.clone();
    if let Found::Connected = found(&mut waiting.client, &node).await? {
        return Ok(Step::already(STEP, format!("{node} is connected")));
    }
    loop {
        let token = match found(&mut waiting.client, &node).await? {
            Found::Unknown => {
                let roles = vec![COMPILER.to_owned()];
                let request = CreateTokenRequest { node: node.clone(), roles, ttl_s };
                let token = waiting.client.create_token(request).await?.into_inner();
                print(output, &join_line(&token))?;
                Some(token)
            }
            Found::Connected | Found::Away(_) => None,
        };
        if waiting.until(async |client, node| joined(client, node, token.as_ref()).await).await? {
            return Ok(Step::done(STEP, format!("{node} is connected")));
        }
    }
}

/// With JSON, standard output holds one value and nothing else.
fn print(output: Output, line: &str) -> Result<(), Failure> {
    match output {
        Output::Text => write(line),
        Output::Json => {
            eprint!("{line}");
            Ok(())
        }
    }
}

pub(crate) fn join_line(token: &TokenInfo) -> String {
    format!(
        "on {} run (good until {}, once):\n\n  echo {} | bunraku-agent enroll --controller {} --pin {} --name {} \
         --token-file - --compiler\n\n",
        token.name,
        clock_time(token.expires),
        token.token,
        token.controller,
        token.pin,
        token.name
    )
}

/// False: the token has ended, unused.
async fn joined(
    client: &mut Control,
    node: &str,
    token: Option<&TokenInfo>,
) -> Result<Look<bool>, tonic::Status> {
    let info = match client.show_node(NodeRequest { node: node.to_owned() }).await {
        Ok(reply) => Some(reply.into_inner()),
        Err(status) if status.code() == Code::NotFound => None,
        Err(status) => return Err(status),
    };
    Ok(match (standing(node, info.as_ref()), token) {
        (Err(why), _) => Look::Never(why),
        (Ok(Found::Connected), _) => Look::Is(true),
        (Ok(Found::Away(why)), _) => Look::Not(why),
        (Ok(Found::Unknown), Some(token)) if token.expires > wall_s() => Look::Not(format!(
            "{node} to enrol with the line above, whose token is good until {}",
            clock_time(token.expires)
        )),
        (Ok(Found::Unknown), _) => Look::Is(false),
    })
}

enum Found {
    /// It has no identity.
    Unknown,
    /// It has one, and is waited for with these words.
    Away(String),
    Connected,
}

async fn found(client: &mut Control, node: &str) -> Result<Found, Failure> {
    match client.show_node(NodeRequest { node: node.to_owned() }).await {
        Ok(reply) => standing(node, Some(&reply.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(Found::Unknown),
        Err(status) => Err(status.into()),
    }
}

fn standing(node: &str, info: Option<&NodeInfo>) -> Result<Found, Failure> {
    let refused = |why: String, hint: String| Err(Failure::new(Exit::Refused, why).hint(hint));
    let Some(info) = info else { return Ok(Found::Unknown) };
    match info.standing.as_str() {
        "enrolled" if !info.roles.iter().any(|role| role == COMPILER) => refused(
            format!("{node} is enrolled as {}, and not as a compiler", info.roles.join(", ")),
            format!("bunraku nodes remove {node}, then run this again"),
        ),
        "enrolled" if info.connected => Ok(Found::Connected),
        "enrolled" => Ok(Found::Away(format!(
            "the agent of {node}, which is enrolled, to connect (there: systemctl restart bunraku-agent; after a new \
             installation: bunraku token create {node} --role compiler)"
        ))),
        held if held.starts_with("held") => {
            refused(format!("{node} is {held}"), format!("bunraku nodes release {node}"))
        }
        revoked if revoked.starts_with("revoked") => {
            refused(format!("{node} is {revoked}"), format!("bunraku nodes allow {node}"))
        }
        _ => Ok(Found::Unknown),
    }
}
