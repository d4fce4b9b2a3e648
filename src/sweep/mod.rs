//! Sweeps: synthesised decode steps, encoded and attended by the kernels of a leg and compared
//! with attention on the unquantised values.
//!
//! [`multistep`] and [`production`] are the registered drivers; [`production::Plan`] takes any
//! other shape.

pub mod audit;
pub mod gates;
pub mod html;
pub mod inputs;
pub mod multistep;
pub mod point;
pub mod probe;
pub mod production;
pub mod theory;
pub mod verdict;

use crate::codec::{Codec, CodecSettings, HeadDim};
use crate::params::FlashAttnVecTqParams;

/// Seed of the registered runs.
pub const REGISTERED_SEED: u64 = 0x00C2_5EED;

/// A model's attention shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Query heads.
    pub num_heads: u32,
    /// KV heads.
    pub num_kv_heads: u32,
    /// Coordinates of a head vector.
    pub head_dim: HeadDim,
    /// Slots a KV head.
    pub kv_capacity: u32,
    /// Factor on `dot(q, k)`.
    pub scale: f32,
    /// How K and V are encoded.
    pub codec: CodecSettings,
}

impl Shape {
    /// K's codec.
    pub const fn k_codec(&self) -> Codec {
        self.codec.k(self.head_dim)
    }

    /// V's codec.
    pub const fn v_codec(&self) -> Codec {
        self.codec.v(self.head_dim)
    }

    /// Parameters of one decode step; sliding mask, no softcap, one split.
    pub const fn params(&self, step: &Step) -> FlashAttnVecTqParams {
        FlashAttnVecTqParams {
            n_heads: self.num_heads,
            n_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim.get(),
            kv_seq_len: step.kv_seq_len,
            kv_capacity: self.kv_capacity,
            scale: self.scale,
            mask_type: crate::params::MASK_SLIDING,
            sliding_window: step.sliding_window,
            softcap: 0.0,
            nwg: 1,
            ring_start: step.ring_start,
            scale_factor_d512: 1.0,
        }
    }
}

/// One decode step of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Number of the newest token, from 0.
    pub abs_pos: u32,
    /// Positions stored.
    pub kv_seq_len: u32,
    /// Window of the sliding mask.
    pub sliding_window: u32,
    /// Slot of the oldest position.
    pub ring_start: u32,
}

/// Ring start after token `abs_pos`: 0 until the cache has been filled once.
pub const fn ring_start(abs_pos: u32, capacity: u32) -> u32 {
    let next = abs_pos as u64 + 1;
    if next >= capacity as u64 { (next % capacity as u64) as u32 } else { 0 }
}
