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

/// Lloyd-Max to convergence in f64, rounded to seven digits.
const HALF_5: [f32; 16] = [
    0.0658897, 0.1980518, 0.3313783, 0.4666995, 0.6049336, 0.7471357, 0.8945651, 1.0487833,
    1.2118044, 1.3863403, 1.5762281, 1.7872332, 2.0287284, 2.3177394, 2.6911196, 3.2607325,
];

/// Lloyd-Max to convergence in f64, rounded to seven digits.
#[expect(clippy::excessive_precision, reason = "seven digits, as the 4-bit table")]
const HALF_6: [f32; 32] = [
    0.0334095, 0.1002783, 0.1672969, 0.2345670, 0.3021928, 0.3702826, 0.4389497, 0.5083138,
    0.5785030, 0.6496556, 0.7219219, 0.7954677, 0.8704766, 0.9471549, 1.0257363, 1.1064882,
    1.1897201, 1.2757945, 1.3651410, 1.4582764, 1.5558312, 1.6585889, 1.7675419, 1.8839772,
    2.0096110, 2.1468102, 2.2989812, 2.4713048, 2.6722738, 2.9174068, 3.2404371, 3.7441013,
];

static LEVELS_4: [f32; 16] = mirror(HALF_4);
static LEVELS_5: [f32; 32] = mirror(HALF_5);
static LEVELS_6: [f32; 64] = mirror(HALF_6);
static BOUNDARIES_4: [f32; 15] = midpoints(mirror::<8, 16>(HALF_4));
static BOUNDARIES_5: [f32; 31] = midpoints(mirror::<16, 32>(HALF_5));
static BOUNDARIES_6: [f32; 63] = midpoints(mirror::<32, 64>(HALF_6));

/// The 2^bits centroids, ascending.
pub const fn levels(bits: Bits) -> &'static [f32] {
    match bits.get() {
        5 => &LEVELS_5,
        6 => &LEVELS_6,
        _ => &LEVELS_4,
    }
}

/// The 2^bits - 1 decision boundaries, ascending: f32 midpoints of neighbouring centroids.
pub const fn boundaries(bits: Bits) -> &'static [f32] {
    match bits.get() {
        5 => &BOUNDARIES_5,
        6 => &BOUNDARIES_6,
        _ => &BOUNDARIES_4,
    }
}

/// Index of the centroid nearest to `z`; a tie goes to the lower index.
pub fn nearest(bits: Bits, z: f64) -> u8 {
    boundaries(bits).partition_point(|&b| z > f64::from(b)) as u8
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

    /// Max 1960, table I, and its continuation to more levels.
    #[test]
    fn errors_are_the_lloyd_max_optima() {
        for (bits, optimum) in [(Bits::B4, 0.009_501), (Bits::B5, 0.002_505), (Bits::B6, 0.000_644)]
        {
            let found = mse(bits);
            assert!((found / optimum - 1.0).abs() < 5e-4, "{bits:?}: {found}");
        }
    }

    /// Each centroid is the mean of its cell: the condition that makes the table Lloyd-Max.
    #[test]
    fn every_centroid_is_the_mean_of_its_cell() {
        for bits in [Bits::B4, Bits::B5, Bits::B6] {
            let (table, edges) = (levels(bits), boundaries(bits));
            for (i, &c) in table.iter().enumerate() {
                let lo = if i == 0 { -10.0 } else { f64::from(edges[i - 1]) };
                let hi = if i == table.len() - 1 { 10.0 } else { f64::from(edges[i]) };
                let steps = 50_000;
                let h = (hi - lo) / f64::from(steps);
                let (mut mass, mut moment) = (0.0, 0.0);
                for s in 0..steps {
                    let z = lo + h * (f64::from(s) + 0.5);
                    let w = (-0.5 * z * z).exp();
                    mass += w;
                    moment += w * z;
                }
                let residual = (moment / mass - f64::from(c)).abs();
                assert!(residual < 1e-6, "{bits:?} centroid {i}: residual {residual:e}");
            }
        }
    }
}
