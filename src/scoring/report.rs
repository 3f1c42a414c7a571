//! The report of an evaluation, from the features of its images, prompts and photos.

use super::alignment::{among_photos, with_photos, with_text};
use super::composition::{self, ComposedImage, compositions};
use super::kid::kid;
use super::scene::scene;
use super::statistics::{mean, mean_of, percentile_interval};
use crate::domain::concept::{ConceptWords, Handle};
use crate::domain::evaluation::EvaluationTask;
use crate::domain::evaluation::prompt::EvaluationPrompt;
use crate::domain::evaluation::report::{
    CompositionReport, ConceptAlignment, Estimate, EvaluationReport, HeldOutReport, KidReport,
    PhotosReport, PromptReport, SubjectReport,
};
use crate::evaluator::Features;

/// The features of everything that an evaluation compares.
#[derive(Debug)]
pub struct Scores {
    /// The photos of each concept.
    pub photos: Vec<Features>,
    /// One row per prompt, without modifier tokens.
    pub prompts: Features,
    pub held_out: Option<Features>,
    pub subjects: Vec<ScoredSubject>,
}

/// The features of a subject's images, prompt by prompt.
#[derive(Debug)]
pub struct ScoredSubject {
    pub images: Vec<Features>,
    /// Of prompts that show several things, the features of each [part](crate::domain::evaluation::prompt::EvaluationPrompt::parts); of others,
    /// none.
    pub parts: Vec<Vec<Features>>,
}

/// Computes all figures.
pub fn report(task: &EvaluationTask, scores: &Scores) -> EvaluationReport {
    let photos: Vec<PhotosReport> = task
        .concepts
        .iter()
        .zip(&scores.photos)
        .map(|(concept, photos)| PhotosReport {
            concept: concept.handle.clone(),
            count: photos.len(),
            alignment: match photos.len() {
                0 | 1 => Estimate::none("one photo has no others to be compared with"),
                2.. => mean_of(&among_photos(photos), "photos"),
            },
        })
        .collect();
    let among: Vec<Option<f64>> = photos.iter().map(|photos| photos.alignment.mean).collect();
    let known: Option<Vec<f64>> = among.iter().copied().collect();
    let photos_alignment = known.and_then(|known| mean(&known));
    let measured: Vec<Measured> =
        scores.subjects.iter().map(|subject| Measured::new(task, scores, subject)).collect();
    let base = task.base_subject().map(|base| &measured[base]);
    let subjects = measured.iter().enumerate();
    EvaluationReport {
        evaluator: task.evaluator.clone(),
        images_per_prompt: task.settings.n,
        photos,
        photos_alignment,
        held_out: task.held_out.as_ref().zip(scores.held_out.as_ref()).map(
            |(held_out, features)| HeldOutReport {
                digest: held_out.set.digest.clone(),
                count: features.len(),
            },
        ),
        subjects: subjects
            .map(|(index, its)| its.report(task, scores, index, base, &among))
            .collect(),
    }
}

/// The alignments of a subject's images, each prompt's in the order of its images.
struct Measured {
    text: Vec<Vec<f64>>,
    /// Over the concepts that the prompt names; over all of them if it names none.
    image: Vec<Vec<f64>>,
    /// The same for each concept.
    by_concept: Vec<Vec<Vec<f64>>>,
    /// The things of each image; none for prompts that do not show several.
    compositions: Vec<Vec<ComposedImage>>,
}

