//! T6, T11, T21, I3: what a hostile controller can do to a load balancer, and what its own configuration keeps from it.
//! A real HAProxy, an agent with the role load-balancer, and true certificates.

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use bunraku_agent::{Agent, AgentError, Config, identity::enroll_with_token};
use bunraku_common::NodeName;
use bunraku_proto::{identity::IdentityFiles, v1};
use bunraku_tests::{
    fleet::{Fleet, until},
    process::Service,
};
use tonic::Code;
use zeroize::Zeroizing;

use super::usurper::{TERM, Usurper, hello, term};

/// HAProxy with three servers, of which `c3` is no compiler's.
fn start_haproxy(fleet: &Fleet) -> Service {
    let dir = fleet.path("balancer");
    std::fs::create_dir_all(&dir).unwrap();
    let d = dir.display();
    // Checks go to HAProxy itself: the servers are always up.
    let text = format!(
        "global\n  stats socket {d}/admin.sock mode 600 level admin\ndefaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1m\n  \
         timeout server 1m\nfrontend here\n  bind unix@{d}/front.sock\n  default_backend puppet\nbackend puppet\n  \
         default-server check inter 100ms rise 1\n  server c1 unix@{d}/front.sock\n  server c2 unix@{d}/front.sock\n  server c3 unix@{d}/front.sock\n"
    );
    std::fs::write(dir.join("haproxy.cfg"), text).unwrap();
    let mut command = Command::new("haproxy");
    command
        .arg("-W")
        .arg("-db")
        .arg("-S")
        .arg(dir.join("master.sock"))
        .arg("-f")
        .arg(dir.join("haproxy.cfg"));
    Service::spawn("haproxy", &mut command, &dir.join("log")).unwrap()
}

/// `lb1` joins by a token for the role load-balancer.
async fn enrol(fleet: &Fleet) {
    let controller = fleet.main().address().to_string();
    let request =
        v1::CreateTokenRequest { node: "lb1".into(), roles: vec!["load-balancer".into()], ttl_s: 0 };
    let token = Zeroizing::new(fleet.main().client().create_token(request).await.unwrap().into_inner().token);
    let name = NodeName::parse("lb1").unwrap();
    let identity = enroll_with_token(&controller, fleet.main().pin(), &token, &name).await.unwrap();
    let data = fleet.path("balancer/data");
    std::fs::create_dir_all(&data).unwrap();
    IdentityFiles::new(data.join("identity")).save(&identity).unwrap();
}

async fn start_agent(fleet: &Fleet, controller: SocketAddr) -> Agent {
    let d = fleet.path("balancer").display().to_string();
    let text = format!(
        "controller = '{controller}'\nname = 'lb1'\ndata_dir = '{d}/data'\n[balancer]\ndriver = 'haproxy'\n\
         [balancer.compilers]\n'c1' = ['puppet/c1']\n'c2' = ['puppet/c2']\n\
         [balancer.haproxy]\nsocket = '{d}/admin.sock'\nmaster_socket = '{d}/master.sock'\n"
    );
    let config: Config = bunraku_common::config::parse(&text, "agent.toml".as_ref()).unwrap();
    let began = Instant::now();
    loop {
        match Agent::start(config.clone()).await {
            // The one before was answering a call when it was stopped.
            Err(AgentError::Running { .. }) if began.elapsed() < Duration::from_secs(20) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            agent => return agent.unwrap(),
        }
    }
}

fn balance(compiler: &str, drained: bool, generation: u64) -> v1::BalanceRequest {
    let order = v1::Order {
        id: format!("{compiler}-{generation}"),
        term: Some(term(TERM)),
        generation,
        environment: String::new(),
        subject: format!("server {compiler}"),
    };
    v1::BalanceRequest {
        order: Some(order),
        compiler: compiler.into(),
        drained,
        owner: "rollout 7".into(),
        reason: "restart".into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_t11_t21_i3_a_balancer_obeys_newer_orders_about_its_own_compilers_down_to_its_floor() {
    let fleet = Fleet::new().nodes(1).up().await;
    let _haproxy = start_haproxy(&fleet);
    enrol(&fleet).await;
    let agent = start_agent(&fleet, fleet.main().address()).await;
    fleet.main().until_connected("lb1").await;
    agent.stop().await;
    // From here on another controller commands it.
    let mut usurper = Usurper::rise(fleet.main()).await;
    let agent = start_agent(&fleet, usurper.address()).await;
    let mut client = usurper.next_link().await;
    let early = client.balance(balance("c1", true, 1)).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition, "no hello yet: {early}");
    let abilities = client.hello(hello(TERM)).await.unwrap().into_inner().abilities;
    assert_eq!(abilities, ["balance"]);
    until("both are in service", || async {
        let status = client.clone().balancer_status(v1::BalancerStatusRequest {}).await.unwrap().into_inner();
        status.trouble.is_empty() && status.servers.iter().all(|server| server.in_service)
    })
    .await;

    let reply = client.balance(balance("c1", true, 5)).await.unwrap().into_inner();
    let c1 = &reply.servers[0];
    assert_eq!((c1.admin.as_str(), c1.wanted.as_str(), c1.generation), ("drain", "drained", 5));
    assert_eq!((c1.owner.as_str(), c1.reason.as_str()), ("rollout 7", "restart"));
    // Older, or about another subject than it says.
    assert_eq!(client.balance(balance("c1", false, 4)).await.unwrap_err().code(), Code::Aborted);
    let mut other = balance("c1", false, 6);
    other.compiler = "c2".into();
    assert_eq!(client.balance(other).await.unwrap_err().code(), Code::InvalidArgument);
    let closing = |drained, generation| v1::BalanceRequest {
        close_sessions: true,
        ..balance("c1", drained, generation)
    };
    assert_eq!(client.balance(closing(true, 5)).await.unwrap().into_inner().not_closed, "");
    assert_eq!(client.balance(closing(true, 4)).await.unwrap_err().code(), Code::Aborted);
    // One that is in service loses no session by an order.
    assert_eq!(client.balance(closing(false, 6)).await.unwrap_err().code(), Code::InvalidArgument);
    // Below the floor, and none of its compilers.
    let floor = client.balance(balance("c2", true, 1)).await.unwrap_err();
    assert_eq!(floor.code(), Code::FailedPrecondition);
    assert!(floor.message().contains("would leave 0 in service in backend puppet"), "{floor}");
    for name in ["c3", "puppet/c3", "c1;shutdown", "c1\nshutdown sessions"] {
        let refused = client.balance(balance(name, true, 9)).await.unwrap_err();
        assert!(
            matches!(refused.code(), Code::FailedPrecondition | Code::InvalidArgument),
            "{name}: {refused}"
        );
    }
    let status = client.balancer_status(v1::BalancerStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.driver.as_str(), status.trouble.as_str()), ("haproxy", ""));
    assert_eq!(status.unmapped, ["puppet/c3"]);
    assert_eq!((status.backends[0].floor, status.backends[0].in_service), (1, 1));

    // A restarted agent knows it all.
    agent.stop().await;
    let agent = start_agent(&fleet, usurper.address()).await;
    let mut client = usurper.next_link().await;
    client.hello(hello(TERM)).await.unwrap();
    assert_eq!(client.balance(balance("c1", false, 4)).await.unwrap_err().code(), Code::Aborted);
    let reply = client.balance(balance("c1", false, 6)).await.unwrap().into_inner();
    assert_eq!((reply.servers[0].admin.as_str(), reply.servers[0].foreign), ("ready", false));
    agent.stop().await;
    fleet.end().await;
}
