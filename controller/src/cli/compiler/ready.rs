//! Step 4: it serves what is committed, enforces what is revoked, and the doctor finds no error.

use bunraku_proto::v1::{
    CrlStatusReply, CrlStatusRequest, DoctorFleetRequest, EnvironmentInfo, ListEnvironmentsRequest,
    NodeRequest, finding::Severity,
};
use tonic::Status;

use super::told::Step;
use crate::cli::{
    Exit, Failure,
    client::Control,
    output::count,
    waiting::{Look, Waiting},
};

const STEP: &str = "ready";

/// `due`: Puppet Server has not read what was changed.
pub(super) async fn ready(waiting: &mut Waiting, due: bool) -> Result<Step, Failure> {
    if due {
        let node = &waiting.node;
        let why = format!("Puppet Server on {node} runs with the settings of before");
        return Err(Failure::new(Exit::Refused, why)
            .hint(format!("on {node}: systemctl restart puppetserver; then run this again")));
    }
    let environments = waiting.until(async |client, node| proven(client, node).await).await?;
    let crl = waiting.until(async |client, node| enforces(client, node).await).await?;
    is_sound(waiting).await?;
    let note = match environments {
        0 => format!("no environment is deployed yet, {crl}"),
        environments => format!("{} proven, {crl}", count(environments, "environment")),
    };
    Ok(Step::done(STEP, note))
}

/// How many environments it serves.
async fn proven(client: &mut Control, node: &str) -> Result<Look<u64>, Status> {
    let all = client.list_environments(ListEnvironmentsRequest {}).await?.into_inner().environments;
    let committed: Vec<&EnvironmentInfo> = all.iter().filter(|env| !env.committed.is_empty()).collect();
    let lacks = committed.iter().find_map(|environment| {
        let on_node = environment.nodes.iter().find(|on_node| on_node.node == node);
        match on_node {
            Some(on_node) if on_node.proven && on_node.live == environment.committed => None,
            Some(on_node) => Some((environment.name.as_str(), on_node.state.clone(), on_node.note.clone())),
            None => Some((environment.name.as_str(), "unknown".to_owned(), String::new())),
        }
    });
    let Some((environment, state, note)) = lacks else { return Ok(Look::Is(committed.len() as u64)) };
    let server = server_there(client, node).await?;
    let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
    Ok(Look::Not(format!("{node} to prove environment {environment}: {state}{note}{server}")))
}

async fn enforces(client: &mut Control, node: &str) -> Result<Look<String>, Status> {
    let reply = client.crl_status(CrlStatusRequest {}).await?.into_inner();
    Ok(match crl_of(&reply, node) {
        Ok(told) => Look::Is(told.to_owned()),
        Err(waits) => Look::Not(format!("{waits}{}", server_there(client, node).await?)),
    })
}

/// Empty where it runs. One that failed to start is for somebody to start: nobody here knows why it did.
async fn server_there(client: &mut Control, node: &str) -> Result<String, Status> {
    let server = client.show_node(NodeRequest { node: node.to_owned() }).await?.into_inner().puppetserver;
    Ok(match server.as_str() {
        "running" => String::new(),
        other => format!("; Puppet Server there is {other} (there: systemctl status puppetserver)"),
    })
}

/// What is so, or what is waited for.
fn crl_of<'a>(reply: &CrlStatusReply, node: &str) -> Result<&'a str, String> {
    if !reply.watched || reply.crl.is_empty() {
        return Ok("no CRL to deliver");
    }
    let Some(known) = reply.nodes.iter().find(|known| known.node == node) else {
        return Err(format!("{node} to say that it takes CRLs ([crl] in its agent.toml)"));
    };
    let provable = reply.proof && reply.trouble.is_empty();
    match known.state.as_str() {
        "proven" => Ok("the CRL is enforced"),
        "delivered" => Ok("the CRL is delivered"),
        "delivered, not proven" if !provable => Ok("the CRL is delivered"),
        state if known.note.is_empty() => Err(format!("the CRL on {node}: it is {state}")),
        state => Err(format!("the CRL on {node}: it is {state} ({})", known.note)),
    }
}

/// What the doctor calls an error would make a deploy fail there.
async fn is_sound(waiting: &mut Waiting) -> Result<(), Failure> {
    let node = waiting.node.clone();
    let reply = waiting.client.doctor(DoctorFleetRequest { node: node.clone() }).await?.into_inner();
    let findings = reply.nodes.iter().flat_map(|told| &told.findings);
    let errors: Vec<String> = findings
        .filter(|finding| finding.severity() == Severity::Error)
        .map(|finding| format!("{}: {}", finding.check, finding.found))
        .collect();
    let trouble = reply.nodes.iter().find(|told| !told.error.is_empty()).map(|told| told.error.clone());
    match trouble.or_else(|| (!errors.is_empty()).then(|| errors.join("; "))) {
        None => Ok(()),
        Some(why) => Err(Failure::new(Exit::Refused, format!("{node} is not brought into service: {why}"))
            .hint(format!("bunraku doctor {node}; mend it, then run this again"))),
    }
}

#[cfg(test)]
mod tests {
    use bunraku_proto::v1::CrlNodeInfo;

    use super::*;

    #[test]
    fn a_crl_that_can_be_proven_is_waited_for_until_it_is() {
        let reply = |state: &str, proof: bool| CrlStatusReply {
            watched: true,
            crl: "d".into(),
            proof,
            nodes: vec![CrlNodeInfo { node: "c3".into(), state: state.into(), ..CrlNodeInfo::default() }],
            ..CrlStatusReply::default()
        };
        assert_eq!(crl_of(&reply("delivered, not proven", false), "c3"), Ok("the CRL is delivered"));
        assert!(crl_of(&reply("delivered, not proven", true), "c3").is_err());
        assert_eq!(crl_of(&reply("proven", true), "c3"), Ok("the CRL is enforced"));
        assert!(crl_of(&reply("behind", false), "c3").is_err());
        assert!(crl_of(&reply("proven", true), "c4").is_err());
        assert_eq!(crl_of(&CrlStatusReply::default(), "c3"), Ok("no CRL to deliver"));
    }
}
