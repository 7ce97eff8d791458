//! A strict reader of DER for the places where leniency would be a hole.
//!
//! x509-parser 0.18.1 ignores what follows the signature in its envelope, reads only the first value of a request's
//! attribute, and takes long to show absurd object identifiers. Revocation lists, signing requests, and the
//! envelope of everything that is signed are therefore read here; names, dates and certificates are its work.

use x509_parser::{prelude::FromDer, time::ASN1Time};

use crate::limits::OID_BYTES;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
/// `[0]`, constructed.
pub(crate) const CONTEXT_0: u8 = 0xa0;

/// The bytes are not DER, or not that of what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotDer;

/// One element: its tag, what is inside, and all of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// The only element of `bytes`.
    pub(crate) fn only(bytes: &'a [u8], tag: u8) -> Result<Self, NotDer> {
        let mut reader = Reader(bytes);
        let element = reader.expect(tag)?;
        reader.end()?;
        Ok(element)
    }

    pub(crate) const fn inside(self) -> Reader<'a> {
        Reader(self.content)
    }

    /// A whole number that is not negative: its octets without leading zeros, so that zero has none.
    pub(crate) fn natural(self) -> Result<&'a [u8], NotDer> {
        match *self.content {
            [] => Err(NotDer),
            [0, second, ..] if second < 0x80 => Err(NotDer),
            [0, ref rest @ ..] => Ok(rest),
            [first, ..] if first >= 0x80 => Err(NotDer),
            _ => Ok(self.content),
        }
    }

    /// The octets of a bit string without unused bits.
    pub(crate) const fn bits(self) -> Result<&'a [u8], NotDer> {
        match self.content {
            [0, octets @ ..] => Ok(octets),
            _ => Err(NotDer),
        }
    }

    /// An object identifier in dotted form.
    pub(crate) fn oid(self) -> Result<String, NotDer> {
        if self.content.is_empty() || self.content.len() > OID_BYTES {
            return Err(NotDer);
        }
        let mut text = String::new();
        let mut arc: Option<u64> = None;
        for byte in self.content {
            let low = u64::from(byte & 0x7f);
            let value = match arc {
                // A leading zero digit would be a second spelling.
                None if *byte == 0x80 => return Err(NotDer),
                None => low,
                Some(high) if high >> 57 != 0 => return Err(NotDer),
                Some(high) => high << 7 | low,
            };
            arc = (byte & 0x80 != 0).then_some(value);
            if arc.is_none() {
                push_arc(&mut text, value);
            }
        }
        if arc.is_none() { Ok(text) } else { Err(NotDer) }
    }

    /// A date in Unix seconds; what lies before 1970 is 0.
    pub(crate) fn seconds(self) -> Result<u64, NotDer> {
        match ASN1Time::from_der(self.whole) {
            Ok(([], time)) => Ok(u64::try_from(time.timestamp()).unwrap_or(0)),
            Ok(_) | Err(_) => Err(NotDer),
        }
    }
}

fn push_arc(text: &mut String, value: u64) {
    if text.is_empty() {
        let first = (value / 40).min(2);
        *text = format!("{first}.{}", value - 40 * first);
    } else {
        text.push('.');
        text.push_str(&value.to_string());
    }
}

/// Elements one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(crate) const fn end(self) -> Result<(), NotDer> {
        if self.0.is_empty() { Ok(()) } else { Err(NotDer) }
    }

    pub(crate) fn next(&mut self) -> Result<Element<'a>, NotDer> {
        let [tag, first, rest @ ..] = self.0 else { return Err(NotDer) };
        // Tags above 30 are not used in X.509.
        if tag & 0x1f == 0x1f {
            return Err(NotDer);
        }
        let (length, rest) = length(*first, rest)?;
        let (content, rest) = rest.split_at_checked(length).ok_or(NotDer)?;
        let whole = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Ok(Element { tag: *tag, content, whole })
    }

    pub(crate) fn expect(&mut self, tag: u8) -> Result<Element<'a>, NotDer> {
        let element = self.next()?;
        if element.tag == tag { Ok(element) } else { Err(NotDer) }
    }

    /// The next element when it has one of these tags.
    pub(crate) fn optional(&mut self, tags: &[u8]) -> Result<Option<Element<'a>>, NotDer> {
        match self.0.first() {
            Some(tag) if tags.contains(tag) => self.next().map(Some),
            Some(_) | None => Ok(None),
        }
    }

    /// A date, as X.509 has them.
    pub(crate) fn time(&mut self) -> Result<u64, NotDer> {
        self.optional(&[UTC_TIME, GENERALIZED_TIME])?.ok_or(NotDer)?.seconds()
    }
}

