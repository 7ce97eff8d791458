//! What people read, as snapshots: review them like prose (`cargo insta review`). Messages are made up here, so that each
//! state of a node or a deploy is shown once.

use bunraku_proto::v1::{
    BalanceStatusReply, BalancedBackend, BalancedServer, BalancerInfo, BalancerStatusReply, CaHolder,
    CaStatus, CertificateInfo, CertificateOf, CertificateOnNode, CompilerBalance, CrlNodeInfo,
    CrlStatusReply, DeployInfo, DeployNode, Difference, DoctorFleetReply, DoctorOfNode, EnvironmentInfo,
    EnvironmentNode, EnvironmentOnNode, Event, Finding, HostCertificate, ListCertificatesReply, ModuleInfo,
    NodeInfo, StatusReply, TokenInfo, finding::Severity,
};
use clap::{CommandFactory, Parser};
use tonic::Status;

use super::{Cli, Failure, ca, cert, compiler, crl, deploy, doctor, events, lb, nodes, progress, status};
use crate::clock::wall_ms;

const OLD: &str = "9155bcfed818f7a50bca1d43c94c01c188854bb4b61514c3e49960142e7e63af";
const NEW: &str = "3f2a90cc18d7f7a50bca1d43c94c01c188854bb4b61514c3e49960142e7e63af";
const COMMIT: &str = "6a7a1ddf84b77be3e3da4bd000db77fd27ebbc79";
const EXPIRES_S: u64 = 1_795_486_980;
const THREE_HOURS_MS: u64 = 3 * 3_600_000;

macro_rules! shown {
    ($name:literal, $text:expr) => {
        insta::with_settings!({ snapshot_path => "shown", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!($name, $text);
        })
    };
}

fn three_hours_ago() -> u64 {
    wall_ms() - THREE_HOURS_MS
}

fn node(name: &str) -> NodeInfo {
    NodeInfo {
        name: name.into(),
        roles: vec!["compiler".into()],
        connected: true,
        version: "0.1.0".into(),
        standing: "enrolled".into(),
        enrolled_by: "puppet certificate".into(),
        certificate_expires: EXPIRES_S,
        since_ms: three_hours_ago(),
        puppetserver: "running".into(),
        address: "192.0.2.11".into(),
        environments: vec![EnvironmentOnNode {
            environment: "production".into(),
            live: NEW.into(),
            proven: true,
            versions: vec![NEW.into(), OLD.into()],
            ..EnvironmentOnNode::default()
        }],
        ..NodeInfo::default()
    }
}

fn ailing(name: &str) -> NodeInfo {
    let mut node = node(name);
    node.puppetserver =
        "down: Puppet Server at 192.0.2.12:8140 does not answer (asking its status): Connection refused \
                         (hint: systemctl status puppetserver)"
            .into();
    node.environments[0].proven = false;
    node.environments[0].owed = "Puppet Server at 192.0.2.12:8140 does not answer".into();
    node.drift = vec!["production/manifests/site.pp".into()];
    node.alarms = vec![format!("1 file of production on {name} changed by hand\nhint: bunraku heal {name}")];
    node
}

fn gone(name: &str) -> NodeInfo {
    let standing = "held by alice: new disk".into();
    NodeInfo { connected: false, since_ms: 0, standing, puppetserver: String::new(), ..node(name) }
}

/// Was there, and does not answer any more.
fn away(name: &str) -> NodeInfo {
    NodeInfo { connected: false, ..node(name) }
}

fn serves(node: &str, live: &str, state: &str) -> EnvironmentNode {
    EnvironmentNode {
        node: node.into(),
        live: live.into(),
        state: state.into(),
        ..EnvironmentNode::default()
    }
}

fn environment() -> EnvironmentInfo {
    EnvironmentInfo {
        name: "production".into(),
        committed: NEW.into(),
        commit: COMMIT.into(),
        held: "by alice: rollback to 9155bcfed818".into(),
        nodes: vec![
            serves("c1.example.com", NEW, "proven"),
            serves("c2.example.com", OLD, "behind"),
            serves("c3.example.com", "", "held"),
            serves("c4.example.com", OLD, "behind, not connected"),
        ],
        ..EnvironmentInfo::default()
    }
}

