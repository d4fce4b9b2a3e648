//! The fixed +-1 vector of the SRHT rotation.
//!
//! Published constants, needed for interoperability with caches written elsewhere: one bit a
//! coordinate, least significant bit first, 1 means multiply by -1. Smaller head dims use the
//! leading bits.

/// Sign bits of 512 coordinates; the first 32 bytes are the table of head_dim 256.
#[rustfmt::skip]
pub const BYTES: [u8; 64] = [
    0xa7, 0x3b, 0x91, 0xf4, 0x6d, 0xc2, 0x58, 0x0e, 0xb3, 0x7f, 0x24, 0xd6, 0x89, 0x45, 0xea, 0x1c,
    0x63, 0xaf, 0xd8, 0x52, 0x97, 0x0b, 0xe1, 0x3d, 0x76, 0xc4, 0x19, 0xfe, 0x4a, 0x85, 0x2c, 0xdb,
    0xd3, 0x4e, 0xa8, 0x17, 0x9c, 0x5b, 0xe6, 0x31, 0x72, 0xb9, 0x0d, 0xf5, 0x43, 0x8a, 0x6e, 0xc7,
    0x58, 0x2f, 0x94, 0xe1, 0xb6, 0x3d, 0x0a, 0x7c, 0xc5, 0x61, 0xd8, 0x4f, 0xa3, 0x97, 0x1e, 0x85,
];

/// Sign of coordinate `c < 512`: +1 or -1.
pub const fn sign(c: usize) -> f32 {
    if (BYTES[c >> 3] >> (c & 7)) & 1 == 1 { -1.0 } else { 1.0 }
}

/// The sign bits of `head_dim` coordinates as little-endian words, 32 coordinates a word.
pub fn words(head_dim: usize) -> Vec<u32> {
    BYTES[..head_dim / 8]
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of -1 signs as counted in the published tables.
    #[test]
    fn tables_have_the_published_number_of_minus_signs() {
        let count = |n: usize| (0..n).filter(|&c| sign(c) < 0.0).count();
        assert_eq!((count(256), count(512)), (132, 263));
    }

    #[test]
    fn words_hold_the_same_bits() {
        let w = words(512);
        assert!((0..512).all(|c| (w[c / 32] >> (c % 32)) & 1 == u32::from(sign(c) < 0.0)));
    }
}
