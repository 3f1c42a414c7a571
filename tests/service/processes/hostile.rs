//! Files that are made to do harm: each is refused with a code, and six at once do not fill the memory.

use std::io::{Cursor, Write};

use image::{ImageFormat, RgbImage};
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use sqlx::PgPool;

use super::{Client, Process, api};

/// The most memory of the process, with everything that it holds anyway.
const MOST_MIB: u64 = 400;

/// A deflate stream of `count` zeros: 158 of them for each byte.
fn zeros(count: usize) -> Vec<u8> {
    let (mut bytes, mut held, mut bits) = (vec![0x78, 0x01], 0_u64, 0);
    let mut put = |value: u64, length: u32| {
        held |= value << bits;
        bits += length;
        while bits >= 8 {
            bytes.push(held as u8);
            held >>= 8;
            bits -= 8;
        }
    };
    put(0b011, 3); // the last block, of fixed codes
    // A code is sent from its highest bit: 0x30 for a zero, 0xc5 for 258 bytes as they were 1 byte ago.
    put(u64::from(0x30_u8.reverse_bits()), 8);
    let (runs, rest) = ((count - 1) / 258, (count - 1) % 258);
    for _ in 0..runs {
        put(u64::from(0xc5_u8.reverse_bits()), 8);
        put(0, 5);
    }
    for _ in 0..rest {
        put(u64::from(0x30_u8.reverse_bits()), 8);
    }
    put(0, 7);
    put(0, 7); // to a whole byte
    let checksum = ((count as u64 % 65_521) << 16 | 1) as u32;
    bytes.extend(checksum.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xedb8_8320 * (crc & 1)))
    })
}

fn chunk(file: &mut Vec<u8>, name: &[u8; 4], content: &[u8]) {
    file.extend((content.len() as u32).to_be_bytes());
    let named = [name.as_slice(), content].concat();
    file.extend(&named);
    file.extend(crc32(&named).to_be_bytes());
}

/// A black PNG of `bits` per channel; `color` 2 is RGB and 6 is RGBA.
fn bomb(side: usize, bits: u8, color: u8, interlaced: bool) -> Vec<u8> {
    let channels = if color == 6 { 4 } else { 3 };
    let row = |width: usize| 1 + width * channels * usize::from(bits) / 8;
    let bytes = if interlaced {
        // Each pass: from which column and row, and every how many.
        let passes = [
            (0, 8, 0, 8),
            (4, 8, 0, 8),
            (0, 4, 4, 8),
            (2, 4, 0, 4),
            (0, 2, 2, 4),
            (1, 2, 0, 2),
            (0, 1, 1, 2),
        ];
        let count = |from: usize, step: usize| (side - from).div_ceil(step);
        passes.iter().map(|(x, dx, y, dy)| row(count(*x, *dx)) * count(*y, *dy)).sum()
    } else {
        row(side) * side
    };
    let mut header = Vec::new();
    header.extend((side as u32).to_be_bytes());
    header.extend((side as u32).to_be_bytes());
    header.extend([bits, color, 0, 0, u8::from(interlaced)]);
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut file, b"IHDR", &header);
    chunk(&mut file, b"IDAT", &zeros(bytes));
    chunk(&mut file, b"IEND", &[]);
    file
}

/// The headers of a progressive JPEG of 50 million pixels, whose coefficients take 300 MB.
fn progressive_bomb() -> Vec<u8> {
    let mut file =
        b"\xff\xd8\xff\xc2\x00\x11\x08\x17\xd4\x20\x00\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00"
            .to_vec();
    file.extend(b"\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x00\x00\x00\xff\xd9");
    file
}

