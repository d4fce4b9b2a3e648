//! The JSON report of a replay. Clocks appear only in `ran_at` and `timing`, so that two reports
//! diff cleanly.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Canary, Variation};
use crate::codec::CodecSettings;
use crate::gpu::device::AdapterReport;
use crate::legs::LegName;

/// Version of the report's format.
pub const SCHEMA: &str = "wgtq.replay/1";

/// The whole report: the fields of the first leg at top level, as older tools wrote them, and
/// one entry a leg.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name and version of the format.
    pub schema: &'static str,
    /// This crate's version.
    pub version: &'static str,
    /// The manifest replayed.
    pub manifest: String,
    /// The shape replayed.
    pub params: ShapeReport,
    /// The codec of the cache.
    pub codec: CodecReport,
    /// The first leg's entry.
    #[serde(flatten)]
    pub first: Entry,
    /// Every leg's entry.
    pub legs: Vec<Entry>,
}

/// Shape of the step.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the manifest's own field names")]
pub struct ShapeReport {
    pub num_heads: u32,
    pub num_kv_heads: u32,
    pub head_dim: u32,
    pub kv_seq_len: u32,
    pub kv_capacity: u32,
    pub scale: f32,
    pub mask_type: u32,
    pub sliding_window: u32,
    pub softcap: f32,
    pub ring_start: u32,
}

/// How the cache was encoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CodecReport {
    /// plain or srht.
    pub rotation: &'static str,
    /// Bits of a K code.
    pub k_bits: u32,
    /// Bits of a V code.
    pub v_bits: u32,
    /// Whether norms are corrected so that decoded rows keep theirs.
    pub norm_correction: bool,
}

impl From<CodecSettings> for CodecReport {
    fn from(codec: CodecSettings) -> Self {
        Self {
            rotation: codec.rotation.name(),
            k_bits: codec.k_bits.get(),
            v_bits: codec.v_bits.get(),
            norm_correction: codec.norm_correction,
        }
    }
}

/// The verdict on one leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// What was expected.
    Pass,
    /// Outside what was expected.
    Mismatch,
    /// Outside what was expected, by the known limits of an original kernel and by nothing else.
    ExpectedDifference,
    /// Nothing to judge by: only the floor was asked for, or a canary has no visible effect.
    NotJudged,
    /// NaN or infinity in the output, or a reference that proves nothing.
    RuntimeError,
}

impl Status {
    /// Whether nothing is wrong with the leg.
    pub const fn good(self) -> bool {
        matches!(self, Self::Pass | Self::ExpectedDifference | Self::NotJudged)
    }

    /// For people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Mismatch => "MISMATCH",
            Self::ExpectedDifference => "expected difference",
            Self::NotJudged => "not judged",
            Self::RuntimeError => "ERROR",
        }
    }
}

/// Error of one query head.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeadError {
    /// Query head.
    pub head: usize,
    /// Largest absolute difference.
    pub max_abs_diff: f64,
}

/// A shader text that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceHash {
    /// Label of the pipeline.
    pub label: String,
    /// SHA-256 of the text.
    pub sha256: String,
}

/// Wall-clock times in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timing {
    /// Making pipelines.
    pub compile_ms: f64,
    /// Upload, dispatches and read-back.
    pub execute_ms: f64,
    /// The f64 oracles.
    pub oracle_ms: f64,
}

/// One leg's result.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// The leg.
    pub leg: LegName,
    /// What ran.
    pub variation: Variation,
    /// What was changed on purpose.
    pub canary: Canary,
    /// When, UTC.
    pub ran_at: String,
    /// The verdict.
    pub status: Status,
    /// What the verdict rests on, in words.
    pub reason: String,
    /// Error against the dequantising oracle; null where there is no answer.
    pub dequant_oracle_nrmse: Option<f64>,
    /// Bound on that error, derived from the largest score; null for a negative control.
    pub tolerance: Option<f64>,
    /// The known limits of original kernels that make the difference.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expected_differences: Vec<&'static str>,
    /// Error against the oracle with those limits applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limited_oracle_nrmse: Option<f64>,
    /// What the checker of leg msl-host found in original kernels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// Largest absolute difference from the dequantising oracle.
    pub max_abs_diff: Option<f64>,
    /// The same per query head.
    pub per_head_max_abs_diff: Vec<HeadError>,
    /// Largest absolute score.
    pub max_abs_score: f64,
    /// Asymmetric canary: the error that the oracle predicts for the mutation.
    pub predicted_canary_nrmse: Option<f64>,
    /// Out-of-range canary: whether the output is bit for bit that of the run without.
    pub canary_bit_identical: Option<bool>,
    /// Error against attention on unquantised K and V.
    pub independent_floor_nrmse: Option<f64>,
    /// full, newest_row (the rest decoded), or null.
    pub independent_floor_source: Option<&'static str>,
    /// Whether the output holds a NaN or an infinity.
    pub any_nan_inf_in_gpu_output: bool,
    /// ok, or what went wrong.
    pub exit_status: &'static str,
    /// The output, f32 `[nh, D]`.
    pub bin_path: String,
    /// Splits of the context.
    pub splits: u32,
    /// The machine.
    pub adapter: AdapterReport,
    /// The shader texts.
    pub sources: Vec<SourceHash>,
    /// Times.
    pub timing: Timing,
}
