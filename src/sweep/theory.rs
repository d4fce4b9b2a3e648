//! What the codec's theory expects of a step, before any kernel runs.
//!
//! Lloyd-Max codes shrink: a decoded vector is `(1 - e) x` plus noise of energy `e (1 - e) |x|^2`,
//! where e is the relative mean squared error of the codec. Norm correction divides both by the
//! length of that, `sqrt(1 - e)`. With a gain of g and a noise of `m |x|^2` for K, the scores move to
//! `g s + N(0, (|q| |k| scale)^2 m / D)`; softmax of the moved scores on V with the same model gives
//! the expected error of the output, here as a mean over seeded draws. It holds at any logit
//! spread; at a spread sigma of 1 or less it is near `sqrt(e_V + sigma^2 e_K)`.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use super::inputs::StepData;
use super::point::Reference;
use super::{Shape, Step};
use crate::codec::Codec;
use crate::rng::Gaussian;

/// Draws of the noise model.
const DRAWS: u64 = 32;
/// Largest logit spread at which the closed form is given.
const CLOSED_FORM_SIGMA: f64 = 1.5;

/// What theory expects of one step.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Theory {
    /// Standard deviation of the unquantised scores over positions, mean over heads.
    pub logit_sigma: f64,
    /// Expected error by the noise model: mean over draws.
    pub expected_nrmse: f64,
    /// Standard deviation over draws.
    pub expected_nrmse_sd: f64,
    /// `sqrt(e_V + sigma^2 e_K)`; null where the spread is too large for it.
    pub closed_form_nrmse: Option<f64>,
}

/// What is left of a vector x once it is decoded: `gain x` plus noise of energy `noise |x|^2`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decoded {
    /// Factor on x.
    pub gain: f64,
    /// Energy of the noise relative to that of x.
    pub noise: f64,
}

impl Decoded {
    /// The mean over x of uniformly random direction.
    pub fn by(codec: &Codec) -> Self {
        let error = codec.expected_mse();
        if codec.norm_correction {
            Self { gain: (1.0 - error).sqrt(), noise: error }
        } else {
            Self { gain: 1.0 - error, noise: error * (1.0 - error) }
        }
    }

    /// Relative mean squared error.
    pub fn mse(&self) -> f64 {
        (1.0 - self.gain).powi(2) + self.noise
    }
}

/// Expected error of `step`.
pub fn expect(shape: &Shape, step: &Step, data: &StepData, reference: &Reference) -> Theory {
    let [k, v] = [shape.k_codec(), shape.v_codec()].map(|codec| Decoded::by(&codec));
    let nrmse: Vec<f64> = (0..DRAWS)
        .into_par_iter()
        .map(|draw| draw_nrmse(&Noisy { shape, step, data, k, v }, reference, draw))
        .collect();
    let mean = nrmse.iter().sum::<f64>() / DRAWS as f64;
    let variance = nrmse.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (DRAWS - 1) as f64;
    let sigma = reference.scores.iter().map(|s| spread(s)).sum::<f64>()
        / reference.scores.len().max(1) as f64;
    Theory {
        logit_sigma: sigma,
        expected_nrmse: mean,
        expected_nrmse_sd: variance.sqrt(),
        closed_form_nrmse: (sigma <= CLOSED_FORM_SIGMA)
            .then(|| (v.mse() + sigma * sigma * k.mse()).sqrt()),
    }
}

fn spread(scores: &[f64]) -> f64 {
    let n = scores.len().max(1) as f64;
    let mean = scores.iter().sum::<f64>() / n;
    (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n).sqrt()
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// A step with what decoding makes of its K and V.
struct Noisy<'a> {
    shape: &'a Shape,
    step: &'a Step,
    data: &'a StepData,
    k: Decoded,
    v: Decoded,
}

