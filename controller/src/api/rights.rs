//! The one table that maps every RPC to the right that it needs. What is not in it is refused.

/// What an RPC asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Reading.
    Viewer,
    /// Deploying: checked against the deployer's environment pattern by the handler, which knows the environments.
    Deployer,
    /// Holding, healing, draining, rolling out.
    Operator,
    /// Enrolling, revoking, taking over.
    Admin,
    /// A node, about itself.
    Node,
    /// A node or an operator, about itself; also with a node's expired certificate.
    Oneself,
    /// The token or the Puppet certificate is the proof.
    Nobody,
}

impl Needs {
    /// For the one who lacks it.
    pub(crate) fn told(self) -> &'static str {
        match self {
            Self::Viewer => "the right viewer",
            Self::Deployer => "the right deployer",
            Self::Operator => "the right operator",
            Self::Admin => "the right admin",
            Self::Node => "a node's identity",
            Self::Oneself => "an identity of one's own",
            Self::Nobody => "a host without an identity",
        }
    }
}

/// Service, method, need. A test fails when an RPC of the wire is missing.
pub(crate) const RIGHTS: &[(&str, &str, Needs)] = &[
    ("Content", "Pack", Needs::Node),
    ("Enrollment", "WithToken", Needs::Nobody),
    ("Enrollment", "WithPuppetCertificate", Needs::Nobody),
    ("Control", "Renew", Needs::Oneself),
    ("Control", "Status", Needs::Viewer),
    ("Control", "ListDeploys", Needs::Viewer),
    ("Control", "ShowDeploy", Needs::Viewer),
    ("Control", "ListSnapshots", Needs::Viewer),
    ("Control", "DiffSnapshots", Needs::Viewer),
    ("Control", "ListEnvironments", Needs::Viewer),
    ("Control", "ListNodes", Needs::Viewer),
    ("Control", "ShowNode", Needs::Viewer),
    ("Control", "Doctor", Needs::Viewer),
    ("Control", "BalancerStatus", Needs::Viewer),
    ("Control", "PlanRollout", Needs::Viewer),
    ("Control", "ListRollouts", Needs::Viewer),
    ("Control", "ShowRollout", Needs::Viewer),
    ("Control", "CrlStatus", Needs::Viewer),
    ("Control", "ShowCertificate", Needs::Viewer),
    ("Control", "ListCertificates", Needs::Viewer),
    ("Control", "Watch", Needs::Viewer),
    ("Control", "CaStatus", Needs::Viewer),
    ("Control", "Deploy", Needs::Deployer),
    ("Control", "Rollback", Needs::Deployer),
    ("Control", "Release", Needs::Deployer),
    ("Control", "HoldNode", Needs::Operator),
    ("Control", "ReleaseNode", Needs::Operator),
    ("Control", "LabelNode", Needs::Operator),
    ("Control", "HealNode", Needs::Operator),
    ("Control", "DrainCompiler", Needs::Operator),
    ("Control", "EnableCompiler", Needs::Operator),
    ("Control", "StartRollout", Needs::Operator),
    ("Control", "PauseRollout", Needs::Operator),
    ("Control", "ResumeRollout", Needs::Operator),
    ("Control", "AbortRollout", Needs::Operator),
    ("Control", "RetryTurn", Needs::Operator),
    ("Control", "SkipTurn", Needs::Operator),
    ("Control", "RetargetRollout", Needs::Operator),
    ("Control", "ListAudit", Needs::Operator),
    ("Control", "VerifyAudit", Needs::Operator),
    ("Control", "ListTokens", Needs::Operator),
    ("Control", "ListOperators", Needs::Operator),
    ("Control", "AcceptCrl", Needs::Admin),
    ("Control", "AskCertificate", Needs::Admin),
    ("Control", "RevokePuppetCertificate", Needs::Admin),
    ("Control", "SetUpCompiler", Needs::Admin),
    ("Control", "CreateToken", Needs::Admin),
    ("Control", "RevokeToken", Needs::Admin),
    ("Control", "RevokeNode", Needs::Admin),
    ("Control", "AllowNode", Needs::Admin),
    ("Control", "RemoveNode", Needs::Admin),
    ("Control", "AddOperator", Needs::Admin),
    ("Control", "RevokeOperator", Needs::Admin),
    ("Control", "Takeover", Needs::Admin),
    ("Control", "RotateCa", Needs::Admin),
];

/// What `/bunraku.v1.Service/Method` needs; `None`: refuse.
pub(crate) fn needs(path: &str) -> Option<Needs> {
    let (service, method) = path.strip_prefix("/bunraku.v1.")?.split_once('/')?;
    RIGHTS.iter().find(|(s, m, _)| *s == service && *m == method).map(|(_, _, needs)| *needs)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Every RPC that the controller serves (`Node` is served by nodes, and called only by the controller).
    fn served() -> Vec<(String, String)> {
        let set =
            FileDescriptorSet::decode(bunraku_proto::DESCRIPTORS).expect("made by our own build script");
        let services = set.file.iter().filter(|f| f.package() == "bunraku.v1").flat_map(|f| &f.service);
        services
            .filter(|service| service.name() != "Node")
            .flat_map(|s| s.method.iter().map(|m| (s.name().to_owned(), m.name().to_owned())))
            .collect()
    }

    #[test]
    fn every_rpc_has_exactly_one_right() {
        for (service, method) in served() {
            let entries = RIGHTS.iter().filter(|(s, m, _)| *s == service && *m == method).count();
            assert_eq!(entries, 1, "{service}.{method}");
        }
        assert_eq!(RIGHTS.len(), served().len(), "the table names an RPC that does not exist");
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        for path in
            ["/bunraku.v1.Control/Nothing", "/bunraku.v1.Node/Stage", "/other.v1.Control/Status", "", "/"]
        {
            assert_eq!(needs(path), None, "{path}");
        }
    }
}
