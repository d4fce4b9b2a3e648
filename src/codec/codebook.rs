//! Lloyd-Max centroids for N(0, 1), symmetric and ascending.

use super::Bits;

/// Positive half of the 4-bit table, the published constants (Max 1960 to seven digits).
#[expect(clippy::excessive_precision, reason = "the published digits")]
const HALF_4: [f32; 8] =
    [0.1283950, 0.3880483, 0.6567591, 0.9423405, 1.2562312, 1.6180464, 2.0690172, 2.7325896];

const fn mirror<const H: usize, const N: usize>(half: [f32; H]) -> [f32; N] {
    let mut all = [0.0; N];
    let mut i = 0;
    while i < H {
        all[H + i] = half[i];
        all[H - 1 - i] = -half[i];
        i += 1;
    }
    all
}

const fn midpoints<const N: usize, const B: usize>(levels: [f32; N]) -> [f32; B] {
    let mut mid = [0.0; B];
    let mut i = 0;
    while i < B {
        mid[i] = (levels[i] + levels[i + 1]) * 0.5;
        i += 1;
    }
    mid
}

static LEVELS_4: [f32; 16] = mirror(HALF_4);
static BOUNDARIES_4: [f32; 15] = midpoints(mirror::<8, 16>(HALF_4));

/// The 2^bits centroids, ascending.
pub const fn levels(bits: Bits) -> &'static [f32] {
    assert!(bits.get() == 4);
    &LEVELS_4
}

/// The 2^bits - 1 decision boundaries, ascending: f32 midpoints of neighbouring centroids.
pub const fn boundaries(bits: Bits) -> &'static [f32] {
    assert!(bits.get() == 4);
    &BOUNDARIES_4
}

/// Index of the centroid nearest to `z`; a tie goes to the lower index.
pub fn nearest(bits: Bits, z: f64) -> u8 {
    boundaries(bits).iter().filter(|&&b| z > f64::from(b)).count() as u8
}

/// Distance from `z` to the closest decision boundary: how far a code is from being the next.
pub fn boundary_distance(bits: Bits, z: f64) -> f64 {
    boundaries(bits).iter().map(|&b| (z - f64::from(b)).abs()).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_symmetric_and_ascending() {
        let t = levels(Bits::B4);
        assert!(t.windows(2).all(|w| w[0] < w[1]));
        assert!((0..16).all(|i| t[i] == -t[15 - i]));
    }

    #[test]
    fn ties_go_to_the_lower_index_and_zero_is_code_seven() {
        assert_eq!(nearest(Bits::B4, 0.0), 7);
        for (i, &b) in boundaries(Bits::B4).iter().enumerate() {
            assert_eq!(nearest(Bits::B4, f64::from(b)), i as u8);
            assert_eq!(nearest(Bits::B4, f64::from(b) + 1e-9), i as u8 + 1);
        }
    }

    /// Mean squared error over N(0, 1), by the trapezoid rule in f64.
    fn mse(bits: Bits) -> f64 {
        let (steps, edge) = (400_000, 8.0);
        let h = 2.0 * edge / f64::from(steps);
        (0..=steps)
            .map(|i| {
                let z = -edge + h * f64::from(i);
                let e = z - f64::from(levels(bits)[usize::from(nearest(bits, z))]);
                e * e * (-0.5 * z * z).exp()
            })
            .sum::<f64>()
            * h
            / (2.0 * std::f64::consts::PI).sqrt()
    }

    /// Max 1960, table I: 0.009497 .. 0.009501 for sixteen levels.
    #[test]
    fn four_bit_error_is_the_lloyd_max_optimum() {
        assert!((mse(Bits::B4) - 0.009_501).abs() < 2e-6, "mse {}", mse(Bits::B4));
    }

    /// Each centroid is the mean of its cell: the condition that makes the table Lloyd-Max.
    #[test]
    fn every_centroid_is_the_mean_of_its_cell() {
        let (table, edges) = (levels(Bits::B4), boundaries(Bits::B4));
        for (i, &c) in table.iter().enumerate() {
            let lo = if i == 0 { -10.0 } else { f64::from(edges[i - 1]) };
            let hi = if i == 15 { 10.0 } else { f64::from(edges[i]) };
            let steps = 200_000;
            let h = (hi - lo) / f64::from(steps);
            let (mut mass, mut moment) = (0.0, 0.0);
            for s in 0..steps {
                let z = lo + h * (f64::from(s) + 0.5);
                let w = (-0.5 * z * z).exp();
                mass += w;
                moment += w * z;
            }
            let residual = (moment / mass - f64::from(c)).abs();
            assert!(residual < 1e-6, "centroid {i}: residual {residual:e}");
        }
    }
}
