//! Points of the row kernels.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One row kernel on one shape, number of tokens and leg.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RowReport {
    /// Letter of the shape.
    pub preset: String,
    /// KV heads: rows of a token.
    pub num_kv_heads: u32,
    /// Coordinates of a row.
    pub head_dim: u32,
    /// Tokens.
    pub tokens: u32,
    /// Stem of the kernel.
    pub kernel: String,
    /// Label of its pipeline.
    pub pipeline: String,
    /// Bits of a code; null for a kernel without codes.
    pub bits: Option<String>,
    /// The leg.
    pub leg: String,
    /// Bytes that a call has to read and to write.
    pub bytes: u64,
    /// Median microseconds of a dispatch that only copies, and reads and writes as many bytes, to a
    /// sixteenth of those read; null where they are more than it has buffers for.
    pub copied_us: Option<f64>,
    /// Copies of the rows that calls go round.
    pub copies: u64,
    /// What the device lacks for this many rows; null where it ran.
    pub skipped: Option<String>,
    /// Whether a sample of rows, with the last one, is within its tolerance of the oracle.
    pub verified: bool,
    /// Error of that sample: NRMSE, or codes and norms that are wrong; null without an answer.
    pub error: Option<f64>,
    /// What it had to stay within.
    pub tolerance: f64,
    /// The comparison in words.
    pub detail: String,
    /// Times; null where rows were wrong.
    pub timing: Option<RowTiming>,
}

/// What was measured of a row kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RowTiming {
    /// Median microseconds of a call.
    pub us: f64,
    /// A tenth of the samples are shorter.
    pub us_p10: f64,
    /// A tenth of the samples are longer.
    pub us_p90: f64,
    /// Calls of a sample.
    pub calls: u64,
    /// Samples.
    pub samples: usize,
    /// Gigabytes a second of the bytes that have to move.
    pub gb_s: f64,
    /// The same as part of the copy speed.
    pub of_copy: Option<f64>,
    /// This time over that of WGSL without run-time checks.
    pub trusted_ratio: Option<f64>,
    /// This time over that of native MSL.
    pub msl_ratio: Option<f64>,
}

impl RowReport {
    /// Whether its rows were wrong; a point that was left out is not.
    pub fn is_wrong(&self) -> bool {
        !self.verified && self.skipped.is_none()
    }

    fn is_beside(&self, other: &Self, leg: &str) -> bool {
        let what = |r: &Self| (r.preset.clone(), r.tokens, r.kernel.clone(), r.bits.clone());
        self.leg == leg && what(self) == what(other)
    }
}

/// Fills in what relates points to each other and to the copy speed.
pub(in crate::bench) fn relate_rows(rows: &mut [RowReport], copy_gb_s: f64) {
    let all = rows.to_vec();
    for row in rows {
        let of = |leg: &str| {
            let found = all.iter().find(|other| other.is_beside(row, leg));
            found.and_then(|found| found.timing.as_ref()).map(|timing| timing.us)
        };
        let ratios = [of("wgsl-trusted"), of("msl")];
        if let Some(timing) = &mut row.timing {
            let [trusted, msl] = ratios.map(|us| us.map(|us| timing.us / us));
            (timing.trusted_ratio, timing.msl_ratio) = (trusted, msl);
            timing.of_copy = Some(timing.gb_s / copy_gb_s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kernel: &str, leg: &str, us: Option<f64>) -> RowReport {
        RowReport {
            preset: "G".into(),
            num_kv_heads: 8,
            head_dim: 256,
            tokens: 512,
            kernel: kernel.into(),
            pipeline: String::new(),
            bits: None,
            leg: leg.into(),
            bytes: 1_000_000,
            copied_us: None,
            copies: 1,
            skipped: None,
            verified: us.is_some(),
            error: None,
            tolerance: 0.0,
            detail: String::new(),
            timing: us.map(|us| RowTiming {
                us,
                us_p10: us,
                us_p90: us,
                calls: 1,
                samples: 1,
                gb_s: 1e3 / us,
                of_copy: None,
                trusted_ratio: None,
                msl_ratio: None,
            }),
        }
    }

    #[test]
    fn rows_are_related_to_the_same_kernel_on_another_leg() {
        let mut rows = [
            row("fwht", "wgsl", Some(30.0)),
            row("quantize_kv", "wgsl-trusted", Some(5.0)),
            row("fwht", "wgsl-trusted", Some(10.0)),
            row("fwht", "msl", None),
        ];
        relate_rows(&mut rows, 200.0);
        let timing = |i: usize| rows[i].timing.clone().unwrap();
        assert_eq!(timing(0).trusted_ratio, Some(3.0));
        assert_eq!(timing(1).of_copy, Some(1.0));
        assert_eq!(timing(0).msl_ratio, None);
        assert!(rows[3].is_wrong() && !rows[0].is_wrong());
        let skipped = RowReport { skipped: Some("too large".into()), ..rows[3].clone() };
        assert!(!skipped.is_wrong());
    }
}
