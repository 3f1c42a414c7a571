//! What reads bytes of strangers: one function for each reader, for `tests/mutations.rs` and the targets in `fuzz/`.
//!
//! A reader may refuse. It may not panic, and it may not allocate beyond what it promises.

use std::path::Path;
use std::sync::LazyLock;

use vstar::domain::caption::{text_of, tidy};
use vstar::domain::image::readable_name;
use vstar::engine::Delta;
use vstar::engine::clip::ClipTokenizer;
use vstar::photo_file;

static TOKENIZER: LazyLock<ClipTokenizer> = LazyLock::new(|| {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // `fuzz/` is one folder further down.
    let folders = [here.join("models/tiny/tokenizer"), here.join("../models/tiny/tokenizer")];
    let folder = folders.iter().find(|folder| folder.is_dir()).expect("the tiny model");
    ClipTokenizer::load(folder).expect("the tiny tokenizer")
});

/// An uploaded image. Returns the most that decoding it may allocate.
pub(crate) fn upload(bytes: &[u8]) -> u64 {
    let promised = match photo_file::header(bytes) {
        Ok(header) => header.decoder_bytes,
        Err(_) => 0,
    };
    assert!(promised <= photo_file::MAX_DECODER_BYTES);
    if let Ok(pixels) = photo_file::read(bytes) {
        let size = pixels.upright_dimensions();
        pixels.measure();
        assert_eq!(pixels.into_upright().dimensions(), size);
    }
    promised
}

/// A file with a delta.
pub(crate) fn delta(bytes: &[u8]) {
    if let Ok(delta) = Delta::from_safetensors(bytes) {
        assert!(delta.to_safetensors().is_ok());
    }
}

/// A prompt, and the modifier tokens that it may have.
pub(crate) fn prompt(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let limit = TOKENIZER.max_length();
    for tokens in [&[][..], &["<rex>"], &["<rex>", "<new1>"]] {
        if let Ok(encoded) = TOKENIZER.encode(&text, tokens) {
            assert_eq!(encoded.ids.len(), limit);
        }
    }
}

/// A caption beside a photo, and the name of its file.
pub(crate) fn caption(bytes: &[u8]) {
    if let Ok(text) = text_of(bytes)
        && let Ok(caption) = tidy(&text, 2_000)
    {
        assert!(caption.len() <= 2_000 && !caption.contains(['\0', '\n', '\r']));
    }
    let name = readable_name(&String::from_utf8_lossy(bytes));
    assert!(!name.is_empty() && !name.contains(['/', '\\', '\0', '\u{202e}']));
}

/// The body of a multipart form whose boundary is `vstar`. Returns whether it was read.
pub(crate) fn multipart(bytes: &[u8]) -> bool {
    let chunks: Vec<Result<Vec<u8>, std::io::Error>> =
        bytes.chunks(1 << 14).map(|chunk| Ok(chunk.to_vec())).collect();
    let request = axum::http::Request::post("/")
        .header("content-type", "multipart/form-data; boundary=vstar")
        .body(axum::body::Body::from_stream(futures::stream::iter(chunks)))
        .expect("a request");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    match runtime.expect("a runtime").block_on(vstar::http::read_form(request)) {
        Ok(sizes) => {
            assert!(sizes.iter().sum::<usize>() <= bytes.len());
            true
        }
        Err(status) => {
            assert!(status.is_client_error(), "{status}");
            false
        }
    }
}
