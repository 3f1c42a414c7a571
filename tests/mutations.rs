//! Files that were changed at random: every reader refuses them or reads them, without a panic and within the memory that it promises.
//!
//! A short round with fixed randomness. `fuzz/` has the same readers as targets that search for as long as they are let.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

#[path = "support/inputs.rs"]
mod inputs;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};
use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};
use vstar::domain::concept::ConceptWords;
use vstar::engine::{Delta, DeltaConcept, DeltaWeights, Factors};

/// Counts the bytes that are alive, and the most that have been.
struct Counting;

static ALIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let alive = ALIVE.fetch_add(layout.size(), SeqCst) + layout.size();
        MOST.fetch_max(alive, SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALIVE.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One test counts at a time.
static TURN: Mutex<()> = Mutex::new(());

/// What measuring and turning a small photo takes beside decoding it, and what errors and tables take.
const BESIDE: u64 = 12 << 20;

/// The most bytes beyond those alive now that `f` has alive.
fn most_of<T>(f: impl FnOnce() -> T) -> (u64, T) {
    let before = ALIVE.load(SeqCst);
    MOST.store(before, SeqCst);
    let result = f();
    ((MOST.load(SeqCst).saturating_sub(before)) as u64, result)
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// A file with some bytes changed, lost, repeated or replaced by others that readers care about.
fn mutated(file: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    const TELLING: [&[u8]; 8] = [
        &[0; 4],
        &[0xff; 4],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0, 0, 0x20, 0],
        b"IDAT",
        b"\xff\xda\x00\x0c",
        b"\xff\xd9",
        b"VP8L",
    ];
    let mut file = file.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(file.len());
        // Headers are at the beginning.
        let at = if numbers.below(2) == 0 { at.min(numbers.below(64)) } else { at };
        match numbers.below(6) {
            0 => file[at] ^= 1 << numbers.below(8),
            1 => file[at] = numbers.next() as u8,
            2 => file.truncate(at.max(1)),
            3 => drop(file.drain(at..(at + numbers.below(16)).min(file.len()))),
            4 => {
                let end = (at + numbers.below(200)).min(file.len());
                let piece = file[at..end].to_vec();
                file.splice(at..at, piece);
            }
            _ => {
                let bytes = TELLING[numbers.below(TELLING.len())];
                let end = (at + bytes.len()).min(file.len());
                file.splice(at..end, bytes.iter().copied());
            }
        }
        if file.is_empty() {
            file.push(0);
        }
    }
    file
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn images() -> Vec<Vec<u8>> {
    let colour = |x: u32, y: u32| [(x * 5) as u8, (y * 3) as u8, (x * y) as u8];
    let rgb = RgbImage::from_fn(80, 60, |x, y| image::Rgb(colour(x, y)));
    let rgba = RgbaImage::from_fn(60, 80, |x, y| {
        let [r, g, b] = colour(x, y);
        image::Rgba([r, g, b, (x * 4) as u8])
    });
    let (rgb, rgba) = (DynamicImage::from(rgb), DynamicImage::from(rgba));
    let mut files = vec![
        encoded(&rgb, ImageFormat::Png),
        encoded(&rgba, ImageFormat::Png),
        encoded(&rgba.to_rgba16().into(), ImageFormat::Png),
        encoded(&rgb.to_luma16().into(), ImageFormat::Png),
        encoded(&rgb, ImageFormat::Jpeg),
        encoded(&rgb.to_luma8().into(), ImageFormat::Jpeg),
        encoded(&rgb, ImageFormat::WebP),
        encoded(&rgba, ImageFormat::WebP),
    ];
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/concepts/dog/1.jpg");
    files.push(std::fs::read(photo).unwrap());
    files
}

/// Small deltas of every form.
fn deltas() -> Vec<Delta> {
    let tensor = |rows: usize, columns: usize| {
        let values: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.3).sin()).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    };
    let name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight".to_owned();
    let factors = Factors { e: tensor(16, 2), p: tensor(2, 12) };
    [
        DeltaWeights::Dense(BTreeMap::from([(name.clone(), tensor(16, 12))])),
        DeltaWeights::LowRank {
            p: tensor(2, 12),
            e: BTreeMap::from([(name.clone(), tensor(16, 2))]),
        },
        DeltaWeights::Factorized(BTreeMap::from([(name, factors)])),
    ]
    .into_iter()
    .map(|weights| Delta {
        base_digest: "a".repeat(64),
        concepts: vec![DeltaConcept {
            words: ConceptWords {
                modifier_token: Some("<rex>".to_owned().try_into().unwrap()),
                class_noun: "dog".to_owned().try_into().unwrap(),
            },
            embedding_row: Some(vec![0.5; 12]),
            initializer_token: Some("ktn".to_owned()),
        }],
        weights,
        metadata: BTreeMap::new(),
    })
    .collect()
}

