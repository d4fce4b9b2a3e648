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

/// Packs one code a coordinate into `row`, which holds [`row_bytes`] bytes.
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
    fn code_reads_back_what_pack_wrote() {
        let codes: Vec<u8> = (0..64).map(|c| (c * 7 % 16) as u8).collect();
        let mut row = [0; 32];
        pack(Bits::B4, &codes, &mut row);
        assert!((0..64).all(|c| code(Bits::B4, &row, c) == codes[c]));
    }
}
