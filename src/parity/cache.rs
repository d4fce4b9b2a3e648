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
    /// Encodes `rows` `[nkv, n, D]`, chronological, into the slots of `ring`.
    pub fn encode(codec: &Codec, ring: Ring, num_kv_heads: u32, rows: &[f32], seed: u64) -> Self {
        let (bytes, npp) = (
            row::row_bytes(codec.head_dim, codec.bits) as usize,
            codec.head_dim.norms_per_pos() as usize,
        );
        let slots = num_kv_heads as usize * ring.capacity() as usize;
        let mut rng = Gaussian::new(seed ^ 0x9055_0075);
        let mut packed: Vec<u8> = (0..slots * bytes).map(|_| rng.bits() as u8).collect();
        let mut norms = vec![f32::NAN; slots * npp];
        for (i, x) in rows.chunks_exact(codec.head_dim.as_usize()).enumerate() {
            let (head, position) = (i / ring.len() as usize, i % ring.len() as usize);
            let at = head * ring.capacity() as usize + ring.slot(position as u32) as usize;
            let encoded = encode(codec, x);
            row::pack(codec.bits, &encoded.codes, &mut packed[at * bytes..(at + 1) * bytes]);
            for (b, &norm) in encoded.norms.iter().enumerate() {
                norms[at * npp + b] = norm as f32;
            }
        }
        Self { packed, norms }
    }
}