/// Error of one draw of the noise.
fn draw_nrmse(noisy: &Noisy<'_>, reference: &Reference, draw: u64) -> f64 {
    let &Noisy { shape, step, data, k, v } = noisy;
    let d = shape.head_dim.as_usize();
    let n = step.kv_seq_len as usize;
    let group = (shape.num_heads / shape.num_kv_heads) as usize;
    let mut rng = Gaussian::new(draw);
    let (mut power, mut squares) = (0.0, 0.0);
    for (head, scores) in reference.scores.iter().enumerate() {
        let (kv_head, first) = (head / group, n - scores.len());
        let row = |all: &[f32], i: usize| -> std::ops::Range<usize> {
            debug_assert!(all.len() >= (kv_head + 1) * n * d);
            let at = (kv_head * n + first + i) * d;
            at..at + d
        };
        let q_norm = norm(&data.q[head * d..][..d]) * f64::from(shape.scale);
        let noise = (k.noise / d as f64).sqrt();
        let moved: Vec<f64> = scores
            .iter()
            .zip(rng.normals(scores.len()))
            .enumerate()
            .map(|(i, (s, z))| {
                let k_norm = norm(&data.k[row(&data.k, i)]);
                k.gain * s + f64::from(z) * q_norm * k_norm * noise
            })
            .collect();
        let top = moved.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = moved.iter().map(|s| (s - top).exp()).sum();
        let mut out = vec![0.0; d];
        for (i, s) in moved.iter().enumerate() {
            let p = (s - top).exp() / total;
            if p < 1e-12 {
                continue;
            }
            let row = &data.v[row(&data.v, i)];
            out.iter_mut().zip(row).for_each(|(o, &x)| *o += p * v.gain * f64::from(x));
            squares += p * p * v.noise * norm(row).powi(2);
        }
        let want = &reference.output[head * d..][..d];
        squares += out.iter().zip(want).map(|(o, w)| (o - w).powi(2)).sum::<f64>();
        power += want.iter().map(|w| w * w).sum::<f64>();
    }
    (squares / power).sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::{point, ring_start};
    use super::*;
    use crate::codec::{Bits, CodecSettings, HeadDim, Rotation};
    use crate::sweep::inputs::sub_seed_normals;

    /// An independent program's errors with norm correction at head_dim 128. The codebook is that of
    /// N(0, 1), whose norms are a little off at this head_dim, so correction gains 1.5 % more.
    #[test]
    fn decoded_rows_have_the_codecs_error_with_norm_correction_and_without() {
        for (bits, corrected) in [(Bits::B2, 0.1190), (Bits::B3, 0.0339), (Bits::B4, 0.009_18)] {
            let codec = Codec::new(HeadDim::ALL[1], bits, Rotation::Plain);
            let plain = Decoded::by(&codec).mse();
            assert!((plain / codec.expected_mse() - 1.0).abs() < 1e-12, "{bits} bits: {plain}");
            let found = Decoded::by(&Codec { norm_correction: true, ..codec }).mse();
            assert!((found / corrected - 1.0).abs() < 0.03, "{bits} bits: {found}");
        }
    }

    /// At a spread of 1 the noise model and the closed form must agree.
    #[test]
    fn noise_model_meets_the_closed_form_at_a_spread_of_one() {
        for format in [(Bits::B4, Bits::B4), (Bits::B8, Bits::B4), (Bits::B3, Bits::B5)] {
            for norm_correction in [false, true] {
                let (k_bits, v_bits) = format;
                let rotation = Rotation::Plain;
                let codec = CodecSettings { rotation, k_bits, v_bits, norm_correction };
                noise_model_meets_the_closed_form(codec);
            }
        }
    }

    fn noise_model_meets_the_closed_form(codec: CodecSettings) {
        let shape = Shape {
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: HeadDim::ALL[1],
            kv_capacity: 512,
            scale: 1.0 / 128f32.sqrt(),
            codec,
        };
        let step = Step {
            abs_pos: 399,
            kv_seq_len: 400,
            sliding_window: 0,
            ring_start: ring_start(399, 512),
        };
        let data = StepData {
            k: sub_seed_normals(1, 2 * 400 * 128),
            v: sub_seed_normals(2, 2 * 400 * 128),
            q: sub_seed_normals(3, 4 * 128),
        };
        let reference = point::reference(&shape, &step, &data).unwrap();
        let theory = expect(&shape, &step, &data, &reference);
        let closed = theory.closed_form_nrmse.unwrap();
        assert!((theory.expected_nrmse / closed - 1.0).abs() < 0.1, "{theory:?}");
    }
}