fn difference() -> Difference {
    Difference {
        added: vec!["modules/ntp/lib/facter/ntp.rb".into()],
        changed: vec!["manifests/site.pp".into()],
        removed: vec!["data/old.yaml".into()],
        total: 5,
        flush_jrubies: true,
        modules: vec!["ntp 1.0.0 -> 1.1.0".into()],
    }
}

fn deploy_of(phase: &str, nodes: &[(&str, &str, &str)]) -> DeployInfo {
    let node = |(node, state, note): &(&str, &str, &str)| DeployNode {
        node: (*node).into(),
        state: (*state).into(),
        note: (*note).into(),
    };
    let requested_ms = three_hours_ago();
    DeployInfo {
        id: 17,
        environment: "production".into(),
        kind: "build".into(),
        phase: phase.into(),
        who: "alice".into(),
        commit: COMMIT.into(),
        snapshot: NEW.into(),
        previous: OLD.into(),
        requested_ms,
        ended_ms: requested_ms + 1_740,
        live_ms: requested_ms + 1_740,
        skew_ms: 12,
        nodes: nodes.iter().map(node).collect(),
        ..DeployInfo::default()
    }
}

fn abandoned() -> DeployInfo {
    DeployInfo {
        reason: "c2.example.com could not stage: disk full".into(),
        hint: "on c2.example.com: df -h /var/lib/bunraku-code; or go on without it: \
               bunraku nodes hold c2.example.com --reason '…'"
            .into(),
        ..deploy_of(
            "abandoned",
            &[("c1.example.com", "staged", ""), ("c2.example.com", "failed", "disk full")],
        )
    }
}

fn staging() -> DeployInfo {
    let waiting = "for c2.example.com to stage, at most 590 s; then the deploy is abandoned and every node stays on the \
                   old code";
    let nodes = [("c1.example.com", "staged", ""), ("c2.example.com", "waiting", "")];
    DeployInfo { waiting: waiting.into(), ended_ms: 0, ..deploy_of("staging", &nodes) }
}

fn status_of(nodes: Vec<NodeInfo>, environments: Vec<EnvironmentInfo>) -> StatusReply {
    StatusReply {
        controller: "puppet-main.example.com:8170".into(),
        version: "0.1.0".into(),
        term: 4,
        standing: "in command".into(),
        uptime_s: 7300,
        fleet: "bunraku".into(),
        nodes,
        environments,
        ..StatusReply::default()
    }
}

#[test]
fn status() {
    let mut busy = status_of(
        vec![
            node("c1.example.com"),
            ailing("c2.example.com"),
            gone("c3.example.com"),
            away("c4.example.com"),
        ],
        vec![environment()],
    );
    busy.active = vec![staging()];
    busy.alarms = ailing("c2.example.com").alarms;
    busy.alarms.push("c2.example.com is behind in production for 3 h".into());
    shown!("status", status::text(&busy));
    shown!("status of a new controller", status::text(&status_of(Vec::new(), Vec::new())));
    let mut superseded = status_of(Vec::new(), Vec::new());
    superseded.standing = "gives no orders: c1.example.com has obeyed term 9, this is term 4\n\
                           hint: if the other controller is gone: bunraku takeover --reason '…'"
        .into();
    shown!("status of a superseded controller", status::text(&superseded));
}

