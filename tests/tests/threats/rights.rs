//! T5: every call of the wire, with every kind of caller: nothing above its right passes, and what is refused has no
//! effect. The expectation is written down here once more, apart from the controller's own table.

use bunraku_common::Digest;
use bunraku_proto::{DESCRIPTORS, Door, v1};
use bunraku_tests::fleet::{Fleet, MainServer};
use prost::{
    Message,
    bytes::{Buf, BufMut, Bytes},
};
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use super::raw::{Client, SOON, audit_head, key_and_csr, operator, soon, stolen_node, token_for};

const VIEWER: &[&str] = &[
    "Status",
    "ListDeploys",
    "ShowDeploy",
    "ListSnapshots",
    "DiffSnapshots",
    "ListEnvironments",
    "ListNodes",
    "ShowNode",
    "Doctor",
    "BalancerStatus",
    "PlanRollout",
    "ListRollouts",
    "ShowRollout",
    "CrlStatus",
    "ShowCertificate",
    "ListCertificates",
    "Watch",
    "Renew",
    "CaStatus",
];
const OPERATOR: &[&str] = &[
    "HoldNode",
    "ReleaseNode",
    "LabelNode",
    "HealNode",
    "DrainCompiler",
    "EnableCompiler",
    "StartRollout",
    "PauseRollout",
    "ResumeRollout",
    "AbortRollout",
    "RetryTurn",
    "SkipTurn",
    "RetargetRollout",
    "ListAudit",
    "VerifyAudit",
    "ListTokens",
    "ListOperators",
];
const DEPLOYS: &[&str] = &["Deploy", "Rollback", "Release"];
const NODE: &[&str] = &["Pack", "Renew"];

/// Bytes in, bytes out.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// One method, with messages that may be sent to it.
struct Method {
    service: String,
    name: String,
    empty: Bytes,
    plausible: Bytes,
}

impl Method {
    fn path(&self) -> String {
        format!("/bunraku.v1.{}/{}", self.service, self.name)
    }
}

/// What stands in the fields of a plausible message, by their names.
struct Values {
    snapshot: String,
    csr: String,
    token: v1::TokenInfo,
    environment: &'static str,
}

impl Values {
    fn of(&self, field: &str) -> &str {
        match field {
            "environment" | "environments" => self.environment,
            "node" => "c1",
            "name" => "c7",
            "reason" => "because",
            "want" | "have" | "a" | "b" | "to" => &self.snapshot,
            "right" => "admin",
            "role" | "roles" => "compiler",
            "csr" => &self.csr,
            "token" => &self.token.token,
            "id" => &self.token.id,
            _ => "",
        }
    }

    /// Text fields by name, numbers 1, switches off: a message that the method could take.
    fn fill(&self, message: &DescriptorProto) -> Bytes {
        let mut bytes = Vec::new();
        for field in &message.field {
            let tag = u32::try_from(field.number()).unwrap() << 3;
            let (kind, text) = (field.r#type(), self.of(field.name()));
            let numbers = [Type::Uint64, Type::Uint32];
            if kind == Type::String && !text.is_empty() {
                prost::encoding::encode_varint((tag | 2).into(), &mut bytes);
                prost::encoding::encode_varint(text.len() as u64, &mut bytes);
                bytes.extend_from_slice(text.as_bytes());
            } else if numbers.contains(&kind) && field.label() != Label::Repeated && field.name() != "ttl_s" {
                prost::encoding::encode_varint(tag.into(), &mut bytes);
                bytes.push(1);
            }
        }
        bytes.into()
    }
}

fn methods(values: &Values) -> Vec<Method> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let messages: Vec<&DescriptorProto> = set.file.iter().flat_map(|file| &file.message_type).collect();
    let services =
        set.file.iter().filter(|file| file.package() == "bunraku.v1").flat_map(|file| &file.service);
    services
        .flat_map(|service| service.method.iter().map(move |method| (service.name().to_owned(), method)))
        .map(|(service, method)| {
            let input = method.input_type().rsplit('.').next().unwrap();
            let message = messages.iter().find(|message| message.name() == input).unwrap();
            let name = method.name().to_owned();
            Method { service, name, empty: Bytes::new(), plausible: values.fill(message) }
        })
        .collect()
}

/// Calls it and takes the first message of the answer, whether it streams or not.
pub(crate) async fn call(channel: &Channel, path: &str, message: &Bytes) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(message.clone());
    request.set_timeout(SOON);
    let path = path.parse().unwrap();
    let mut answer = soon("an answer", grpc.server_streaming(request, path, Raw)).await?.into_inner();
    soon("a message or an end", answer.message()).await.map(drop)
}

fn is_refused(outcome: &Result<(), Status>) -> bool {
    let codes = [Code::PermissionDenied, Code::Unauthenticated, Code::Unimplemented];
    outcome.as_ref().is_err_and(|status| codes.contains(&status.code()))
}

fn is_invalid(outcome: &Result<(), Status>) -> bool {
    outcome.as_ref().is_err_and(|status| status.code() == Code::InvalidArgument)
}

