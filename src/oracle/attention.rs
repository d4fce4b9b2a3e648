//! Attention of one query token over any source of K and V rows: the formula.

use rayon::prelude::*;

use crate::error::Result;
use crate::params::FlashAttnVecParams;

/// What one query head accumulates over a range of positions, not yet divided.
#[derive(Debug, Clone, PartialEq)]
pub struct Attended {
    /// `sum of exp(score - max) * v`.
    pub acc: Vec<f64>,
    /// `S = sum of exp(score - max)`; 0 when nothing was visible.
    pub sum: f64,
    /// `M`, the largest score; meaningless when nothing was visible.
    pub max: f64,
}

impl Attended {
    /// The attention output, zeros when nothing was visible.
    pub fn output(&self) -> Vec<f64> {
        let inverse = if self.sum == 0.0 { 0.0 } else { 1.0 / self.sum };
        self.acc.iter().map(|a| a * inverse).collect()
    }
}

/// Fills the slice with the row of `(kv_head, slot)`.
pub(super) type Rows<'a> = &'a (dyn Fn(u32, u32, &mut [f64]) + Sync);

/// Score of one query against one key: scaled, then softcapped.
pub(super) fn score(params: &FlashAttnVecParams, q: &[f32], k: &[f64]) -> f64 {
    let dot: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * k).sum();
    let s = dot * f64::from(params.scale);
    let cap = f64::from(params.softcap);
    if cap > 0.0 { cap * (s / cap).tanh() } else { s }
}

/// Every query head over the chronological positions of split `w`. One K row and one V row is
/// decoded once for all the query heads that share it.
pub(super) fn attend(
    params: &FlashAttnVecParams,
    w: u32,
    q: &[f32],
    k_row: Rows,
    v_row: Rows,
) -> Result<Vec<Attended>> {
    let ring = params.ring()?;
    let (d, g) = (params.head_dim as usize, params.group_size() as usize);
    let heads: Vec<Vec<Attended>> = (0..params.n_kv_heads)
        .into_par_iter()
        .map(|kv_head| {
            let q = &q[kv_head as usize * g * d..][..g * d];
            let mut row = vec![0.0; d];
            let mut scores = vec![Vec::new(); g];
            for i in params.split(w) {
                k_row(kv_head, ring.slot(i), &mut row);
                for (h, scores) in scores.iter_mut().enumerate() {
                    scores.push(score(params, &q[h * d..][..d], &row));
                }
            }
            let mut out: Vec<Attended> = scores
                .iter()
                .map(|s| Attended {
                    acc: vec![0.0; d],
                    sum: 0.0,
                    max: s.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                })
                .collect();
            for (at, i) in params.split(w).enumerate() {
                v_row(kv_head, ring.slot(i), &mut row);
                for (out, scores) in out.iter_mut().zip(&scores) {
                    let p = (scores[at] - out.max).exp();
                    out.sum += p;
                    out.acc.iter_mut().zip(&row).for_each(|(a, v)| *a += p * v);
                }
            }
            out
        })
        .collect();
    Ok(heads.into_iter().flatten().collect())
}

/// Scores of every query head over the visible positions, oldest first: scaled and softcapped.
pub fn scores(
    params: &FlashAttnVecParams,
    q: &[f32],
    k_row: &(dyn Fn(u32, u32, &mut [f64]) + Sync),
) -> Result<Vec<Vec<f64>>> {
    let ring = params.ring()?;
    let (d, g) = (params.head_dim as usize, params.group_size() as usize);
    let heads: Vec<Vec<Vec<f64>>> = (0..params.n_kv_heads)
        .into_par_iter()
        .map(|kv_head| {
            let mut row = vec![0.0; d];
            let mut heads = vec![Vec::new(); g];
            for i in params.first_visible()..params.kv_seq_len {
                k_row(kv_head, ring.slot(i), &mut row);
                for (h, scores) in heads.iter_mut().enumerate() {
                    let q = &q[(kv_head as usize * g + h) * d..][..d];
                    scores.push(score(params, q, &row));
                }
            }
            heads
        })
        .collect();
    Ok(heads.into_iter().flatten().collect())
}

/// Largest absolute score over all heads and visible positions: what f32 rounding grows with.
pub fn max_abs_score(
    params: &FlashAttnVecParams,
    q: &[f32],
    k_row: &(dyn Fn(u32, u32, &mut [f64]) + Sync),
) -> Result<f64> {
    let all = scores(params, q, k_row)?;
    Ok(all.iter().flatten().fold(0.0, |largest: f64, s| largest.max(s.abs())))
}

/// The kernel's `dst`: the output at one split, else the published partials layout.
pub(super) fn dst(
    params: &FlashAttnVecParams,
    q: &[f32],
    k_row: Rows,
    v_row: Rows,
) -> Result<Vec<f64>> {
    if params.nwg == 1 {
        let heads = attend(params, 0, q, k_row, v_row)?;
        return Ok(heads.iter().flat_map(Attended::output).collect());
    }
    let (nrows, d) = (params.n_heads as usize, params.head_dim as usize);
    let mut partials = Partials::new(nrows, d, params.nwg);
    for w in 0..params.nwg {
        for (r, part) in attend(params, w, q, k_row, v_row)?.iter().enumerate() {
            partials.put(r, w as usize, part);
        }
    }
    Ok(partials.floats)
}

/// A partials buffer in the published layout.
pub(super) struct Partials {
    pub floats: Vec<f64>,
    nrows: usize,
    head_dim: usize,
    nwg: usize,
}

impl Partials {
    /// Zeros: every slot saw nothing.
    pub fn new(nrows: usize, head_dim: usize, nwg: u32) -> Self {
        let nwg = nwg as usize;
        Self { floats: vec![0.0; nrows * nwg * (head_dim + 2)], nrows, head_dim, nwg }
    }

    /// Stores what row `r` accumulated in slot `w`.
    pub fn put(&mut self, r: usize, w: usize, part: &Attended) {
        for (i, &a) in part.acc.iter().enumerate() {
            self.floats[((r * (self.head_dim / 4) + i / 4) * self.nwg + w) * 4 + i % 4] = a;
        }
        let pair = self.nrows * self.head_dim * self.nwg + r * 2 * self.nwg + 2 * w;
        self.floats[pair] = part.sum;
        self.floats[pair + 1] = part.max;
    }
}