impl Measured {
    fn new(task: &EvaluationTask, scores: &Scores, subject: &ScoredSubject) -> Self {
        let texts = subject.images.iter().enumerate();
        let text = texts.map(|(prompt, images)| with_text(images, scores.prompts.row(prompt)));
        let of_concept = |photos: &Features| {
            subject.images.iter().map(|images| with_photos(images, photos)).collect()
        };
        let by_concept: Vec<Vec<Vec<f64>>> = scores.photos.iter().map(of_concept).collect();
        let image = (0..task.prompts.len()).map(|prompt| {
            let all: Vec<usize> = (0..by_concept.len()).collect();
            let is_named =
                |concept: &usize| task.prompts[prompt].names(&task.concepts[*concept].words);
            let named: Vec<usize> = all.iter().copied().filter(is_named).collect();
            let compared = if named.is_empty() { all } else { named };
            let mean_of_image = |image: usize| {
                let of_concepts: Vec<f64> =
                    compared.iter().map(|concept| by_concept[*concept][prompt][image]).collect();
                mean(&of_concepts).unwrap_or_default()
            };
            (0..subject.images[prompt].len()).map(mean_of_image).collect()
        });
        let words: Vec<&ConceptWords> = task.concepts.iter().map(|one| &one.words).collect();
        let prompts = task.prompts.iter().zip(&subject.parts);
        let compositions = prompts.map(|(prompt, parts)| {
            compositions(&prompt.mentioned(&words), prompt.things, parts, &scores.photos)
        });
        let compositions = compositions.collect();
        Self { text: text.collect(), image: image.collect(), by_concept, compositions }
    }

    fn report(
        &self,
        task: &EvaluationTask,
        scores: &Scores,
        index: usize,
        base: Option<&Self>,
        photos: &[Option<f64>],
    ) -> SubjectReport {
        let subject = &task.subjects[index];
        let named = |values: &[Vec<f64>]| of_prompts(task, values, true);
        let concepts = task.concepts.iter().zip(&self.by_concept);
        let known: Option<Vec<f64>> = photos.iter().copied().collect();
        let photos_alignment = known.and_then(|known| mean(&known));
        SubjectReport {
            name: subject.name.clone(),
            is_base: subject.is_base(),
            text_alignment: mean_of(&named(&self.text), NAMED),
            image_alignment: mean_of(&named(&self.image), NAMED),
            concepts: concepts
                .map(|(concept, values)| ConceptAlignment {
                    concept: concept.handle.clone(),
                    image_alignment: mean_of(&naming(task, &concept.words, values), NAMED),
                })
                .collect(),
            leak: mean_of(&of_prompts(task, &self.image, false), UNNAMED),
            share: match base {
                Some(_) if subject.is_base() => Estimate::none("this is the base model"),
                base => share(
                    &named(&self.image),
                    base.map(|base| of_prompts(task, &base.image, true)),
                    photos_alignment,
                ),
            },
            scene: scene_of(task, scores, index),
            composition: composition_of(task, self.compositions.iter().flatten(), photos),
            kid: scores.held_out.as_ref().map(|held_out| kid_of(task, scores, index, held_out)),
            prompts: self.prompts(task, index, photos),
        }
    }

    fn prompts(
        &self,
        task: &EvaluationTask,
        index: usize,
        photos: &[Option<f64>],
    ) -> Vec<PromptReport> {
        let of_prompt = |(place, prompt): (usize, &EvaluationPrompt)| PromptReport {
            prompt: prompt.for_subject(&task.subjects[index]).to_owned(),
            names_concept: prompt.names_concept,
            text_alignment: mean_of(&self.text[place], IMAGES),
            image_alignment: mean_of(&self.image[place], IMAGES),
            composition: composition_of(task, self.compositions[place].iter(), photos),
        };
        task.prompts.iter().enumerate().map(of_prompt).collect()
    }
}

/// What values are of, in reasons.
const IMAGES: &str = "images";
const NAMED: &str = "images of prompts that name a concept";
const UNNAMED: &str = "images of prompts that name no concept";

/// The values of the prompts that name a concept, or of those that name none.
fn of_prompts(task: &EvaluationTask, values: &[Vec<f64>], named: bool) -> Vec<f64> {
    let prompts = task.prompts.iter().zip(values);
    let chosen = prompts.filter(|(prompt, _)| prompt.names_concept == named);
    chosen.flat_map(|(_, values)| values.iter().copied()).collect()
}

/// The values of the prompts that name this concept.
fn naming(task: &EvaluationTask, words: &ConceptWords, values: &[Vec<f64>]) -> Vec<f64> {
    let prompts = task.prompts.iter().zip(values);
    prompts
        .filter(|(prompt, _)| prompt.names(words))
        .flat_map(|(_, values)| values.clone())
        .collect()
}

