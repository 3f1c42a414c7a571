//! Many large photos at the same moment.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use reqwest::multipart::{Form, Part};
use tokio::sync::Barrier;
use tokio::time::Instant;

use crate::server::Server;
use crate::table::{Bound, Row};

const UPLOADS: usize = 200;
/// Of noise, which does not compress: 5 MB as PNG.
const SIDE: u32 = 1291;

/// What became of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Stored,
    /// With a time after which to try again.
    Deferred,
    /// Neither.
    Lost,
}

pub(crate) async fn run() -> Vec<Row> {
    let server = Server::start("uploads").await;
    let photos: Vec<Vec<u8>> = (0..UPLOADS).map(|seed| photo(seed as u64 + 1)).collect();
    let size = photos[0].len() as f64 / 1e6;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = server.resident_bytes();
    server.forget_peak();

    let (began, at_once) = (Instant::now(), Arc::new(Barrier::new(UPLOADS)));
    let client = Client::builder().timeout(Duration::from_secs(300)).build().unwrap();
    let uploads: Vec<_> = photos
        .into_iter()
        .map(|photo| tokio::spawn(upload(client.clone(), server.url(), photo, at_once.clone())))
        .collect();
    let mut outcomes = Vec::new();
    for upload in uploads {
        outcomes.push(upload.await.unwrap());
    }
    let took = began.elapsed().as_secs_f64();
    let above = server.peak_bytes().saturating_sub(idle) as f64 / 1e6;

    let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count() as f64;
    let load = "200 uploads of 5 MB at once";
    vec![
        Row::new(load, "size of a file", size, "MB", Bound::None),
        Row::new(load, "stored", count(Outcome::Stored), "", Bound::AtLeast(1.0)),
        Row::new(load, "refused with `Retry-After`", count(Outcome::Deferred), "", Bound::None),
        Row::new(load, "anything else", count(Outcome::Lost), "", Bound::AtMost(0.0)),
        Row::new(load, "until all are answered", took, "s", Bound::None),
        Row::new(load, "memory of an idle server", idle as f64 / 1e6, "MB", Bound::None),
        Row::new(load, "peak memory above idle", above, "MB", Bound::AtMost(400.0)),
    ]
}

async fn upload(client: Client, url: String, photo: Vec<u8>, at_once: Arc<Barrier>) -> Outcome {
    let form = Form::new().part("file", Part::bytes(photo).file_name("photo.png"));
    at_once.wait().await;
    let Ok(answer) = client.post(format!("{url}/v1/images")).multipart(form).send().await else {
        return Outcome::Lost;
    };
    let waits = answer.headers().contains_key("retry-after");
    match answer.status().as_u16() {
        201 => {
            let image: serde_json::Value = answer.json().await.unwrap_or_default();
            let path = image["url"].as_str().unwrap_or_default();
            let stored = client.get(format!("{url}{path}")).send().await;
            match stored.is_ok_and(|stored| stored.status().is_success()) {
                true => Outcome::Stored,
                false => Outcome::Lost,
            }
        }
        429 | 503 if waits => Outcome::Deferred,
        _ => Outcome::Lost,
    }
}

/// A PNG of noise that differs from the others.
fn photo(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let noise = (0..3 * SIDE * SIDE).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    });
    let image = image::RgbImage::from_raw(SIDE, SIDE, noise.collect()).unwrap();
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}
