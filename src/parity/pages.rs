//! Rows of pages as inputs of cases, in any format.

use super::PackedCache;
use crate::codec::{Codec, HeadDim, KeyFormat, Rotation};
use crate::oracle::dequantize_kv::PackedRows;
use crate::oracle::flash_attn_tile::Pages;
use crate::oracle::flash_attn_vec::DenseRows;

/// Rows `[page][kv_head][slot]` of K or V, with what no position holds made hostile: NaN norms, or
/// NaN where rows are dense.
pub enum PagedRows {
    /// Codes and norms.
    Packed(Codec, PackedCache),
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 16-bit floats.
    F16(Vec<half::f16>),
}

impl PagedRows {
    /// `rows` rows that hold nothing. The basis is the caller's, so the rotation is plain.
    pub fn empty(format: KeyFormat, head_dim: HeadDim, rows: usize, seed: u64) -> Self {
        let values = rows * head_dim.as_usize();
        match format {
            KeyFormat::F32 => Self::F32(vec![f32::NAN; values]),
            KeyFormat::F16 => Self::F16(vec![half::f16::NAN; values]),
            KeyFormat::Tq(bits) => {
                let codec = Codec::new(head_dim, bits, Rotation::Plain);
                Self::Packed(codec, PackedCache::empty(&codec, rows, seed))
            }
        }
    }

    /// Stores `x` as row `at`.
    pub fn put(&mut self, at: usize, x: &[f32]) {
        let values = at * x.len()..(at + 1) * x.len();
        match self {
            Self::Packed(codec, cache) => cache.put(codec, at, x),
            Self::F32(rows) => rows[values].copy_from_slice(x),
            Self::F16(rows) => {
                let halves = x.iter().map(|&x| half::f16::from_f32(x));
                rows[values].iter_mut().zip(halves).for_each(|(row, x)| *row = x);
            }
        }
    }

    /// The rows, for the oracle.
    pub fn pages(&self, page_size: u32) -> Pages<'_> {
        match self {
            Self::Packed(codec, cache) => Pages::Packed(PackedRows {
                codec: *codec,
                capacity: page_size,
                packed: &cache.packed,
                norms: &cache.norms,
            }),
            Self::F32(rows) => Pages::Dense(DenseRows::F32(rows)),
            Self::F16(rows) => Pages::Dense(DenseRows::F16(rows)),
        }
    }

    /// The rows, for a kernel.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Packed(_, cache) => &cache.packed,
            Self::F32(rows) => bytemuck::cast_slice(rows),
            Self::F16(rows) => bytemuck::cast_slice(rows),
        }
    }

    /// The norms, for a kernel; a NaN where there are none.
    pub fn norm_bytes(&self) -> &[u8] {
        match self {
            Self::Packed(_, cache) => bytemuck::cast_slice(&cache.norms),
            Self::F32(_) | Self::F16(_) => bytemuck::bytes_of(&f32::NAN),
        }
    }
}
