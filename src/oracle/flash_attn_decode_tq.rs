//! Attention over packed K and V, from the natural basis to the natural basis.

/// Takes K and V back to the natural basis, where the kernel takes q and the output to the rotated
/// one: the same function, since rotations keep products and are linear.
pub use super::flash_attn_vec_tq::dequantizing_attention as flash_attn_decode_tq;
