//! One call of the CA API: what it is for, what is asked, and what its failures mean.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::{
    door::{Answer, Door, Fault, Question},
    error::{CaError, Why},
};

/// One certificate, request or status: `bunraku-certificates` reads at most 64 KiB, 88 in PEM.
const DOCUMENT_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Call {
    /// For [`CaError`]: `sign the certificate of c3.example.com`.
    what: String,
    question: Question,
}

impl Call {
    pub(crate) fn get(what: String, path: String, accept: &'static str, within: Duration) -> Self {
        Self::new(what, Method::GET, path, accept, within)
    }

    /// Longer answers than one document.
    pub(crate) const fn at_most(mut self, bytes: usize) -> Self {
        self.question.most = bytes;
        self
    }

    pub(crate) fn put(
        what: String,
        path: String,
        (kind, body): (&'static str, String),
        within: Duration,
    ) -> Self {
        let mut call = Self::new(what, Method::PUT, path, "application/json, text/plain", within);
        call.question.body = Some((kind, Bytes::from(body)));
        call
    }

    pub(crate) fn delete(what: String, path: String, within: Duration) -> Self {
        Self::new(what, Method::DELETE, path, "application/json, text/plain", within)
    }

    fn new(what: String, method: Method, path: String, accept: &'static str, within: Duration) -> Self {
        let path = format!("/puppet-ca/v1/{path}");
        Self { what, question: Question { method, path, accept, body: None, within, most: DOCUMENT_BYTES } }
    }

    /// The answer, whatever its status, apart from those that mean the same for every call.
    pub(crate) async fn ask(&self, door: &Door) -> Result<Answer, CaError> {
        let answer = door.ask(&self.question).await.map_err(|Fault { why, left }| self.failed(why, left))?;
        match answer.status.as_u16() {
            403 => Err(self.refused(Why::MayNot { text: answer.excerpt() })),
            404 if !answer.of_puppet => Err(self.refused(Why::NoCa { address: door.address.clone() })),
            _ => Ok(answer),
        }
    }

    /// An answer that the call has no meaning for.
    pub(crate) fn unexpected(&self, answer: &Answer) -> CaError {
        // A failure inside of Puppet Server may come after half of the work.
        let left = answer.status.is_server_error();
        self.failed(Why::Answer { status: answer.status.as_u16(), text: answer.excerpt() }, left)
    }

    /// The CA has surely done nothing.
    pub(crate) fn refused(&self, why: Why) -> CaError {
        self.failed(why, false)
    }

    fn failed(&self, why: Why, left: bool) -> CaError {
        let unknown = left && self.question.method != Method::GET;
        CaError { what: self.what.clone(), unknown, why: Box::new(why) }
    }
}
