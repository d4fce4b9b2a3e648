//! The multistep run: four positions, two of them past the first wrap of the ring.

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::Serialize;

use super::inputs;
use super::theory::{self, Theory};
use super::verdict::{
    MULTISTEP_THRESHOLD, MultistepRow, MultistepVerdict, is_registered, multistep_overall,
    multistep_row,
};
use super::{Shape, Step, point, ring_start};
use crate::codec::{CodecSettings, HeadDim};
use crate::driver::DriverError;
use crate::gpu::device::AdapterReport;
use crate::legs::{Leg, LegName};
use crate::replay::report::CodecReport;

/// Version of the report's format.
pub const SCHEMA: &str = "wgtq.multistep/1";

/// Positions of the newest token.
pub const POSITIONS: [u32; 4] = [50, 500, 1050, 2048];

/// The registered shape.
pub const SHAPE: Shape = Shape {
    num_heads: 8,
    num_kv_heads: 4,
    head_dim: HeadDim::ALL[2],
    kv_capacity: 1024,
    scale: 1.0,
    codec: CodecSettings::DEFAULT,
};

/// The step at one position.
pub const fn step(abs_pos: u32) -> Step {
    let stored = abs_pos + 1;
    Step {
        abs_pos,
        kv_seq_len: if stored < SHAPE.kv_capacity { stored } else { SHAPE.kv_capacity },
        sliding_window: 1024,
        ring_start: ring_start(abs_pos, SHAPE.kv_capacity),
    }
}

/// One position on one leg.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Row {
    /// The leg.
    pub leg: LegName,
    /// Position of the newest token.
    pub abs_pos: u32,
    /// Positions stored.
    pub kvl_logical: u32,
    /// Slot of the oldest.
    pub ring_start: u32,
    /// Error against the dequantising oracle: rounding.
    pub dequant_oracle_nrmse: f64,
    /// Error against attention on the unquantised values: what the codec costs.
    pub independent_floor_nrmse: f64,
    /// What theory expects of the floor.
    pub theory: Theory,
    /// Heads whose top position changed by quantisation.
    pub flipped_heads: usize,
    /// Largest difference from the dequantising oracle.
    pub max_abs_diff: f64,
    /// Verdict of the row, by rules whose names are historic.
    pub verdict: MultistepVerdict,
}

/// Verdict of one leg over all rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LegVerdict {
    /// The leg.
    pub leg: LegName,
    /// Its machine.
    pub adapter: AdapterReport,
    /// Verdict over all its rows.
    pub verdict: MultistepVerdict,
}

/// The whole run.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Report {
    /// Name and version of the format.
    pub schema: &'static str,
    /// When, UTC.
    pub ran_at: String,
    /// Seed of the data.
    pub seed: String,
    /// How K and V were encoded.
    pub codec: CodecReport,
    /// Verdict of the first leg.
    pub overall_verdict: MultistepVerdict,
    /// Verdict of every leg.
    pub legs: Vec<LegVerdict>,
    /// Every position of every leg.
    pub rows: Vec<Row>,
}

