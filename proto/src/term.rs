//! A controller's term on the wire.

use bunraku_common::Term;

use crate::v1;

impl From<Term> for v1::Term {
    fn from(term: Term) -> Self {
        Self { number: term.number, id: format!("{:032x}", term.id) }
    }
}

impl v1::Term {
    /// `None`: its id is no number.
    pub fn parsed(&self) -> Option<Term> {
        Some(Term { number: self.number, id: u128::from_str_radix(&self.id, 16).ok()? })
    }
}