/// A progressive JPEG that goes over its image again and again.
fn many_scans() -> Vec<u8> {
    let mut file =
        b"\xff\xd8\xff\xc2\x00\x11\x08\x07\xd0\x07\xd0\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00"
            .to_vec();
    for _ in 0..5000 {
        file.extend(b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00\x00");
    }
    file.extend(b"\xff\xd9");
    file
}

/// A PNG whose ICC profile unpacks to 200 MB, of which nothing is used.
fn profile_bomb() -> Vec<u8> {
    let mut image = photo();
    let mut profile = Vec::new();
    let content = [b"p\0\0".as_slice(), &zeros(200 << 20)].concat();
    chunk(&mut profile, b"iCCP", &content);
    image.splice(33..33, profile);
    image
}

fn photo() -> Vec<u8> {
    let image = RgbImage::from_fn(256, 256, |x, y| {
        image::Rgb([(x * 7) as u8, (y * 5) as u8, (x * y) as u8])
    });
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

impl Process {
    /// The most memory that the process has had, in MiB.
    fn most_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }
}

async fn send(
    client: &Client,
    path: &str,
    field: &'static str,
    name: &str,
    file: Vec<u8>,
) -> (u16, Value) {
    let form = Form::new().part(field, Part::bytes(file).file_name(name.to_owned()));
    let sent =
        client.http.post(format!("{}{path}", client.address)).multipart(form).send().await.unwrap();
    (sent.status().as_u16(), sent.json().await.unwrap())
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn hostile_files_are_refused_with_a_code_and_six_at_once_stay_within_memory(db: PgPool) {
    let objects = tempfile::tempdir().unwrap();
    let (process, client) = api(&db, &objects, &[]).await;
    let concept = serde_json::json!({ "handle": "rex", "class_noun": "dog" });
    let concepts = format!("{}/v1/concepts", client.address);
    assert_eq!(client.http.post(concepts).json(&concept).send().await.unwrap().status(), 201);
    let idle = process.most_memory();
    let cut = photo()[..2000].to_vec();
    let two_things = [photo(), zip(&[("a.txt", b"a")])].concat();
    let black = 20 << 20;
    let corpus: Vec<(&str, Vec<u8>, &str)> = vec![
        ("bomb-8.png", bomb(7071, 8, 2, false), "image_flat"),
        ("bomb-16.png", bomb(7071, 16, 6, false), "image_flat"),
        ("interlaced.png", bomb(7071, 8, 2, true), "image_flat"),
        ("too-large.png", bomb(9000, 8, 2, false), "image_too_large"),
        ("progressive.jpg", progressive_bomb(), "image_too_large"),
        ("scans.jpg", many_scans(), "image_unreadable"),
        ("truncated.png", cut, "image_unreadable"),
        ("polyglot.png", two_things, "image_unreadable"),
        ("wrong.jpg", b"<html><script>alert(1)</script></html>".repeat(100), "image_unreadable"),
        ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".repeat(100), "unsupported_image"),
        ("zeros.png", vec![0; 100 << 20], "image_unreadable"),
        ("bomb.png", zip(&[("a.png", &vec![0; black])]), "image_unreadable"),
    ];

    for (name, file, code) in &corpus {
        let at_once = (0..6).map(|_| {
            let (client, file, name) = (client.clone(), file.clone(), (*name).to_owned());
            tokio::spawn(async move {
                send(&client, "/v1/concepts/rex/images", "files", &name, file).await
            })
        });
        for answer in futures::future::join_all(at_once).await {
            let (status, body) = answer.unwrap();
            // Whoever has to wait too long is told when to come back.
            let is_busy = status == 503 && body["code"] == "overloaded";
            assert!(
                is_busy || (status, body["code"].as_str()) == (422, Some(*code)),
                "{name}: {status} {body}"
            );
        }
        let most = process.most_memory();
        assert!(most < MOST_MIB, "{most} MiB after {name}, {idle} when idle");
    }

    let bombed: Vec<(&str, Vec<u8>)> = vec![
        ("nothing.zip", zip(&[("a.png", &vec![0; black]), ("b.png", &vec![0; black])])),
        ("outside.zip", zip(&[("../../etc/passwd.png", &photo())])),
        ("absolute.zip", zip(&[("/etc/cron.d/a.png", &photo())])),
    ];
    for (name, file) in bombed {
        let (status, body) = send(&client, "/v1/image-sets", "file", name, file).await;
        assert_eq!(
            (status, body["code"].as_str()),
            (422, Some("image_set_unreadable")),
            "{name}: {body}"
        );
    }
    assert!(process.most_memory() < MOST_MIB, "{} MiB", process.most_memory());

    // A profile is no reason to refuse the pixels.
    let (status, body) = send(&client, "/v1/images", "file", "profile.png", profile_bomb()).await;
    assert_eq!(status, 201, "{body}");
    let (status, body) = send(&client, "/v1/images", "file", "../../../etc/passwd", photo()).await;
    assert_eq!((status, body["file_name"].as_str()), (201, Some("passwd")), "{body}");
    assert!(process.most_memory() < MOST_MIB, "{} MiB", process.most_memory());
    println!("idle {idle} MiB, at most {} MiB", process.most_memory());
}
