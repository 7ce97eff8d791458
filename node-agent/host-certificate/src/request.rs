//! A key and a request for it, made once for an order; and what was signed for it, to lie beside.

use std::{collections::BTreeSet, path::PathBuf};

use bunraku_certificates::{AltName, Certificate, CertificateError, RequestError, SigningRequest};
use bunraku_common::{Digest, Fence, NodeName, crash, limits};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    World,
    judge::judge,
    kept::{Asked, CERTIFICATE, KEY, Kept, KeptError},
};

const REQUEST: &str = "request.pem";
const AGAIN: &str = "hint: on the controller: bunraku cert request NODE";

/// Which order it is: its number, within one fleet. A controller that restarted gives the same one in its next term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub fleet: Option<Digest>,
    pub fence: Fence,
}

/// Why there is no request, or why a certificate does not lie beside.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(
        "`{name}` is not a name that an agent can reach a server by \
         (hint: name hosts in lower case, such as puppet.example.com; addresses and wildcards are not taken)"
    )]
    Name { name: String },
    #[error("{found} alternative names are too many (hint: name at most {})", limits::ALT_NAMES)]
    TooManyNames { found: usize },
    #[error("another request was made under this order\n{AGAIN}")]
    OtherRequest,
    #[error("no request was made here under this order\n{AGAIN}")]
    NotAsked,
    #[error("a key could not be made")]
    Make(#[source] rcgen::Error),
    #[error("the kept request cannot be read\n{AGAIN}")]
    Request(#[source] RequestError),
    #[error(transparent)]
    Unreadable(#[from] CertificateError),
    #[error(
        "it is an authority's certificate, not a host's (hint: look at what Puppet's CA signed before it is used)"
    )]
    Authority,
    #[error("it was issued for another key than the one that was made here\n{AGAIN}")]
    OtherKey,
    #[error("its subject is `{found}`, the common name {wanted} alone was asked for\n{AGAIN}")]
    Subject { found: String, wanted: NodeName },
    #[error(
        "its alternative names are not those that were asked for:{}{} \
         (hint: see allow-subject-alt-names in Puppet Server's ca.conf, then ask again)",
        listed(" missing", missing),
        listed(" foreign", foreign)
    )]
    AltNames { missing: BTreeSet<AltName>, foreign: BTreeSet<AltName> },
    #[error(
        "it is not of an authority in {} (hint: openssl storeutl -noout -text -certs {} shows them)", ca.display(), ca.display()
    )]
    OtherAuthority { ca: PathBuf },
    #[error("it is valid in {in_s} s only by this host's clock (hint: timedatectl)")]
    NotYet { in_s: u64 },
    #[error(
        "it ended {since_s} s ago by this host's clock (hint: timedatectl; if the clock is right, ask for a new one)"
    )]
    Ended { since_s: u64 },
    #[error("it is revoked by {}\n{AGAIN}", crl.display())]
    Revoked { crl: PathBuf },
    #[error("it cannot be judged by {}: {why} (hint: puppet ssl verify names what is wrong)", path.display())]
    NothingToJudgeBy { path: PathBuf, why: String },
    #[error("it could not be kept")]
    Kept(#[from] KeptError),
}

fn listed(what: &str, names: &BTreeSet<AltName>) -> String {
    let each: Vec<String> = names.iter().take(20).map(ToString::to_string).collect();
    if each.is_empty() { String::new() } else { format!("{what} {}", each.join(", ")) }
}

impl Kept {
    /// The request for this order in PEM; made at the first time, with a key of its own. What an older order left
    /// unfinished is removed.
    pub fn request(
        &mut self,
        order: Order,
        certname: &NodeName,
        alt_names: BTreeSet<AltName>,
    ) -> Result<Vec<u8>, Refused> {
        let mut alt_names = alt_names;
        alt_names.insert(AltName::dns(certname));
        if let Some(asked) = self.asked(order) {
            if asked.certname == *certname && asked.alt_names == alt_names {
                return Ok(self.get(&asked.dir, REQUEST)?.to_vec());
            }
            // A restored controller may give a number for the second time, but never within one term.
            if asked.fence.term == order.fence.term {
                return Err(Refused::OtherRequest);
            }
        }
        let (key, request) = make(certname, &alt_names).map_err(Refused::Make)?;
        let Fence { term, generation } = order.fence;
        let fleet = order.fleet.map(|fleet| fleet.short()).unwrap_or_default();
        // Never the name of what counts now, which must stay whole until this one does.
        let dir = format!("request-{fleet}-{}-{}", term.number, generation.0);
        self.make(&dir, &[(KEY, key.as_bytes()), (REQUEST, request.as_bytes())])?;
        crash::point("certificate-key-made");
        let Order { fleet, fence } = order;
        let certname = certname.clone();
        self.change(|state| {
            state.asked = Some(Asked { dir, fleet, fence, certname, alt_names, staged: None });
        })?;
        Ok(request.into_bytes())
    }

    /// Judges what was signed, and lets it lie beside.
    pub fn stage(&mut self, order: Order, pem: &[u8], world: &World<'_>) -> Result<(), Refused> {
        let asked = self.asked(order).cloned().ok_or(Refused::NotAsked)?;
        let certificate = Certificate::parse(pem)?;
        let request = SigningRequest::parse(&self.get(&asked.dir, REQUEST)?).map_err(Refused::Request)?;
        judge(&certificate, &request, &asked, world)?;
        self.put(&asked.dir, CERTIFICATE, pem)?;
        crash::point("certificate-staged");
        let staged = Some(certificate.fingerprint().hex());
        self.change(|state| {
            if let Some(asked) = &mut state.asked {
                asked.staged = staged;
            }
        })?;
        Ok(())
    }

    /// Whether what lies beside could still be put in place: time has passed since, and somebody may have revoked it.
    pub(crate) fn still_holds(&self, asked: &Asked, world: &World<'_>) -> Result<(), Refused> {
        let certificate = Certificate::parse(&self.get(&asked.dir, CERTIFICATE)?)?;
        let request = SigningRequest::parse(&self.get(&asked.dir, REQUEST)?).map_err(Refused::Request)?;
        judge(&certificate, &request, asked, world)
    }

    fn asked(&self, order: Order) -> Option<&Asked> {
        let same =
            |asked: &&Asked| asked.fleet == order.fleet && asked.fence.generation == order.fence.generation;
        self.state().asked.as_ref().filter(same)
    }
}

/// P-256: ring makes no RSA keys, and Puppet's CA, server and agents take it.
fn make(
    certname: &NodeName,
    alt_names: &BTreeSet<AltName>,
) -> Result<(Zeroizing<String>, String), rcgen::Error> {
    let mut pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let names = alt_names.iter().filter_map(|name| match name {
        AltName::Dns(name) => Some(name.clone()),
        AltName::Ip(_) | AltName::Other(_) => None,
    });
    let mut params = CertificateParams::new(names.collect::<Vec<_>>())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, certname.as_str());
    let request = params.serialize_request(&pair)?.pem()?;
    let key = Zeroizing::new(pair.serialize_pem());
    pair.zeroize();
    Ok((key, request))
}
