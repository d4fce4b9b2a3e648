//! Packed caches as inputs of cases.

use crate::codec::{Codec, Ring, row};
use crate::oracle::quantize_kv::encode;
use crate::rng::Gaussian;

/// A packed K or V cache with everything around its positions made hostile: slots that hold no
/// position have random codes and a NaN norm, so a kernel that reads one shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedCache {
    /// `[nkv, cap, row]`.
    pub packed: Vec<u8>,
    /// `[nkv, cap, norms_per_pos]`.
    pub norms: Vec<f32>,
}

impl PackedCache {
    /// `rows` rows that hold nothing.
    pub fn empty(codec: &Codec, rows: usize, seed: u64) -> Self {
        let bytes = rows * row::row_bytes(codec.head_dim, codec.bits) as usize;
        let mut rng = Gaussian::new(seed ^ 0x9055_0075);
        Self {
            packed: (0..bytes).map(|_| rng.bits() as u8).collect(),
            norms: vec![f32::NAN; rows * codec.head_dim.norms_per_pos() as usize],
        }
    }

    /// Encodes `x` into row `at`.
    pub fn put(&mut self, codec: &Codec, at: usize, x: &[f32]) {
        let bytes = row::row_bytes(codec.head_dim, codec.bits) as usize;
        let npp = codec.head_dim.norms_per_pos() as usize;
        let encoded = encode(codec, x);
        row::pack(codec.bits, &encoded.codes, &mut self.packed[at * bytes..(at + 1) * bytes]);
        for (b, &norm) in encoded.norms.iter().enumerate() {
            self.norms[at * npp + b] = norm as f32;
        }
    }

    /// Encodes `rows` `[nkv, n, D]`, chronological, into the slots of `ring`.
    pub fn encode(codec: &Codec, ring: Ring, num_kv_heads: u32, rows: &[f32], seed: u64) -> Self {
        let slots = num_kv_heads as usize * ring.capacity() as usize;
        let mut cache = Self::empty(codec, slots, seed);
        for (i, x) in rows.chunks_exact(codec.head_dim.as_usize()).enumerate() {
            let (head, position) = (i / ring.len() as usize, i % ring.len() as usize);
            let at = head * ring.capacity() as usize + ring.slot(position as u32) as usize;
            cache.put(codec, at, x);
        }
        cache
    }
}
