//! The envelope that certificates, CRLs and requests share: what was signed, how, and the signature.

use crate::{
    der::{BIT_STRING, Element, NotDer, SEQUENCE},
    key::{PublicKey, Unverified},
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Signed<'a> {
    /// The sequence that was signed.
    pub(crate) body: Element<'a>,
    /// The whole AlgorithmIdentifier. It lies outside of what was signed: CRLs and certificates repeat it inside.
    pub(crate) algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    pub(crate) fn read(der: &'a [u8]) -> Result<Self, NotDer> {
        let mut reader = Element::only(der, SEQUENCE)?.inside();
        let body = reader.expect(SEQUENCE)?;
        let algorithm = reader.expect(SEQUENCE)?.whole;
        let signature = reader.expect(BIT_STRING)?.bits()?;
        reader.end()?;
        Ok(Self { body, algorithm, signature })
    }

    pub(crate) fn verify(&self, key: &PublicKey) -> Result<(), Unverified> {
        key.verify(self.algorithm, self.body.whole, self.signature)
    }
}
