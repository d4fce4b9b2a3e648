//! The JSON report of a benchmark. Clocks appear only in `ran_at`, `timing` and the two speeds of
//! the environment.

mod rows;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use rows::relate_rows;
pub use rows::{RowReport, RowTiming};

use crate::gpu::AdapterReport;

/// Name and version of the format.
pub const SCHEMA: &str = "wgtq.bench/1";

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Name and version of the format.
    pub schema: String,
    /// This crate's version.
    pub version: String,
    /// Operating system and processor.
    pub machine: String,
    /// The device.
    pub environment: Environment,
    /// Whether one cache was read again and again; else copies in turn, so that no cache of the
    /// device holds what is read.
    pub hot: bool,
    /// Seed of the data.
    pub seed: u64,
    /// Every point of attention.
    pub points: Vec<PointReport>,
    /// Every point of the row kernels.
    #[serde(default)]
    pub rows: Vec<RowReport>,
    /// When, UTC.
    pub ran_at: String,
}

/// The device and its memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// The adapter.
    pub adapter: AdapterReport,
    /// Gigabytes a second of a copy by a kernel, read plus written.
    pub copy_gb_s: f64,
    /// Gigabytes a second of a kernel that only reads.
    pub read_gb_s: f64,
    /// Microseconds of a dispatch of one workgroup that does nothing but wait for the one before.
    pub dispatch_us: f64,
}

/// One shape, length, format and leg.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PointReport {
    /// Letter of the shape.
    pub preset: String,
    /// Query heads.
    pub num_heads: u32,
    /// KV heads.
    pub num_kv_heads: u32,
    /// Coordinates of a head vector.
    pub head_dim: u32,
    /// Positions attended over.
    pub kv_seq_len: u32,
    /// Query tokens: the newest of the positions, each of which sees those up to itself.
    #[serde(default = "one")]
    pub query_tokens: u32,
    /// Stem of the kernel.
    pub kernel: String,
    /// Label of its pipeline.
    pub pipeline: String,
    /// `f16`, or bits of K and V.
    pub format: String,
    /// The leg.
    pub leg: String,
    /// Splits; above 1 the merge is part of the time.
    pub nwg: u32,
    /// Stored bytes of K and V, norms included.
    pub cache_bytes: u64,
    /// Copies of the cache that calls go round.
    pub cache_copies: u64,
    /// Whether the last KV head's output is within its tolerance of the oracle.
    pub verified: bool,
    /// NRMSE of that output; null without an answer.
    pub error: Option<f64>,
    /// What it had to stay within.
    pub tolerance: f64,
    /// The comparison in words.
    pub detail: String,
    /// Times; null where the output was wrong.
    pub timing: Option<Timing>,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Timing {
    /// Median microseconds of a call.
    pub us: f64,
    /// A tenth of the samples are shorter.
    pub us_p10: f64,
    /// A tenth of the samples are longer.
    pub us_p90: f64,
    /// Median microseconds of the attention dispatch when it runs alone.
    pub attention_us: f64,
    /// The same of the merge, if there is one.
    pub merge_us: Option<f64>,
    /// Calls of a sample.
    pub calls: u64,
    /// Samples.
    pub samples: usize,
    /// Gigabytes of stored cache a second.
    pub gb_s: f64,
    /// The same as part of the copy speed.
    pub of_copy: Option<f64>,
    /// Teraflops a second of both products over what the query tokens see.
    #[serde(default)]
    pub tflop_s: f64,
    /// Time of dense f16 on the same leg, over this time: above 1 this is faster.
    pub f16_ratio: Option<f64>,
    /// This time over that of WGSL without run-time checks.
    pub trusted_ratio: Option<f64>,
    /// This time over that of native MSL.
    pub msl_ratio: Option<f64>,
}

const fn one() -> u32 {
    1
}

/// Fills in what relates points to each other and to the copy speed.
pub(super) fn relate(points: &mut [PointReport], copy_gb_s: f64) {
    let times: Vec<_> = points
        .iter()
        .filter_map(|p| {
            Some((
                p.preset.clone(),
                (p.kv_seq_len, p.query_tokens),
                p.format.clone(),
                p.leg.clone(),
                p.timing.as_ref()?.us,
            ))
        })
        .collect();
    for point in points {
        let of = |format: &str, leg: &str| {
            let size = (point.kv_seq_len, point.query_tokens);
            let same = |t: &&(String, (u32, u32), String, String, f64)| {
                (&*t.0, t.1, &*t.2, &*t.3) == (&*point.preset, size, format, leg)
            };
            times.iter().find(same).map(|t| t.4)
        };
        let Some(mut timing) = point.timing.clone() else { continue };
        timing.of_copy = Some(timing.gb_s / copy_gb_s);
        timing.f16_ratio = of("f16", &point.leg).map(|us| us / timing.us);
        timing.trusted_ratio = of(&point.format, "wgsl-trusted").map(|us| timing.us / us);
        timing.msl_ratio = of(&point.format, "msl").map(|us| timing.us / us);
        point.timing = Some(timing);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn point(format: &str, leg: &str, us: Option<f64>) -> PointReport {
        PointReport {
            preset: "G".into(),
            num_heads: 16,
            num_kv_heads: 8,
            head_dim: 256,
            kv_seq_len: 1024,
            query_tokens: 1,
            kernel: "flash_attn_vec_tq".into(),
            pipeline: String::new(),
            format: format.into(),
            leg: leg.into(),
            nwg: 1,
            cache_bytes: 1_000_000,
            cache_copies: 1,
            verified: us.is_some(),
            error: None,
            tolerance: 5e-6,
            detail: String::new(),
            timing: us.map(|us| Timing {
                us,
                us_p10: us,
                us_p90: us,
                attention_us: us,
                merge_us: None,
                calls: 1,
                samples: 1,
                gb_s: 1e3 / us,
                of_copy: None,
                tflop_s: 0.0,
                f16_ratio: None,
                trusted_ratio: None,
                msl_ratio: None,
            }),
        }
    }

    #[test]
    fn points_are_related_to_their_own_leg_and_format() {
        let mut points = [
            point("f16", "wgsl", Some(40.0)),
            point("4/4", "wgsl", Some(20.0)),
            point("4/4", "wgsl-trusted", Some(10.0)),
            point("8/8", "wgsl", None),
        ];
        relate(&mut points, 200.0);
        let timing = |i: usize| points[i].timing.clone().unwrap();
        assert_eq!(timing(1).f16_ratio, Some(2.0));
        assert_eq!(timing(1).trusted_ratio, Some(2.0));
        assert_eq!(timing(1).of_copy, Some(0.25));
        assert_eq!(timing(2).f16_ratio, None);
        assert_eq!((timing(0).trusted_ratio, timing(0).msl_ratio), (None, None));
        assert_eq!(points[3].timing, None);
    }
}