/// `(after − before) / (photos − before)`. Its interval resamples a subject's image and the base model's on the same
/// noise together.
fn share(after: &[f64], before: Option<Vec<f64>>, photos: Option<f64>) -> Estimate {
    let Some(before) = before else {
        return Estimate::none("the base model is not among the subjects");
    };
    let Some(photos) = photos else {
        return Estimate::none("one photo has no others to be compared with");
    };
    let (Some(mean_after), Some(mean_before)) = (mean(after), mean(&before)) else {
        return Estimate::none(format!("there are no {NAMED}"));
    };
    let room = photos - mean_before;
    if room <= 1e-6 {
        return Estimate::none(
            "the base model's images agree with the photos as well as the photos do",
        );
    }
    let (n, mean) = (after.len(), Some((mean_after - mean_before) / room));
    if n < 2 {
        let reason = Some("one image alone gives no interval".to_owned());
        return Estimate { mean, interval: None, n, reason };
    }
    let statistic = |picked: &[usize]| {
        let of = |values: &[f64]| picked.iter().map(|&at| values[at]).sum::<f64>() / n as f64;
        let (after, before) = (of(after), of(&before));
        (after - before) / (photos - before).max(1e-6)
    };
    Estimate { mean, interval: Some(percentile_interval(n, statistic)), n, reason: None }
}

fn composition_of<'a>(
    task: &EvaluationTask,
    images: impl Iterator<Item = &'a ComposedImage>,
    photos: &[Option<f64>],
) -> Option<CompositionReport> {
    let images: Vec<&ComposedImage> = images.collect();
    let handles: Vec<&Handle> = task.concepts.iter().map(|concept| &concept.handle).collect();
    (!images.is_empty()).then(|| composition::report(&images, &handles, photos))
}

fn scene_of(task: &EvaluationTask, scores: &Scores, index: usize) -> Estimate {
    let named: Vec<usize> =
        (0..task.prompts.len()).filter(|prompt| task.prompts[*prompt].names_concept).collect();
    let images: Vec<&Features> =
        named.iter().map(|prompt| &scores.subjects[index].images[*prompt]).collect();
    let texts: Vec<f32> =
        named.iter().flat_map(|prompt| scores.prompts.row(*prompt).iter().copied()).collect();
    scene(&images, &Features::new(scores.prompts.width(), texts))
}