/// Of 40 environments on 30 compilers: what differs is named, what is alike is counted.
#[test]
fn status_of_a_large_fleet() {
    let name = |number: usize| format!("c{number:02}.example.com");
    let mut nodes: Vec<NodeInfo> = (1..=30).map(|number| node(&name(number))).collect();
    nodes[6] = ailing(&name(7));
    nodes[22] = gone(&name(23));
    let environments = (1..=40).map(|number| {
        let mut nodes: Vec<EnvironmentNode> = (1..=30).map(|n| serves(&name(n), NEW, "proven")).collect();
        nodes[22].state = "held".into();
        if number == 13 {
            nodes[6] = serves(&name(7), OLD, "behind");
        }
        let name = format!("feature_{number:02}");
        EnvironmentInfo { name, nodes, held: String::new(), ..environment() }
    });
    let large = status_of(nodes, environments.collect());
    let text = status::text(&large);
    assert!(text.lines().count() < 100, "{text}");
    shown!("status of a large fleet", text);
    let wide = status::screen(&large, true);
    assert!((1..=30).all(|number| wide.matches(&name(number)).count() == 41), "each by name, everywhere");
}

#[test]
fn nodes_show() {
    let shown =
        [node("c1.example.com"), ailing("c2.example.com"), gone("c3.example.com"), away("c4.example.com")];
    let changed = [nodes::held, nodes::released, nodes::revoked, nodes::allowed];
    let changed: Vec<_> = changed.iter().map(|text| text(&gone("c3.example.com"))).collect();
    shown!("nodes changed", changed.join("\n"));
    shown!("nodes show", shown.iter().map(nodes::node_text).collect::<Vec<_>>().join("\n"));
}

#[test]
fn allowing_a_node_that_was_not_revoked_says_so_and_another_may_enrol_in_its_role() {
    let balancer = NodeInfo { roles: vec!["load-balancer".into()], ..node("lb1.example.com") };
    let next =
        "lb1.example.com may enrol again\nnext: bunraku token create lb1.example.com --role load-balancer\n";
    assert_eq!(nodes::allowed(&balancer), next);
    let unchanged = NodeInfo { unchanged: true, ..balancer };
    assert_eq!(nodes::allowed(&unchanged), "lb1.example.com is not revoked: there is nothing to allow\n");
}

#[test]
fn deploys_show() {
    let mut live =
        deploy_of("live", &[("c1.example.com", "proven", ""), ("compiler2.example.com", "proven", "")]);
    live.modules = vec![ModuleInfo { name: "ntp".into(), version: "1.1.0".into() }];
    live.difference = Some(difference());
    live.renewal = "bunraku rollout show 3".into();
    live.output = "INFO -> Deploying environment production\n".into();
    let shown = [live, abandoned(), staging()];
    shown!("deploys show", shown.iter().map(deploy::deploy_text).collect::<Vec<_>>().join("\n"));
}

#[test]
fn endings_of_a_deploy() {
    let behind = [
        ("c1.example.com", "proven", ""),
        ("c2.example.com", "behind", "Puppet Server does not answer (hint: systemctl status puppetserver)"),
    ];
    let mut planned = deploy_of("planned", &[]);
    planned.difference = Some(difference());
    planned.renewal = "bunraku rollout start flush-pool".into();
    let mut by_itself = deploy_of("live", &[("c1.example.com", "proven", "")]);
    by_itself.difference = Some(difference());
    by_itself.renewal = "a rollout, as soon as the compilers serve the new code".into();
    let mut failed = deploy_of("failed", &[]);
    failed.reason = "no compiler is enrolled".into();
    failed.hint = "bunraku token create NODE --role compiler, then enrol it".into();
    let ends = [
        deploy_of("live", &[("c1.example.com", "proven", ""), ("c2.example.com", "proven", "")]),
        deploy_of("live", &[("c1.example.com", "proven", "")]),
        deploy_of("behind", &behind),
        deploy_of("unchanged", &[]),
        deploy_of("superseded", &[]),
        planned,
        by_itself,
        failed,
        abandoned(),
    ];
    shown!("endings of a deploy", ends.iter().map(deploy::ending).collect::<Vec<_>>().join("\n"));
}

#[test]
fn deploys_list() {
    let queued = DeployInfo { commit: String::new(), snapshot: String::new(), ..deploy_of("queued", &[]) };
    let back = DeployInfo { kind: "rollback".into(), id: 1016, ..deploy_of("committing", &[]) };
    let text = deploy::list_text(&[queued, back, abandoned()], "none");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    shown!("deploys list", text);
}

