//! Cases: one kernel, one shape, one seed, judged against its oracle.
//!
//! A case makes its inputs and its reference once; any leg plays its tape; what comes back is
//! judged against the oracle, and two legs' outputs against each other. Tests, parity reports and
//! benchmarks share the cases. Each tolerance is derived in the file of its kernel, before
//! anything is measured.

pub mod dequantize_kv;
pub mod flash_attn_decode_tq;
pub mod flash_attn_mat_tile;
pub mod flash_attn_mat_tq;
pub mod flash_attn_tile;
pub mod flash_attn_vec;
pub mod flash_attn_vec_reduce;
pub mod flash_attn_vec_tq;
pub mod fwht;
#[cfg(feature = "msl-host")]
pub mod originals;
pub mod quantize_k_and_v;
pub mod quantize_kv;
pub mod store_kv;

mod attention;
mod cache;
pub mod compact;
pub mod html;
mod outcome;
mod pages;
pub mod report;
pub mod selection;
pub mod suite;

use std::fmt::Debug;

pub use attention::{ATTENTION_NRMSE, attention_tolerance};
pub use cache::PackedCache;
pub use outcome::{Bin, Metric, Outcome, Worst, judge, judge_pair};

use crate::contract::{Caps, Language};
use crate::driver::DriverError;
use crate::legs::{BufferId, Leg, Tape};

/// Unit roundoff of f32.
pub const ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

/// One kernel, one shape, one seed.
pub trait Case: Debug + Sync {
    /// Stem of the kernel under test.
    fn kernel(&self) -> &'static str;

    /// Short name, unique among the kernel's cases.
    fn id(&self) -> String;

    /// Makes inputs and reference.
    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError>;

    /// Plays the case on `leg` and judges it.
    fn run(&self, leg: &mut dyn Leg) -> CaseResult {
        run_prepared(&*self.prepare()?, leg)
    }
}

/// Plays a case on `leg` and judges it.
fn run_prepared(case: &dyn Prepared, leg: &mut dyn Leg) -> CaseResult {
    let (tape, outputs) = case.tape(&leg.caps(), leg.name().language())?;
    let run = leg.run(&tape)?;
    let outputs: Vec<&[u8]> = outputs.iter().map(|&id| run.bytes(id)).collect();
    case.judge(&outputs)
}

/// A case with its inputs and its reference.
pub trait Prepared: Send + Sync {
    /// The dispatches for a device, and the outputs to judge, in order.
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError>;

    /// Judges the outputs of a leg against the oracle.
    fn judge(&self, outputs: &[&[u8]]) -> CaseResult;

    /// Judges the outputs of two legs against each other.
    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult;
}

/// Result of judging a case.
pub type CaseResult = Result<Outcome, DriverError>;

/// The floats of an output.
fn floats(bytes: &[u8]) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(bytes)
}
