//! The doors of the controller's one port. The ClientHello's ALPN picks the door, and each door has its own rustls
//! configuration: a certificate that is good for one door says nothing at another.

use std::fmt;

/// One protocol on the controller's port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Door {
    /// A node that the controller will call: mesh certificate mandatory.
    Node,
    /// A node or an operator that calls the controller: mesh certificate mandatory.
    H2,
    /// Nobody yet: enrolment by one-time token, after the caller has checked the CA pin.
    Enroll,
    /// Enrolment by a Puppet client certificate, under Puppet's CA and CRLs.
    EnrollPuppet,
}

impl Door {
    pub const ALL: [Self; 4] = [Self::Node, Self::H2, Self::Enroll, Self::EnrollPuppet];

    /// The protocol name as it stands in the ClientHello. The number rises when a door's meaning changes.
    pub const fn alpn(self) -> &'static str {
        match self {
            Self::Node => "bunraku-node/1",
            Self::H2 => "h2",
            Self::Enroll => "bunraku-enroll/1",
            Self::EnrollPuppet => "bunraku-enroll-puppet/1",
        }
    }

    pub fn from_alpn(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|door| door.alpn().as_bytes() == name)
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.alpn())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_door_is_found_by_its_own_name_and_by_no_other() {
        for door in Door::ALL {
            assert_eq!(Door::from_alpn(door.alpn().as_bytes()), Some(door));
        }
        for wrong in [&b""[..], b"h3", b"http/1.1", b"bunraku-node/2", b"H2"] {
            assert_eq!(Door::from_alpn(wrong), None);
        }
    }
}
