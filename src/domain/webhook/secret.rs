//! The secrets that webhooks are signed with.

use data_encoding::BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// The bytes of a secret that is given: those that the specification allows.
const GIVEN_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A text that is no secret.
#[derive(Debug, thiserror::Error)]
#[error("a secret is `whsec_` and 24 to 64 bytes in base64: leave it out to have one made")]
pub struct InvalidSecret;

/// A secret of the form `whsec_` and base64, which signs webhooks. It is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(String);

impl WebhookSecret {
    /// A new secret of 32 bytes from the system's source of random numbers: those of three UUIDs, hashed.
    pub fn generate() -> Self {
        use sha2::Digest;

        // A UUID of version 4 has 122 random bits.
        let digest = (0..3)
            .fold(Sha256::new(), |digest, _| digest.chain_update(uuid::Uuid::new_v4().as_bytes()));
        Self(format!("{PREFIX}{}", BASE64.encode(&digest.finalize())))
    }

    /// The secret as its receiver has it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn key(&self) -> Vec<u8> {
        let text = self.0.strip_prefix(PREFIX).unwrap_or(&self.0);
        BASE64.decode(text.as_bytes()).unwrap_or_default()
    }

    /// Signs a message: the value of `webhook-signature` for this secret.
    ///
    /// - `id`, `timestamp`: the values of `webhook-id` and `webhook-timestamp`, the latter in seconds since 1970
    /// - `body`: the bytes that are sent
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        // HMAC takes keys of any length.
        let mut mac = match Hmac::<Sha256>::new_from_slice(&self.key()) {
            Ok(mac) => mac,
            Err(error) => unreachable!("{error}"),
        };
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", BASE64.encode(&mac.finalize().into_bytes()))
    }
}

impl TryFrom<String> for WebhookSecret {
    type Error = InvalidSecret;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidSecret)?;
        let key = BASE64.decode(encoded.as_bytes()).map_err(|_| InvalidSecret)?;
        match GIVEN_BYTES.contains(&key.len()) {
            true => Ok(Self(text)),
            false => Err(InvalidSecret),
        }
    }
}

impl std::fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's libraries.
    #[test]
    fn a_signature_is_that_of_the_specification() {
        let secret = WebhookSecret::try_from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());

        let signature = secret.unwrap().sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );

        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_are_long_enough_and_not_printed() {
        let made = WebhookSecret::generate();

        assert_eq!(made.key().len(), 32);
        assert_ne!(made, WebhookSecret::generate());
        assert!(!format!("{made:?}").contains(&made.reveal()[6..12]));
        let given = |bytes: usize| {
            WebhookSecret::try_from(format!("whsec_{}", BASE64.encode(&vec![7; bytes]))).is_ok()
        };
        assert_eq!([given(23), given(24), given(64), given(65)], [false, true, true, false]);
        assert!(WebhookSecret::try_from("whsec_???".to_owned()).is_err());
        assert!(WebhookSecret::try_from(BASE64.encode(&[7; 32])).is_err());
    }
}