fn kid_of(task: &EvaluationTask, scores: &Scores, index: usize, held_out: &Features) -> KidReport {
    let subset_size = task.held_out.as_ref().and_then(|held_out| held_out.subset_size);
    let of = |named: bool| {
        let prompts = task.prompts.iter().zip(&scores.subjects[index].images);
        let chosen = prompts.filter(|(prompt, _)| prompt.names_concept == named);
        let values = chosen.flat_map(|(_, images)| images.values().iter().copied()).collect();
        kid(&Features::new(held_out.width(), values), held_out, subset_size)
    };
    KidReport { named: of(true), unnamed: of(false) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::concept::ClassNoun;
    use crate::domain::evaluation::prompt::EvaluationPrompt;
    use crate::domain::evaluation::tests::small_task;

    /// Two subjects on two prompts, six images each; every image of the base model points up, every one of the other to
    /// the right on the first prompt.
    fn scores() -> Scores {
        let images = |x: f32, y: f32| Features::new(2, [x, y].repeat(6));
        Scores {
            photos: vec![Features::new(2, vec![1.0, 0.0, 0.8, 0.6])],
            prompts: Features::new(2, vec![0.0, 1.0, 0.6, 0.8]),
            held_out: None,
            subjects: vec![
                scored(vec![images(0.0, 1.0), images(0.0, 1.0)]),
                scored(vec![images(1.0, 0.0), images(0.0, 1.0)]),
            ],
        }
    }

    fn scored(images: Vec<Features>) -> ScoredSubject {
        ScoredSubject { parts: vec![Vec::new(); images.len()], images }
    }

    #[test]
    fn figures_are_those_computed_by_hand() {
        let report = report(&small_task(), &scores());

        let (base, rex) = (&report.subjects[0], &report.subjects[1]);
        let near = |estimate: &Estimate, value: f64| (estimate.mean.unwrap() - value).abs() < 1e-6;
        assert!(near(&report.photos[0].alignment, 0.8));
        assert!(near(&base.image_alignment, 0.3) && near(&rex.image_alignment, 0.9));
        assert!(near(&base.text_alignment, 1.0) && near(&rex.text_alignment, 0.0));
        assert!(near(&base.leak, 0.3) && near(&rex.leak, 0.3));
        assert!(base.share.mean.is_none() && near(&rex.share, (0.9 - 0.3) / (0.8 - 0.3)));
        assert_eq!(rex.prompts[0].prompt, "a <rex> dog");
        assert_eq!(base.prompts[0].prompt, "a dog");
        assert_eq!(rex.kid, None);
    }

    #[test]
    fn a_concept_is_compared_with_the_images_of_prompts_that_name_it() {
        let mut task = small_task();
        let mut gate = task.concepts[0].clone();
        gate.words.modifier_token = None;
        gate.words.class_noun = ClassNoun::try_from("gate".to_owned()).unwrap();
        task.concepts.push(gate);
        let (text, plain) = ("a gate".to_owned(), "a gate".to_owned());
        task.prompts[1] = EvaluationPrompt { text, plain, names_concept: true, things: 1 };
        let mut scores = scores();
        scores.photos.push(Features::new(2, vec![0.0, 1.0]));

        let report = report(&task, &scores);

        let both = &report.subjects[1];
        let figures = [
            &both.concepts[0].image_alignment,
            &both.concepts[1].image_alignment,
            &both.image_alignment,
        ];
        for (estimate, (mean, n)) in figures.into_iter().zip([(0.9, 6), (1.0, 6), (0.95, 12)]) {
            assert!(
                (estimate.mean.unwrap() - mean).abs() < 1e-6 && estimate.n == n,
                "{estimate:?}"
            );
        }
    }

    #[test]
    fn a_prompt_of_two_concepts_is_scored_by_parts() {
        let mut task = small_task();
        let mut gate = task.concepts[0].clone();
        gate.words.modifier_token = None;
        gate.words.class_noun = ClassNoun::try_from("gate".to_owned()).unwrap();
        task.concepts.push(gate);
        let words: Vec<&ConceptWords> =
            task.concepts.iter().map(|concept| &concept.words).collect();
        task.prompts[1] = EvaluationPrompt::new("a gate and a {}", &words).unwrap();
        let mut scores = scores();
        scores.photos.push(Features::new(2, vec![0.0, 1.0, 0.6, 0.8]));
        // The gate stands on the right.
        let part = |x: f32, y: f32| Features::new(2, [x, y].repeat(6));
        for subject in &mut scores.subjects {
            subject.parts[1] = vec![part(1.0, 0.0), part(0.0, 1.0)];
        }

        let report = report(&task, &scores);

        let both = &report.subjects[1];
        let composition = both.composition.as_ref().unwrap();
        let near = |estimate: &Estimate, value: f64| (estimate.mean.unwrap() - value).abs() < 1e-6;
        assert!(near(&composition.things[0], 0.9) && near(&composition.things[1], 0.9));
        assert!(near(&composition.image_alignment, 0.9) && near(&composition.leak, 0.3));
        assert!(near(&composition.all_present, 1.0));
        assert!(near(&composition.concepts[1].image_alignment, 0.9));
        assert_eq!((composition.image_alignment.n, composition.all_present.n), (6, 6));
        assert_eq!(both.prompts[0].composition, None);
        assert_eq!(both.prompts[1].composition, both.composition);
    }

    #[test]
    fn what_cannot_be_known_is_null_with_a_reason() {
        let mut task = small_task();
        task.subjects.remove(0);
        task.prompts[1].names_concept = true;
        let mut scores = scores();
        scores.subjects.remove(0);
        scores.photos[0] = Features::new(2, vec![1.0, 0.0]);

        let report = report(&task, &scores);

        let rex = &report.subjects[0];
        for missing in [&report.photos[0].alignment, &rex.leak, &rex.share] {
            assert!(missing.mean.is_none() && missing.reason.is_some(), "{missing:?}");
        }
        assert_eq!(report.photos_alignment, None);
        assert!(!serde_json::to_string(&report).unwrap().contains("NaN"));
    }
}
