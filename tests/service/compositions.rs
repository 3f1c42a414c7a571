//! Several concepts in one picture: how a request says it, what is refused, and what comes out.

use std::io::Cursor;

use image::{ImageFormat, RgbImage};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::end_to_end::Whole;
use crate::harness::{DIGEST, Service};

const PROMPT: &str = "photo of a <rex> dog next to a <max> dog on the grass";

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn several_concepts_have_regions_unless_the_request_says_otherwise(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("rex", DIGEST).await;
    service.trained_concept("max", DIGEST).await;

    let composed = service.post("/v1/samples", json!({ "prompt": PROMPT })).await;

    assert_eq!(composed.status, 202, "{composed:?}");
    let composition = &composed.body["composition"];
    assert_eq!(composition["method"], "regional");
    assert_eq!(composed.body["denoisings_per_image"], 3);
    let layout = &composition["layout"];
    assert_eq!(layout["prompt"], "photo on the grass, far away, very small");
    assert_eq!(composition["regions"][1]["box"], json!([0.5, 0.25, 1.0, 0.75]));
    let prompts: Vec<&Value> =
        composition["regions"].as_array().unwrap().iter().map(|one| &one["prompt"]).collect();
    assert_eq!(prompts, ["photo of a <rex> dog on the grass", "photo of a <max> dog on the grass"]);
    assert_eq!(
        (&composition["redraw_strength"], &composed.body["merge"]),
        (&json!(1.0), &Value::Null)
    );
    assert_eq!(service.get(composed.header("location")).await.body, composed.body);

    for (more, method) in [
        (json!({ "merge": { "method": "hard" } }), "merge"),
        (json!({ "composition": { "method": "merge" } }), "merge"),
        (json!({ "composition": { "method": "tokens" } }), "tokens"),
        (json!({ "composition": { "layout": "nouns" } }), "regional"),
    ] {
        let mut body = json!({ "prompt": PROMPT });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let sample = service.post("/v1/samples", body).await;
        assert_eq!(sample.body["composition"]["method"], method, "{more}: {sample:?}");
        assert_eq!(sample.body["merge"].is_null(), method != "merge", "{more}");
    }
    let nouns = "a <rex> dog on top of a <max> dog on the grass";
    let nouns = service.post("/v1/samples", json!({ "prompt": nouns })).await;
    let layout = &nouns.body["composition"]["layout"];
    assert_eq!(
        (&layout["kind"], &layout["prompt"]),
        (&json!("nouns"), &json!("a dog on top of a dog on the grass"))
    );
    assert_eq!(nouns.body["composition"]["regions"][1]["box"], Value::Null);
    assert_eq!(nouns.body["warnings"], json!([]));
    let body = json!({ "prompt": "a <rex> dog on the grass", "concepts": [{ "concept": "max" }] });
    let unnamed = service.post("/v1/samples", body).await;
    let warnings = &unnamed.body["warnings"];
    assert_eq!(
        (&warnings[0]["code"], warnings.as_array().unwrap().len()),
        (&json!("concept_not_named"), 1)
    );
    let alone = service.post("/v1/samples", json!({ "prompt": "a <rex> dog" })).await;
    assert_eq!(alone.body["composition"], Value::Null);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_composition_that_makes_no_sense_is_refused_field_by_field(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("rex", DIGEST).await;
    service.trained_concept("max", DIGEST).await;
    let before = service.contents().await;
    let region = |more: Value| {
        let mut region = json!({ "concept": "rex" });
        region.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "regions": [region] })
    };
    let third = json!({ "regions": [{ "concept": "rex" }, { "concept": "rex" }] });
    let long = "a ".repeat(40);

    for (composition, code, pointer) in [
        (json!({ "method": "magic" }), "invalid_value", "/composition/method"),
        (json!({ "redraw_strength": 0 }), "out_of_range", "/composition/redraw_strength"),
        (json!({ "margin": 2 }), "out_of_range", "/composition/margin"),
        (json!({ "enlarge": 9 }), "out_of_range", "/composition/enlarge"),
        (json!({ "layout": "init_image" }), "missing_field", "/composition/layout"),
        (
            json!({ "layout_prompt": "a field", "layout": "nouns" }),
            "missing_field",
            "/composition/regions",
        ),
        (
            json!({ "layout_prompt": long, "layout": "scene" }),
            "prompt_too_long",
            "/composition/layout_prompt",
        ),
        (json!({ "method": "tokens", "margin": 0.1 }), "not_applicable", "/composition/margin"),
        (region(json!({ "box": [0.5, 0, 0.4, 1] })), "out_of_range", "/composition/regions/0/box"),
        (region(json!({ "box": [0, 0, 2, 1] })), "out_of_range", "/composition/regions/0/box"),
        (region(json!({ "concept": "who" })), "unknown_concept", "/composition/regions/0/concept"),
        (region(json!({ "prompt": long })), "prompt_too_long", "/composition/regions/0/prompt"),
        (region(json!({ "where": "left" })), "unknown_field", "/composition/regions/0/where"),
        (
            region(json!({ "prompt": "a <max> dog" })),
            "unknown_concept",
            "/composition/regions/0/prompt",
        ),
        (
            json!({ "layout_prompt": "a <rex> dog", "layout": "scene" }),
            "unknown_concept",
            "/composition/layout_prompt",
        ),
        (json!({ "redraw_strength": 0.001 }), "out_of_range", "/composition/redraw_strength"),
        (third, "missing_field", "/composition/regions/1/box"),
    ] {
        let body = json!({ "prompt": PROMPT, "composition": composition });
        let answer = service.post("/v1/samples", body).await;
        assert_eq!(answer.problem(), (422, code, vec![pointer]), "{composition}");
    }
    for (body, code, pointer) in [
        (
            json!({ "prompt": PROMPT, "merge": {}, "composition": { "method": "tokens" } }),
            "conflicting_fields",
            "/merge",
        ),
        (json!({ "prompt": "a dog", "composition": {} }), "not_applicable", "/composition"),
        (
            json!({ "prompt": "a <rex> dog and a <max> dog", "composition": { "layout": "scene" } }),
            "not_applicable",
            "/composition/layout",
        ),
    ] {
        let answer = service.post("/v1/samples", body.clone()).await;
        assert_eq!(answer.problem(), (422, code, vec![pointer]), "{body}");
    }
    assert_eq!(service.contents().await, before);
}

