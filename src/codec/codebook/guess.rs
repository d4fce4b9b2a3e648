//! A guess in place of a search: which boundary lies next to a coordinate's cell.
//!
//! Boundaries of N(0, 1) are close to an odd polynomial of their number, and so are their numbers to
//! one of z. Rounded to a whole number it names a boundary of the cell that z is in, and one
//! comparison with that boundary decides. Encoders do just this.

use super::Bits;

/// A scale, with which u = scale z + 1/2, cut off at 0 and 1, then terms. Up to four bits u times the
/// first term is the number of the boundary, and the others are not looked at. Beyond, they are those
/// of x, x^3, x^5 and x^7 for x = u - 1/2, and their sum is how many boundaries z is above the middle
/// one.
pub type Guess = [f32; 5];

/// All are minimax over the boundaries.
const GUESS_2: Guess = [0.5, 2.0, 0.0, 0.0, 0.0];
const GUESS_3: Guess = [0.322475, 6.0, 0.0, 0.0, 0.0];
const GUESS_4: Guess = [0.243223, 14.0, 0.0, 0.0, 0.0];
const GUESS_5: Guess = [0.168016, 45.1288, -88.1639, 142.052, -125.928];
const GUESS_6: Guess = [0.143172, 104.403, -276.623, 578.106, -600.998];
const GUESS_8: Guess = [0.113763, 517.796, -2078.6, 5984.24, -7579.37];

/// The guess of a width.
pub const fn guess(bits: Bits) -> Guess {
    match bits {
        Bits::B2 => GUESS_2,
        Bits::B3 => GUESS_3,
        Bits::B4 => GUESS_4,
        Bits::B5 => GUESS_5,
        Bits::B6 => GUESS_6,
        Bits::B8 => GUESS_8,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{boundaries, nearest};
    use super::*;

    /// The largest error that a guess may have at a boundary; at one half it names the wrong one.
    const LARGEST_ERROR: f32 = 0.3;

    /// Number of the boundary, before it is rounded, as the kernels compute it.
    fn number(bits: Bits, z: f32) -> f32 {
        let [scale, first, rest @ ..] = guess(bits);
        let u = (z * scale + 0.5).clamp(0.0, 1.0);
        if bits <= Bits::B4 {
            return u * first;
        }
        let x = u - 0.5;
        let s = x * x;
        let above = x * (first + s * (rest[0] + s * (rest[1] + s * rest[2])));
        above + (bits.levels() / 2 - 1) as f32
    }

    fn code(bits: Bits, z: f32) -> usize {
        let boundary = number(bits, z).round_ties_even() as usize;
        boundary + usize::from(z > boundaries(bits)[boundary])
    }

    #[test]
    fn a_guess_and_one_comparison_find_the_nearest_centroid() {
        for bits in Bits::ALL {
            let ties = boundaries(bits).iter().flat_map(|&b| [b.next_down(), b, b.next_up()]);
            let dense = (-600_000..=600_000).map(|i| i as f32 * 1e-5);
            for z in ties.chain(dense).chain([f32::MIN, f32::MAX, f32::NEG_INFINITY, f32::INFINITY])
            {
                let want = usize::from(nearest(bits, z.into()));
                assert_eq!(code(bits, z), want, "{bits} bits, {z}");
            }
        }
    }

    /// Far more than the rounding of any device, fused or not.
    #[test]
    fn guesses_keep_their_distance_from_one_half() {
        for bits in Bits::ALL {
            for (i, &b) in boundaries(bits).iter().enumerate() {
                let error = number(bits, b) - i as f32;
                assert!(error.abs() < LARGEST_ERROR, "{bits} bits, boundary {i}: {error}");
            }
        }
    }

    /// A guess that is off by one boundary is not excused by the comparison.
    #[test]
    fn a_wrong_guess_shows() {
        for bits in Bits::ALL {
            let wrong = boundaries(bits).iter().enumerate().any(|(i, &b)| {
                let guessed = (number(bits, b) + 1.0).round_ties_even() as usize;
                let Some(&other) = boundaries(bits).get(guessed) else { return true };
                guessed + usize::from(b > other) != i
            });
            assert!(wrong, "{bits} bits");
        }
    }
}
