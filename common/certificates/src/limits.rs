//! Every number that protects the reader, with its reason.

/// One file of CRLs or of authorities. An entry of Puppet's CRL takes 36 bytes, 49 in PEM: a third of a million revoked
/// certificates fit.
pub const BUNDLE_BYTES: usize = 16 << 20;
/// Blocks of one such file: Puppet's own chain has two, a company's above it some more.
pub const BLOCKS: usize = 32;
/// One certificate or signing request. Puppet's are 1 to 3 KiB, with an RSA key of 4096 bits and dozens of names.
pub const DOCUMENT_BYTES: usize = 64 << 10;
/// How far ahead of the reader's clock a CRL may have been issued. Puppet dates its own back by a second or a day, so
/// this is the difference of two clocks alone.
pub const CLOCK_S: u64 = 300;

/// A distinguished name. RFC 5280 allows 64 characters a part; x509-parser takes a time that is quadratic in the length
/// of an unknown part's type to show it.
pub(crate) const NAME_BYTES: usize = 4 << 10;
/// An object identifier. Puppet's longest has 12 octets.
pub(crate) const OID_BYTES: usize = 64;
/// Octets of a CRL number, RFC 5280 5.2.3.
pub(crate) const NUMBER_BYTES: usize = 20;
/// Characters of foreign text in an error.
pub(crate) const SHOWN_CHARS: usize = 200;
/// A line of base64. OpenSSL 3.0 reads lines in pieces of 254 characters and may take a longer one for something else.
pub(crate) const LINE_BYTES: usize = 254;
/// RSA keys: below it is factored by states, above it ring does not verify (and each check would take milliseconds).
pub(crate) const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// RSA exponents: smaller ones are open to known attacks on sloppy signers, larger ones ring does not verify. Puppet,
/// OpenSSL and Java make 65537.
pub(crate) const RSA_EXPONENTS: std::ops::Range<u64> = 65_537..1 << 33;
