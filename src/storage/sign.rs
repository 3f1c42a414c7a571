//! URLs by which clients write an object themselves.

use std::time::Duration;

use reqwest::Method;

use super::{Storage, StorageError, StorageKey, path_of};

/// A URL that takes a PUT.
#[derive(Clone, Debug)]
pub struct SignedUrl {
    pub url: String,
    /// Headers that the request needs beside the file.
    pub headers: &'static [(&'static str, &'static str)],
}

impl Storage {
    /// A URL that takes a PUT of this object for a while; `None` if the store has no such URLs, as a folder has none.
    ///
    /// Whoever has it may write the object as often as they like until it expires.
    ///
    /// # Errors
    /// If the store's credentials do not sign.
    pub async fn upload_url(
        &self,
        key: &StorageKey,
        valid: Duration,
    ) -> Result<Option<SignedUrl>, StorageError> {
        let Some(signer) = &self.signer else { return Ok(None) };
        let signed = signer.signed_url(Method::PUT, &path_of(key), valid).await;
        let signed = signed.map_err(|source| StorageError::new(key, source))?;
        Ok(Some(SignedUrl { url: signed.into(), headers: self.put_headers }))
    }
}
