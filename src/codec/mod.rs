//! What TurboQuant is: head dims, bit widths, codebooks, signs, row layout, ring arithmetic.
//!
//! No GPU types. Every table lives here once; the shaders' copies are generated from it.

pub mod codebook;
mod distortion;
mod kv;
pub mod ring;
pub mod row;
pub mod signs;

use crate::error::{Error, Result};
pub use kv::{CodecSettings, KeyFormat, KvCodec, KvFormat};
pub use ring::Ring;

/// Norms at or under this encode every coordinate as z = 0.
pub const ZERO_NORM: f32 = 1e-10;

/// Coordinates of one head vector: 64, 128, 256 or 512.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeadDim(u32);

impl HeadDim {
    /// Every supported head dim, ascending.
    pub const ALL: [Self; 4] = [Self(64), Self(128), Self(256), Self(512)];

    /// Checks that `head_dim` is 64, 128, 256 or 512.
    pub fn new(head_dim: u32) -> Result<Self> {
        let found = Self(head_dim);
        if Self::ALL.contains(&found) {
            Ok(found)
        } else {
            Err(Error::param("head_dim", "64, 128, 256 or 512", head_dim))
        }
    }

    /// The number of coordinates.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number of coordinates, for indexing.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// Norms stored for a position: 1, or 2 at 512 (one a block of 256 coordinates).
    pub const fn norms_per_pos(self) -> u32 {
        if self.0 == 512 { 2 } else { 1 }
    }

    /// Coordinates that share one norm.
    pub const fn norm_block(self) -> u32 {
        self.0 / self.norms_per_pos()
    }
}

impl std::fmt::Display for HeadDim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Width of one code in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bits {
    /// Two bits, four levels.
    B2 = 2,
    /// Three bits, eight levels.
    B3 = 3,
    /// Four bits, sixteen levels.
    B4 = 4,
    /// Five bits, 32 levels.
    B5 = 5,
    /// Six bits, 64 levels.
    B6 = 6,
    /// Eight bits, 256 levels.
    B8 = 8,
}

impl Bits {
    /// Every width that has a codebook, ascending.
    pub const ALL: [Self; 6] = [Self::B2, Self::B3, Self::B4, Self::B5, Self::B6, Self::B8];

    /// Checks that there is a codebook of `bits` bits.
    pub fn new(bits: u32) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|b| b.get() == bits)
            .ok_or_else(|| Error::param("bits", "2, 3, 4, 5, 6 or 8", bits))
    }

    /// The width in bits.
    pub const fn get(self) -> u32 {
        self as u32
    }

    /// Number of codes, 2^bits.
    pub const fn levels(self) -> usize {
        1 << self.get()
    }
}

impl std::fmt::Display for Bits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

/// The rotation that a cache was written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Rotation {
    /// `FWHT(x) / sqrt(D)`.
    #[default]
    Plain,
    /// `FWHT(s . x) / sqrt(D)` with the published signs `s`.
    Srht,
}

impl Rotation {
    /// The manifest's word: `plain` or `srht`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Srht => "srht",
        }
    }

    /// The sign of coordinate `c`, +1 or -1.
    pub const fn sign(self, c: usize) -> f32 {
        match self {
            Self::Plain => 1.0,
            Self::Srht => signs::sign(c),
        }
    }
}

/// Which way a rotation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Into the rotated basis: `FWHT(s . x) / sqrt(D)`.
    Forward,
    /// Back: `s . FWHT(y) / sqrt(D)`.
    Inverse,
}

/// How one tensor of a cache (K or V) is encoded. One value a cache: the encoder, the query
/// rotation, the output un-rotation and the oracle all take it from here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Codec {
    /// Coordinates of a head vector.
    pub head_dim: HeadDim,
    /// Width of a code.
    pub bits: Bits,
    /// The rotation in front of the quantiser.
    pub rotation: Rotation,
    /// `sf`, the scale between block norm and codebook at head_dim 512; ignored elsewhere.
    pub scale_factor_d512: f32,
    /// Whether the encoder stores `norm / ||decoded row at norm 1||` in place of the norm, so that
    /// a decoded block has exactly the norm that it had. Decoding is the same either way. At
    /// head_dim 128 the squared error is 2 % less at 4 and 5 bits and 3 % more at 2.
    pub norm_correction: bool,
}

impl Codec {
    /// A codec with `scale_factor_d512` 1 and without norm correction.
    pub const fn new(head_dim: HeadDim, bits: Bits, rotation: Rotation) -> Self {
        Self { head_dim, bits, rotation, scale_factor_d512: 1.0, norm_correction: false }
    }

    /// The norm of one block of rotated coordinates: L2 at D <= 256, RMS at 512.
    pub fn norm_of(&self, block: &[f64]) -> f64 {
        let sum: f64 = block.iter().map(|y| y * y).sum();
        if self.head_dim.norms_per_pos() == 1 { sum.sqrt() } else { (sum / 256.0).sqrt() }
    }

    /// Factor from a rotated coordinate to the codebook's N(0, 1) scale, given the block's norm.
    pub fn encode_scale(&self, norm: f64) -> f64 {
        if norm <= f64::from(ZERO_NORM) {
            0.0
        } else if self.head_dim.norms_per_pos() == 1 {
            f64::from(self.head_dim.get()).sqrt() / norm
        } else {
            f64::from(self.scale_factor_d512) / norm
        }
    }

    /// Factor from a centroid to a rotated coordinate, given the block's norm.
    pub fn decode_scale(&self, norm: f64) -> f64 {
        if self.head_dim.norms_per_pos() == 1 {
            norm / f64::from(self.head_dim.get()).sqrt()
        } else {
            norm / f64::from(self.scale_factor_d512)
        }
    }
}
