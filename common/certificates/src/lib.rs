//! Judges Puppet's certificates, signing requests and revocation lists (CRLs) from their bytes.
//!
//! The controller reads the CA's files with it before it sends them, and judges a signing request before Puppet's CA
//! signs it; a node judges what it received before Puppet Server may read it. Nothing here has a clock, a file or a
//! socket: the time is an argument, in Unix seconds.
//!
//! The bytes come from outside. All of them are read in one pass under the numbers in `limits`, strictly: what two
//! readers could understand in two ways is refused. Whoever wrote them, nothing here panics.

mod authorities;
mod certificate;
mod crl;
mod crls;
mod der;
mod fingerprint;
mod issuer;
mod judge;
mod key;
pub mod limits;
mod names;
mod number;
mod numbers;
mod pem;
mod request;
mod signed;

pub use authorities::{Authorities, AuthoritiesError};
pub use certificate::{Certificate, CertificateError};
pub use crl::Crl;
pub use crls::{CrlError, Crls, Revoked};
pub use fingerprint::{Fingerprint, NotAFingerprint};
pub use issuer::IssuerId;
pub use judge::{Refusal, Wanted};
pub use key::KeyError;
pub use limits::{BLOCKS, BUNDLE_BYTES, CLOCK_S, DOCUMENT_BYTES};
pub use names::{AltName, NotAnAltName};
pub use number::{CrlNumber, NotACrlNumber};
pub use numbers::{Comparison, Numbers};
pub use pem::PemError;
pub use request::{RequestError, SigningRequest};
