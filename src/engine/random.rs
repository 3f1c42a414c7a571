//! Counter-based randomness: a number depends on its purpose, never on the numbers generated before it.
//!
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a counter and a key
//! into four random words. The key is the seed; the counter names the purpose, the step or image, the element, and the
//! position within the stream. So nothing depends on batch neighbours, thread count or the point of resumption, and the
//! bytes are the same on every device.

use std::f64::consts::TAU;

/// What a random stream is used for; streams of different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The latents that sampling starts from.
    InitialLatents = 1,
    /// What a stochastic scheduler adds after a step.
    StepNoise = 2,
    /// Training: the timestep of an element.
    Timestep = 3,
    /// Training: the noise that the model is to predict.
    Noise = 4,
    /// Training: the noise by which latents are sampled from the VAE's posterior.
    Posterior = 5,
    /// Training: sizes, places and words of an augmented photo.
    Augmentation = 6,
    /// Training: which image and which caption.
    DataOrder = 7,
    /// Evaluation: which values make a resample or a subset.
    Resampling = 8,
    /// Training: what the factors of a low-rank change start from.
    LowRankFactor = 9,
}

/// One stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    key: [u32; 2],
    /// Position, element, index and purpose.
    counter: [u32; 4],
    /// What is left of the last block, last word first.
    words: Vec<u32>,
}

impl Random {
    /// The stream of `seed` for `purpose`, at `index` (a step or an image) and `element`, both below 2⁴⁸.
    pub fn new(seed: u64, purpose: Purpose, index: u64, element: u64) -> Self {
        // 128 bits of counter would not hold all three; what does not fit is mixed into the key, by Philox itself.
        let mixed = philox4x32(
            [index as u32, (index >> 32) as u32, element as u32, (element >> 32) as u32],
            [seed as u32, (seed >> 32) as u32],
        );
        Self {
            key: [mixed[0], mixed[1]],
            counter: [0, mixed[2], mixed[3], purpose as u32],
            words: Vec::new(),
        }
    }

    /// Fills `values` with independent standard normals (Box–Muller in f64, rounded once).
    pub fn normals(&mut self, values: &mut [f32]) {
        for pair in values.chunks_mut(2) {
            let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
            let angle = TAU * self.uniform();
            pair[0] = (radius * libm::cos(angle)) as f32;
            if let Some(second) = pair.get_mut(1) {
                *second = (radius * libm::sin(angle)) as f32;
            }
        }
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        let bits = (u64::from(self.word()) << 32) | u64::from(self.word());
        (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A number in `0..n`, each equally likely to within 2⁻⁵³.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.uniform() * n as f64) as usize).min(n.saturating_sub(1))
    }

    fn word(&mut self) -> u32 {
        match self.words.pop() {
            Some(word) => word,
            None => {
                let block = philox4x32(self.counter, self.key);
                self.counter[0] = self.counter[0].wrapping_add(1);
                self.words.extend(block.into_iter().rev().take(3));
                block[0]
            }
        }
    }
}

/// Ten rounds of Philox on four 32-bit words.
fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let first = MULTIPLIERS[0] * u64::from(counter[0]);
        let second = MULTIPLIERS[1] * u64::from(counter[2]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        let pi = ([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);

        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(philox4x32(pi.0, pi.1), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let mut values = vec![0.0; 200_000];
        Random::new(3, Purpose::Noise, 1, 2).normals(&mut values);

        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
        let variance =
            values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / values.len() as f64;

        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
    }

    #[test]
    fn streams_differ_by_seed_purpose_index_and_element() {
        let first = |mut random: Random| random.word();
        let words = [
            first(Random::new(1, Purpose::Noise, 0, 0)),
            first(Random::new(2, Purpose::Noise, 0, 0)),
            first(Random::new(1, Purpose::Timestep, 0, 0)),
            first(Random::new(1, Purpose::Noise, 1, 0)),
            first(Random::new(1, Purpose::Noise, 0, 1)),
            first(Random::new(1, Purpose::Noise, 1 << 32, 0)),
        ];

        for (i, word) in words.iter().enumerate() {
            assert!(!words[..i].contains(word), "stream {i} repeats another");
        }
    }

    #[test]
    fn a_longer_draw_begins_like_a_shorter_one() {
        let (mut short, mut long) = (vec![0.0; 64], vec![0.0; 256]);
        Random::new(5, Purpose::InitialLatents, 0, 0).normals(&mut short);
        Random::new(5, Purpose::InitialLatents, 0, 0).normals(&mut long);

        assert_eq!(short, long[..64]);
    }
}
