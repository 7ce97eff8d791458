//! Which CRLs may follow which, and what to think of a file that somebody else has written.

use std::{
    io,
    path::{Path, PathBuf},
};

use bunraku_certificates::{Authorities, AuthoritiesError, BUNDLE_BYTES, Comparison, CrlError, Crls};
use bunraku_common::Chain;
use bunraku_files::Found;

use crate::Place;

const RESTORED: &str =
    " (hint: if Puppet's CA was restored from a backup, an administrator accepts that on the controller)";

/// Why CRLs are not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("they cannot be read")]
    Unreadable(#[source] CrlError),
    #[error("the CA bundle {} could not be read, so nothing can be judged by it", path.display())]
    NoBundle {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the CA bundle {} cannot be used (hint: openssl x509 -in {} -noout -subject)", path.display(), path.display())]
    Bundle {
        path: PathBuf,
        #[source]
        source: AuthoritiesError,
    },
    #[error(
        "they do not hold by this node's CA bundle {} \
         (hint: openssl storeutl -noout -text -certs {} shows its authorities)", ca.display(), ca.display()
    )]
    Judged {
        ca: PathBuf,
        #[source]
        source: CrlError,
    },
    #[error("they are older than {than}: number {theirs} where {ours} is known{RESTORED}")]
    Older { than: String, theirs: String, ours: String },
    #[error("they are of other authorities than {than}{RESTORED}")]
    OtherIssuers { than: String },
    /// Which of the two came later cannot be told, so that somebody who is revoked might be let in again.
    #[error("they have the numbers of {than}, and other content{RESTORED}")]
    SameNumbers { than: String },
    #[error("this node keeps no file of CRLs")]
    NoFile,
}

/// Reads a CA bundle, which may lie in a directory of Puppet Server's user.
pub fn authorities(path: &Path) -> Result<Authorities, Refused> {
    let bytes = bunraku_files::read(path, BUNDLE_BYTES)
        .map_err(|source| Refused::NoBundle { path: path.into(), source })?;
    Authorities::parse(&bytes).map_err(|source| Refused::Bundle { path: path.into(), source })
}

/// The files that can take them, with their authorities; at least one. A file with a CA bundle of its own does not keep
/// the others from getting theirs.
pub(crate) fn who_can_take<'a>(
    crls: &Crls,
    places: &'a [Place],
    now_s: u64,
) -> Result<Vec<(&'a Place, Authorities)>, Refused> {
    let (mut fits, mut refused) = (Vec::new(), None);
    for place in places {
        let judged = authorities(&place.ca).and_then(|authorities| {
            let checked = crls.check(&authorities, now_s);
            checked.map_err(|source| Refused::Judged { ca: place.ca.clone(), source })?;
            Ok(authorities)
        });
        match judged {
            Ok(authorities) => fits.push((place, authorities)),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    if fits.is_empty() { Err(refused.unwrap_or(Refused::NoFile)) } else { Ok(fits) }
}

/// What lies in the file counts, too: Puppet's agent may have brought it before the controller did.
pub(crate) fn is_not_older_than(
    place: &Place,
    authorities: &Authorities,
    crls: &Crls,
    now_s: u64,
) -> Result<(), Refused> {
    let Ok(Found::File { bytes, .. }) = place.read() else { return Ok(()) };
    let than = format!("those in {}", place.path.display());
    match Weight::of(&bytes, authorities, now_s) {
        Weight::Whole(there) => may_follow(&there, crls, &than),
        Weight::Part(there) => match may_follow(&there, crls, &than) {
            Err(error @ (Refused::Older { .. } | Refused::SameNumbers { .. })) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        },
        Weight::Nothing => Ok(()),
    }
}

/// Whether `theirs` may take the place of `ours`, which are called `than`.
pub(crate) fn may_follow(ours: &Crls, theirs: &Crls, than: &str) -> Result<(), Refused> {
    let than = than.to_owned();
    match ours.numbers().compare(&theirs.numbers()) {
        Comparison::Newer => Ok(()),
        Comparison::Same if ours.has_same_content(theirs) => Ok(()),
        Comparison::Same => Err(Refused::SameNumbers { than }),
        Comparison::OtherIssuers => Err(Refused::OtherIssuers { than }),
        Comparison::Older { theirs, ours, .. } => {
            Err(Refused::Older { than, theirs: theirs.to_string(), ours: ours.to_string() })
        }
    }
}

/// How much of a file counts when the next CRLs are compared with it. A forged one with a high number must not lock the
/// genuine ones out.
enum Weight {
    /// All authorities have signed theirs.
    Whole(Crls),
    /// Genuine as far as they go: an authority's is missing, or time has passed over them.
    Part(Crls),
    Nothing,
}

impl Weight {
    fn of(file: &[u8], authorities: &Authorities, now_s: u64) -> Self {
        let Ok(crls) = Crls::parse(file) else { return Self::Nothing };
        match crls.check(authorities, now_s) {
            Ok(()) => Self::Whole(crls),
            Err(CrlError::Missing { .. }) => Self::Part(crls),
            Err(CrlError::Ended { .. }) if is_genuine(&crls, authorities).is_ok() => Self::Part(crls),
            Err(_) => Self::Nothing,
        }
    }
}

/// Whether they were good at some time: signed, and complete by this bundle.
pub(crate) fn is_genuine(crls: &Crls, authorities: &Authorities) -> Result<(), CrlError> {
    crls.check(authorities, crls.ends_s().saturating_sub(1))
}

/// How a file stands to the CRLs that are wanted there.
pub(crate) enum Stands {
    /// They are there.
    Right,
    /// Somebody else brought newer ones that hold.
    Newer(Crls),
    /// They must be put there.
    Wrong(String),
    /// Whether they may be put there cannot be said.
    Open(String),
}

pub(crate) fn stands(wanted: &Crls, file: &[u8], ca: &Path, now_s: u64) -> Stands {
    // Mostly so, and sparing: large CRLs have hundreds of thousands of entries.
    if file == wanted.pem() {
        return Stands::Right;
    }
    let told = |error: &(dyn std::error::Error + 'static)| Chain(error).to_string();
    let found = match Crls::parse(file) {
        Ok(found) => found,
        Err(error) => return Stands::Wrong(told(&error)),
    };
    // Before anything is judged: what is wanted stays where it is, also when the CA bundle is away.
    if wanted.has_same_content(&found) {
        return Stands::Right;
    }
    let authorities = match authorities(ca) {
        Ok(authorities) => authorities,
        Err(error) => return Stands::Open(told(&error)),
    };
    let newer = wanted.numbers().compare(&found.numbers()) == Comparison::Newer;
    match found.check(&authorities, now_s) {
        Ok(()) if newer => Stands::Newer(found),
        Ok(()) => {
            let why = may_follow(wanted, &found, "what this node was given").err();
            Stands::Wrong(why.map_or_else(|| "it has other content".to_owned(), |why| told(&why)))
        }
        // To go back from them would be wrong, to take them over, too.
        Err(error @ CrlError::Ended { .. }) if newer && is_genuine(&found, &authorities).is_ok() => {
            Stands::Open(format!("it is newer than what this node was given, and {}", told(&error)))
        }
        Err(error) => Stands::Wrong(told(&error)),
    }
}
