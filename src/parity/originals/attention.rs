//! The published attention kernels in f64: the formula of the contract with their limits applied,
//! each by itself.

use super::Limit;
use crate::driver::DriverError;
use crate::oracle::flash_attn_vec_reduce::flash_attn_vec_reduce;
use crate::params::{FlashAttnVecParams, FlashAttnVecReduceParams};
use crate::parity::{Outcome, ROUNDOFF, attention_tolerance, judge};

/// Fills the slice with the row of `(kv_head, slot)`.
pub type KvRows<'a> = Box<dyn Fn(u32, u32, &mut [f64]) + Sync + 'a>;

/// Positions of a chunk: one lane each. Chunk c belongs to split `c % nwg`.
const CHUNK: u32 = 32;
/// What is added to the score of a hidden position.
const MASK: f64 = -65504.0;
/// `exp` of less is 0 in f32.
const EXP_ZERO: f64 = -104.0;

/// What an attention kernel is given.
pub struct Attention<'a> {
    /// The contract's parameters.
    pub params: &'a FlashAttnVecParams,
    /// Packed or dense K and V: the dense kernel knows no ring and reads past the end.
    pub packed: bool,
    /// Q `[nh, D]`, rotated where K and V are.
    pub q: &'a [f32],
    /// K by slot.
    pub k: KvRows<'a>,
    /// V by slot.
    pub v: KvRows<'a>,
}

/// What the published kernel gives, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Limited {
    /// Output `[nh, D]`; NaN where a NaN is read.
    pub output: Vec<f64>,
    /// Whether a hidden position has weight although nothing it reads is NaN.
    pub mask_matters: bool,
    /// Whether each split sees nothing.
    pub empty: Vec<bool>,
    /// Bound on the NRMSE of an f32 kernel.
    pub tolerance: f64,
}

/// A slot that a kernel scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scored {
    slot: u32,
    visible: bool,
}

impl Attention<'_> {
    /// The limits that hold for the shape. [`Limit::FiniteMask`] depends on the values:
    /// [`Limited::mask_matters`].
    pub fn limits(&self) -> Result<Vec<Limit>, DriverError> {
        let p = self.params;
        let (ring, n) = (p.ring()?, p.kv_seq_len);
        let mut limits = vec![Limit::HalfQ];
        if p.softcap > 0.0 {
            limits.push(Limit::SoftcapIgnored);
        }
        let unused = (0..n).any(|slot| !ring.holds(slot));
        if self.packed {
            if (p.first_visible()..n).any(|i| ring.slot(i) >= n) {
                limits.push(Limit::PositionsLost);
            }
            let read = |s: &Scored| !s.visible && !ring.holds(s.slot);
            let all = [Limit::PositionsLost, Limit::ReadsUnusedSlots];
            if unused && self.chunks(&all)?.iter().flat_map(|(_, c)| c).any(read) {
                limits.push(Limit::ReadsUnusedSlots);
            }
        } else {
            if p.ring_start > 0 && (unused || p.first_visible() > 0) {
                limits.push(Limit::RingStartIgnored);
            }
            if !n.is_multiple_of(CHUNK) {
                limits.push(Limit::ReadsPastKvSeqLen);
            }
        }
        Ok(limits)
    }

    /// Chunks that hold a visible position, by number, with the slots that are scored in each.
    fn chunks(&self, limits: &[Limit]) -> Result<Vec<(u32, Vec<Scored>)>, DriverError> {
        let (p, ring) = (self.params, self.params.ring()?);
        let has = |limit| limits.contains(&limit);
        let (n, first) = (p.kv_seq_len, p.first_visible());
        let slots_are_positions = has(Limit::RingStartIgnored);
        let end = if slots_are_positions || has(Limit::PositionsLost) { n } else { p.kv_capacity };
        let scored = |slot: u32| {
            let age = if slot >= p.ring_start {
                slot - p.ring_start
            } else {
                slot + p.kv_capacity - p.ring_start
            };
            let position = if slots_are_positions { slot } else { age };
            let visible = slot < end && (first..n).contains(&position);
            let stored = slot < end && ring.holds(slot);
            let unused = slot < n && has(Limit::ReadsUnusedSlots);
            let past = slot >= n && has(Limit::ReadsPastKvSeqLen);
            (visible || stored || unused || past).then_some(Scored { slot, visible })
        };
        let chunk = |c: u32| (c, (c * CHUNK..(c + 1) * CHUNK).filter_map(scored).collect());
        let seen = |(_, slots): &(u32, Vec<Scored>)| slots.iter().any(|s| s.visible);
        Ok((0..end.div_ceil(CHUNK)).map(chunk).filter(seen).collect())
    }

    /// Attention with `limits` applied.
    ///
    /// Tolerance: that of the contract's attention at this largest score, and two more roundings
    /// of sum and accumulator a chunk, since each chunk rescales both.
    pub fn attend(&self, limits: &[Limit]) -> Result<Limited, DriverError> {
        let p = self.params;
        let chunks = self.chunks(limits)?;
        let mut empty = vec![true; p.nwg as usize];
        chunks.iter().for_each(|(c, _)| empty[(c % p.nwg) as usize] = false);
        let slots: Vec<Scored> = chunks.iter().flat_map(|(_, c)| c.iter().copied()).collect();
        let (mut output, mut mask_matters, mut largest) = (Vec::new(), false, 0.0f64);
        for head in 0..p.n_heads {
            let scores = self.scores(head, &slots, limits);
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            for (slot, score) in slots.iter().zip(&scores) {
                mask_matters |= !slot.visible && score - top > EXP_ZERO;
                if slot.visible {
                    largest = largest.max(score.abs());
                }
            }
            output.extend(self.weigh(head, &slots, &scores, top));
        }
        let tolerance = attention_tolerance(largest) + 2.0 * ROUNDOFF * chunks.len() as f64;
        Ok(Limited { output, mask_matters, empty, tolerance })
    }

    /// Scores of one query head, the mask added.
    fn scores(&self, head: u32, slots: &[Scored], limits: &[Limit]) -> Vec<f64> {
        let p = self.params;
        let d = p.head_dim as usize;
        let q: Vec<f64> = self.q[head as usize * d..][..d]
            .iter()
            .map(|&x| {
                let half = limits.contains(&Limit::HalfQ);
                if half { half::f16::from_f32(x).to_f64() } else { x.into() }
            })
            .collect();
        let softcap = if limits.contains(&Limit::SoftcapIgnored) { 0.0 } else { p.softcap };
        let softcap = f64::from(softcap);
        let mut row = vec![0.0; d];
        let score = |s: &Scored| {
            if !self.read(&self.k, head, s.slot, &mut row) {
                return f64::NEG_INFINITY;
            }
            let dot: f64 = q.iter().zip(&row).map(|(q, k)| q * k).sum();
            let score = dot * f64::from(p.scale);
            let score = if softcap > 0.0 { softcap * (score / softcap).tanh() } else { score };
            score + if s.visible { 0.0 } else { MASK }
        };
        slots.iter().map(score).collect()
    }

    /// The softmax of `scores` over V. A weight of 0 does not hide a NaN.
    fn weigh(&self, head: u32, slots: &[Scored], scores: &[f64], top: f64) -> Vec<f64> {
        let mut acc = vec![0.0; self.params.head_dim as usize];
        let mut row = acc.clone();
        let mut sum = 0.0;
        for (s, score) in slots.iter().zip(scores) {
            let weight = (score - top).exp();
            sum += weight;
            if self.read(&self.v, head, s.slot, &mut row) {
                acc.iter_mut().zip(&row).for_each(|(a, v)| *a += weight * v);
            }
        }
        let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        acc.iter().map(|a| a * inverse).collect()
    }

    /// Reads a row as the kernel addresses it: past a head's last slot lies the next head. False
    /// past the last head, where a kernel on the host is stopped.
    fn read(&self, rows: &KvRows<'_>, head: u32, slot: u32, out: &mut [f64]) -> bool {
        let p = self.params;
        let at = u64::from(head / p.group_size()) * u64::from(p.kv_capacity) + u64::from(slot);
        let kv_head = at / u64::from(p.kv_capacity);
        if kv_head >= u64::from(p.n_kv_heads) {
            return false;
        }
        rows(kv_head as u32, (at % u64::from(p.kv_capacity)) as u32, out);
        true
    }
}