/// A definite length in its shortest form.
fn length(first: u8, rest: &[u8]) -> Result<(usize, &[u8]), NotDer> {
    if first < 0x80 {
        return Ok((usize::from(first), rest));
    }
    let count = usize::from(first & 0x7f);
    if count == 0 || count > 4 {
        return Err(NotDer);
    }
    let (octets, rest) = rest.split_at_checked(count).ok_or(NotDer)?;
    let length = octets.iter().fold(0_usize, |length, octet| length << 8 | usize::from(*octet));
    if octets[0] == 0 || length < 0x80 { Err(NotDer) } else { Ok((length, rest)) }
}

/// One extension of a CRL, of an entry in it, or of a request.
#[derive(Debug)]
pub(crate) struct Extension<'a> {
    /// In dotted form.
    pub(crate) oid: String,
    pub(crate) critical: bool,
    pub(crate) value: &'a [u8],
}

impl<'a> Extension<'a> {
    /// All of a sequence of extensions.
    pub(crate) fn all(sequence: Element<'a>) -> Result<Vec<Self>, NotDer> {
        let mut reader = sequence.inside();
        let mut all = Vec::new();
        while !reader.is_empty() {
            all.push(Self::read(reader.expect(SEQUENCE)?)?);
        }
        Ok(all)
    }

    fn read(element: Element<'a>) -> Result<Self, NotDer> {
        let mut reader = element.inside();
        let oid = reader.expect(OID)?.oid()?;
        let critical = match reader.optional(&[BOOLEAN])?.map(|flag| flag.content) {
            None | Some([0]) => false,
            Some([0xff]) => true,
            Some(_) => return Err(NotDer),
        };
        let value = reader.expect(OCTET_STRING)?.content;
        reader.end()?;
        Ok(Self { oid, critical, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_one_spelling() {
        let long = [&[4, 0x81, 0x80][..], &[0; 0x80]].concat();
        assert_eq!(Element::only(&long, OCTET_STRING).unwrap().content.len(), 0x80);
        for wrong in [
            &[][..],
            &[4],
            &[4, 1],
            &[4, 0x80, 0, 0],
            &[4, 0x81, 1, 0],
            &[4, 0x82, 0, 1, 0],
            &[4, 0x85, 0, 0, 0, 0, 1, 0],
            &[4, 0x84, 0xff, 0xff, 0xff, 0xff, 0],
            &[0x1f, 4, 0],
            &[4, 0, 0],
            &[5, 0],
        ] {
            assert!(Element::only(wrong, OCTET_STRING).is_err(), "{wrong:x?}");
        }
    }

    #[test]
    fn a_natural_number_has_one_spelling() {
        let natural = |content: &'static [u8]| Element { tag: INTEGER, content, whole: content }.natural();
        assert_eq!(natural(&[0]), Ok(&[][..]));
        assert_eq!(natural(&[0, 0x80]), Ok(&[0x80][..]));
        assert_eq!(natural(&[0x7f, 0]), Ok(&[0x7f, 0][..]));
        for wrong in [&[][..], &[0x80], &[0xff, 1], &[0, 0], &[0, 0x7f]] {
            assert_eq!(natural(wrong), Err(NotDer), "{wrong:x?}");
        }
    }

    #[test]
    fn object_identifiers_are_shown_in_dotted_form_and_have_one_spelling() {
        let oid = |content: &[u8]| Element { tag: OID, content, whole: content }.oid();
        assert_eq!(oid(&[0x2b, 6, 1, 4, 1, 0x82, 0x8c, 0x4c, 1, 3, 39]).unwrap(), "1.3.6.1.4.1.34380.1.3.39");
        assert_eq!(oid(&[0x60, 0x86, 0x48]).unwrap(), "2.16.840");
        assert_eq!(oid(&[0x88, 0x37]).unwrap(), "2.999");
        assert_eq!(oid(&[0]).unwrap(), "0.0");
        let wide = [&[0x2b][..], &[0xff; 8], &[0x7f]].concat();
        assert_eq!(oid(&wide).unwrap(), format!("1.3.{}", u64::MAX >> 1));
        let too_wide = [&[0x2b][..], &[0xff; 9], &[0x7f]].concat();
        for wrong in [&[][..], &[0x80], &[0x2b, 0x80, 1], &[0x2b, 0x81], &too_wide, &[1; OID_BYTES + 1]] {
            assert!(oid(wrong).is_err(), "{wrong:x?}");
        }
    }

    #[test]
    fn a_flag_is_true_or_false() {
        let critical = |flag| {
            let der = [0x30, 10, 6, 3, 0x55, 0x1d, 99, 1, 1, flag, 4, 0];
            Extension::all(Element { tag: SEQUENCE, content: &der, whole: &der }).map(|all| all[0].critical)
        };
        assert_eq!((critical(0xff), critical(0), critical(1)), (Ok(true), Ok(false), Err(NotDer)));
    }
}
