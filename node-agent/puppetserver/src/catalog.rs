//! A catalog, compiled to see that the server can.

use http::{Method, StatusCode};

use crate::{PuppetServer, ServerError};

impl PuppetServer {
    /// Has a catalog of `certname` compiled in `production`, without facts of its own, and throws it away. Puppet
    /// Server's own rule lets a certificate ask only for its own catalog (auth.conf, `puppetlabs v3 catalog from agents`,
    /// sort-order 500): for another one it needs a rule before that.
    pub async fn catalog(&self, certname: &str) -> Result<(), ServerError> {
        let doing = format!("compiling a catalog for {certname}");
        let path = format!("/puppet/v3/catalog/{certname}");
        let answer = self.ask(&doing, Method::GET, &format!("{path}?environment=production")).await?;
        match answer.status {
            StatusCode::OK => Ok(()),
            _ => Err(self.refusal(&doing, ("get", &path), &answer)),
        }
    }
}
