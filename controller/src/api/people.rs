//! Tokens and operators.

use std::{collections::BTreeSet, time::Duration};

use bunraku_common::{Chain, NodeName, OperatorName, Role};
use bunraku_engine::{Grant, Operator, Request, Right, State, Token};
use bunraku_proto::v1;
use tonic::Status;

use super::{Api, caller::Subject, parse};
use crate::{clock::wall_s, identity::NewToken};

/// A token that lives longer is a password.
const LONGEST_TOKEN_S: u64 = 24 * 3600;

impl Api {
    pub(super) async fn token_created(
        &self,
        request: v1::CreateTokenRequest,
        who: &Subject,
    ) -> Result<v1::TokenInfo, Status> {
        let node: NodeName = parse(&request.node)?;
        let roles: BTreeSet<Role> = request.roles.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
        if roles.is_empty() {
            return Err(Status::invalid_argument("a node needs a role\nhint: --role compiler"));
        }
        let life = match request.ttl_s {
            0 => self.config.identity.token_minutes * 60,
            1..=LONGEST_TOKEN_S => request.ttl_s,
            _ => return Err(Status::invalid_argument("a token lives 24 hours at most\nhint: --ttl 15m")),
        };
        let expires_s = self.token_expires(life)?;
        let made = new_token()?;
        let request = Request::CreateToken {
            id: made.id.clone(),
            hash: made.digest.to_string(),
            node,
            roles,
            expires_s,
        };
        self.driver.request(request, &who.to_string()).await?;
        self.token_shown(&made)
    }

    pub(super) async fn operator_added(
        &self,
        request: v1::AddOperatorRequest,
        who: &Subject,
    ) -> Result<v1::TokenInfo, Status> {
        let name: OperatorName = parse(&request.name)?;
        let right =
            Right::parse(&request.right).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let expires_s = self.token_expires(self.config.identity.token_minutes * 60)?;
        let made = new_token()?;
        let request = Request::AddOperator {
            name,
            right: right.clone(),
            token: made.id.clone(),
            hash: made.digest.to_string(),
            expires_s,
        };
        self.driver.request(request, &who.to_string()).await?;
        let mut shown = self.token_shown(&made)?;
        shown.roles = vec![right.to_string()];
        Ok(shown)
    }

    /// By a clock that jumped ahead a token would stay good for as long as the jump, once the clock is right again.
    fn token_expires(&self, life_s: u64) -> Result<u64, Status> {
        let jumped = |by: Duration| {
            Status::failed_precondition(format!(
                "the controller's clock jumped by {} s: no tokens are made, they would end at a wrong time\n\
                 hint: set the clock right, then systemctl restart bunraku",
                by.as_secs()
            ))
        };
        self.driver.shared.clock.jumped().map_or_else(|| Ok(wall_s() + life_s), |by| Err(jumped(by)))
    }

    /// The one answer that holds the secret.
    fn token_shown(&self, made: &NewToken) -> Result<v1::TokenInfo, Status> {
        let state = self.driver.shared.state();
        let known = state.fleet().tokens.get(&made.id);
        let info = known.map(|token| token_info(&made.id, token)).unwrap_or_default();
        let pin = self.identities.pin().map_err(|error| Status::internal(Chain(&error).to_string()))?;
        Ok(v1::TokenInfo {
            token: made.secret.reveal().to_owned(),
            controller: self.config.address.clone(),
            pin: pin.to_string(),
            ..info
        })
    }

    pub(super) fn tokens_now(&self) -> Vec<v1::TokenInfo> {
        let state = self.driver.shared.state();
        state.fleet().tokens.iter().map(|(id, token)| token_info(id, token)).collect()
    }

    pub(super) async fn token_revoked(&self, id: String, who: &Subject) -> Result<v1::TokenInfo, Status> {
        let id = self.whole_id(&id)?;
        self.driver.request(Request::RevokeToken { id: id.clone() }, &who.to_string()).await?;
        let state = self.driver.shared.state();
        Ok(state.fleet().tokens.get(&id).map(|token| token_info(&id, token)).unwrap_or_default())
    }

    fn whole_id(&self, beginning: &str) -> Result<String, Status> {
        let state = self.driver.shared.state();
        let found: Vec<_> =
            state.fleet().tokens.keys().filter(|id| id.starts_with(beginning)).cloned().collect();
        match found.as_slice() {
            [only] if !beginning.is_empty() => Ok(only.clone()),
            [] | [_] => {
                Err(Status::not_found(format!("there is no token `{beginning}`\nhint: bunraku token list")))
            }
            _ => Err(Status::invalid_argument(format!(
                "several tokens begin with `{beginning}`\nhint: bunraku token list"
            ))),
        }
    }

    pub(super) fn operators_now(&self) -> Vec<v1::OperatorInfo> {
        let state = self.driver.shared.state();
        state.fleet().operators.iter().map(|(name, operator)| operator_info(name, operator)).collect()
    }

    pub(super) async fn operator_revoked(
        &self,
        name: &str,
        who: &Subject,
    ) -> Result<v1::OperatorInfo, Status> {
        let name: OperatorName = parse(name)?;
        self.driver.request(Request::RevokeOperator { name: name.clone() }, &who.to_string()).await?;
        let state = self.driver.shared.state();
        Ok(operator_of(&state, &name).unwrap_or_default())
    }
}

fn new_token() -> Result<NewToken, Status> {
    NewToken::make().map_err(|_| Status::internal("the kernel gives no random numbers"))
}

fn operator_of(state: &State, name: &OperatorName) -> Option<v1::OperatorInfo> {
    state.fleet().operators.get(name).map(|operator| operator_info(name, operator))
}

fn token_info(id: &str, token: &Token) -> v1::TokenInfo {
    use bunraku_engine::fleet::TokenState;
    let (kind, roles) = match &token.grant {
        Grant::Node { roles, .. } => ("node", roles.iter().map(ToString::to_string).collect()),
        Grant::Operator { .. } => ("operator", Vec::new()),
    };
    let state = match token.state {
        TokenState::Used => "used",
        TokenState::Revoked => "revoked",
        TokenState::Waiting if token.expires_s < wall_s() => "expired",
        TokenState::Waiting => "waiting",
    };
    v1::TokenInfo {
        id: id.to_owned(),
        name: token.grant.name().to_owned(),
        kind: kind.to_owned(),
        roles,
        expires: token.expires_s,
        state: state.to_owned(),
        ..v1::TokenInfo::default()
    }
}

fn operator_info(name: &OperatorName, operator: &Operator) -> v1::OperatorInfo {
    let state = match (operator.revoked, operator.enrolled) {
        (true, _) => "revoked",
        (false, true) if operator.expires_s < wall_s() => "expired",
        (false, true) => "active",
        (false, false) => "has not logged in yet",
    };
    v1::OperatorInfo {
        name: name.to_string(),
        right: operator.right.to_string(),
        state: state.to_owned(),
        certificate_expires: operator.expires_s,
    }
}
