//! Starting from an image, number by number as diffusers does it (`tests/golden/record_late_starts.py`).

use serde::Deserialize;
use vstar::domain::sample::SchedulerName;
use vstar::engine::schedulers::{Scheduler, SchedulerConfig};

const RECORDED: &str = include_str!("../golden/late_starts.json");

#[derive(Deserialize)]
struct Case {
    scheduler: SchedulerName,
    scheduler_config: SchedulerConfig,
    num_inference_steps: usize,
    noise_strength: f64,
    timesteps: Vec<f32>,
    clean: Vec<f32>,
    noise: Vec<f32>,
    start: Vec<f32>,
    model_preds: Vec<Vec<f32>>,
    noises: Vec<Vec<f32>>,
    samples: Vec<Vec<f32>>,
}

#[test]
fn a_late_start_is_that_of_diffusers() {
    let cases: Vec<Case> = serde_json::from_str(RECORDED).unwrap();
    assert_eq!(cases.len(), 8 * 2 * 3);
    for case in cases {
        let named = format!(
            "{:?}, {:?}, {} of {} steps",
            case.scheduler,
            case.scheduler_config.prediction_type,
            case.noise_strength,
            case.num_inference_steps
        );
        let steps = case.num_inference_steps;
        let skipped = steps - (steps as f64 * case.noise_strength) as usize;

        let mut scheduler =
            Scheduler::late(case.scheduler, &case.scheduler_config, steps, 0.0, skipped).unwrap();

        assert_eq!(scheduler.timesteps(), case.timesteps, "{named}");
        let mut sample = scheduler.add_noise(&case.clean, &case.noise);
        assert_near(&sample, &case.start, &named);
        for (step, expected) in case.samples.iter().enumerate() {
            let noise = scheduler.needs_noise(step).then_some(case.noises[step].as_slice());
            scheduler.step(step, &case.model_preds[step], &mut sample, noise);
            assert_near(&sample, expected, &format!("{named}, step {step}"));
        }
    }
}

fn assert_near(ours: &[f32], expected: &[f32], named: &str) {
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    for (a, b) in ours.iter().zip(expected) {
        assert!((a - b).abs() <= 2e-4 * largest, "{named}: {ours:?}, expected {expected:?}");
    }
    assert_eq!(ours.len(), expected.len());
}

/// So an image can be brought to its size before it waits for the device.
#[test]
fn an_image_that_covers_the_size_is_taken_as_it_is() {
    let image =
        image::RgbImage::from_fn(131, 77, |x, y| image::Rgb([x as u8, y as u8, (x ^ y) as u8]));

    let covered = vstar::engine::cover(&image, 48, 64);

    assert_eq!(covered.dimensions(), (48, 64));
    assert_eq!(vstar::engine::cover(&covered, 48, 64), covered);
}
