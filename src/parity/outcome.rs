//! How a comparison went: error, tolerance, worst element, and where the errors lie.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metrics::{Difference, MetricError, compare};

/// The element that is furthest off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Worst {
    /// Index in the output.
    pub index: usize,
    /// What the left side has.
    pub got: f64,
    /// What the right side has.
    pub want: f64,
}

/// A bar of a histogram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bin {
    /// What is counted.
    pub label: String,
    /// How many.
    pub count: u64,
}

/// What an error counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// `sqrt(sum d^2 / sum ref^2)`.
    Nrmse,
    /// Values outside what is allowed: codes, norms, bytes that had to stay.
    Violations,
    /// Largest absolute value where zeros are wanted.
    MaxAbs,
}

/// How a comparison went.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What `error` is.
    pub metric: Metric,
    /// The measured error; infinite where there is no answer.
    pub error: f64,
    /// What it had to stay within.
    pub tolerance: f64,
    /// What was compared, in words, with the worst element.
    pub detail: String,
    /// The element that is furthest off.
    pub worst: Option<Worst>,
    /// How many elements are how far off.
    pub histogram: Vec<Bin>,
}

impl Outcome {
    /// Whether the error is within the tolerance; a NaN is not.
    pub fn pass(&self) -> bool {
        self.error <= self.tolerance
    }

    /// A comparison without an answer.
    pub fn broken(detail: String, tolerance: f64) -> Self {
        Self {
            metric: Metric::Nrmse,
            error: f64::INFINITY,
            tolerance,
            detail,
            worst: None,
            histogram: Vec::new(),
        }
    }

    /// A count of violations; none are allowed.
    pub fn violations(violations: &[String], what: &str, histogram: Vec<Bin>) -> Self {
        Self {
            metric: Metric::Violations,
            error: violations.len() as f64,
            tolerance: 0.0,
            detail: violations.first().cloned().unwrap_or_else(|| what.to_owned()),
            worst: None,
            histogram,
        }
    }
}

/// Judges `output` against `reference` by NRMSE. A comparison without an answer (NaN in the
/// output, a zero reference) is an infinite error, except that zeros equal zeros.
pub fn judge(output: &[f32], reference: &[f64], row_len: usize, tolerance: f64) -> Outcome {
    match compare(output, reference, row_len) {
        Ok(d) => measured(output, reference, &d, d.nrmse, reference, tolerance),
        Err(MetricError::ZeroReference) => zeros(output),
        Err(e) => Outcome::broken(e.to_string(), tolerance),
    }
}

/// Judges two legs' outputs against each other, relative to the oracle's `reference`: the same
/// bound as for each of them alone, so that two legs at opposite ends of it do not pass.
pub fn judge_pair(left: &[f32], right: &[f32], reference: &[f64], tolerance: f64) -> Outcome {
    let right: Vec<f64> = right.iter().map(|&x| f64::from(x)).collect();
    let power = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
    match compare(left, &right, left.len()) {
        Ok(d) if power(reference) > 0.0 => {
            let error = d.nrmse * (power(&right) / power(reference)).sqrt();
            measured(left, &right, &d, error, reference, tolerance)
        }
        Ok(_) | Err(MetricError::ZeroReference) => zeros(left),
        Err(e) => Outcome::broken(e.to_string(), tolerance),
    }
}

fn measured(
    output: &[f32],
    want: &[f64],
    d: &Difference,
    error: f64,
    scale: &[f64],
    tolerance: f64,
) -> Outcome {
    let rms = (scale.iter().map(|x| x * x).sum::<f64>() / scale.len() as f64).sqrt();
    let worst = Worst { index: d.worst, got: f64::from(output[d.worst]), want: want[d.worst] };
    Outcome {
        metric: Metric::Nrmse,
        error,
        tolerance,
        detail: format!(
            "nrmse {error:.2e}, worst index {}: got {:e}, want {:e}",
            worst.index, worst.got, worst.want
        ),
        worst: Some(worst),
        histogram: decades(output.iter().zip(want).map(|(&o, w)| (f64::from(o) - w).abs() / rms)),
    }
}

fn zeros(output: &[f32]) -> Outcome {
    let index = (0..output.len()).max_by(|&a, &b| output[a].abs().total_cmp(&output[b].abs()));
    let largest = index.map_or(0.0, |i| f64::from(output[i].abs()));
    Outcome {
        metric: Metric::MaxAbs,
        error: largest,
        tolerance: 0.0,
        detail: format!("want zeros, largest {largest:e}"),
        worst: index.map(|index| Worst { index, got: f64::from(output[index]), want: 0.0 }),
        histogram: decades(output.iter().map(|x| f64::from(x.abs()))),
    }
}

/// Counts relative errors by decade, from exact to 1 and above.
fn decades(errors: impl Iterator<Item = f64>) -> Vec<Bin> {
    const SMALLEST: i32 = -9;
    let mut counts = [0u64; 11];
    for e in errors {
        let bin = match e {
            0.0 => 0,
            e => (e.log10().floor().clamp(f64::from(SMALLEST), 0.0) as i32 - SMALLEST + 1) as usize,
        };
        counts[bin] += 1;
    }
    let label = |bin: usize| match bin {
        0 => "equal".to_owned(),
        1 => "< 1e-8".to_owned(),
        10 => ">= 1".to_owned(),
        _ => format!("1e{}", bin as i32 - 1 + SMALLEST),
    };
    let bin = |(i, &count): (usize, &u64)| (count > 0).then(|| Bin { label: label(i), count });
    counts.iter().enumerate().filter_map(bin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_fall_into_their_decades() {
        let bins = decades([0.0, 1e-12, 3e-8, 0.5, 7.0, 1.0].into_iter());
        let count = |label: &str| bins.iter().find(|b| b.label == label).map(|b| b.count);
        assert_eq!(count("equal"), Some(1));
        assert_eq!(count("< 1e-8"), Some(1));
        assert_eq!(count("1e-8"), Some(1));
        assert_eq!(count("1e-1"), Some(1));
        assert_eq!(count(">= 1"), Some(2));
    }

    #[test]
    fn two_legs_at_opposite_ends_of_the_bound_fail_as_a_pair() {
        let reference = [1.0, -1.0, 1.0, -1.0];
        let scaled = |f: f32| reference.map(|x| x as f32 * f);
        let (up, down) = (scaled(1.0 + 0.9e-3), scaled(1.0 - 0.9e-3));
        assert!(judge(&up, &reference, 4, 1e-3).pass());
        assert!(judge(&down, &reference, 4, 1e-3).pass());
        assert!(!judge_pair(&up, &down, &reference, 1e-3).pass());
        assert!(judge_pair(&up, &up, &reference, 1e-3).pass());
    }

    #[test]
    fn a_nan_on_either_side_of_a_pair_fails() {
        let (good, bad) = ([1.0f32, 2.0], [1.0f32, f32::NAN]);
        assert!(!judge_pair(&good, &bad, &[1.0, 2.0], 1.0).pass());
        assert!(!judge_pair(&bad, &good, &[1.0, 2.0], 1.0).pass());
    }
}
