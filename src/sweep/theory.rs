//! What the codec's theory expects of a step, before any kernel runs.
//!
//! Lloyd-Max codes shrink: a decoded vector is `(1 - e) x` plus noise of energy `e (1 - e) |x|^2`,
//! where e is the relative mean squared error of the codec. With that for K, the scores move to
//! `(1 - e_K) s + N(0, (|q| |k| scale)^2 e_K (1 - e_K) / D)`; softmax of the moved scores on V with
//! the same model gives the expected error of the output, here as a mean over seeded draws. It
//! holds at any logit spread; at a spread sigma of 1 or less it is near `sqrt(e_V + sigma^2 e_K)`.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use super::inputs::StepData;
use super::point::Reference;
use super::{Shape, Step};
use crate::codec::HeadDim;
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

/// Relative mean squared error of the 4-bit codec on unit vectors in D dimensions.
pub const fn codec_mse(head_dim: HeadDim) -> f64 {
    match head_dim.get() {
        64 => 0.009_13,
        128 => 0.009_32,
        256 => 0.009_41,
        _ => 0.009_45,
    }
}

/// Expected error of `step`.
pub fn expect(shape: &Shape, step: &Step, data: &StepData, reference: &Reference) -> Theory {
    let error = codec_mse(shape.head_dim);
    let nrmse: Vec<f64> = (0..DRAWS)
        .into_par_iter()
        .map(|draw| draw_nrmse(shape, step, data, reference, error, draw))
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
            .then(|| (error + sigma * sigma * error).sqrt()),
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

/// Error of one draw of the noise.
fn draw_nrmse(
    shape: &Shape,
    step: &Step,
    data: &StepData,
    reference: &Reference,
    error: f64,
    draw: u64,
) -> f64 {
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
        let noise = (error * (1.0 - error) / d as f64).sqrt();
        let moved: Vec<f64> = scores
            .iter()
            .zip(rng.normals(scores.len()))
            .enumerate()
            .map(|(i, (s, z))| {
                let k_norm = norm(&data.k[row(&data.k, i)]);
                (1.0 - error) * s + f64::from(z) * q_norm * k_norm * noise
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
            let v = &data.v[row(&data.v, i)];
            out.iter_mut().zip(v).for_each(|(o, &v)| *o += p * (1.0 - error) * f64::from(v));
            squares += p * p * error * (1.0 - error) * norm(v).powi(2);
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
    use crate::codec::Rotation;
    use crate::sweep::inputs::sub_seed_normals;

    /// At a spread of 1 the noise model and the closed form must agree.
    #[test]
    fn noise_model_meets_the_closed_form_at_a_spread_of_one() {
        let shape = Shape {
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: HeadDim::ALL[1],
            kv_capacity: 512,
            scale: 1.0 / 128f32.sqrt(),
            rotation: Rotation::Plain,
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
