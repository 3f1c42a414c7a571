//! What compositions need of the engine: maps of attention, surroundings that are held, and concepts at their own words.

use std::sync::Arc;

use candle_core::Tensor;
use vstar::engine::{
    AttentionMaps, BaseModel, ConceptSet, ConceptUse, DenoisingState, Flow, InitImage, KeyValues,
    SampleRequest, denoise, encode_init,
};

use crate::deltas::rex;
use crate::sampler::{any_concept, any_request, base_model, generate};

/// The last latents of an image.
fn denoised(base: &BaseModel, state: DenoisingState) -> DenoisingState {
    denoise(base, vec![state], &mut |_, _| Flow::Continue).unwrap().pop().unwrap()
}

#[test]
fn watching_changes_no_image_and_gives_the_same_maps_among_neighbours() {
    let base = base_model();
    let request = any_request(&base);
    let plain = DenoisingState::new(&base, &request).unwrap().decode(&base).unwrap();
    let maps_of = |state: &DenoisingState| state.attention().map(AttentionMaps::means).unwrap();
    let watched = || {
        let mut state = DenoisingState::new(&base, &request).unwrap();
        state.watch(&[vec![4], vec![1, 2]]);
        state
    };
    let other = SampleRequest { seed: 9, guidance_scale: 1.0, ..request.clone() };

    let alone = denoised(&base, watched());
    let neighbours = [&other, &other].map(|one| DenoisingState::new(&base, one).unwrap());
    let [first, last] = neighbours;
    let together =
        denoise(&base, vec![first, watched(), last], &mut |_, _| Flow::Continue).unwrap();

    let image = generate(&base, std::slice::from_ref(&request)).remove(0);
    let shown = vstar::engine::images(&base, &[&alone]).unwrap().remove(0).into_raw();
    assert!(image == shown, "watching changed the image");
    assert_eq!(maps_of(&alone), maps_of(&together[1]));
    let maps = maps_of(&alone);
    assert_eq!((maps.len(), maps[0].len()), (2, 64), "{:?}", plain.dims());
    assert!(maps.iter().flatten().all(|share| (0.0..=1.0).contains(share)));
    assert!(maps[0] != maps[1] && maps[0].iter().any(|share| (share - maps[0][0]).abs() > 1e-6));
}

#[test]
fn surroundings_are_held_and_the_rest_is_generated() {
    let base = base_model();
    let request = any_request(&base);
    let photo = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 4, y as u8 * 4, 90]));
    let latents = encode_init(&base, &photo, request.width, request.height).unwrap();
    let with = |mask: Option<Arc<[f32]>>| {
        let init = Some(InitImage { latents: latents.clone(), noise_strength: 1.0, mask });
        generate(&base, &[SampleRequest { init, ..request.clone() }]).remove(0)
    };
    let everything: Arc<[f32]> = vec![1.0; 64].into();
    let nothing: Arc<[f32]> = vec![0.0; 64].into();
    let left: Arc<[f32]> = (0..64).map(|cell| f32::from(u8::from(cell % 8 < 4))).collect();

    let generated = with(None);
    assert!(with(Some(everything)) == generated);
    let held = with(Some(nothing));
    let tensor = Tensor::from_slice(&latents, (1, 4, 8, 8), &base.device).unwrap();
    let decoded = base.vae.decode(&(tensor / base.vae.scaling_factor()).unwrap()).unwrap();
    let decoded: Vec<f32> =
        decoded.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    for (held, decoded) in held.iter().zip(&decoded) {
        let decoded = (decoded / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0;
        assert!((f32::from(*held) - decoded).abs() <= 0.51, "{held} {decoded}");
    }
    let half = with(Some(left));
    assert!(half != generated && half != held);
}

fn bytes(key_values: &KeyValues) -> Vec<Vec<Vec<f32>>> {
    let rows = |tensor: &Tensor| tensor.squeeze(0).unwrap().to_vec2::<f32>().unwrap();
    key_values.layers.iter().flat_map(|kv| [rows(&kv.key), rows(&kv.value)]).collect()
}

#[test]
fn at_its_own_words_a_concept_changes_these_alone() {
    let base = base_model();
    let delta = any_concept(&base);
    let used = |strength| ConceptUse { delta: delta.clone(), strength };
    let set = |strength| ConceptSet::at_own_words(&base, &[used(strength)]).unwrap();
    let plain = ConceptSet::new(&base, &[]).unwrap();
    let whole = ConceptSet::new(&base, &[used(1.0)]).unwrap();

    // A prompt that does not name it is the base model's, to the last bit.
    let unnamed = "photo of a dog";
    assert_eq!(
        bytes(&set(1.0).condition(&base, unnamed).unwrap()),
        bytes(&plain.condition(&base, unnamed).unwrap())
    );

    let prompt = "a <rex> dog";
    let own = bytes(&set(1.0).condition(&base, prompt).unwrap());
    let whole = bytes(&whole.condition(&base, prompt).unwrap());
    let none = bytes(&set(0.0).condition(&base, prompt).unwrap());
    let mut changed = false;
    for (own, whole) in own.iter().zip(&whole) {
        for token in 2..4 {
            for (own, whole) in own[token].iter().zip(&whole[token]) {
                assert!((own - whole).abs() <= 1e-5 * whole.abs().max(1.0), "{own} {whole}");
            }
        }
        // The values are one and a half times the base model's everywhere in the whole delta.
        changed |= own[1] != whole[1] && own.last() != whole.last();
    }
    assert!(changed, "other tokens are the base model's");
    assert!(own != none);
}

#[test]
fn deltas_at_their_own_words_do_not_meet() {
    let base = base_model();
    let one = ConceptUse { delta: any_concept(&base), strength: 1.0 };
    let mut twin = (*rex(&base, |_| 0.5)).clone();
    twin.concepts[0].words.modifier_token = Some("<max>".to_owned().try_into().unwrap());
    let other = ConceptUse { delta: Arc::new(twin), strength: 1.0 };
    let both = ConceptSet::at_own_words(&base, &[one.clone(), other]).unwrap();

    let prompt = "a <rex> dog";
    let alone = ConceptSet::at_own_words(&base, &[one]).unwrap();

    assert_eq!(
        bytes(&both.condition(&base, prompt).unwrap()),
        bytes(&alone.condition(&base, prompt).unwrap())
    );
    let named = both.condition(&base, "a <rex> dog and a <max> dog").unwrap();
    let first_only = both.condition(&base, "a <rex> dog and a <rex> dog").unwrap();
    assert!(bytes(&named) != bytes(&first_only));
}