impl Limited {
    /// Judges the `dst` of a kernel: output, or partials by splits of whole chunks.
    pub fn judge_dst(
        &self,
        params: &FlashAttnVecParams,
        dst: &[f32],
    ) -> Result<Outcome, DriverError> {
        let (d, nwg, rows) =
            (params.head_dim as usize, params.nwg as usize, params.n_heads as usize);
        if nwg == 1 {
            return Ok(self.judge_rows(dst, d));
        }
        for row in 0..rows {
            for (w, &empty) in self.empty.iter().enumerate() {
                let sum = dst[rows * d * nwg + row * 2 * nwg + 2 * w];
                if (sum == 0.0) != empty {
                    let detail = format!("row {row} split {w}: S is {sum}, empty: {empty}");
                    return Ok(Outcome::broken(detail, self.tolerance));
                }
            }
        }
        let reduce = FlashAttnVecReduceParams { nrows: params.n_heads, nwg: params.nwg };
        let merged = flash_attn_vec_reduce(&reduce, params.head_dim, dst)?;
        let merged: Vec<f32> = merged.iter().map(|&x| x as f32).collect();
        Ok(self.judge_rows(&merged, d))
    }

    /// Judges an output. A row must be NaN throughout exactly where the kernel reads a NaN.
    pub fn judge_rows(&self, output: &[f32], d: usize) -> Outcome {
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for (row, (g, w)) in output.chunks(d).zip(self.output.chunks(d)).enumerate() {
            let (nan, expected) = (g.iter().all(|x| x.is_nan()), w.iter().any(|x| x.is_nan()));
            if expected && !nan {
                let detail = format!("row {row}: a NaN is read, yet the output has numbers");
                return Outcome::broken(detail, self.tolerance);
            }
            if !expected {
                got.extend_from_slice(g);
                want.extend_from_slice(w);
            }
        }
        if want.is_empty() && !output.is_empty() {
            let detail = "NaN in every row, as the values read have it".to_owned();
            return Outcome { error: 0.0, ..Outcome::broken(detail, self.tolerance) };
        }
        judge(&got, &want, d, self.tolerance)
    }
}