fn pixels(png: &[u8]) -> RgbImage {
    image::load_from_memory(png).unwrap().to_rgb8()
}

/// The boxes of an image's regions, in pixels.
fn boxes(regions: &Value, (width, height): (u32, u32)) -> Vec<[u32; 4]> {
    let of_region = |region: &Value| {
        let side = |index: usize, side: u32| {
            (region["box"][index].as_f64().unwrap() * f64::from(side)).round() as u32
        };
        [side(0, width), side(1, height), side(2, width), side(3, height)]
    };
    regions.as_array().unwrap().iter().map(of_region).collect()
}

/// Whether two images are the same outside some boxes, and differ in each of them.
fn differ_inside_alone(image: &RgbImage, other: &RgbImage, boxes: &[[u32; 4]]) -> bool {
    let is_inside = |x: u32, y: u32, [left, top, right, bottom]: [u32; 4]| {
        (left..right).contains(&x) && (top..bottom).contains(&y)
    };
    let differing: Vec<(u32, u32)> = image
        .enumerate_pixels()
        .filter(|(x, y, pixel)| *pixel != other.get_pixel(*x, *y))
        .map(|(x, y, _)| (x, y))
        .collect();
    let all_inside = differing.iter().all(|(x, y)| boxes.iter().any(|one| is_inside(*x, *y, *one)));
    all_inside && boxes.iter().all(|one| differing.iter().any(|(x, y)| is_inside(*x, *y, *one)))
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn each_concept_is_drawn_in_its_region_and_the_layout_stays_around_them(db: PgPool) {
    let whole = Whole::start(db).await;
    whole.concept("dog", Some("<rex>")).await;
    whole.concept("vase", Some("<delft>")).await;
    whole.concept("gate", None).await;
    for concept in ["dog", "vase", "gate"] {
        whole.train(json!([concept])).await;
    }
    let settings = json!({ "num_inference_steps": 4, "seed": 5 });
    let asked = |more: Value| {
        let mut body = settings.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let prompt = "a <rex> dog next to a <delft> vase on the beach";
    let plain =
        json!({ "prompt": "a dog next to a vase on the beach", "n": 2, "preview_every": 1 });
    let layouts = whole.images(asked(plain)).await;

    let scene = json!({ "prompt": "a photo on the beach, far away, very small", "n": 2 });
    let scenes = whole.images(asked(scene)).await;

    // In the scene alone, where the layout has its nouns, or told by the request: outside the boxes, every byte is the layout's.
    let left = json!({ "layout": "nouns", "regions": [{ "concept": "dog", "box": [0.1, 0.2, 0.45, 0.9] }] });
    for (composition, layouts) in
        [(json!({}), &scenes), (json!({ "layout": "nouns" }), &layouts), (left, &layouts)]
    {
        let body = asked(json!({ "prompt": prompt, "n": 2, "composition": composition }));
        let sample = whole.run("/v1/samples", body).await;
        assert_eq!(sample.text("status"), "succeeded", "{sample:?}");
        for (image, layout) in sample.body["images"].as_array().unwrap().iter().zip(layouts) {
            let handles: Vec<&Value> =
                image["regions"].as_array().unwrap().iter().map(|one| &one["concept"]).collect();
            assert_eq!(handles, ["dog", "vase"]);
            let png = whole.service.get(image["url"].as_str().unwrap()).await.bytes;
            let (composed, layout) = (pixels(&png), pixels(layout));
            let boxes = boxes(&image["regions"], composed.dimensions());
            if composition["regions"].is_array() {
                assert_eq!(boxes[0], [6, 13, 29, 58]);
            }
            assert!(differ_inside_alone(&composed, &layout, &boxes), "{boxes:?}");

            // The same bytes again from its manifest, where the boxes are fixed.
            let manifest = vstar::image_file::manifest_of(&png).unwrap();
            let again = whole.images(json!({ "from_manifest": manifest })).await;
            assert!(again[0] == png, "{manifest:?}");
        }
    }

    // Image 1 alone is image 1 of two, whatever else is in the batch.
    let body = asked(json!({ "prompt": prompt, "n": 2 }));
    let both = whole.images(body).await;
    let alone = asked(json!({ "prompt": prompt, "first_index": 1 }));
    assert!(whole.images(alone).await[0] == both[1]);

    // Names that the prompt does not have change nothing.
    for method in ["regional", "tokens"] {
        let body = asked(json!({
            "prompt": "a dog next to a vase on the beach", "n": 2, "composition": { "method": method },
            "concepts": [{ "concept": "dog" }, { "concept": "vase" }],
        }));
        let images = whole.images(body).await;
        assert!(images.iter().zip(&layouts).all(|(a, b)| pixels(a) == pixels(b)), "{method}");
    }

    // A start image of the user's, larger, with a concept that has no modifier token and one that the prompt does not name.
    let upload = RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 3, y as u8 * 3, 40]));
    let mut file = Cursor::new(Vec::new());
    upload.write_to(&mut file, ImageFormat::Png).unwrap();
    let id = whole.service.upload_image(file.into_inner()).await.text("id");
    let body = asked(json!({
        "prompt": "a gate", "concepts": [{ "concept": "gate" }, { "concept": "dog" }], "init_image": id,
        "composition": {
            "layout": "init_image", "redraw_strength": 0.6,
            "regions": [
                { "concept": "gate", "box": [0, 0, 0.5, 1] },
                { "concept": "dog", "box": [0.55, 0.3, 1, 0.95], "prompt": "photo of a <rex> dog" },
            ],
        },
    }));
    let sample = whole.run("/v1/samples", body.clone()).await;
    assert_eq!(sample.text("status"), "succeeded", "{sample:?}");
    let png = whole.service.get(sample.body["images"][0]["url"].as_str().unwrap()).await.bytes;
    let boxes = boxes(&sample.body["images"][0]["regions"], (64, 64));
    assert!(differ_inside_alone(&pixels(&png), &upload, &boxes), "{boxes:?}");
    let manifest = vstar::image_file::manifest_of(&png).unwrap();
    assert!(whole.images(json!({ "from_manifest": manifest })).await[0] == png);

    let mut larger = body;
    larger["composition"]["enlarge"] = json!(2);
    assert_eq!(pixels(&whole.images(larger).await[0]).dimensions(), (128, 128));
    whole.end().await;
}