/// What programs said was printed twice, and its later lines at the left edge.
#[test]
fn a_long_reason_is_told_once_and_indented() {
    let said = "could not generate the types:\nbroken.rb:2: syntax error";
    let mut deploy = abandoned();
    deploy.reason = format!("c2.example.com refused the content: {said}");
    deploy.nodes[1].note = said.into();
    shown!("deploys show with what a program said", deploy::deploy_text(&deploy));
}

/// An empty variable of a script would otherwise have meant "the one before" or "all".
#[test]
fn an_empty_argument_is_no_choice() {
    for line in [
        "rollback production --to=",
        "deploy production --commit=",
        "heal c1 --environment=",
        "deploys list --environment=",
        "snapshots list --environment=",
    ] {
        let refused = Cli::try_parse_from(["bunraku"].into_iter().chain(line.split(' ')));
        assert_eq!(refused.err().map(|e| e.kind()), Some(clap::error::ErrorKind::InvalidValue), "{line}");
    }
}

#[test]
fn progress() {
    let lines = progress::lines(&staging()).join("\n");
    shown!("progress", format!("{lines}\n\n{}", progress::one_line(&staging())));
}

fn server(compiler: &str) -> BalancedServer {
    BalancedServer {
        compiler: format!("{compiler}.example.com"),
        backend: "puppet".into(),
        server: compiler.into(),
        admin: "ready".into(),
        health: "up".into(),
        sessions: 4,
        sessions_known: true,
        in_service: true,
        ..BalancedServer::default()
    }
}

fn drained() -> CompilerBalance {
    CompilerBalance {
        compiler: "c2.example.com".into(),
        state: "draining".into(),
        wanted: "drained".into(),
        owner: "operator alice".into(),
        reason: "new memory".into(),
        since_ms: three_hours_ago(),
        waits_for: "2 sessions to end".into(),
        sessions: 2,
        sessions_known: true,
        ..CompilerBalance::default()
    }
}

#[test]
fn lb_status() {
    let draining = BalancedServer {
        admin: "drain".into(),
        sessions: 2,
        in_service: false,
        wanted: "drained".into(),
        owner: "operator alice".into(),
        reason: "new memory".into(),
        sessions_known: false,
        ..server("c2")
    };
    let foreign = BalancedServer { admin: "maint".into(), in_service: false, foreign: true, ..server("c3") };
    let said = BalancerStatusReply {
        driver: "haproxy".into(),
        servers: vec![server("c1"), draining, foreign],
        unmapped: vec!["puppet/old".into()],
        backends: vec![BalancedBackend { backend: "puppet".into(), floor: 1, in_service: 1 }],
        alarms: vec!["c2.example.com is to be drained and the floor forbids it".into()],
        ..BalancerStatusReply::default()
    };
    let lb1 = BalancerInfo {
        balancer: "lb1.example.com".into(),
        seen_ms: wall_ms(),
        status: Some(said),
        ..BalancerInfo::default()
    };
    let lb2 = BalancerInfo {
        balancer: "lb2.example.com".into(),
        trouble: "it is not connected".into(),
        seen_ms: three_hours_ago(),
        status: Some(BalancerStatusReply { servers: vec![server("c1")], ..BalancerStatusReply::default() }),
    };
    let out = CompilerBalance {
        compiler: "c3.example.com".into(),
        state: "out of service".into(),
        foreign: vec!["puppet/c3 at lb1.example.com".into()],
        ..CompilerBalance::default()
    };
    let undone = CompilerBalance {
        compiler: "c1.example.com".into(),
        state: "in service".into(),
        wanted: "ready".into(),
        undone: "lb2.example.com refused: the floor".into(),
        since_ms: three_hours_ago(),
        ..CompilerBalance::default()
    };
    let reply = BalanceStatusReply { balancers: vec![lb1, lb2], compilers: vec![undone, drained(), out] };
    shown!("lb status", lb::status_text(&reply));
    shown!("lb status without balancers", lb::status_text(&BalanceStatusReply::default()));
    let mut busy = status_of(vec![node("c1.example.com")], Vec::new());
    busy.out_of_service = vec![drained()];
    shown!("status with a compiler out of service", status::text(&busy));
}

