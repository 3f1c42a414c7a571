//! Images of several things: how well each thing shows its concept in the part of the image that it has to itself.

use super::alignment::with_photos;
use super::statistics::{mean, mean_of, wilson};
use crate::domain::concept::Handle;
use crate::domain::evaluation::report::{CompositionReport, ConceptAlignment, Estimate};
use crate::evaluator::Features;

/// How much of the photos' own alignment a thing needs to count as present.
const PRESENT_SHARE: f64 = 0.5;

/// What values are of, in reasons.
const IMAGES: &str = "images of several things";

/// The things of one image that are concepts, in the order of the prompt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ComposedImage {
    things: Vec<Thing>,
}

/// A concept in its part of an image.
#[derive(Clone, Debug, PartialEq)]
struct Thing {
    concept: usize,
    /// With the concept's own photos.
    alignment: f64,
    /// With the photos of each other concept that the prompt names.
    others: Vec<f64>,
}

/// Finds the things of each image of a prompt.
///
/// Each thing has a part to itself. Of all ways to hand out the parts, the one with the largest sum of alignments counts, so
/// that the order from left to right does not matter.
///
/// - `mentions`: the concepts in the order of the prompt
/// - `things`: that an image shows; so many parts after each other are one way to share it
/// - `parts`: the features of each part, one row per image
/// - `photos`: those of each concept
pub(super) fn compositions(
    mentions: &[usize],
    things: usize,
    parts: &[Features],
    photos: &[Features],
) -> Vec<ComposedImage> {
    let mut named = mentions.to_vec();
    named.sort_unstable();
    named.dedup();
    // By concept, part and image.
    let alignments: Vec<Vec<Vec<f64>>> = photos
        .iter()
        .enumerate()
        .map(|(concept, photos)| match named.contains(&concept) {
            true => parts.iter().map(|part| with_photos(part, photos)).collect(),
            false => Vec::new(),
        })
        .collect();
    let shared = (0..parts.len()).step_by(things.max(1));
    let ways: Vec<Vec<usize>> = shared
        .flat_map(|first| {
            let chosen = choices(things, mentions.len()).into_iter();
            chosen.map(move |way| way.into_iter().map(|part| first + part).collect())
        })
        .collect();
    let of_image = |image: usize| {
        let fit = |way: &[usize]| -> f64 {
            mentions.iter().zip(way).map(|(concept, part)| alignments[*concept][*part][image]).sum()
        };
        let best = ways.iter().reduce(|best, way| if fit(way) > fit(best) { way } else { best });
        let placed = mentions.iter().zip(best.into_iter().flatten());
        let thing = |(concept, part): (&usize, &usize)| Thing {
            concept: *concept,
            alignment: alignments[*concept][*part][image],
            others: named
                .iter()
                .filter(|other| *other != concept)
                .map(|other| alignments[*other][*part][image])
                .collect(),
        };
        ComposedImage { things: placed.map(thing).collect() }
    };
    (0..parts.first().map_or(0, Features::len)).map(of_image).collect()
}

/// All ways to choose `count` of `from` places in order.
fn choices(from: usize, count: usize) -> Vec<Vec<usize>> {
    let mut ways = vec![Vec::new()];
    for _ in 0..count {
        let longer = |way: &Vec<usize>| {
            let free = (0..from).filter(|place| !way.contains(place));
            free.map(|place| [way.as_slice(), &[place]].concat()).collect::<Vec<_>>()
        };
        ways = ways.iter().flat_map(longer).collect();
    }
    ways
}

/// The figures of some images.
///
/// - `handles`, `photos`: of each concept; the alignment of its photos among themselves
pub(super) fn report(
    images: &[&ComposedImage],
    handles: &[&Handle],
    photos: &[Option<f64>],
) -> CompositionReport {
    let things = || images.iter().flat_map(|image| &image.things);
    let count = images.iter().map(|image| image.things.len()).max().unwrap_or(0);
    let of_place = |place: usize| -> Vec<f64> {
        images.iter().filter_map(|image| Some(image.things.get(place)?.alignment)).collect()
    };
    let leaks: Vec<f64> = images.iter().filter_map(|image| image.leak()).collect();
    let means: Vec<f64> = images.iter().filter_map(|image| image.alignment()).collect();
    let present: Option<Vec<bool>> = images.iter().map(|image| image.all_present(photos)).collect();
    CompositionReport {
        image_alignment: mean_of(&means, IMAGES),
        things: (0..count).map(|place| mean_of(&of_place(place), IMAGES)).collect(),
        concepts: handles
            .iter()
            .enumerate()
            .map(|(concept, handle)| {
                let own = things().filter(|thing| thing.concept == concept);
                let values: Vec<f64> = own.map(|thing| thing.alignment).collect();
                let concept = (*handle).clone();
                ConceptAlignment { concept, image_alignment: mean_of(&values, IMAGES) }
            })
            .collect(),
        leak: match (leaks.is_empty(), images.is_empty()) {
            (true, false) => Estimate::none("no image shows two different concepts"),
            (_, _) => mean_of(&leaks, IMAGES),
        },
        all_present: match present {
            None => Estimate::none("one photo has no others to be compared with"),
            Some(present) => {
                let hits = present.iter().filter(|present| **present).count();
                match wilson(hits, present.len()) {
                    None => Estimate::none(format!("there are no {IMAGES}")),
                    Some((mean, interval)) => Estimate {
                        mean: Some(mean),
                        interval: Some(interval),
                        n: present.len(),
                        reason: None,
                    },
                }
            }
        },
    }
}