/// Runs every position on every leg; `progress` is told what comes next. Verdicts are given for the
/// registered codec only.
pub fn run(
    legs: &mut [Box<dyn Leg + Send>],
    seed: u64,
    codec: CodecSettings,
    mut progress: impl FnMut(&str),
) -> Result<Report, DriverError> {
    let shape = Shape { codec, ..SHAPE };
    let registered = is_registered(&codec);
    let if_registered = |v| if registered { v } else { MultistepVerdict::NotRegistered };
    let mut rows: Vec<Row> = Vec::new();
    for abs_pos in POSITIONS {
        let step = step(abs_pos);
        progress(&format!("position {abs_pos}"));
        let data = inputs::multistep(&shape, &step, seed);
        let reference = point::reference(&shape, &step, &data)?;
        let theory = theory::expect(&shape, &step, &data, &reference);
        for leg in legs.iter_mut() {
            let m = point::measure(leg.as_mut(), &shape, &step, &data, &reference)?;
            let judged = judged(abs_pos, m.dequant_nrmse, m.floor_nrmse);
            rows.push(Row {
                leg: leg.name(),
                abs_pos,
                kvl_logical: step.kv_seq_len,
                ring_start: step.ring_start,
                dequant_oracle_nrmse: m.dequant_nrmse,
                independent_floor_nrmse: m.floor_nrmse,
                theory: theory.clone(),
                flipped_heads: m.heads.iter().filter(|h| h.flipped()).count(),
                max_abs_diff: m.max_abs_diff,
                verdict: if_registered(multistep_row(judged)),
            });
        }
    }
    let legs: Vec<LegVerdict> = legs
        .iter()
        .map(|leg| {
            let of_leg: Vec<MultistepRow> = rows
                .iter()
                .filter(|r| r.leg == leg.name())
                .map(|r| judged(r.abs_pos, r.dequant_oracle_nrmse, r.independent_floor_nrmse))
                .collect();
            LegVerdict {
                leg: leg.name(),
                adapter: leg.adapter().clone(),
                verdict: if_registered(multistep_overall(&of_leg)),
            }
        })
        .collect();
    let overall_verdict = legs.first().map_or(MultistepVerdict::H1KernelBug, |l| l.verdict);
    Ok(Report {
        schema: SCHEMA,
        ran_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        seed: format!("{seed:#010x}"),
        codec: codec.into(),
        overall_verdict,
        legs,
        rows,
    })
}

fn judged(abs_pos: u32, dequant: f64, floor: f64) -> MultistepRow {
    MultistepRow {
        abs_pos,
        dequant: dequant < MULTISTEP_THRESHOLD,
        floor: floor < MULTISTEP_THRESHOLD,
    }
}

impl Report {
    /// Whether every row of every leg agrees with its dequantising oracle.
    pub fn kernels_are_right(&self) -> bool {
        self.rows.iter().all(|r| r.dequant_oracle_nrmse < MULTISTEP_THRESHOLD)
    }

    /// The table as Markdown, with how to read it.
    pub fn markdown(&self) -> String {
        let mut lines = vec![
            "| leg | abs_pos | kvl_logical | ring_start | dequant_oracle_nrmse | independent_floor_nrmse | expected | flipped | max_abs_diff | verdict |".to_owned(),
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|".to_owned(),
        ];
        for r in &self.rows {
            lines.push(format!(
                "| {} | {} | {} | {} | {:.2e} | {:.4} | {:.2} +- {:.2} | {} of {} | {:.2e} | {} |",
                r.leg.as_str(),
                r.abs_pos,
                r.kvl_logical,
                r.ring_start,
                r.dequant_oracle_nrmse,
                r.independent_floor_nrmse,
                r.theory.expected_nrmse,
                r.theory.expected_nrmse_sd,
                r.flipped_heads,
                SHAPE.num_heads,
                r.max_abs_diff,
                r.verdict.as_str()
            ));
        }
        for leg in &self.legs {
            lines.push(format!("\nOverall, {}: {}", leg.leg.as_str(), leg.verdict.as_str()));
        }
        lines.push(self.reading());
        lines.join("\n") + "\n"
    }

    fn reading(&self) -> String {
        let CodecReport { rotation, k_bits, v_bits, norm_correction } = self.codec;
        let corrected = if norm_correction { ", norms corrected" } else { "" };
        let verdict = if self.overall_verdict == MultistepVerdict::NotRegistered {
            "the verdicts are registered for 4-bit K and V with norms as they are, so there is none \
             here."
                .to_owned()
        } else {
            format!(
                "it cannot be under the historic threshold of {MULTISTEP_THRESHOLD}, so \
                 dequant_spec_bug_confirmed is what a correct kernel gets here."
            )
        };
        format!(
            "\nHow to read it: the kernel is right where dequant_oracle_nrmse is rounding. The floor is \
             what K at {k_bits} and V at {v_bits} bits ({rotation}{corrected}) cost at these sharp \
             scores (expected: the codec's theory); {verdict}"
        )
    }
}
