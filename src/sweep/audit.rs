//! `audit.json`: the one artefact of a production sweep. Every field is computed when the sweep
//! runs.

use schemars::JsonSchema;
use serde::Serialize;

use super::gates::GateRecord;
use super::point::HeadMeasured;
use super::theory::Theory;
use super::verdict::Verdict;
use crate::gpu::device::AdapterReport;
use crate::legs::LegName;

/// Revision of the format.
pub const ITER: u32 = 6;

/// The whole audit.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Audit {
    /// Name of the session.
    pub session: String,
    /// Revision of the format.
    pub iter: u32,
    /// Unix seconds.
    pub ran_at: u64,
    /// The verdict over all legs.
    pub verdict: Verdict,
    /// The verdict in a sentence.
    pub verdict_reason: String,
    /// Verdict and machine of each leg.
    pub legs: Vec<LegReport>,
    /// What was registered before measuring; null for codecs that nothing was registered for.
    pub band: Option<Band>,
    /// Gates; where one failed, nothing was measured.
    pub regression_gates: Vec<GateRecord>,
    /// What the data look like.
    pub regime: Regime,
    /// Lengths at one position.
    #[serde(rename = "sweep_A")]
    pub sweep_a: Vec<PointRow>,
    /// Positions at one length.
    #[serde(rename = "sweep_B")]
    pub sweep_b: Vec<PointRow>,
    /// The same data at two ring starts.
    pub ring_wrap: Vec<RingWrapRow>,
    /// The generator.
    pub rng: RngReport,
    /// The point that both sweeps measure, on different draws; null where they share none.
    pub intersection_check: Option<Intersection>,
    /// The rows as CSV.
    pub csv_equivalent: String,
}

/// A leg's verdict.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct LegReport {
    /// The leg.
    pub leg: LegName,
    /// Its machine; null where a gate failed before it was opened.
    pub adapter: Option<AdapterReport>,
    /// Its verdict.
    pub verdict: Verdict,
}

/// The registered band.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Band {
    /// Lower edge, inclusive.
    pub lower: f64,
    /// Upper edge, inclusive.
    pub upper: f64,
    /// How it was fixed.
    pub registration: String,
}

/// What the data look like.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Regime {
    /// unit_fallback: all ones.
    pub rmsnorm_weights: String,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of RoPE.
    pub rope_theta: f32,
    /// Which pairs RoPE rotates.
    pub rope_convention: String,
    /// Factor on `dot(q, k)`.
    pub scale: f32,
    /// 2: sliding window.
    pub mask_type: u32,
    /// 0: off.
    pub softcap: f32,
    /// Rotation of the codec.
    pub rotation: String,
    /// Bits of a K code.
    pub k_bits: u32,
    /// Bits of a V code.
    pub v_bits: u32,
    /// Whether norms are corrected so that decoded rows keep theirs.
    pub norm_correction: bool,
    /// The shape.
    pub shapes: Shapes,
    /// What the errors are measured against.
    pub dense_floor_reference: String,
    /// What happens to V.
    pub v_norm_policy: String,
    /// Why ring-wrap points have the length they have.
    pub ring_wrap_kvl_reason: String,
}

/// The shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the field's own words")]
pub struct Shapes {
    pub num_heads: u32,
    pub num_kv_heads: u32,
    pub head_dim: u32,
    pub kv_capacity: u32,
}

/// Why one head's error is what it is.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct HeadRow {
    /// Query head.
    pub head: usize,
    /// Its own error.
    pub nrmse: f64,
    /// Whether quantisation changed which position has the largest score.
    pub flipped: bool,
    /// That position unquantised, 0 = oldest visible.
    pub top_reference: usize,
    /// That position from decoded K.
    pub top_quantised: usize,
    /// Softmax weight of the unquantised one.
    pub top_weight: f64,
}

impl HeadRow {
    pub(super) fn rows(heads: &[HeadMeasured]) -> Vec<Self> {
        let row = |(head, h): (usize, &HeadMeasured)| Self {
            head,
            nrmse: h.nrmse,
            flipped: h.flipped(),
            top_reference: h.top_reference,
            top_quantised: h.top_quantised,
            top_weight: h.top_weight,
        };
        heads.iter().enumerate().map(row).collect()
    }
}