#[test]
fn changed_images_are_read_or_refused_within_the_memory_that_their_headers_promise() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut numbers = Numbers(1);
    for file in images() {
        for round in 0..400 {
            let changed = if round == 0 { file.clone() } else { mutated(&file, &mut numbers) };

            let (most, promised) = most_of(|| inputs::upload(&changed));

            let allowed = promised + 3 * changed.len() as u64 + BESIDE;
            assert!(
                most <= allowed,
                "{most} bytes, promised {promised}: {:02x?}",
                &changed[..changed.len().min(64)]
            );
        }
    }
}

#[test]
fn large_images_take_what_their_headers_say() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let rgb = RgbImage::from_fn(3000, 2000, |x, y| image::Rgb([x as u8, y as u8, (x + y) as u8]));
    let rgb = DynamicImage::from(rgb);
    let rgba = DynamicImage::from(rgb.to_rgba8());
    let files = [
        ("png", encoded(&rgb, ImageFormat::Png)),
        ("png of 16 bits with alpha", encoded(&rgba.to_rgba16().into(), ImageFormat::Png)),
        ("jpeg", encoded(&rgb, ImageFormat::Jpeg)),
        ("gray jpeg", encoded(&rgb.to_luma8().into(), ImageFormat::Jpeg)),
        ("webp", encoded(&rgb, ImageFormat::WebP)),
        ("webp with alpha", encoded(&rgba, ImageFormat::WebP)),
    ];
    for (what, file) in files {
        let promised = vstar::photo_file::header(&file).unwrap().decoder_bytes;

        let (most, pixels) = most_of(|| vstar::photo_file::read(&file).unwrap());

        assert_eq!(pixels.image.dimensions(), (3000, 2000));
        assert!(most <= promised + (2 << 20), "{what}: {most} bytes, promised {promised}");
        assert!(promised <= 3 * most, "{what}: {promised} bytes are promised for {most}");
    }
}

#[test]
fn changed_deltas_prompts_and_captions_are_read_or_refused() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut numbers = Numbers(2);
    let deltas: Vec<Vec<u8>> = deltas().iter().map(|one| one.to_safetensors().unwrap()).collect();
    for delta in deltas {
        for round in 0..300 {
            let changed = if round == 0 { delta.clone() } else { mutated(&delta, &mut numbers) };

            let (most, ()) = most_of(|| inputs::delta(&changed));

            let allowed = 12 * changed.len() as u64 + BESIDE;
            assert!(most <= allowed, "{most} bytes for a file of {}", changed.len());
        }
    }
    let texts: [&[u8]; 4] = [
        "photo of a <rex> dog in the café, 写真 🐶, <new1>".as_bytes(),
        b"the dog\x92s ball",
        b"\xff\xfea\0 \0d\0o\0g\0",
        "../../e\u{202e}\u{301}tc/passwd \r\n\t".as_bytes(),
    ];
    for text in texts {
        for _ in 0..300 {
            let changed = mutated(text, &mut numbers);
            inputs::prompt(&changed);
            inputs::caption(&changed);
        }
    }
}

#[test]
fn changed_forms_are_read_or_refused() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut numbers = Numbers(3);
    let photo = vec![7; 40_000];
    let mut form = b"--vstar\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\nrex\r\n--vstar\r\nContent-Disposition: form-data; \
        name=\"files\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n"
        .to_vec();
    form.extend(&photo);
    form.extend(b"\r\n--vstar--\r\n");
    assert!(inputs::multipart(&form), "the form as it was");
    for _ in 0..2_000 {
        let changed = mutated(&form, &mut numbers);

        let (most, _) = most_of(|| inputs::multipart(&changed));

        let allowed = 6 * changed.len() as u64 + BESIDE;
        assert!(most <= allowed, "{most} bytes for a form of {}", changed.len());
    }
    // A header that never ends is not kept.
    let mut endless = b"--vstar\r\nContent-Disposition: form-data; name=\"".to_vec();
    endless.resize(8 << 20, b'x');
    let (most, read) = most_of(|| inputs::multipart(&endless));
    assert!(!read);
    assert!(most <= 3 * endless.len() as u64, "{most} bytes");
}
