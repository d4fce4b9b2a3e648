//! One generator for every synthetic input: xoshiro256** seeded through SplitMix64, Gaussians by
//! Box-Muller.

use rand_core::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256StarStar;

/// A stream of normal samples that counts what it draws.
#[derive(Debug, Clone)]
pub struct Gaussian {
    state: Xoshiro256StarStar,
    drawn: u64,
}

impl Gaussian {
    /// Seeds the four words of state with four SplitMix64 outputs.
    pub fn new(seed: u64) -> Self {
        Self { state: Xoshiro256StarStar::seed_from_u64(seed), drawn: 0 }
    }

    /// Words drawn since the seed.
    pub const fn drawn(&self) -> u64 {
        self.drawn
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.drawn += 1;
        self.state.next_u64()
    }

    /// Uniform in [0, 1), 53 bits.
    fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `count` samples of N(0, 1); draws `2 ceil(count / 2)` words.
    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(count + 1);
        while out.len() < count {
            let u1 = self.uniform().max(1e-38);
            let magnitude = (-2.0 * u1.ln()).sqrt() as f32;
            let angle = (2.0 * std::f64::consts::PI * self.uniform()) as f32;
            out.push(magnitude * angle.cos());
            out.push(magnitude * angle.sin());
        }
        out.truncate(count);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen from an independent program: SplitMix64(0x00C25EED), then xoshiro256**.
    #[test]
    fn first_words_of_the_registered_seed() {
        let mut rng = Gaussian::new(0x00C2_5EED);
        let words: Vec<u64> = (0..3).map(|_| rng.bits()).collect();
        assert_eq!(words, FIRST_WORDS);
    }

    const FIRST_WORDS: [u64; 3] =
        [0xa8fc_4089_0ed2_4000, 0xe484_145d_4636_06b8, 0xc699_eb9b_c39b_b4be];

    #[test]
    fn odd_counts_draw_whole_pairs() {
        let mut rng = Gaussian::new(1);
        assert_eq!(rng.normals(7).len(), 7);
        assert_eq!(rng.drawn(), 8);
    }

    #[test]
    fn samples_have_mean_zero_and_variance_one() {
        let x = Gaussian::new(3).normals(100_000);
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / 1e5;
        let variance = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.015, "{mean} {variance}");
    }
}
