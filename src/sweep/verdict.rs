//! Verdicts: fixed rules over measured numbers.

use schemars::JsonSchema;
use serde::Serialize;

use crate::codec::{Bits, CodecSettings};

/// Lower edge of the registered band, inclusive.
pub const BAND_LOWER: f64 = 0.05;
/// Upper edge of the registered band, inclusive.
pub const BAND_UPPER: f64 = 0.35;

/// Whether anything was registered for this codec: 4-bit K and V with norms as they are. The rotation
/// changes nothing that theory expects.
pub const fn is_registered(codec: &CodecSettings) -> bool {
    matches!((codec.k_bits, codec.v_bits), (Bits::B4, Bits::B4)) && !codec.norm_correction
}

/// Whether an error lies in the registered band. NaN does not.
pub fn in_band(nrmse: f64) -> bool {
    (BAND_LOWER..=BAND_UPPER).contains(&nrmse)
}

/// Outcome of a production sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// A gate failed; nothing was measured.
    GateFailed,
    /// A point lies outside the band: what was registered before measuring is wrong.
    BandPreFalsified,
    /// The error grows with the length and does not move with the position.
    LengthEffectConfirmed,
    /// The error moves with the position and not with the length.
    PhaseEffectConfirmed,
    /// Neither: the error is the codec's.
    FloorIsPhysicsConsistent,
    /// Nothing was registered for the codec: there is theory to compare with, and no verdict.
    NotRegistered,
}

impl Verdict {
    /// As reports write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GateFailed => "GATE_FAILED",
            Self::BandPreFalsified => "BAND_PRE_FALSIFIED",
            Self::LengthEffectConfirmed => "LENGTH_EFFECT_CONFIRMED",
            Self::PhaseEffectConfirmed => "PHASE_EFFECT_CONFIRMED",
            Self::FloorIsPhysicsConsistent => "FLOOR_IS_PHYSICS_CONSISTENT",
            Self::NotRegistered => "NOT_REGISTERED",
        }
    }
}

/// Judges one leg: sweep A in its order, sweep B, and every other point.
pub fn production(sweep_a: &[f64], sweep_b: &[f64], others: &[f64]) -> Verdict {
    if ![sweep_a, sweep_b, others].concat().into_iter().all(in_band) {
        return Verdict::BandPreFalsified;
    }
    if spearman(sweep_a) > 0.7 && range(sweep_b) < 0.05 {
        Verdict::LengthEffectConfirmed
    } else if range(sweep_b) > 0.10 && range(sweep_a) < 0.05 {
        Verdict::PhaseEffectConfirmed
    } else {
        Verdict::FloorIsPhysicsConsistent
    }
}

fn range(x: &[f64]) -> f64 {
    let (lo, hi) =
        x.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), &x| (lo.min(x), hi.max(x)));
    if x.is_empty() { 0.0 } else { hi - lo }
}

/// Spearman's rank correlation of `x` with its own order; ties share their mean rank. 0 for fewer
/// than two values or when all are equal.
pub fn spearman(x: &[f64]) -> f64 {
    let rank = |v: f64| {
        let below = x.iter().filter(|&&o| o < v).count() as f64;
        let equal = x.iter().filter(|&&o| o == v).count() as f64;
        below + (equal - 1.0) / 2.0
    };
    let mean = (x.len() as f64 - 1.0) / 2.0;
    let (mut cov, mut var_a, mut var_b) = (0.0, 0.0, 0.0);
    for (i, &v) in x.iter().enumerate() {
        let (a, b) = (i as f64 - mean, rank(v) - mean);
        cov += a * b;
        var_a += a * a;
        var_b += b * b;
    }
    if var_a * var_b > 0.0 { cov / (var_a * var_b).sqrt() } else { 0.0 }
}

/// Threshold of the multistep rows.
pub const MULTISTEP_THRESHOLD: f64 = 0.01;

/// Outcome of a multistep row or run. The names are historic: with a 4-bit codec the floor is
/// never under the threshold, so `DequantSpecBugConfirmed` is what a correct kernel gets. With
/// other widths the rules do not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the verdict strings themselves; rules at `multistep_row`")]
pub enum MultistepVerdict {
    KernelEndToEndCorrect,
    DequantSpecBugConfirmed,
    FwhtPipelineBug,
    RingStartOrDispatchBug,
    H1KernelBug,
    NotRegistered,
}

impl MultistepVerdict {
    /// As reports write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KernelEndToEndCorrect => "kernel_end_to_end_correct",
            Self::DequantSpecBugConfirmed => "dequant_spec_bug_confirmed",
            Self::FwhtPipelineBug => "fwht_pipeline_bug",
            Self::RingStartOrDispatchBug => "ring_start_or_dispatch_bug",
            Self::H1KernelBug => "h1_kernel_bug",
            Self::NotRegistered => "not_registered",
        }
    }
}

/// A row as the rules see it: position, and whether each oracle is under the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultistepRow {
    /// Position of the newest token.
    pub abs_pos: u32,
    /// The dequantising oracle is under the threshold.
    pub dequant: bool,
    /// The floor is under the threshold.
    pub floor: bool,
}

