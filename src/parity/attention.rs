//! What the cases of both attention kernels share: shapes, tolerance, and how an output or
//! partials are judged.

use super::{CaseResult, Outcome, ROUNDOFF, floats, judge, judge_pair};
use crate::oracle::flash_attn_vec_reduce::flash_attn_vec_reduce;
use crate::params::{FlashAttnVecParams, FlashAttnVecReduceParams};

/// Unit roundoff of f16.
pub(super) const F16_ROUNDOFF: f64 = 1.0 / (1u64 << 11) as f64;

/// NRMSE of attention while no score is larger than 20: the bound of an f32 kernel whose scores,
/// weights and sums are each off by a few roundings.
pub const ATTENTION_NRMSE: f64 = 5e-6;

/// NRMSE bound of attention whose largest absolute score is `max_score`.
///
/// A score is a sum of D products, a norm, a scale and maybe a tanh: off by about four roundings
/// of its own size. `exp` turns that absolute error into a relative error of the weight. Up to a
/// score of 20 it is under 5e-6; beyond, it grows with the score.
pub fn attention_tolerance(max_score: f64) -> f64 {
    ATTENTION_NRMSE.max(4.0 * ROUNDOFF * max_score)
}

/// The reference of an attention case, and how outputs compare with it.
pub(super) struct Reference {
    pub shape: FlashAttnVecParams,
    pub want: Vec<f64>,
    pub tolerance: f64,
}

impl Reference {
    pub fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        let d = self.shape.head_dim as usize;
        Ok(match self.output(floats(outputs[0])) {
            Ok(got) => judge(&got, &self.want, d, self.tolerance),
            Err(detail) => Outcome::broken(detail, self.tolerance),
        })
    }

    pub fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        Ok(match (self.output(floats(left[0])), self.output(floats(right[0]))) {
            (Ok(left), Ok(right)) => judge_pair(&left, &right, &self.want, self.tolerance),
            (Err(detail), _) | (_, Err(detail)) => Outcome::broken(detail, self.tolerance),
        })
    }

    /// The output itself. Partials are merged by the reduce oracle, after each split's sum has
    /// been checked to be 0 exactly when the split is empty.
    fn output(&self, dst: Vec<f32>) -> Result<Vec<f32>, String> {
        let shape = &self.shape;
        if shape.nwg == 1 {
            return Ok(dst);
        }
        let (rows, nwg, d) = (shape.n_heads as usize, shape.nwg as usize, shape.head_dim as usize);
        for row in 0..rows {
            for w in 0..nwg {
                let sum = dst[rows * d * nwg + row * 2 * nwg + 2 * w];
                let empty = shape.split(w as u32).is_empty();
                // A NaN is neither: it fails for an empty split, and poisons any other.
                if (sum == 0.0) != empty {
                    return Err(format!(
                        "row {row} split {w}: S is {sum}, the split is empty: {empty}"
                    ));
                }
            }
        }
        let reduce = FlashAttnVecReduceParams { nrows: shape.n_heads, nwg: shape.nwg };
        let merged = flash_attn_vec_reduce(&reduce, shape.head_dim, &dst);
        let merged = merged.map_err(|e| e.to_string())?;
        Ok(merged.iter().map(|&x| x as f32).collect())
    }
}