#[test]
fn crl_status() {
    let crl = |node: &str, state: &str| CrlNodeInfo {
        node: format!("{node}.example.com"),
        connected: true,
        crl: NEW.into(),
        number: "17".into(),
        state: state.into(),
        delivered_ms: three_hours_ago(),
        delivery_ms: 12,
        ..CrlNodeInfo::default()
    };
    let proven = CrlNodeInfo { enforcement_ms: 1_840, proof_ms: 1_911, ..crl("c1", "proven") };
    let unproven = CrlNodeInfo {
        note: "Puppet Server at 192.0.2.12:8140 lets the canary in".into(),
        ..crl("c2", "delivered, not proven")
    };
    let behind = CrlNodeInfo {
        connected: false,
        crl: OLD.into(),
        number: "16".into(),
        delivery_ms: 0,
        exposed_ms: three_hours_ago(),
        ..crl("c3", "behind")
    };
    let reply = CrlStatusReply {
        watched: true,
        crl: NEW.into(),
        number: "17".into(),
        revoked: 21,
        written_ms: three_hours_ago(),
        changed_ms: three_hours_ago() - 2_000,
        ends: wall_ms() / 1000 + 400 * 86_400 + 100,
        ca_ends: wall_ms() / 1000 + 4000 * 86_400 + 100,
        proof: true,
        canaries: 2,
        nodes: vec![proven, unproven, behind, crl("lb1", "delivered")],
        ..CrlStatusReply::default()
    };
    shown!("crl status", crl::status_text(&reply));
    let held_back = CrlStatusReply {
        rejected: "the CRL of authority 0f3a90cc18d7 has number 3, and 17 was sent out before".into(),
        rejected_hint: "bunraku crl accept --number-reset".into(),
        rejected_ms: three_hours_ago(),
        canaries: 0,
        trouble:
            "Puppet Server does not answer at main.example.com:8140\nhint: systemctl status puppetserver"
                .into(),
        ..reply
    };
    shown!("crl status with trouble", crl::status_text(&held_back));
    let unproving = CrlStatusReply { watched: true, ..CrlStatusReply::default() };
    let texts = [crl::status_text(&unproving), crl::status_text(&CrlStatusReply::default())];
    shown!("crl status of a new controller", texts.join("\n---\n"));
}

#[test]
fn certificates() {
    let line = |of: &str, what: &str, place: &str, ends_s: u64| CertificateOf {
        of: of.into(),
        certificate: Some(CertificateOnNode {
            what: what.into(),
            r#where: place.into(),
            serial: "0a".into(),
            not_after: ends_s,
            ..CertificateOnNode::default()
        }),
    };
    let days = |days: u64| wall_ms() / 1000 + days * 86_400 + 100;
    let mut served = line("c1.example.com", "puppet server", "192.0.2.11:8140", days(20));
    if let Some(certificate) = &mut served.certificate {
        certificate.dns_alt_names = vec!["c1.example.com".into(), "puppet.example.com".into()];
    }
    let mut unknown = line("c2.example.com", "puppet server", "192.0.2.12:8140", 0);
    if let Some(certificate) = &mut unknown.certificate {
        certificate.trouble = "nobody answers".into();
    }
    let waits = CertificateInfo {
        node: "c2.example.com".into(),
        phase: "signing".into(),
        trouble: "Puppet Server does not answer\nhint: systemctl status puppetserver".into(),
        ..CertificateInfo::default()
    };
    let failed = CertificateInfo {
        node: "c3.example.com".into(),
        phase: "failed".into(),
        reason: "a request that c3.example.com did not make waits at Puppet's CA".into(),
        ..CertificateInfo::default()
    };
    let lines = vec![
        line("main server", "host", "/var/lib/puppet/ssl/certs/main.pem", 1),
        line("c1.example.com", "identity", "", days(1)),
        served,
        line("puppet ca", "authority", "/etc/puppet/ca.pem", days(4000)),
        unknown,
    ];
    let reply = ListCertificatesReply { certificates: lines, attempts: vec![waits.clone(), failed] };
    shown!("cert list", cert::list_text(&reply));
    let host = HostCertificate {
        serial: "0a".into(),
        dns_alt_names: vec!["c2.example.com".into()],
        not_after: 1,
        ..HostCertificate::default()
    };
    let done = CertificateInfo {
        phase: "done".into(),
        who: "root".into(),
        asked_ms: three_hours_ago(),
        trouble: String::new(),
        host: Some(host),
        ..waits.clone()
    };
    let none = CertificateInfo { node: "c9.example.com".into(), ..CertificateInfo::default() };
    shown!("cert show", [&waits, &none, &done].map(cert::show_text).join("\n"));
}