/// Everything that is not allowed is refused and leaves no record; everything that is allowed is not refused.
async fn try_everything(
    main: &MainServer,
    who: &str,
    channel: &Channel,
    values: &Values,
    allowed: &[&[&str]],
) {
    for method in methods(values) {
        let may = method.service != "Node" && allowed.concat().contains(&method.name.as_str());
        for message in [&method.empty, &method.plausible] {
            if may {
                continue;
            }
            let before = audit_head(main).await;
            let outcome = call(channel, &method.path(), message).await;
            // An empty message names no environment that a deployer could lack.
            let nothing = message.is_empty() && is_invalid(&outcome);
            assert!(is_refused(&outcome) || nothing, "{who} called {}: {outcome:?}", method.path());
            let after = main.audit().await;
            let new: Vec<_> = after
                .iter()
                .filter(|record| record.sequence > before && record.who != "controller")
                .collect();
            assert!(new.is_empty(), "{who} called {}: {new:#?}", method.path());
        }
        if may {
            let outcome = call(channel, &method.path(), &method.plausible).await;
            assert!(!is_refused(&outcome), "{who} called {}: {outcome:?}", method.path());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t5_no_caller_gets_more_than_its_right_by_any_call_of_the_wire() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let snapshot = fleet.deploy_change("production", "one").await;
    let values = |environment| async move {
        let token = token_for(main, "c7", "compiler", 0).await;
        Values { snapshot: snapshot.to_string(), csr: key_and_csr().1, token, environment }
    };
    let production = values("production").await;
    let through = |holder| Client::new(main, Door::H2, Some(holder)).channel();

    let node = stolen_node(main, "c9").await;
    try_everything(main, "a node", &through(&node), &production, &[NODE]).await;
    let viewer = operator(main, "viewer", "viewer").await;
    let renewable = values("production").await;
    try_everything(main, "a viewer", &through(&viewer), &renewable, &[VIEWER]).await;
    // Another's environment is refused by the handler; its own is not.
    let deployer = operator(main, "deployer", "deployer:dev_*").await;
    let renewable = values("production").await;
    try_everything(main, "a deployer", &through(&deployer), &renewable, &[VIEWER]).await;
    let dev = values("dev_x").await;
    try_everything(main, "a deployer of dev", &through(&deployer), &dev, &[VIEWER, DEPLOYS]).await;
    let operator = operator(main, "operator", "operator").await;
    let renewable = values("production").await;
    let allowed = [VIEWER, OPERATOR, DEPLOYS];
    try_everything(main, "an operator", &through(&operator), &renewable, &allowed).await;
    let unused = values("production").await;
    let stranger = Client::new(main, Door::Enroll, None).channel();
    try_everything(main, "a stranger", &stranger, &unused, &[&["WithToken"]]).await;
    assert_eq!(main.environment("production").await.committed, snapshot.to_string());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t5_an_empty_list_of_environments_is_not_all_and_all_is_only_ones_own() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    fleet.push("dev_x", &[("manifests/site.pp", "# dev\n")]);
    let deployer = operator(main, "deployer", "deployer:dev_*").await;
    let mut control = Client::new(main, Door::H2, Some(&deployer)).control();
    let nothing = control.deploy(v1::DeployRequest::default()).await;
    assert_eq!(nothing.unwrap_err().code(), Code::InvalidArgument);
    let all =
        control.deploy(v1::DeployRequest { all: true, ..Default::default() }).await.unwrap().into_inner();
    let deployed: Vec<_> = all.deploys.iter().map(|deploy| deploy.environment.as_str()).collect();
    assert_eq!(deployed, ["dev_x"]);
    let mixed =
        v1::DeployRequest { environments: vec!["dev_x".into(), "production".into()], ..Default::default() };
    assert_eq!(control.deploy(mixed).await.unwrap_err().code(), Code::PermissionDenied);
    let snuck =
        v1::DeployRequest { environments: vec!["production".into()], all: true, ..Default::default() };
    assert_eq!(control.deploy(snuck).await.unwrap_err().code(), Code::PermissionDenied);
    main.until_ended(all.deploys[0].id).await;
    assert_eq!(main.environment("production").await.committed, "");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t5_pack_gives_what_the_node_was_ordered_to_have_and_no_digest_that_it_invents() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let snapshot = fleet.deploy_change("production", "one").await;
    let node = stolen_node(main, "c9").await;
    let mut content = Client::new(main, Door::H2, Some(&node)).content();
    // Objects that are in the store and no snapshot: a file and a directory of what it may have.
    let objects: Vec<String> = std::fs::read_dir(main.config().data_dir.join("objects"))
        .unwrap()
        .flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).into_iter().flatten())
        .map(|object| object.unwrap().file_name().into_string().unwrap())
        .filter(|name| *name != snapshot.to_string())
        .collect();
    assert!(objects.len() > 3);
    let invented = [Digest::of(b"x").to_string(), String::new(), "../../ca/ca.key".into(), "0".repeat(64)];
    for want in objects.into_iter().take(10).chain(invented) {
        let refused = content.pack(v1::PackRequest { want, ..Default::default() }).await.unwrap_err();
        assert!([Code::PermissionDenied, Code::InvalidArgument].contains(&refused.code()), "{refused}");
    }
    let want = snapshot.to_string();
    let many = v1::PackRequest { want: want.clone(), have: vec![want.clone(); 9], after: String::new() };
    assert_eq!(content.pack(many).await.unwrap_err().code(), Code::InvalidArgument);
    let after = v1::PackRequest { want: want.clone(), after: Digest::of(b"x").to_string(), have: Vec::new() };
    let mut stream = content.pack(after).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::OutOfRange);
    let mut good = content.pack(v1::PackRequest { want, ..Default::default() }).await.unwrap().into_inner();
    assert!(good.message().await.unwrap().is_some());
    fleet.end().await;
}
