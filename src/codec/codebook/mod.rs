//! Lloyd-Max centroids for N(0, 1), symmetric and ascending.
//!
//! Every table is the optimum in f64, frozen and then rounded to f32, which is what encoders,
//! oracles and shaders use. Seven decimals of it are the published 2- and 3-bit constants. The
//! 4-bit table is the published one, digit for digit, because caches written elsewhere use it.

mod guess;
#[cfg(test)]
mod lloyd_max;
mod tables;

use super::Bits;
pub use guess::{Guess, guess};
use tables::*;

/// Positive half of the 4-bit table, the published constants (Max 1960 to seven digits).
const HALF_4: [f64; 8] =
    [0.1283950, 0.3880483, 0.6567591, 0.9423405, 1.2562312, 1.6180464, 2.0690172, 2.7325896];

const fn mirror<const H: usize, const N: usize>(half: [f64; H]) -> [f32; N] {
    let mut all = [0.0; N];
    let mut i = 0;
    while i < H {
        all[H + i] = half[i] as f32;
        all[H - 1 - i] = -half[i] as f32;
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

static LEVELS_2: [f32; 4] = mirror(HALF_2);
static LEVELS_3: [f32; 8] = mirror(HALF_3);
static LEVELS_4: [f32; 16] = mirror(HALF_4);
static LEVELS_5: [f32; 32] = mirror(HALF_5);
static LEVELS_6: [f32; 64] = mirror(HALF_6);
static LEVELS_8: [f32; 256] = mirror(HALF_8);
static BOUNDARIES_2: [f32; 3] = midpoints(mirror::<2, 4>(HALF_2));
static BOUNDARIES_3: [f32; 7] = midpoints(mirror::<4, 8>(HALF_3));
static BOUNDARIES_4: [f32; 15] = midpoints(mirror::<8, 16>(HALF_4));
static BOUNDARIES_5: [f32; 31] = midpoints(mirror::<16, 32>(HALF_5));
static BOUNDARIES_6: [f32; 63] = midpoints(mirror::<32, 64>(HALF_6));
static BOUNDARIES_8: [f32; 255] = midpoints(mirror::<128, 256>(HALF_8));

/// The 2^bits centroids, ascending.
pub const fn levels(bits: Bits) -> &'static [f32] {
    match bits {
        Bits::B2 => &LEVELS_2,
        Bits::B3 => &LEVELS_3,
        Bits::B4 => &LEVELS_4,
        Bits::B5 => &LEVELS_5,
        Bits::B6 => &LEVELS_6,
        Bits::B8 => &LEVELS_8,
    }
}

/// The 2^bits - 1 decision boundaries, ascending: f32 midpoints of neighbouring centroids.
pub const fn boundaries(bits: Bits) -> &'static [f32] {
    match bits {
        Bits::B2 => &BOUNDARIES_2,
        Bits::B3 => &BOUNDARIES_3,
        Bits::B4 => &BOUNDARIES_4,
        Bits::B5 => &BOUNDARIES_5,
        Bits::B6 => &BOUNDARIES_6,
        Bits::B8 => &BOUNDARIES_8,
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
    fn tables_are_symmetric_and_ascending() {
        for bits in Bits::ALL {
            let table = levels(bits);
            assert_eq!(table.len(), bits.levels());
            assert_eq!(boundaries(bits).len(), bits.levels() - 1);
            assert!(table.windows(2).all(|w| w[0] < w[1]), "{bits} bits");
            assert!(table.iter().zip(table.iter().rev()).all(|(a, b)| *a == -b), "{bits} bits");
        }
    }

    /// Bytes of caches written elsewhere depend on these very floats.
    #[test]
    fn four_bit_levels_are_the_published_floats() {
        let published: [f32; 8] =
            [0.128395, 0.3880483, 0.6567591, 0.9423405, 1.2562312, 1.6180464, 2.0690172, 2.7325896];
        assert_eq!(levels(Bits::B4)[8..], published);
    }

    #[test]
    fn ties_go_to_the_lower_index_and_zero_is_under_the_middle() {
        for bits in Bits::ALL {
            assert_eq!(usize::from(nearest(bits, 0.0)), bits.levels() / 2 - 1, "{bits} bits");
            for (i, &b) in boundaries(bits).iter().enumerate() {
                assert_eq!(nearest(bits, f64::from(b)), i as u8, "{bits} bits");
                assert_eq!(nearest(bits, f64::from(b) + 1e-9), i as u8 + 1, "{bits} bits");
            }
        }
    }
}
