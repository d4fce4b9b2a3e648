//! How far an output is from its reference.

/// Why a comparison has no answer.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MetricError {
    /// The two sides have different lengths.
    #[error("comparison: need {needed} values, found {found}")]
    Length {
        /// Length of the reference.
        needed: usize,
        /// Length of the output.
        found: usize,
    },
    /// The reference is all zeros: a relative error does not exist.
    #[error("comparison: the reference is zero, a relative error does not exist")]
    ZeroReference,
    /// The reference has a NaN or an infinity.
    #[error("comparison: reference value {index} is {value}")]
    Reference {
        /// Where.
        index: usize,
        /// What.
        value: f64,
    },
    /// The output has a NaN or an infinity.
    #[error("comparison: output value {index} is {value}")]
    Output {
        /// Where.
        index: usize,
        /// What.
        value: f32,
    },
}

/// The difference of one output from its reference, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// `sqrt(sum d^2 / sum ref^2)`.
    pub nrmse: f64,
    /// Largest `|d|`.
    pub max_abs: f64,
    /// Index of the largest `|d|`.
    pub worst: usize,
    /// Largest `|d|` of each row of `row_len` values.
    pub per_row: Vec<f64>,
}

/// Compares `output` with `reference`, both `[rows, row_len]`.
///
/// NaN and infinities are looked for first, on both sides, and are errors; so is a reference of
/// zeros.
pub fn compare(
    output: &[f32],
    reference: &[f64],
    row_len: usize,
) -> Result<Difference, MetricError> {
    if output.len() != reference.len() {
        return Err(MetricError::Length { needed: reference.len(), found: output.len() });
    }
    if let Some(index) = reference.iter().position(|r| !r.is_finite()) {
        return Err(MetricError::Reference { index, value: reference[index] });
    }
    if let Some(index) = output.iter().position(|o| !o.is_finite()) {
        return Err(MetricError::Output { index, value: output[index] });
    }
    let power: f64 = reference.iter().map(|r| r * r).sum();
    if power == 0.0 {
        return Err(MetricError::ZeroReference);
    }
    let diff: Vec<f64> =
        output.iter().zip(reference).map(|(&o, r)| (f64::from(o) - r).abs()).collect();
    let worst = (0..diff.len()).max_by(|&a, &b| diff[a].total_cmp(&diff[b])).unwrap_or(0);
    Ok(Difference {
        nrmse: (diff.iter().map(|d| d * d).sum::<f64>() / power).sqrt(),
        max_abs: diff[worst],
        worst,
        per_row: diff
            .chunks(row_len.max(1))
            .map(|row| row.iter().copied().fold(0.0, f64::max))
            .collect(),
    })
}

/// Units in the last place between two finite f32 of the same sign.
pub fn ulp_distance(a: f32, b: f32) -> u32 {
    let key = |x: f32| {
        let bits = x.to_bits() as i32;
        i64::from(if bits < 0 { i32::MIN.wrapping_sub(bits) } else { bits })
    };
    (key(a) - key(b)).unsigned_abs() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nrmse_of_a_known_pair() {
        let d = compare(&[1.0, 0.0, 2.0, 2.0], &[1.0, 0.0, 2.0, 0.0], 2).unwrap();
        assert!((d.nrmse - (4.0f64 / 5.0).sqrt()).abs() < 1e-15);
        assert_eq!((d.max_abs, d.worst), (2.0, 3));
        assert_eq!(d.per_row, [0.0, 2.0]);
    }

    #[test]
    fn a_reference_that_proves_nothing_is_an_error() {
        assert_eq!(compare(&[0.0], &[0.0], 1), Err(MetricError::ZeroReference));
        assert!(matches!(compare(&[0.0], &[f64::NAN], 1), Err(MetricError::Reference { .. })));
        assert!(matches!(compare(&[f32::NAN], &[1.0], 1), Err(MetricError::Output { .. })));
        assert!(matches!(compare(&[1.0], &[1.0, 2.0], 1), Err(MetricError::Length { .. })));
    }

    #[test]
    fn ulps_count_across_zero() {
        assert_eq!(ulp_distance(1.0, f32::from_bits(1.0f32.to_bits() + 3)), 3);
        assert_eq!(ulp_distance(0.0, -0.0), 0);
        assert_eq!(ulp_distance(f32::from_bits(1), -f32::from_bits(1)), 2);
    }
}
