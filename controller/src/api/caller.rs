//! Who calls, and whether it may: asked for every call, not only at the handshake.

use std::{fmt, sync::Arc, time::SystemTime};

use bunraku_common::{EnvironmentName, NodeName};
use bunraku_engine::{Need, Right, Standing, Subject as Known};
use bunraku_proto::accept::Caller;
use tonic::{Request, Status};

use super::rights::{self, Needs};
use crate::driver::Shared;

/// A caller that was let in: in the extensions of every request that reaches a handler.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    /// Root on the controller's host, over the unix socket.
    Root,
    Operator {
        name: String,
        right: Right,
    },
    Node {
        name: NodeName,
    },
    /// A door at which nobody has an identity yet.
    Stranger,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Operator { name, .. } => f.write_str(name),
            Self::Node { name } => write!(f, "node {name}"),
            Self::Stranger => f.write_str("an enrolment"),
        }
    }
}

/// Decides about one call by its path. Deny by default.
pub(crate) fn admit(shared: &Shared, caller: Option<&Caller>, path: &str) -> Result<Subject, Status> {
    let Some(needs) = rights::needs(path) else {
        return Err(Status::unimplemented(format!("{path} is not served here")));
    };
    let subject = match caller {
        None => Subject::Root,
        Some(caller) => identify(shared, caller, needs)?,
    };
    if covers(&subject, needs) { Ok(subject) } else { Err(not_allowed(&subject, path, needs)) }
}

fn identify(shared: &Shared, caller: &Caller, needs: Needs) -> Result<Subject, Status> {
    let Some(peer) = &caller.peer else { return Ok(Subject::Stranger) };
    if peer.expired(SystemTime::now()) && needs != Needs::Oneself {
        return Err(Status::unauthenticated(
            "this certificate has expired: it may renew itself and nothing else",
        ));
    }
    match shared.state().standing(&peer.serial, &peer.key.to_string()) {
        Standing::Denied(reason) => {
            Err(Status::unauthenticated(format!("this identity is not accepted: {reason}")))
        }
        Standing::Allowed(Known::Node { name, .. }) => Ok(Subject::Node { name }),
        Standing::Allowed(Known::Operator { name, right }) => {
            Ok(Subject::Operator { name: name.to_string(), right })
        }
    }
}

fn covers(subject: &Subject, needs: Needs) -> bool {
    match (subject, needs) {
        (Subject::Stranger, needs) => needs == Needs::Nobody,
        (Subject::Node { .. }, needs) => matches!(needs, Needs::Node | Needs::Oneself),
        (Subject::Root, needs) => !matches!(needs, Needs::Node | Needs::Oneself | Needs::Nobody),
        (Subject::Operator { .. }, Needs::Oneself) => true,
        (Subject::Operator { right, .. }, Needs::Viewer) => right.allows(Need::View, None),
        // Which environment is known only to the handler, which asks again.
        (Subject::Operator { right, .. }, Needs::Deployer) => *right != Right::Viewer,
        (Subject::Operator { right, .. }, Needs::Operator) => right.allows(Need::Operate, None),
        (Subject::Operator { right, .. }, Needs::Admin) => right.allows(Need::Admin, None),
        (Subject::Operator { .. }, Needs::Node | Needs::Nobody) => false,
    }
}

fn not_allowed(subject: &Subject, path: &str, needs: Needs) -> Status {
    let method = path.rsplit('/').next().unwrap_or(path);
    let text = match subject {
        Subject::Operator { name, right } => {
            format!("this needs {}, and {name} is {right}\nhint: ask an admin", needs.told())
        }
        Subject::Root | Subject::Node { .. } | Subject::Stranger => {
            format!("{subject} may not call {method}: it is for {}", needs.told())
        }
    };
    Status::permission_denied(text)
}

/// Whether the caller may deploy this environment.
pub(crate) fn may_deploy(subject: &Subject, environment: &EnvironmentName) -> Result<(), Status> {
    match subject {
        Subject::Root => Ok(()),
        Subject::Operator { right, .. } if right.allows(Need::Deploy, Some(environment)) => Ok(()),
        Subject::Operator { name, right } => Err(Status::permission_denied(format!(
            "{name} may not deploy {environment}: its right is {right}"
        ))),
        Subject::Node { .. } | Subject::Stranger => Err(Status::permission_denied("nodes do not deploy")),
    }
}

/// The admitted caller of a request that reached a handler.
pub(crate) fn subject<T>(request: &Request<T>) -> Result<Subject, Status> {
    let admitted = request.extensions().get::<Subject>().cloned();
    admitted.ok_or_else(|| Status::internal("the call did not pass the table of rights"))
}

/// The node that calls, about itself.
pub(crate) fn node<T>(request: &Request<T>) -> Result<NodeName, Status> {
    match subject(request)? {
        Subject::Node { name } => Ok(name),
        other @ (Subject::Root | Subject::Operator { .. } | Subject::Stranger) => {
            Err(Status::permission_denied(format!("{other} is not a node")))
        }
    }
}

/// The connection's caller, for what only the certificate tells.
pub(crate) fn of<T>(request: &Request<T>) -> Option<Arc<Caller>> {
    request.extensions().get::<Arc<Caller>>().cloned()
}
