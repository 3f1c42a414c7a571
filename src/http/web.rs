//! The studio: the files of `web/`, embedded, for a browser.
//!
//! The page is at `/`. Everything that it loads is below `/assets/{digest}/`, where the digest is that of all files together, so that a
//! browser keeps them for ever and a new version of the program is never mixed with an old one. All addresses are relative to the
//! page: it also works behind a proxy that serves it below a path.

use std::collections::HashMap;
use std::io::Write;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::error::ApiError;
use super::gzip::takes_gzip;
use crate::app::App;

/// Paths below `web/` with their bytes, sorted; `build.rs` makes the list.
static FILES: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/web.rs"));

/// The file that is served at `/`.
const PAGE: &str = "index.html";

/// What the page may load: its own files, and images that its scripts make. Styles stand in files; scripts set them by properties,
/// which this does not concern.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; \
    img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `/` and `/assets/`. Neither needs a key: the page asks for one.
pub(super) fn routes() -> Router<App> {
    Router::new().route("/", get(page)).route("/assets/{digest}/{*path}", get(asset))
}

/// All files, ready to be sent.
struct Site {
    digest: String,
    files: HashMap<&'static str, File>,
}

struct File {
    content_type: &'static str,
    entity_tag: HeaderValue,
    plain: Bytes,
    /// `None` if it would not be smaller.
    gzipped: Option<Bytes>,
}

static SITE: LazyLock<Site> = LazyLock::new(|| Site::of(FILES));

async fn page(headers: HeaderMap) -> Response {
    let Some(page) = SITE.files.get(PAGE) else {
        return ApiError::NoRoute("/".to_owned()).into_response();
    };
    page.response(&headers, "no-cache")
}

/// A file of another digest belongs to another version of the program: its page has to be loaded again.
async fn asset(
    Path((digest, path)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let file = SITE.files.get(path.as_str()).filter(|_| digest == SITE.digest && path != PAGE);
    let file = file.ok_or_else(|| {
        ApiError::NotFound(
            "this version of the program has no such file: load the page again".to_owned(),
        )
    })?;
    Ok(file.response(&headers, "public, max-age=31536000, immutable"))
}

impl Site {
    fn of(files: &[(&'static str, &'static [u8])]) -> Self {
        let mut digest = Sha256::new();
        for (path, bytes) in files {
            digest.update((path.len() as u64).to_le_bytes());
            digest.update(path);
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        }
        let digest = HEXLOWER.encode(&digest.finalize()[..8]);
        let made = files.iter().map(|(path, bytes)| {
            let bytes = match *path {
                PAGE => Bytes::from(with_digest(bytes, &digest)),
                _ => Bytes::from_static(bytes),
            };
            (*path, File::new(content_type(path), bytes))
        });
        Self { files: made.collect(), digest }
    }
}

/// The page with the digest in the addresses of its files: `"assets/main.js"` becomes `"assets/{digest}/main.js"`.
fn with_digest(page: &[u8], digest: &str) -> String {
    String::from_utf8_lossy(page).replace("\"assets/", &format!("\"assets/{digest}/"))
}

impl File {
    fn new(content_type: &'static str, plain: Bytes) -> Self {
        // A weak tag: it is the same for both encodings.
        let tag = format!("W/\"{}\"", HEXLOWER.encode(&Sha256::digest(&plain)[..16]));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        let gzipped = gzip.write_all(&plain).and_then(|()| gzip.finish());
        let gzipped = gzipped.ok().filter(|bytes| bytes.len() < plain.len()).map(Bytes::from);
        let entity_tag = HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("W/\"\""));
        Self { content_type, entity_tag, plain, gzipped }
    }

    fn response(&self, request: &HeaderMap, caching: &'static str) -> Response {
        let gzipped = self.gzipped.as_ref().filter(|_| takes_gzip(request));
        let mut response = gzipped.unwrap_or(&self.plain).clone().into_response();
        let headers = response.headers_mut();
        let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
        set(header::CONTENT_TYPE, self.content_type);
        set(header::CACHE_CONTROL, caching);
        set(header::VARY, "accept-encoding");
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(header::REFERRER_POLICY, "no-referrer");
        if self.content_type.starts_with("text/html") {
            set(header::CONTENT_SECURITY_POLICY, POLICY);
        }
        if gzipped.is_some() {
            set(header::CONTENT_ENCODING, "gzip");
        }
        headers.insert(header::ETAG, self.entity_tag.clone());
        response
    }
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "css" => "text/css; charset=utf-8",
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_changes_with_any_byte_of_any_file() {
        let digest = |files: &[(&'static str, &'static [u8])]| Site::of(files).digest;
        let first = digest(&[("a.js", b"1"), ("b.js", b"2")]);

        assert_eq!(first, digest(&[("a.js", b"1"), ("b.js", b"2")]));
        for other in [
            &[("a.js", b"1" as &[u8]), ("b.js", b"3")],
            &[("a.js", b"1"), ("c.js", b"2")],
            &[("a.js", b"12"), ("b.js", b"")],
        ] {
            assert_ne!(first, digest(other));
        }
    }

    #[test]
    fn the_page_names_its_files_by_their_digest() {
        let page = b"<script src=\"assets/main.js\"></script><a href=\"docs\">" as &[u8];
        let site = Site::of(&[("index.html", page), ("main.js", b"")]);

        let text = String::from_utf8(site.files["index.html"].plain.to_vec()).unwrap();

        let digest = &site.digest;
        let expected =
            format!("<script src=\"assets/{digest}/main.js\"></script><a href=\"docs\">");
        assert_eq!(text, expected);
    }

    #[test]
    fn every_embedded_file_has_a_type() {
        assert!(FILES.iter().any(|(path, _)| *path == PAGE));
        for (path, _) in FILES {
            assert_ne!(content_type(path), "application/octet-stream", "{path}");
        }
    }
}