/// Verdict of one row.
pub const fn multistep_row(row: MultistepRow) -> MultistepVerdict {
    match (row.dequant, row.floor) {
        (true, true) => MultistepVerdict::KernelEndToEndCorrect,
        (true, false) => MultistepVerdict::DequantSpecBugConfirmed,
        (false, true) => MultistepVerdict::FwhtPipelineBug,
        (false, false) if row.abs_pos > 1000 => MultistepVerdict::RingStartOrDispatchBug,
        (false, false) => MultistepVerdict::H1KernelBug,
    }
}

/// Verdict of the run: the same over all rows; where neither oracle is clean everywhere, a
/// ring bug if early rows are clean in both and a late one is not.
pub fn multistep_overall(rows: &[MultistepRow]) -> MultistepVerdict {
    let dequant = rows.iter().all(|r| r.dequant);
    let floor = rows.iter().all(|r| r.floor);
    match (dequant, floor) {
        (true, true) => MultistepVerdict::KernelEndToEndCorrect,
        (true, false) => MultistepVerdict::DequantSpecBugConfirmed,
        (false, true) => MultistepVerdict::FwhtPipelineBug,
        (false, false) => {
            let clean = |r: &MultistepRow| r.dequant && r.floor;
            let early = rows.iter().filter(|r| r.abs_pos <= 500).all(clean);
            let late = rows.iter().any(|r| r.abs_pos > 1000 && !clean(r));
            if early && late {
                MultistepVerdict::RingStartOrDispatchBug
            } else {
                MultistepVerdict::H1KernelBug
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_4_bit_codes_with_norms_as_they_are_have_a_registered_band() {
        let default = CodecSettings::DEFAULT;
        let srht = CodecSettings { rotation: crate::codec::Rotation::Srht, ..default };
        assert!(is_registered(&default) && is_registered(&srht));
        for other in [
            CodecSettings { k_bits: Bits::B8, ..default },
            CodecSettings { v_bits: Bits::B3, ..default },
            CodecSettings { norm_correction: true, ..default },
        ] {
            assert!(!is_registered(&other), "{other:?}");
        }
    }

    #[test]
    fn spearman_of_known_orders() {
        assert!((spearman(&[1.0, 2.0, 3.0, 4.0]) - 1.0).abs() < 1e-12);
        assert!((spearman(&[4.0, 3.0, 2.0, 1.0]) + 1.0).abs() < 1e-12);
        // Ranks 0, 2, 1, 3: 1 - 6 * 2 / (4 * 15).
        assert!((spearman(&[1.0, 3.0, 2.0, 4.0]) - 0.8).abs() < 1e-12);
        // A tie shares rank 1.5.
        assert!((spearman(&[1.0, 2.0, 2.0, 3.0]) - 0.948_683_298).abs() < 1e-8);
        assert_eq!((spearman(&[1.0, 1.0]), spearman(&[])), (0.0, 0.0));
    }

    #[test]
    fn the_band_is_inclusive_and_a_point_outside_falsifies_whatever_else_holds() {
        assert!(in_band(0.05) && in_band(0.35));
        assert!(!in_band(0.049_999) && !in_band(0.350_001) && !in_band(f64::NAN));
        let rising = [0.1, 0.15, 0.2, 0.25];
        let flat = [0.2, 0.21, 0.2];
        assert_eq!(production(&rising, &flat, &[]), Verdict::LengthEffectConfirmed);
        assert_eq!(production(&rising, &flat, &[0.36]), Verdict::BandPreFalsified);
        assert_eq!(production(&flat, &[0.1, 0.3], &[]), Verdict::PhaseEffectConfirmed);
        assert_eq!(production(&flat, &flat, &[0.2]), Verdict::FloorIsPhysicsConsistent);
    }

    #[test]
    fn multistep_rules_in_every_branch() {
        let row = |abs_pos, dequant, floor| MultistepRow { abs_pos, dequant, floor };
        use MultistepVerdict::*;
        for (r, want) in [
            (row(50, true, true), KernelEndToEndCorrect),
            (row(50, true, false), DequantSpecBugConfirmed),
            (row(50, false, true), FwhtPipelineBug),
            (row(1000, false, false), H1KernelBug),
            (row(1001, false, false), RingStartOrDispatchBug),
        ] {
            assert_eq!(multistep_row(r), want, "{r:?}");
        }
        let early = row(50, true, true);
        assert_eq!(multistep_overall(&[early, row(1050, false, false)]), RingStartOrDispatchBug);
        assert_eq!(multistep_overall(&[row(50, false, false), row(1050, true, true)]), H1KernelBug);
        assert_eq!(multistep_overall(&[early, row(1050, true, false)]), DequantSpecBugConfirmed);
        assert_eq!(multistep_overall(&[early, row(1050, false, true)]), FwhtPipelineBug);
        assert_eq!(multistep_overall(&[early, early]), KernelEndToEndCorrect);
    }
}
