//! Merges the splits of each row; the same formula merges contexts split over devices.

use super::check_len;
use crate::error::{Error, Result};
use crate::params::{FlashAttnVecReduceParams, partials_floats};

/// One token's partials over a part of a context, as an attention kernel writes them:
/// accumulators `[row][head_dim / 4][nwg][4]`, then (S, M) `[row][nwg][2]`.
///
/// `S = sum exp(score - M)` over the positions of a split, `M` is the largest score, and the
/// accumulator is `sum exp(score - M) v`, not divided by S. A split that saw nothing has S = 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Partials<'a> {
    /// The values.
    pub values: &'a [f32],
    /// Splits.
    pub nwg: u32,
}

impl Partials<'_> {
    /// Accumulator, S and M of one split of a row.
    fn split(&self, nrows: usize, d: usize, r: usize, w: usize) -> Split<'_> {
        let nwg = self.nwg as usize;
        let pair = nrows * d * nwg + r * 2 * nwg + 2 * w;
        Split {
            acc: &self.values[..nrows * d * nwg],
            at: [r * (d / 4), nwg, w],
            sum: self.values[pair].into(),
            max: self.values[pair + 1].into(),
        }
    }
}

struct Split<'a> {
    acc: &'a [f32],
    at: [usize; 3],
    sum: f64,
    max: f64,
}

impl Split<'_> {
    fn acc(&self, i: usize) -> f64 {
        let [first, nwg, w] = self.at;
        self.acc[((first + i / 4) * nwg + w) * 4 + i % 4].into()
    }
}

/// Merges parts of a context that were attended apart, on one device or several, into
/// `[nrows, head_dim]`: with `Mg` the largest `M` of a row over all splits of all parts, and
/// `m = exp(M - Mg)`, `out = sum(m acc) / sum(m S)`, zeros if that sum is 0. A split that saw
/// nothing takes no part in the maximum.
///
/// In f64. On a device, `flash_attn_vec_reduce` does the same in f32 for the splits of one part: a
/// workgroup a row finds `Mg` and the weights once, then every thread adds up its coordinates over
/// the splits.
///
/// Partials of packed V are in its rotated basis, and so is what comes out: the inverse rotation
/// goes over the merged rows ([`fwht::rotate_rows`](super::fwht::rotate_rows), or the kernel).
pub fn merge(nrows: u32, head_dim: u32, parts: &[Partials<'_>]) -> Result<Vec<f64>> {
    if head_dim == 0 || !head_dim.is_multiple_of(4) {
        return Err(Error::param("head_dim", "a positive multiple of 4", head_dim));
    }
    for part in parts {
        FlashAttnVecReduceParams { nrows, nwg: part.nwg }.check()?;
        let needed = partials_floats(nrows, head_dim, part.nwg);
        check_len("flash_attn_vec_reduce", "partials", part.values, needed)?;
    }
    let (d, nrows) = (head_dim as usize, nrows as usize);
    let mut out = vec![0.0; nrows * d];
    for (r, out) in out.chunks_exact_mut(d).enumerate() {
        let all =
            parts.iter().flat_map(|p| (0..p.nwg as usize).map(move |w| p.split(nrows, d, r, w)));
        let seen: Vec<Split<'_>> = all.filter(|split| split.sum != 0.0).collect();
        let max = seen.iter().map(|split| split.max).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = seen.iter().map(|split| split.sum * (split.max - max).exp()).sum();
        for split in seen {
            let weight = (split.max - max).exp() / total;
            out.iter_mut().enumerate().for_each(|(i, out)| *out += weight * split.acc(i));
        }
    }
    Ok(out)
}

/// The kernel: the splits of one part.
pub fn flash_attn_vec_reduce(
    params: &FlashAttnVecReduceParams,
    head_dim: u32,
    partials: &[f32],
) -> Result<Vec<f64>> {
    params.check()?;
    merge(params.nrows, head_dim, &[Partials { values: partials, nwg: params.nwg }])
}