#[test]
fn lb_waits() {
    let ends_ms = wall_ms() + 600_000;
    let undecided = CompilerBalance {
        waits_for: "puppet/c2 at lb1.example.com to be drained".into(),
        waits_until_ms: wall_ms() + 40_000,
        then: "the drain is undone everywhere".into(),
        sessions_known: false,
        ..drained()
    };
    let coming = CompilerBalance {
        state: "enabling".into(),
        wanted: "ready".into(),
        waits_for: "puppet/c2 at lb1.example.com to be enabled".into(),
        ..drained()
    };
    let looks =
        [(lb::Goal::Drained, &drained()), (lb::Goal::Drained, &undecided), (lb::Goal::InService, &coming)];
    let shown: Vec<String> =
        looks.iter().map(|(goal, look)| lb::lines(*goal, look, ends_ms).join("\n")).collect();
    shown!("lb waits", shown.join("\n"));
    // A log's line names the end by the clock, so that it changes only when something changes.
    let line = lb::one_line(lb::Goal::Drained, &drained(), EXPIRES_S * 1000);
    shown!("lb waits in a log", line);
}

#[test]
fn doctor() {
    let finding = |check: &str, severity: Severity, found: &str, mend: &str, fixable| Finding {
        check: check.into(),
        severity: severity.into(),
        found: found.into(),
        mend: mend.into(),
        fixable,
    };
    let findings = vec![
        finding("puppet-server", Severity::Ok, "running", "", false),
        finding(
            "versioned-environment-dirs",
            Severity::Error,
            "off: a compile that runs during a deploy would mix old and new files",
            "/etc/puppet/puppet.conf, section [server]: versioned_environment_dirs = true",
            true,
        ),
    ];
    let of =
        |node: &str| DoctorOfNode { node: node.into(), error: String::new(), findings: findings.clone() };
    let silent = DoctorOfNode {
        node: "c3.example.com".into(),
        error: "c3.example.com is not connected\nhint: on c3.example.com: systemctl status bunraku-agent"
            .into(),
        findings: Vec::new(),
    };
    let reply = DoctorFleetReply { nodes: vec![of("c1.example.com"), of("c2.example.com"), silent] };
    let well = DoctorFleetReply { nodes: vec![DoctorOfNode { node: "c1".into(), ..Default::default() }] };
    shown!("doctor", doctor::text(&reply, false));
    shown!("doctor with nothing to mend", doctor::text(&well, false));
    shown!("doctor without nodes", doctor::text(&DoctorFleetReply::default(), false));
}

#[test]
fn events_are_one_line_each() {
    let event = |who: &str, text: &str| Event {
        wall_ms: EXPIRES_S * 1000,
        who: who.into(),
        text: text.into(),
        ..Event::default()
    };
    let told = [
        event("controller", "the controller began term 2"),
        event("alice", "alice asked for deploy 17 of production: branch production"),
        event("alice", "deploy 17: building production"),
        event("controller", "deploy 17 of production ended: abandoned: c1 could not stage:\ndisk full"),
    ];
    shown!("events", told.iter().map(events::line).collect::<String>());
}

