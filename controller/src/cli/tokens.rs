//! `bunraku token create|list|revoke`.

use bunraku_proto::v1::{CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, TokenInfo};
use clap::Subcommand;

use super::{
    Failure, Reach, client,
    output::{given, or_dash, table},
};

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a one-time token for a node and print the line to run on that node
    #[command(after_help = "Example: bunraku token create c1.example.com --role compiler --ttl 15m")]
    Create {
        /// The node's name: its certname
        node: String,
        /// compiler, load-balancer, puppetdb or service
        #[arg(long = "role", required = true, value_name = "ROLE")]
        roles: Vec<String>,
        /// How long the token is good: 90s, 15m, 2h
        #[arg(long, default_value = "15m", value_parser = parse_span)]
        ttl: u64,
    },
    /// Tokens and what became of them
    #[command(after_help = "Example: bunraku token list")]
    List,
    /// Make a token useless
    #[command(after_help = "Example: bunraku token revoke 7f3a")]
    Revoke {
        /// As `token list` shows it, or its unique beginning
        #[arg(value_parser = given())]
        id: String,
    },
}

impl Token {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        match self {
            Self::Create { node, roles, ttl } => {
                let reply =
                    client.create_token(CreateTokenRequest { node, roles, ttl_s: ttl }).await?.into_inner();
                reach.output.print(&reply, |token| {
                    format!(
                        "token {} for {} ({}), good until {}, once. On {} run:\n\n  \
                         echo {} | bunraku-agent enroll --controller {} --pin {} --name {} --token-file -\n",
                        token.id,
                        token.name,
                        token.roles.join(", "),
                        clock_time(token.expires),
                        token.name,
                        token.token,
                        token.controller,
                        token.pin,
                        token.name
                    )
                })
            }
            Self::List => {
                let reply = client.list_tokens(ListTokensRequest {}).await?.into_inner();
                reach.output.print(&reply, |reply| {
                    table(
                        &["TOKEN", "FOR", "KIND", "ROLES", "GOOD UNTIL", "STATE"],
                        reply.tokens.iter().map(|t| {
                            let until = clock_time(t.expires);
                            vec![
                                t.id.clone(),
                                t.name.clone(),
                                t.kind.clone(),
                                or_dash(&t.roles.join(",")).to_owned(),
                                until,
                                t.state.clone(),
                            ]
                        }),
                        "no tokens\nhint: bunraku token create NODE --role compiler",
                    )
                })
            }
            Self::Revoke { id } => {
                let reply = client.revoke_token(RevokeTokenRequest { id }).await?.into_inner();
                reach
                    .output
                    .print(&reply, |token: &TokenInfo| format!("token {} is {}\n", token.id, token.state))
            }
        }
    }
}

/// `2026-11-23 14:05:00 UTC`.
pub(super) fn clock_time(unix_s: u64) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    i64::try_from(unix_s)
        .ok()
        .and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok())
        .and_then(|t| t.format(&format).ok())
        .unwrap_or_else(|| unix_s.to_string())
}

/// Seconds from `90s`, `15m`, `2h`, `1d`.
pub(super) fn parse_span(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a length of time (examples: 90s, 15m, 2h)");
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_need_a_unit() {
        assert_eq!(parse_span("15m"), Ok(900));
        for wrong in ["", "15", "m", "-1m", "1w", "99999999999999999999h"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }
}
