//! A planned sequence of denoising steps, and what a family of schedulers does at each.

use super::schedule::PredictionType;

/// The steps of one image from noise to a clean sample.
pub struct Scheduler {
    pub(super) timesteps: Vec<f32>,
    pub(super) init_noise_sigma: f32,
    pub(super) rule: Box<dyn Rule>,
    /// Steps of the rule that were left out at the beginning.
    pub(super) skipped: usize,
    pub(super) prediction_type: PredictionType,
}

/// What a family of schedulers does at a step; `step` counts from 0 and goes up by one at each call.
pub(super) trait Rule: Send {
    /// `sample / √(σ² + 1)` for rules that work on `x₀ + σ ε`; others change nothing.
    fn scale_model_input(&self, _step: usize, sample: &[f32]) -> Vec<f32> {
        sample.to_vec()
    }

    /// Whether the step adds fresh noise.
    fn needs_noise(&self, _step: usize) -> bool {
        false
    }

    /// What x₀ and ε are multiplied by in the sample at `step`.
    fn noise_parts(&self, step: usize) -> (f64, f64);

    /// Replaces the sample by the one at the next timestep.
    fn step(&mut self, step: usize, model_pred: &[f32], sample: &mut [f32], noise: Option<&[f32]>);
}

impl Scheduler {
    /// The timestep that the model is called with at each step, from noisy to clean.
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// What standard normal latents are multiplied by at the start.
    pub fn init_noise_sigma(&self) -> f32 {
        self.init_noise_sigma
    }

    /// What the model sees of the sample at `step`.
    pub fn scale_model_input(&self, step: usize, sample: &[f32]) -> Vec<f32> {
        self.rule.scale_model_input(self.skipped + step, sample)
    }

    /// Whether [`Self::step`] needs standard normal noise at `step`.
    pub fn needs_noise(&self, step: usize) -> bool {
        self.rule.needs_noise(self.skipped + step)
    }

    /// The sample to start from: a clean one with as much noise as the first step expects.
    pub fn add_noise(&self, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        self.add_noise_at(0, clean, noise)
    }

    /// A clean sample with as much noise as `step` expects; the clean sample itself behind the last step.
    pub fn add_noise_at(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        if step >= self.timesteps.len() {
            return clean.to_vec();
        }
        let (of_x0, of_noise) = self.rule.noise_parts(self.skipped + step);
        combined(&[(of_x0, clean), (of_noise, noise)])
    }

    /// The clean sample that the model's output at `step` predicts.
    pub fn predicted_x0(&self, step: usize, model_pred: &[f32], sample: &[f32]) -> Vec<f32> {
        let (of_x0, of_noise) = self.rule.noise_parts(self.skipped + step);
        // As for a sample of unit variance, which is what the model sees.
        let scale = of_x0.hypot(of_noise);
        let parts = self.prediction_type.parts((of_x0 / scale).powi(2));
        combined(&[(parts.x0.0, model_pred), (parts.x0.1 / scale, sample)])
    }

    /// Takes the sample from `timesteps()[step]` to the next; steps must be taken in order.
    pub fn step(
        &mut self,
        step: usize,
        model_pred: &[f32],
        sample: &mut [f32],
        noise: Option<&[f32]>,
    ) {
        self.rule.step(self.skipped + step, model_pred, sample, noise);
    }
}

/// `out ← Σ factor · part`, element by element in f64.
pub(super) fn combine(out: &mut [f32], parts: &[(f64, &[f32])]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = parts.iter().map(|(factor, part)| factor * f64::from(part[i])).sum::<f64>() as f32;
    }
}

/// The same as [`combine`], in a new vector.
pub(super) fn combined(parts: &[(f64, &[f32])]) -> Vec<f32> {
    let mut out = vec![0.0; parts.first().map_or(0, |(_, part)| part.len())];
    combine(&mut out, parts);
    out
}