#[test]
fn errors() {
    let told = [
        Failure::from(Status::failed_precondition(
            "production is held by alice: rollback to 9155bcfed818\nhint: bunraku release production",
        )),
        Failure::from(Status::unavailable("the controller is stopping")),
        Failure::from(Status::permission_denied(
            "this needs the right admin, and ci is viewer\nhint: ask an admin",
        )),
        Failure::from(Status::invalid_argument("`C 1` is not a node name")),
    ];
    shown!("errors", told.iter().map(|f| format!("{}[{}]\n", f.text(), f.code())).collect::<String>());
}

#[test]
fn ca() {
    let rotating = CaStatus {
        phase: "announce".into(),
        next_phase: "overlap".into(),
        pin: OLD.into(),
        next_pin: NEW.into(),
        anchors: vec![OLD.into(), NEW.into()],
        waits: vec![CaHolder { node: "c9".into(), has: "nothing of the new CA".into(), connected: false }],
        left: vec!["c7".into()],
        operators: vec!["alice".into(), "ci".into()],
    };
    let quiet = CaStatus { pin: OLD.into(), next_phase: "announce".into(), ..CaStatus::default() };
    let ready = CaStatus { waits: Vec::new(), operators: Vec::new(), ..rotating.clone() };
    let screens = [
        ca::shown(&quiet),
        ca::planned(&quiet),
        ca::shown(&rotating),
        ca::planned(&rotating),
        ca::moved("announce", &ready),
        ca::moved("retire", &quiet),
    ];
    shown!("ca", screens.join("\n--------\n"));
}

#[test]
fn compiler_add() {
    let token = TokenInfo {
        token: "TOKEN".into(),
        name: "c3.example.com".into(),
        expires: EXPIRES_S,
        controller: "main.example.com:8170".into(),
        pin: NEW.into(),
        ..TokenInfo::default()
    };
    let balancer = |driver: &str, backend: &str| {
        let server = BalancedServer { backend: backend.into(), ..BalancedServer::default() };
        let servers = if backend.is_empty() { vec![] } else { vec![server.clone(), server] };
        let status = BalancerStatusReply { driver: driver.into(), servers, ..BalancerStatusReply::default() };
        BalancerInfo { balancer: "lb.example.com".into(), status: Some(status), ..BalancerInfo::default() }
    };
    let step = |step, outcome, note: &str, details: &[&str]| compiler::Step {
        step,
        outcome,
        note: note.into(),
        details: details.iter().map(|line| (*line).to_owned()).collect(),
    };
    let changed = [
        "/etc/puppet/puppet.conf (copy: /etc/puppet/puppet.conf.bunraku-20261128T1200)",
        "  +ca_server = main",
    ];
    let mut carried = step("balancer", "skipped", "no balancer carries it yet", &[]);
    carried.details = compiler::by_hand(
        "c3.example.com",
        &[balancer("haproxy", "puppet"), balancer("nginx", ""), balancer("hook", "p")],
    );
    let steps = [
        step("enrol", "done", "c3.example.com is connected", &[]),
        step("set up", "done", "1 change", &changed),
        step("set up", "already so", "", &[]),
        carried,
    ];
    let lines = steps.iter().enumerate().map(|(at, step)| compiler::step_line(at + 1, 5, step));
    shown!("compiler add", compiler::join_line(&token) + &lines.collect::<String>());
}

#[test]
fn help() {
    fn walk(command: &mut clap::Command, path: &str, out: &mut String) {
        let path = format!("{path} {}", command.get_name()).trim().to_owned();
        out.push_str(&format!("$ {path} --help\n{}\n", command.render_long_help()));
        for below in command.get_subcommands_mut().filter(|below| below.get_name() != "help") {
            walk(below, &path, out);
        }
    }
    let mut command = Cli::command();
    command.build();
    let mut out = String::new();
    walk(&mut command, "", &mut out);
    shown!("help", super::output::trim_lines(&out));
}
