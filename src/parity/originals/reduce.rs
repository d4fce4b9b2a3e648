//! The published merge in f64, denormals flushed as Apple GPUs do.

use crate::parity::{ATTENTION_NRMSE, Outcome, ROUNDOFF, judge};

/// Sizes of a partials buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub nrows: u32,
    pub nwg: u32,
    pub head_dim: u32,
}

/// Zero below the smallest normal f32.
fn flush(x: f64) -> f64 {
    if x.abs() < f64::from(f32::MIN_POSITIVE) { 0.0 } else { x }
}

impl Shape {
    /// `(S, M)` of split `w` of row `r`.
    fn pair(&self, partials: &[f32], r: usize, w: usize) -> (f64, f64) {
        let nwg = self.nwg as usize;
        let at = self.nrows as usize * self.head_dim as usize * nwg + r * 2 * nwg + 2 * w;
        (partials[at].into(), partials[at + 1].into())
    }

    /// Splits of row `r`.
    fn pairs(&self, partials: &[f32], r: usize) -> Vec<(f64, f64)> {
        (0..self.nwg as usize).map(|w| self.pair(partials, r, w)).collect()
    }

    /// Whether in some row the largest maximum is that of a split that saw nothing, beside others
    /// that saw something.
    pub fn empty_split_leads(&self, partials: &[f32]) -> bool {
        let largest = |pairs: &[(f64, f64)], empty: bool| {
            let of = pairs.iter().filter(|(s, _)| (*s == 0.0) == empty);
            of.map(|(_, m)| *m).fold(f64::NEG_INFINITY, f64::max)
        };
        (0..self.nrows as usize).map(|r| self.pairs(partials, r)).any(|pairs| {
            let seen = largest(&pairs, false);
            seen > f64::NEG_INFINITY && largest(&pairs, true) > seen
        })
    }

    /// Judges a merge in which every maximum takes part.
    ///
    /// Tolerance: the contract's, and two roundings of the largest difference of two maxima, which
    /// `exp` turns into relative errors of the weights.
    pub fn judge(&self, partials: &[f32], output: &[f32]) -> Outcome {
        let (d, nwg) = (self.head_dim as usize, self.nwg as usize);
        let mut want = vec![0.0; self.nrows as usize * d];
        let mut spread = 0.0f64;
        for (r, want) in want.chunks_exact_mut(d).enumerate() {
            let pairs = self.pairs(partials, r);
            let top = pairs.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = pairs.iter().map(|p| flush((p.1 - top).exp())).collect();
            spread = pairs.iter().map(|p| top - p.1).fold(spread, f64::max);
            let total: f64 = pairs.iter().zip(&weights).map(|(p, w)| flush(p.0 * w)).sum();
            let inverse = if total == 0.0 { 0.0 } else { 1.0 / total };
            for (i, want) in want.iter_mut().enumerate() {
                let at = |w: usize| ((r * (d / 4) + i / 4) * nwg + w) * 4 + i % 4;
                let terms = weights.iter().enumerate();
                let sum: f64 = terms.map(|(w, m)| flush(f64::from(partials[at(w)]) * m)).sum();
                *want = flush(sum) * inverse;
            }
        }
        // Beyond this the weight is 0 on either side.
        let spread = spread.min(104.0);
        judge(output, &want, d, ATTENTION_NRMSE + 2.0 * ROUNDOFF * spread)
    }
}