/// A point of sweep A or B.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct PointRow {
    /// The leg.
    pub leg: LegName,
    /// Seed of the data.
    pub seed: String,
    /// Position of the newest token.
    pub abs_pos: u32,
    /// Positions stored.
    pub kvl_logical: u32,
    /// Window of the mask.
    pub sliding_window: u32,
    /// Error against attention on the unquantised values.
    pub nrmse: f64,
    /// Whether it lies in the band; null where none is registered.
    pub band_ok: Option<bool>,
    /// Words the generator had drawn before this point.
    pub rng_u64s_consumed_before: u64,
    /// Error against the dequantising oracle: rounding.
    pub dequant_oracle_nrmse: f64,
    /// What the codec's theory expects.
    pub theory: Theory,
    /// Heads whose top position changed.
    pub flipped_heads: usize,
    /// Every head.
    pub heads: Vec<HeadRow>,
}

/// A point measured at two ring starts on the same data.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct RingWrapRow {
    /// The leg.
    pub leg: LegName,
    /// Seed of the data.
    pub seed: String,
    /// Position of the newest token.
    pub abs_pos: u32,
    /// Positions stored.
    pub kvl_logical: u32,
    /// Window of the mask.
    pub sliding_window: u32,
    /// `(abs_pos + 1) mod capacity`.
    pub ring_start_a: u32,
    /// `abs_pos mod capacity`.
    pub ring_start_b: u32,
    /// Read from the parameter block that the kernel got.
    #[serde(rename = "ring_start_A_passed_to_kernel")]
    pub ring_start_a_passed: u32,
    /// Read from the parameter block that the kernel got.
    #[serde(rename = "ring_start_B_passed_to_kernel")]
    pub ring_start_b_passed: u32,
    /// Error of the first run.
    #[serde(rename = "ring_start_A_nrmse")]
    pub ring_start_a_nrmse: f64,
    /// Error of the second run.
    #[serde(rename = "ring_start_B_nrmse")]
    pub ring_start_b_nrmse: f64,
    /// Difference of the two: 0 up to rounding.
    pub ab_delta: f64,
    /// Whether both lie in the band; null where none is registered.
    pub band_ok: Option<bool>,
    /// Words the generator had drawn before this point.
    pub rng_u64s_consumed_before: u64,
    /// Whether both runs had byte-identical data.
    pub h3_data_reuse: bool,
    /// Positions that a probe saw visited, at the first and the second ring start.
    pub positions_visited: [u32; 2],
    /// Sum of the weights the probe saw; 1 when nothing else was visited.
    pub visited_weight: [f64; 2],
    /// What the codec's theory expects.
    pub theory: Theory,
    /// Heads whose top position changed, in the first run.
    pub flipped_heads: usize,
    /// Every head, in the first run.
    pub heads: Vec<HeadRow>,
}

/// The generator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RngReport {
    /// The seed or seeds.
    pub seed_literal: String,
    /// Which generator.
    pub algorithm: String,
    /// Whether one instance made all data.
    pub single_instance: bool,
    /// Words drawn in all.
    pub total_u64s_consumed: u64,
}

/// The point that both sweeps measure.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Intersection {
    /// Position of the newest token.
    pub abs_pos: u32,
    /// Positions stored.
    pub kvl_logical: u32,
    /// Error in sweep A.
    #[serde(rename = "sweep_A_intersection_nrmse")]
    pub sweep_a_nrmse: f64,
    /// Error in sweep B.
    #[serde(rename = "sweep_B_intersection_nrmse")]
    pub sweep_b_nrmse: f64,
    /// Computed, not promised: the draws differ.
    pub match_to_7_decimal_places: bool,
    /// Absolute difference.
    pub absdiff: f64,
    /// Whether both lie in the band; null where none is registered.
    pub band_ok: Option<bool>,
    /// How to read it.
    pub note: String,
}
