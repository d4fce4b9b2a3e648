//! Data of the sweeps: the multistep generator, and production's RMSNorm and RoPE.

use super::{Shape, Step};
use crate::rng::Gaussian;

/// K and V `[nkv, n, D]`, chronological, and q `[nh, D]`.
#[derive(Debug, Clone, PartialEq)]
pub struct StepData {
    /// Keys.
    pub k: Vec<f32>,
    /// Values.
    pub v: Vec<f32>,
    /// Query.
    pub q: Vec<f32>,
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Sub-seed of tensor `i` (0 K, 1 V, 2 q) at position `pos`.
pub const fn sub_seed(base: u64, pos: u32, i: u64) -> u64 {
    let mut z = base.wrapping_add((3 * pos as u64 + i).wrapping_mul(GOLDEN));
    z = (z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9) ^ z;
    z = (z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB) ^ z;
    z ^ (z >> 31)
}

/// `count` N(0, 1) samples from a sub-seed: the top halves of SplitMix64 outputs, Box-Muller in
/// f32.
pub fn sub_seed_normals(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_add(GOLDEN);
    let mut uniform = || {
        state = state.wrapping_add(GOLDEN);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        ((z >> 32) as f64 / 4_294_967_296.0) as f32
    };
    let mut out = Vec::with_capacity(count + 1);
    while out.len() < count {
        let u1 = uniform().max(1e-38);
        let u2 = uniform().max(1e-38);
        let magnitude = (-2.0 * u1.ln()).sqrt();
        let angle = 2.0 * std::f32::consts::PI * u2;
        out.push(magnitude * angle.cos());
        out.push(magnitude * angle.sin());
    }
    out.truncate(count);
    out
}

/// Data of a multistep position.
pub fn multistep(shape: &Shape, step: &Step, base: u64) -> StepData {
    let d = shape.head_dim.as_usize();
    let rows = shape.num_kv_heads as usize * step.kv_seq_len as usize;
    let tensor = |i, count| sub_seed_normals(sub_seed(base, step.abs_pos, i), count);
    StepData {
        k: tensor(0, rows * d),
        v: tensor(1, rows * d),
        q: tensor(2, shape.num_heads as usize * d),
    }
}

/// Epsilon of RMSNorm.
pub const RMS_NORM_EPS: f32 = 1e-6;
/// Base of RoPE.
pub const ROPE_THETA: f32 = 10_000.0;

/// Data of a production step: K, V and q drawn in this order, RMSNorm on all, RoPE on K and q.
pub fn production(shape: &Shape, step: &Step, rng: &mut Gaussian) -> StepData {
    let d = shape.head_dim.as_usize();
    let n = step.kv_seq_len as usize;
    let rows = shape.num_kv_heads as usize * n;
    let mut k = rng.normals(rows * d);
    let mut v = rng.normals(rows * d);
    let mut q = rng.normals(shape.num_heads as usize * d);
    let frequencies = rope_frequencies(d);
    for (i, row) in k.chunks_exact_mut(d).enumerate() {
        rms_norm(row);
        let oldest = i64::from(step.abs_pos) + 1 - n as i64;
        rope(row, (oldest + (i % n) as i64).max(0) as u32, &frequencies);
    }
    v.chunks_exact_mut(d).for_each(rms_norm);
    for row in q.chunks_exact_mut(d) {
        rms_norm(row);
        rope(row, step.abs_pos, &frequencies);
    }
    StepData { k, v, q }
}

/// `x / sqrt(mean(x^2) + eps)`, unit weights.
fn rms_norm(row: &mut [f32]) {
    let mean = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
    let scale = 1.0 / (mean + RMS_NORM_EPS).sqrt();
    row.iter_mut().for_each(|x| *x *= scale);
}

/// `theta^(-2i/D)` for i < D/2.
fn rope_frequencies(d: usize) -> Vec<f32> {
    (0..d / 2).map(|i| ROPE_THETA.powf(-2.0 * i as f32 / d as f32)).collect()
}

/// NeoX half-split rotation of the pairs (i, i + D/2).
fn rope(row: &mut [f32], position: u32, frequencies: &[f32]) {
    let half = frequencies.len();
    for (i, &frequency) in frequencies.iter().enumerate() {
        let (sin, cos) = (position as f32 * frequency).sin_cos();
        let (a, b) = (row[i], row[i + half]);
        row[i] = a * cos - b * sin;
        row[i + half] = a * sin + b * cos;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen from an independent program.
    #[test]
    fn sub_seeds_of_the_registered_base() {
        let found = [(50, 0), (50, 1), (2048, 2)].map(|(pos, i)| sub_seed(0x00C2_5EED, pos, i));
        assert_eq!(found, SUB_SEEDS);
    }

    const SUB_SEEDS: [u64; 3] =
        [0xf305_1ae1_a28d_24c0, 0x0be5_1715_4360_88a6, 0xad3b_ecda_7eb3_9795];

    /// Frozen from an independent program in f32; the two mathematical libraries may differ by
    /// an ulp of sin and cos.
    #[test]
    fn first_samples_of_a_sub_seed() {
        let found = sub_seed_normals(SUB_SEEDS[0], 4);
        for (found, want) in found.iter().zip(FIRST_SAMPLES) {
            assert!((found - want).abs() < 1e-6, "{found} {want}");
        }
    }

    const FIRST_SAMPLES: [f32; 4] = [-0.461_265_8, -0.637_993, 0.074_766_7, -1.199_516];

    #[test]
    fn rms_norm_gives_unit_mean_square_and_rope_keeps_lengths() {
        let mut row = sub_seed_normals(9, 64);
        rms_norm(&mut row);
        let square = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>();
        assert!((square(&row) / 64.0 - 1.0).abs() < 1e-5);
        let before = row.clone();
        rope(&mut row, 0, &rope_frequencies(64));
        assert_eq!(row, before);
        rope(&mut row, 777, &rope_frequencies(64));
        assert!((square(&row) / 64.0 - 1.0).abs() < 1e-5 && row != before);
    }

    /// RoPE's point: the product of two rotated vectors depends on their distance only.
    #[test]
    fn rope_is_relative() {
        let (a, b) = (sub_seed_normals(1, 64), sub_seed_normals(2, 64));
        let dot_at = |p: u32, q: u32| {
            let (mut a, mut b) = (a.clone(), b.clone());
            rope(&mut a, p, &rope_frequencies(64));
            rope(&mut b, q, &rope_frequencies(64));
            a.iter().zip(&b).map(|(x, y)| x * y).sum::<f32>()
        };
        assert!((dot_at(3, 10) - dot_at(103, 110)).abs() < 1e-3);
    }
}
