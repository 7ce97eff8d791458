//! Reads a signing request, which anybody may have made: its public key is taken, and nothing else is even parsed.

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

/// A P-256 request is about 300 bytes.
const REQUEST_BYTES: usize = 16 << 10;

/// The public key of a signing request: P-256, and its holder has signed the request with it.
pub(super) fn public_key(pem: &str) -> Result<SubjectPublicKeyInfo, RequestError> {
    if pem.len() > REQUEST_BYTES {
        return Err(RequestError("it is too large"));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| RequestError("it is not PEM"))?;
    let Ok(([], request)) = X509CertificationRequest::from_der(&der) else {
        return Err(RequestError("it is not DER"));
    };
    // The key's own algorithm and curve, not the signature's: those two may differ in a forged request.
    let public = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| RequestError("its key is of an unknown kind; P-256 is expected"))?;
    if public.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(RequestError("its key is not P-256"));
    }
    request.verify_signature().map_err(|_| RequestError("it was not signed with its own key"))?;
    Ok(public)
}

#[derive(Debug, thiserror::Error)]
#[error("the signing request is refused: {0}")]
pub(crate) struct RequestError(&'static str);

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn keys_that_are_weak_dear_or_of_another_curve_are_refused() {
        for request in [
            include_str!("fixtures/rsa-1024.csr"),
            include_str!("fixtures/rsa-2048.csr"),
            include_str!("fixtures/p384-sha256.csr"),
            include_str!("fixtures/ed25519.csr"),
        ] {
            let refused = public_key(request).unwrap_err();
            assert!(refused.to_string().contains("P-256"), "{refused}");
        }
    }

    #[test]
    fn a_request_that_its_key_did_not_sign_is_refused() {
        let pem = request();
        let mut der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
        // The last byte belongs to the signature.
        *der.last_mut().unwrap() ^= 1;
        let refused = public_key(&to_pem(&der)).unwrap_err();
        assert_eq!(refused.to_string(), "the signing request is refused: it was not signed with its own key");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let mut trailing =
            CertificateSigningRequestDer::from_pem_slice(request().as_bytes()).unwrap().to_vec();
        trailing.push(0);
        let large = "-".repeat(REQUEST_BYTES + 1);
        for wrong in ["", "x", &to_pem(b"\x30\x03\x02\x01\x01"), &to_pem(&trailing), &large] {
            assert!(public_key(wrong).is_err(), "{wrong:.40}");
        }
    }

    fn request() -> String {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
    }

    fn to_pem(der: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for part in der.chunks(3) {
            let bits = part.iter().fold(0_u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - part.len()));
            for at in 0..4 {
                let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
                text.push(if at <= part.len() { digit.into() } else { '=' });
            }
        }
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
    }
}