impl ComposedImage {
    /// The mean over the things.
    fn alignment(&self) -> Option<f64> {
        mean(&self.things.iter().map(|thing| thing.alignment).collect::<Vec<_>>())
    }

    /// The mean over the things of what their parts show of the other concepts.
    fn leak(&self) -> Option<f64> {
        mean(&self.things.iter().filter_map(|thing| mean(&thing.others)).collect::<Vec<_>>())
    }

    /// Whether every thing's part is like its own photos, and more so than like those of any other concept. `None` if it is
    /// not known how much photos of a concept are like each other.
    fn all_present(&self, photos: &[Option<f64>]) -> Option<bool> {
        let mut present = true;
        for thing in &self.things {
            let enough = PRESENT_SHARE * photos[thing.concept]?;
            let above_others = thing.others.iter().all(|other| thing.alignment > *other);
            present &= thing.alignment >= enough && above_others;
        }
        Some(present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Photos of three concepts along the axes.
    fn photos() -> Vec<Features> {
        (0..3).map(|axis| Features::new(3, unit(axis, 1.0))).collect()
    }

    fn unit(axis: usize, value: f32) -> Vec<f32> {
        (0..3).map(|at| if at == axis { value } else { 0.0 }).collect()
    }

    fn handles() -> Vec<Handle> {
        ["rex", "gate", "vase"].map(|name| Handle::try_from(name.to_owned()).unwrap()).into()
    }

    #[test]
    fn parts_are_handed_out_so_that_the_sum_is_largest() {
        // Gate on the left and rex, faintly, on the right; then rex twice as clear on the left as on the right, the gate a
        // little on both.
        let left = Features::new(3, vec![0.5, 0.9, 0.0, 0.8, 0.3, 0.0]);
        let right = Features::new(3, vec![0.4, 0.1, 0.0, 0.4, 0.2, 0.0]);

        let images = compositions(&[0, 1], 2, &[left, right], &photos());

        let figures = |image: &ComposedImage| -> Vec<f32> {
            image
                .things
                .iter()
                .flat_map(|one| [one.alignment, one.others[0]])
                .map(|x| x as f32)
                .collect()
        };
        assert_eq!(figures(&images[0]), [0.4, 0.1, 0.9, 0.5]);
        assert_eq!(figures(&images[1]), [0.8, 0.3, 0.2, 0.4]);
    }

    #[test]
    fn a_concept_beside_a_plain_thing_has_its_best_part_and_nothing_leaks() {
        let parts = [Features::new(3, unit(0, 0.2)), Features::new(3, unit(0, 0.7))];

        let images = compositions(&[0], 2, &parts, &photos());
        let handles = handles();
        let report = report(
            &images.iter().collect::<Vec<_>>(),
            &handles.iter().collect::<Vec<_>>(),
            &[Some(0.9), None, None],
        );

        assert!((report.image_alignment.mean.unwrap() - 0.7).abs() < 1e-6);
        assert_eq!((report.things.len(), report.all_present.mean), (1, Some(1.0)));
        assert_eq!(report.leak.mean, None);
        assert!(report.concepts[1].image_alignment.mean.is_none());
    }

    #[test]
    fn one_thing_above_the_other_is_found_but_not_one_beside_and_one_above() {
        let part = |x: f32, y: f32| Features::new(3, vec![x, y, 0.0]);
        // Left and right show a little of both; above is rex, below the gate.
        let parts = [part(0.3, 0.2), part(0.2, 0.3), part(0.8, 0.1), part(0.0, 0.7)];

        let images = compositions(&[1, 0], 2, &parts, &photos());

        let alignments: Vec<f32> =
            images[0].things.iter().map(|thing| thing.alignment as f32).collect();
        assert_eq!(alignments, [0.7, 0.8]);
        let beside = [part(0.8, 0.1), part(0.2, 0.3), part(0.3, 0.2), part(0.0, 0.9)];
        let images = compositions(&[1, 0], 2, &beside, &photos());
        let alignment = images[0].things[1].alignment;
        assert!((alignment - 0.3).abs() < 1e-6, "0.9 + 0.3 is more than 0.3 + 0.8: {alignment}");
    }

    #[test]
    fn a_thing_is_present_if_it_is_like_its_photos_and_like_no_others_more() {
        let thing = |alignment, other| Thing { concept: 0, alignment, others: vec![other] };
        let image = |one: Thing| ComposedImage { things: vec![one] };

        let present = |one: Thing| image(one).all_present(&[Some(0.8)]);
        assert_eq!(present(thing(0.4, 0.3)), Some(true));
        assert_eq!(present(thing(0.39, 0.3)), Some(false), "too little of its own");
        assert_eq!(present(thing(0.6, 0.6)), Some(false), "as much of another");
        assert_eq!(image(thing(0.6, 0.1)).all_present(&[None]), None);
    }

    #[test]
    fn one_concept_twice_has_a_part_for_each() {
        let parts = [0.9, 0.1, 0.6].map(|value| Features::new(3, unit(0, value)));

        let images = compositions(&[0, 0], 3, &parts, &photos());

        let mut found: Vec<f32> =
            images[0].things.iter().map(|thing| thing.alignment as f32).collect();
        found.sort_by(f32::total_cmp);
        assert_eq!(found, [0.6, 0.9]);
        assert!(images[0].leak().is_none());
        assert_eq!(choices(4, 3).len(), 24);
    }
}
