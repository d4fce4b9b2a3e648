//! The error that the codec has by theory.

use super::{Codec, codebook};

/// Simpson intervals of one cell of the codebook.
const INTERVALS: u32 = 64;
/// Where the density of a coordinate of a unit vector times sqrt(D) is under 1e-15 of its peak.
const EDGE: f64 = 9.0;

impl Codec {
    /// Relative mean squared error of a decoded row, `E ||x~ - x||^2 / ||x||^2`, for x of uniformly
    /// random direction (as iid Gaussian coordinates have), without norm correction.
    ///
    /// Exact for this codebook: a coordinate of a block of d, scaled to RMS 1, has the density
    /// `(1 - z^2 / d)^((d - 3) / 2)`. That is within 1 % of what a codebook made for d would reach,
    /// but at head_dim 64 with 6 and 8 bits, where it is within 1.3 %.
    pub fn expected_mse(&self) -> f64 {
        let d = f64::from(self.head_dim.norm_block());
        let (encode, decode) = (self.encode_scale(1.0), self.decode_scale(1.0));
        // A norm of 1 is an RMS of `1 / sqrt(d)`, or of 1 where norms are RMS.
        let rms = if self.head_dim.norms_per_pos() == 1 { 1.0 / d.sqrt() } else { 1.0 };
        let (encode, decode) = (encode * rms, decode / rms);
        let density = |z: f64| (1.0 - z * z / d).max(0.0).powf(0.5 * (d - 3.0));
        let edge = EDGE.min(d.sqrt());

        let half = self.bits.levels() / 2;
        let mut low = 0.0;
        let (mut mass, mut error) = (0.0, 0.0);
        for (i, &level) in codebook::levels(self.bits)[half..].iter().enumerate() {
            let next = codebook::boundaries(self.bits).get(half + i);
            let high = next.map_or(edge, |&b| (f64::from(b) / encode).min(edge));
            let decoded = f64::from(level) * decode;
            mass += simpson(low, high, density);
            error += simpson(low, high, |z| density(z) * (z - decoded).powi(2));
            low = high;
        }
        error / mass
    }
}

fn simpson(low: f64, high: f64, f: impl Fn(f64) -> f64) -> f64 {
    let step = (high - low) / f64::from(INTERVALS);
    let weight = |i: u32| match i {
        0 | INTERVALS => 1.0,
        i if i % 2 == 1 => 4.0,
        _ => 2.0,
    };
    (0..=INTERVALS).map(|i| weight(i) * f(low + f64::from(i) * step)).sum::<f64>() * step / 3.0
}

#[cfg(test)]
mod tests {
    use super::super::{Bits, HeadDim, Rotation};
    use super::*;

    /// Where theory of N(0, 1) must be met from below, and two blocks of 256 are as one.
    #[test]
    fn error_rises_with_the_block_to_that_of_a_gaussian() {
        for (bits, gaussian) in [(Bits::B6, 0.000_644_24), (Bits::B8, 0.000_041_185)] {
            let mse = |i: usize| Codec::new(HeadDim::ALL[i], bits, Rotation::Plain).expected_mse();
            assert!(mse(0) < mse(1) && mse(1) < mse(2) && mse(2) < gaussian, "{bits} bits");
            assert!(mse(2) > 0.98 * gaussian, "{bits} bits: {}", mse(2));
            assert!((mse(3) / mse(2) - 1.0).abs() < 1e-12, "{bits} bits: {}", mse(3));
        }
    }

    /// Squeezing blocks into three quarters of the codebook's range must cost.
    #[test]
    fn scale_factor_changes_the_error_of_two_block_rows_only() {
        for head_dim in HeadDim::ALL {
            let codec = Codec::new(head_dim, Bits::B4, Rotation::Plain);
            let squeezed = Codec { scale_factor_d512: 0.75, ..codec };
            let changed = squeezed.expected_mse() > 1.1 * codec.expected_mse();
            assert_eq!(changed, head_dim == HeadDim::ALL[3], "D {head_dim}");
        }
    }
}
