//! The definition of each kernel, in f64, from the same parameter block as the kernel.
//!
//! No lanes, no GPU types: a reader should see the formula. Inputs are what the kernel gets
//! (f32 values and packed bytes); everything after the load is f64.

mod attention;
pub mod dequantize_kv;
pub mod flash_attn_decode_tq;
pub mod flash_attn_mat_tile;
pub mod flash_attn_mat_tq;
pub mod flash_attn_tile;
pub mod flash_attn_vec;
pub mod flash_attn_vec_reduce;
pub mod flash_attn_vec_tq;
pub mod fwht;
pub mod quantize_k_and_v;
pub mod quantize_kv;
pub mod store_kv;

pub use attention::{Attended, max_abs_score, scores};

use crate::error::{Error, Result};

/// Checks that a slice holds at least `needed` elements of type `T`.
pub(crate) fn check_len<T>(
    kernel: &'static str,
    buffer: &'static str,
    slice: &[T],
    needed: u64,
) -> Result<()> {
    if (slice.len() as u64) < needed {
        let size = size_of::<T>() as u64;
        return Err(Error::BufferTooSmall {
            kernel,
            buffer,
            needed: needed * size,
            found: slice.len() as u64 * size,
        });
    }
    Ok(())
}
