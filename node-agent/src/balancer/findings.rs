//! What the doctor finds at a load balancer. It only looks, so it may run beside a running agent.

use bunraku_balancer::{BalancerConfig, Driver, DriverKind, Health, Observed, ServerName, driver};
use bunraku_common::Chain;
use bunraku_puppetserver::doctor::{Finding, Severity};

/// Compares the balancer's servers with those that the configuration maps.
pub(crate) async fn examine(config: &BalancerConfig) -> Vec<Finding> {
    let driver = match driver(config) {
        Ok(driver) => driver,
        Err(error) => {
            return vec![finding("balancer-config", Severity::Error, Chain(&error).to_string(), "")];
        }
    };
    let observed = match driver.observe().await {
        Ok(observed) => observed,
        Err(trouble) => {
            let mend = match config.driver {
                DriverKind::Haproxy => {
                    "in haproxy.cfg, global: stats socket /run/haproxy/admin.sock mode 660 level admin expose-fd listeners".into()
                }
                DriverKind::Nginx => format!("in nginx.conf, stream: include {};", config.nginx.include.display()),
                DriverKind::Hook => "docs/load-balancers.md: what the command is asked, and how it answers".into(),
            };
            return vec![finding("balancer-answers", Severity::Error, Chain(&trouble).to_string(), mend)];
        }
    };
    let mut findings =
        vec![finding("balancer-answers", Severity::Ok, format!("{} answers", driver.kind()), "")];
    findings.extend(mapping(config, &observed));
    findings.extend(checks(config, &observed, driver.as_ref()));
    if config.driver == DriverKind::Haproxy {
        findings.extend(haproxy(config));
    }
    findings
}

fn mapping(config: &BalancerConfig, observed: &Observed) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (compiler, name) in
        config.compilers.iter().flat_map(|(node, names)| names.iter().map(move |name| (node, name)))
    {
        if observed.server(name).is_none() {
            let found = format!("{compiler} is mapped to {name}, and the balancer has no such server");
            let mend = format!(
                "correct \"{compiler}\" in [balancer.compilers], or add the server {name} to the balancer"
            );
            findings.push(finding("balancer-missing", Severity::Error, found, mend));
        }
    }
    let backends: Vec<&str> = mapped(config).map(ServerName::backend).collect();
    for server in &observed.servers {
        let name = &server.name;
        if backends.contains(&name.backend()) && !mapped(config).any(|known| known == name) {
            let found =
                format!("{name} is mapped to no compiler: it is never drained, and counts for no floor");
            let mend = format!("in [balancer.compilers]: \"CERTNAME\" = [\"{name}\"]");
            findings.push(finding("balancer-unmapped", Severity::Warning, found, mend));
        }
    }
    if findings.is_empty() {
        findings.push(finding(
            "balancer-mapping",
            Severity::Ok,
            "every server is a compiler's, and every compiler has its servers",
            "",
        ));
    }
    findings
}

/// Who is up is known from health checks only.
fn checks(config: &BalancerConfig, observed: &Observed, driver: &dyn Driver) -> Vec<Finding> {
    // nginx's checks are the running agent's own, and a command says what it knows.
    if driver.kind() != "haproxy" {
        return Vec::new();
    }
    let unknown = mapped(config).filter(|name| {
        let seen = observed.server(name);
        seen.is_some_and(|server| {
            server.admin == bunraku_balancer::Admin::Ready && server.health == Health::Unknown
        })
    });
    let found = |name| {
        format!(
            "{name} has no health check: it never counts as in service, so nobody beside it can be drained"
        )
    };
    let mend = "option httpchk, and `check check-ssl` at the server: docs/load-balancers.md";
    unknown.map(|name| finding("balancer-checks", Severity::Error, found(name), mend)).collect()
}

fn haproxy(config: &BalancerConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.haproxy.master_socket.is_none() {
        let found = "without the master's socket, sessions that a reload left in an old worker are not seen";
        let mend = "start haproxy with -S /run/haproxy-master.sock, and in [balancer.haproxy]: master_socket = \"/run/haproxy-master.sock\"";
        findings.push(finding("balancer-master-socket", Severity::Warning, found, mend));
    }
    if config.haproxy.state_file.is_none() {
        let found = "without a server-state file every reload forgets drains for a second";
        let mend = "in haproxy.cfg, global: server-state-file /var/lib/haproxy/state; defaults: load-server-state-from-file global; in [balancer.haproxy]: state_file = \"/var/lib/haproxy/state\"";
        findings.push(finding("balancer-state-file", Severity::Warning, found, mend));
    }
    findings
}

fn mapped(config: &BalancerConfig) -> impl Iterator<Item = &ServerName> {
    config.compilers.values().flatten()
}

fn finding(
    check: &'static str,
    severity: Severity,
    found: impl Into<String>,
    mend: impl Into<String>,
) -> Finding {
    Finding { check, severity, found: found.into(), mend: mend.into(), fix: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(answer: &str) -> BalancerConfig {
        let text = format!(
            "driver = 'hook'\n[compilers]\n'c1.example' = ['puppet/c1']\n'c2.example' = ['puppet/c2']\n[hook]\ncommand = ['printf', '%s', '{answer}']\n"
        );
        toml::from_str(&text).unwrap()
    }

    #[tokio::test]
    async fn servers_that_are_missing_and_servers_that_are_nobodys_are_named_with_the_line_to_add() {
        let server = |backend, name| {
            format!(
                "{{\"backend\":\"{backend}\",\"server\":\"{name}\",\"admin\":\"ready\",\"health\":\"up\"}}"
            )
        };
        let servers = [server("puppet", "c1"), server("puppet", "c9"), server("web", "w1")].join(",");
        let findings = examine(&config(&format!("{{\"servers\":[{servers}]}}"))).await;
        let seen: Vec<_> = findings.iter().map(|f| (f.check, f.severity, f.mend.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("balancer-answers", Severity::Ok, ""),
                (
                    "balancer-missing",
                    Severity::Error,
                    "correct \"c2.example\" in [balancer.compilers], or add the server puppet/c2 to the balancer"
                ),
                (
                    "balancer-unmapped",
                    Severity::Warning,
                    "in [balancer.compilers]: \"CERTNAME\" = [\"puppet/c9\"]"
                ),
            ]
        );
    }

    #[tokio::test]
    async fn a_balancer_that_does_not_answer_is_one_finding_with_its_reason() {
        let findings = examine(&config("no json")).await;
        assert_eq!((findings.len(), findings[0].check), (1, "balancer-answers"));
        assert!(
            findings[0].found.contains("printf answered what is not understood"),
            "{}",
            findings[0].found
        );
    }
}
