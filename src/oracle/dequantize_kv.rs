//! Unpack, look up the centroid, scale by the norm. The result stays in the rotated basis.

use super::check_len;
use super::fwht::rotate;
use crate::codec::{Codec, Direction, codebook, row};
use crate::error::Result;
use crate::params::DequantizeKvParams;

/// Packed rows with their norms, as a kernel sees them: `[nkv, cap, row]`, `[nkv, cap, npp]`.
#[derive(Debug, Clone, Copy)]
pub struct PackedRows<'a> {
    /// How the rows were written.
    pub codec: Codec,
    /// Slots a KV head.
    pub capacity: u32,
    /// Codes.
    pub packed: &'a [u8],
    /// Norms.
    pub norms: &'a [f32],
}

impl PackedRows<'_> {
    /// Checks that both arrays hold `num_kv_heads` heads.
    pub fn check(&self, kernel: &'static str, num_kv_heads: u32) -> Result<()> {
        let rows = u64::from(num_kv_heads) * u64::from(self.capacity);
        let head_dim = self.codec.head_dim;
        check_len(kernel, "packed", self.packed, rows * row::row_bytes(head_dim, self.codec.bits))?;
        check_len(kernel, "norms", self.norms, rows * u64::from(head_dim.norms_per_pos()))
    }

    /// Decodes one row into `out`, which stays in the rotated basis.
    pub fn decode_rotated(&self, kv_head: u32, slot: u32, out: &mut [f64]) {
        let head_dim = self.codec.head_dim;
        let (block, npp) = (head_dim.norm_block() as usize, head_dim.norms_per_pos() as usize);
        let bytes = row::row_bytes(head_dim, self.codec.bits) as usize;
        let at = (u64::from(kv_head) * u64::from(self.capacity) + u64::from(slot)) as usize;
        let packed = &self.packed[at * bytes..(at + 1) * bytes];
        let table = codebook::levels(self.codec.bits);
        let codes = row::unpack(self.codec.bits, packed);
        for (c, (out, code)) in out.iter_mut().zip(codes).enumerate() {
            let norm = f64::from(self.norms[at * npp + c / block]);
            *out = f64::from(table[usize::from(code)]) * self.codec.decode_scale(norm);
        }
    }

    /// Decodes one row back to the basis of the model.
    pub fn decode(&self, kv_head: u32, slot: u32, out: &mut [f64]) {
        self.decode_rotated(kv_head, slot, out);
        rotate(self.codec.rotation, Direction::Inverse, out);
    }
}

/// The kernel: positions `read_pos ..` of every head into `dst`, by the strides of `params`.
/// Floats of `dst` that no position maps to are 0.
pub fn dequantize_kv(
    codec: &Codec,
    params: &DequantizeKvParams,
    packed: &[u8],
    norms: &[f32],
) -> Result<Vec<f64>> {
    let head_dim = params.check()?;
    let rows = PackedRows {
        codec: Codec { scale_factor_d512: params.scale_factor_d512, ..*codec },
        capacity: params.cache_capacity,
        packed,
        norms,
    };
    rows.check("dequantize_kv", params.num_kv_heads)?;
    let mut dst = vec![0.0; params.dst_floats() as usize];
    for t in 0..params.num_tokens {
        for head in 0..params.num_kv_heads {
            let at = t as usize * params.dst_token_stride as usize
                + head as usize * params.dst_head_stride as usize;
            rows.decode_rotated(head, params.slot(t), &mut dst[at..at + head_dim.as_usize()]);
        }
    }
    Ok(dst)
}
