//! A drawn picture as a file: a PNG that carries its manifest.

use std::io::Cursor;

use image::RgbImage;
use png::{BitDepth, ColorType, Compression, Encoder, Filter};

use crate::domain::manifest::Manifest;

/// The keyword of the text chunk that holds the manifest.
pub const KEYWORD: &str = "vstar.manifest";

/// Why a file is not a picture of ours.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error("the file is not a PNG")]
    NotPng(#[from] png::DecodingError),
    #[error(
        "the PNG carries no `{KEYWORD}`: it was not drawn by vstar, or a program has dropped it"
    )]
    NoManifest,
    #[error("the manifest cannot be read")]
    UnreadableManifest(#[from] serde_json::Error),
}

/// Encodes a picture with its manifest, always to the same bytes.
///
/// The manifest is an iTXt chunk before the pixels, uncompressed, its fields in the order of the type.
pub fn encode(picture: &RgbImage, manifest: &Manifest) -> Result<Vec<u8>, png::EncodingError> {
    write(picture, Some(serde_json::to_string(manifest).map_err(std::io::Error::from)?))
}

/// Encodes a picture with nothing but its pixels.
pub fn encode_plain(picture: &RgbImage) -> Result<Vec<u8>, png::EncodingError> {
    write(picture, None)
}

fn write(picture: &RgbImage, manifest: Option<String>) -> Result<Vec<u8>, png::EncodingError> {
    let mut png = Vec::new();
    let mut encoder = Encoder::new(&mut png, picture.width(), picture.height());
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Balanced);
    encoder.set_filter(Filter::Adaptive);
    if let Some(manifest) = manifest {
        encoder.add_itxt_chunk(KEYWORD.to_owned(), manifest)?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.as_raw())?;
    writer.finish()?;
    Ok(png)
}

/// Reads the manifest of a picture.
///
/// # Errors
/// [`PictureError`] if the file is no PNG, has none, or one of another form.
pub fn manifest_of(file: &[u8]) -> Result<Manifest, PictureError> {
    let mut reader = png::Decoder::new(Cursor::new(file)).read_info()?;
    // Programs that copy a PNG may put its texts behind the pixels.
    reader.finish()?;
    let texts = &reader.info().utf8_text;
    let text = texts.iter().find(|text| text.keyword == KEYWORD).ok_or(PictureError::NoManifest)?;
    Ok(serde_json::from_str(&text.get_text()?)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest() -> Manifest {
        let json = json!({
            "format": "vstar-manifest-1", "engine_version": "0.1.0", "precision": "f32",
            "base_model": "ab", "prompt": "a “dog”, ✓", "prompt_token_ids": [1, 2], "negative_prompt": "",
            "negative_prompt_token_ids": [], "deltas": [{ "sha256": "cd", "strength": 0.7 }], "merge": null,
            "seed": 9_007_199_254_740_991_u64, "image_index": 3, "scheduler": "dpmpp_2m_karras",
            "num_inference_steps": 50, "eta": 0.0, "guidance_scale": 4.0, "unconditional_strength": 1.0,
            "guidance_interval": [0.0, 1.0], "width": 8, "height": 4, "init_image": null, "reproducible": true,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_picture_carries_its_manifest_and_its_pixels() {
        let picture = RgbImage::from_fn(8, 4, |x, y| image::Rgb([x as u8, y as u8, 200]));

        let file = encode(&picture, &manifest()).unwrap();

        assert_eq!(manifest_of(&file).unwrap(), manifest());
        assert_eq!(image::load_from_memory(&file).unwrap().to_rgb8(), picture);
        assert_eq!(encode(&picture, &manifest()).unwrap(), file);
    }

    #[test]
    fn the_manifest_can_be_read_off_the_file_and_its_fields_keep_their_order() {
        let file = encode(&RgbImage::new(1, 1), &manifest()).unwrap();

        let text = String::from_utf8_lossy(&file).into_owned();

        let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word} in {text}"));
        assert!(at("vstar.manifest") < at("\"format\"") && at("\"format\"") < at("\"prompt\""));
        assert!(at("\"prompt\"") < at("\"seed\"") && at("\"seed\"") < at("IDAT"));
    }

    #[test]
    fn other_files_are_told_apart() {
        let mut plain = Cursor::new(Vec::new());
        RgbImage::new(2, 2).write_to(&mut plain, image::ImageFormat::Png).unwrap();

        assert!(matches!(manifest_of(plain.get_ref()), Err(PictureError::NoManifest)));
        assert!(matches!(manifest_of(b"hello"), Err(PictureError::NotPng(_))));
        let cut = encode(&RgbImage::new(8, 4), &manifest()).unwrap();
        assert!(matches!(manifest_of(&cut[..60]), Err(PictureError::NotPng(_))));
    }
}
