//! K and V each as [`quantize_kv`] encodes them.

use super::quantize_kv::quantize_kv;
use crate::codec::{Bits, Codec};
use crate::error::Result;
use crate::params::QuantizeKvParams;

/// Where one side of the cache is stored.
#[derive(Debug)]
pub struct Side<'a> {
    /// `[nkv, cap, row]`.
    pub packed: &'a mut [u8],
    /// `[nkv, cap, norms_per_pos]`.
    pub norms: &'a mut [f32],
}

/// The kernel: `k` and `v` `[T, nkv, D]` into their sides, K in codes of `k_bits`. Slots that no
/// token maps to are left as they are.
pub fn quantize_k_and_v(
    (k_bits, codec): (Bits, &Codec),
    params: &QuantizeKvParams,
    [k, v]: [&[f32]; 2],
    [k_side, v_side]: [Side<'_>; 2],
) -> Result<()> {
    let k_codec = Codec { bits: k_bits, ..*codec };
    quantize_kv(&k_codec, params, k, k_side.packed, k_side.norms)?;
    quantize_kv(codec, params, v, v_side.packed, v_side.norms)
}
