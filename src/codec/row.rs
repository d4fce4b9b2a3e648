//! Packed rows: coordinate c of width b occupies bits `[c*b, c*b + b)` of a little-endian stream.

use super::{Bits, HeadDim};

/// Bytes of one packed row. A multiple of 4 for every width, since head dims are multiples of 32.
pub const fn row_bytes(head_dim: HeadDim, bits: Bits) -> u64 {
    head_dim.get() as u64 * bits.get() as u64 / 8
}

/// 32-bit words of one packed row.
pub const fn row_words(head_dim: HeadDim, bits: Bits) -> u32 {
    head_dim.get() * bits.get() / 32
}

/// Where the code of one coordinate lies in the little-endian 32-bit words of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordPlace {
    /// The word that holds its lowest bit.
    pub word: u32,
    /// Position of that bit in the word.
    pub shift: u32,
    /// Whether its upper bits are the lowest of the next word. Never at 2, 4 and 8 bits.
    pub straddles: bool,
}

/// The place of coordinate `c`.
pub const fn word_place(bits: Bits, c: u32) -> WordPlace {
    let bit = c * bits.get();
    WordPlace { word: bit / 32, shift: bit % 32, straddles: bit % 32 + bits.get() > 32 }
}

/// Coordinates from one that starts a word to the next one that does: 16, 32, 8, 32, 16 and 4 at
/// 2, 3, 4, 5, 6 and 8 bits. Places repeat with this period, so that a lane which owns a multiple
/// of it shares no word with another.
pub const fn word_period(bits: Bits) -> u32 {
    32 >> bits.get().trailing_zeros()
}

/// Packs one code a coordinate, each under 2^bits, into `row`, which holds [`row_bytes`] bytes.
pub fn pack(bits: Bits, codes: &[u8], row: &mut [u8]) {
    row.fill(0);
    for (c, &code) in codes.iter().enumerate() {
        let bit = c * bits.get() as usize;
        let wide = u16::from(code) << (bit % 8);
        row[bit / 8] |= wide as u8;
        if wide > 0xff {
            row[bit / 8 + 1] |= (wide >> 8) as u8;
        }
    }
}

/// The code of coordinate `c` in a packed row.
pub fn code(bits: Bits, row: &[u8], c: usize) -> u8 {
    let bit = c * bits.get() as usize;
    let low = u16::from(row[bit / 8]);
    let high = row.get(bit / 8 + 1).map_or(0, |&b| u16::from(b));
    (((low | high << 8) >> (bit % 8)) & ((1 << bits.get()) - 1)) as u8
}

/// The codes of a packed row, one a coordinate.
pub fn unpack(bits: Bits, row: &[u8]) -> impl Iterator<Item = u8> {
    (0..row.len() * 8 / bits.get() as usize).map(move |c| code(bits, row, c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_bit_rows_put_even_coordinates_in_the_low_nibble() {
        let mut row = [0xff; 4];
        pack(Bits::B4, &[1, 2, 3, 4, 5, 6, 7, 8], &mut row);
        assert_eq!(row, [0x21, 0x43, 0x65, 0x87]);
    }

    #[test]
    fn eight_bit_rows_are_the_codes() {
        let mut row = [0; 4];
        pack(Bits::B8, &[0, 1, 0x80, 0xff], &mut row);
        assert_eq!(row, [0, 1, 0x80, 0xff]);
    }

    /// Coordinates of the first words that straddle, counted by hand: 32 is no multiple of 3, 5, 6.
    #[test]
    fn only_odd_widths_and_six_straddle_words() {
        let straddling = |bits| -> Vec<u32> {
            (0..word_period(bits)).filter(|&c| word_place(bits, c).straddles).collect()
        };
        assert_eq!(straddling(Bits::B3), [10, 21]);
        assert_eq!(straddling(Bits::B5), [6, 12, 19, 25]);
        assert_eq!(straddling(Bits::B6), [5, 10]);
        for bits in [Bits::B2, Bits::B4, Bits::B8] {
            assert!(straddling(bits).is_empty(), "{bits} bits");
        }
    }

    #[test]
    fn places_start_a_word_once_a_period() {
        for bits in Bits::ALL {
            let period = word_period(bits);
            let starts: Vec<u32> = (0..64).filter(|&c| word_place(bits, c).shift == 0).collect();
            let want: Vec<u32> = (0..64).step_by(period as usize).collect();
            assert_eq!(starts, want, "{bits} bits");
            assert!(HeadDim::ALL.iter().all(|d| d.get() % period == 0));
        }
    }
}
