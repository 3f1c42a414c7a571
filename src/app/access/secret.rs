//! Secrets: how they are made, and how they are proved.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::app::Refusal;
use crate::domain::access::{KeyText, PUBLIC_ID_LENGTH, SECRET_LENGTH};

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The key of the HMACs that are stored instead of secrets. Whoever has the database alone cannot make it.
#[derive(Clone)]
pub struct Pepper(Vec<u8>);

impl Pepper {
    /// The fewest bytes that nobody guesses.
    pub const MIN_BYTES: usize = 32;

    /// # Errors
    /// If there are fewer than [`Self::MIN_BYTES`] bytes.
    pub fn new(bytes: Vec<u8>) -> Result<Self, String> {
        match bytes.len() >= Self::MIN_BYTES {
            true => Ok(Self(bytes)),
            false => Err(format!("a pepper has at least {} bytes", Self::MIN_BYTES)),
        }
    }

    /// A new one.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn generate() -> Result<Self, String> {
        let mut bytes = vec![0; Self::MIN_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
        Ok(Self(bytes))
    }

    /// Its bytes, to keep them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What tells this pepper from others without telling what it is.
    pub fn fingerprint(&self) -> Vec<u8> {
        self.mac("fingerprint", b"").finalize().into_bytes().to_vec()
    }

    /// What is stored instead of a key's secret.
    pub fn mac_of_secret(&self, secret: &str) -> Vec<u8> {
        self.mac("key", secret.as_bytes()).finalize().into_bytes().to_vec()
    }

    /// Whether this secret is the one whose HMAC is stored. Takes as long for a wrong one.
    pub(super) fn proves(&self, secret: &str, mac: &[u8]) -> bool {
        self.mac("key", secret.as_bytes()).verify_slice(mac).is_ok()
    }

    /// An HMAC for one purpose.
    pub(super) fn mac(&self, purpose: &str, message: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0)
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(message);
        mac
    }
}

impl std::fmt::Debug for Pepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pepper(…)")
    }
}

/// A key that nobody has.
pub(in crate::app) fn new_key_text() -> Result<KeyText, Refusal> {
    Ok(KeyText { public_id: random(PUBLIC_ID_LENGTH)?, secret: random(SECRET_LENGTH)? })
}

/// Random letters and digits, all as likely.
fn random(length: usize) -> Result<String, Refusal> {
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).map_err(|error| Refusal::internal(error.to_string()))?;
        let fair = bytes.into_iter().filter(|byte| *byte < 248); // 4 · 62
        let letters = fair.map(|byte| char::from(BASE62[usize::from(byte % 62)]));
        text.extend(letters.take(length - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_proves_itself_under_its_own_pepper_alone() {
        let (ours, other) = (Pepper::generate().unwrap(), Pepper::generate().unwrap());
        let key = new_key_text().unwrap();

        let mac = ours.mac_of_secret(&key.secret);

        assert!(ours.proves(&key.secret, &mac));
        assert!(!other.proves(&key.secret, &mac) && !ours.proves("other", &mac));
        assert_eq!(key.reveal().parse::<KeyText>().unwrap(), key);
        assert!(Pepper::new(vec![0; 31]).is_err());
    }
}
