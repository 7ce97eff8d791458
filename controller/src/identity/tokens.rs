//! One-time tokens: 32 random bytes, shown once, stored only as their hash. Whether a token is still good, and for
//! whom, is journalled state; here is how one looks.

use bunraku_common::Digest;
use zeroize::Zeroizing;

/// What people recognise it by, in a file and in a leak scanner.
const PREFIX: &str = "bnk_";
const RANDOM_BYTES: usize = 32;

/// A token at the only instant at which it is known.
#[derive(Debug)]
pub(crate) struct NewToken {
    /// Public, for `token list` and `token revoke`.
    pub(crate) id: String,
    /// For the person who asked.
    pub(crate) secret: Secret,
    /// For the journal.
    pub(crate) digest: Digest,
}

/// The text of a token. `Debug` hides it; dropping wipes it.
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl NewToken {
    pub(crate) fn make() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; RANDOM_BYTES]);
        getrandom::fill(bytes.as_mut_slice())?;
        let mut secret = Zeroizing::new(String::with_capacity(PREFIX.len() + 2 * RANDOM_BYTES));
        secret.push_str(PREFIX);
        for byte in bytes.iter() {
            for half in [byte >> 4, byte & 15] {
                secret.push(char::from_digit(half.into(), 16).expect("half a byte is one hex digit"));
            }
        }
        let digest = Digest::of(secret.as_bytes());
        Ok(Self { id: digest.short(), secret: Secret(secret), digest })
    }
}

/// The hash of a text that could be a token, else `None`. It is this hash that is compared and looked up, so the
/// time that takes tells nothing about a token.
pub(crate) fn token_digest(text: &str) -> Option<Digest> {
    let digits = text.trim().strip_prefix(PREFIX)?;
    let hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (digits.len() == 2 * RANDOM_BYTES && hex).then(|| Digest::of(text.trim().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_again_by_its_hash_and_by_nothing_else() {
        let (one, two) = (NewToken::make().unwrap(), NewToken::make().unwrap());
        assert_eq!(token_digest(one.secret.reveal()), Some(one.digest));
        assert_eq!(token_digest(&format!("{}\n", one.secret.reveal())), Some(one.digest));
        assert_ne!(token_digest(two.secret.reveal()), Some(one.digest));
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_before_anything_is_looked_up() {
        let good = NewToken::make().unwrap();
        let good = good.secret.reveal();
        for wrong in ["", "bnk_", &good[..40], &good[4..], &good.to_uppercase(), &format!("{good}0")] {
            assert_eq!(token_digest(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_is_neither_in_its_debug_text_nor_in_its_id() {
        let token = NewToken::make().unwrap();
        let digits = token.secret.reveal()[4..].to_owned();
        assert!(!format!("{token:?}").contains(&digits));
        assert!(!digits.contains(&token.id));
    }
}
