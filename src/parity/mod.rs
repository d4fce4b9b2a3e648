//! Cases: one kernel, one shape, one seed, judged against its oracle.
//!
//! A case makes its inputs, plays the kernel on a leg and compares. Tests, parity reports and
//! benchmarks share them. Each tolerance is derived in the file of its kernel, before anything
//! is measured.

pub mod dequantize_kv;
pub mod flash_attn_vec;
pub mod flash_attn_vec_reduce;
pub mod flash_attn_vec_tq;
pub mod fwht;
#[cfg(feature = "msl-host")]
pub mod originals;
pub mod quantize_kv;

use crate::codec::{Codec, Ring, row};
use crate::driver::DriverError;
use crate::metrics::{MetricError, compare};
use crate::oracle::quantize_kv::encode;
use crate::rng::Gaussian;

/// Unit roundoff of f32.
pub const ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

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

/// How a case went.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The measured error.
    pub error: f64,
    /// What it had to stay within.
    pub tolerance: f64,
    /// What was compared, in words, with the worst element.
    pub detail: String,
}

impl Outcome {
    /// Whether the error is within the tolerance; a NaN is not.
    pub fn pass(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Judges `output` against `reference` by NRMSE. A comparison without an answer (NaN in the
/// output, a zero reference) is an infinite error, except that zeros equal zeros.
pub fn judge(output: &[f32], reference: &[f64], row_len: usize, tolerance: f64) -> Outcome {
    match compare(output, reference, row_len) {
        Ok(d) => Outcome {
            error: d.nrmse,
            tolerance,
            detail: format!(
                "nrmse {:.2e}, worst index {}: got {:e}, want {:e}",
                d.nrmse, d.worst, output[d.worst], reference[d.worst]
            ),
        },
        Err(MetricError::ZeroReference) => {
            let largest = output.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            Outcome {
                error: f64::from(largest),
                tolerance: 0.0,
                detail: format!("want zeros, largest {largest:e}"),
            }
        }
        Err(e) => Outcome { error: f64::INFINITY, tolerance, detail: e.to_string() },
    }
}

/// A packed K or V cache with everything around its positions made hostile: slots that hold no
/// position have random codes and a NaN norm, so a kernel that reads one shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedCache {
    /// `[nkv, cap, row]`.
    pub packed: Vec<u8>,
    /// `[nkv, cap, norms_per_pos]`.
    pub norms: Vec<f32>,
}

impl PackedCache {
    /// Encodes `rows` `[nkv, n, D]`, chronological, into the slots of `ring`.
    pub fn encode(codec: &Codec, ring: Ring, num_kv_heads: u32, rows: &[f32], seed: u64) -> Self {
        let (bytes, npp) = (
            row::row_bytes(codec.head_dim, codec.bits) as usize,
            codec.head_dim.norms_per_pos() as usize,
        );
        let slots = num_kv_heads as usize * ring.capacity() as usize;
        let mut rng = Gaussian::new(seed ^ 0x9055_0075);
        let mut packed: Vec<u8> = (0..slots * bytes).map(|_| rng.bits() as u8).collect();
        let mut norms = vec![f32::NAN; slots * npp];
        for (i, x) in rows.chunks_exact(codec.head_dim.as_usize()).enumerate() {
            let (head, position) = (i / ring.len() as usize, i % ring.len() as usize);
            let at = head * ring.capacity() as usize + ring.slot(position as u32) as usize;
            let encoded = encode(codec, x);
            row::pack(codec.bits, &encoded.codes, &mut packed[at * bytes..(at + 1) * bytes]);
            for (b, &norm) in encoded.norms.iter().enumerate() {
                norms[at * npp + b] = norm as f32;
            }
        }
        Self { packed, norms }
    }
}

/// Result of running a case.
pub type CaseResult = Result<Outcome, DriverError>;
