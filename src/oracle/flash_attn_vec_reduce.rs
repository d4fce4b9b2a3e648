//! Merges the splits of each row; the same formula merges contexts split over devices.

use super::check_len;
use crate::error::Result;
use crate::params::{FlashAttnVecReduceParams, partials_floats};

/// `Mg = max M; m_w = exp(M_w - Mg); out = sum(acc_w m_w) / sum(S_w m_w)`, zeros if that sum is
/// 0. A split that saw nothing (S = 0) takes no part in the maximum.
pub fn flash_attn_vec_reduce(
    params: &FlashAttnVecReduceParams,
    head_dim: u32,
    partials: &[f32],
) -> Result<Vec<f64>> {
    params.check()?;
    let needed = partials_floats(params.nrows, head_dim, params.nwg);
    check_len("flash_attn_vec_reduce", "partials", partials, needed)?;
    let (d, nwg, nrows) = (head_dim as usize, params.nwg as usize, params.nrows as usize);
    let mut out = vec![0.0; nrows * d];
    for (r, out) in out.chunks_exact_mut(d).enumerate() {
        let pair = |w: usize| {
            let at = nrows * d * nwg + r * 2 * nwg + 2 * w;
            (f64::from(partials[at]), f64::from(partials[at + 1]))
        };
        let seen = (0..nwg).filter(|&w| pair(w).0 != 0.0);
        let max = seen.clone().map(|w| pair(w).1).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = seen.clone().map(|w| pair(w).0 * (pair(w).1 - max).exp()).sum();
        for w in seen {
            let weight = (pair(w).1 - max).exp() / total;
            for (i, out) in out.iter_mut().enumerate() {
                let at = ((r * (d / 4) + i / 4) * nwg + w) * 4 + i % 4;
                *out += weight * f64::from(partials[at]);
            }
        }
    }
    Ok(out)
}
