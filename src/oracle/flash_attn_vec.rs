//! Attention over dense K and V, f32 or f16.

use super::attention::{self, Rows};
use super::check_len;
use crate::error::Result;
use crate::params::FlashAttnVecParams;

/// Dense K or V `[nkv, cap, D]` in either of the kernel's element types.
#[derive(Debug, Clone, Copy)]
pub enum DenseRows<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 16-bit floats.
    F16(&'a [half::f16]),
}

impl DenseRows<'_> {
    fn check(&self, buffer: &'static str, params: &FlashAttnVecParams) -> Result<()> {
        let needed = u64::from(params.n_kv_heads)
            * u64::from(params.kv_capacity)
            * u64::from(params.head_dim);
        match self {
            Self::F32(x) => check_len("flash_attn_vec", buffer, x, needed),
            Self::F16(x) => check_len("flash_attn_vec", buffer, x, needed),
        }
    }

    /// Copies one row into `out`.
    pub fn read(&self, capacity: u32, kv_head: u32, slot: u32, out: &mut [f64]) {
        let at = (kv_head as usize * capacity as usize + slot as usize) * out.len();
        for (c, out) in out.iter_mut().enumerate() {
            *out = match self {
                Self::F32(x) => f64::from(x[at + c]),
                Self::F16(x) => x[at + c].to_f64(),
            };
        }
    }
}

/// The kernel: `q` `[nh, D]` over K and V; the output `[nh, D]` at one split, else partials.
pub fn flash_attn_vec(
    params: &FlashAttnVecParams,
    q: &[f32],
    k: DenseRows,
    v: DenseRows,
) -> Result<Vec<f64>> {
    params.check()?;
    let needed = u64::from(params.n_heads) * u64::from(params.head_dim);
    check_len("flash_attn_vec", "q", q, needed)?;
    k.check("k", params)?;
    v.check("v", params)?;
    let cap = params.kv_capacity;
    attention::dst(params, q, &|h, s, o| k.read(cap, h, s, o), &|h, s, o| v.read(cap, h, s, o))
}

/// Attention over rows that come from anywhere, for references that mix sources.
pub fn attend_rows(
    params: &FlashAttnVecParams,
    q: &[f32],
    k_row: Rows,
    v_row: Rows,
) -> Result<Vec<f64>> {
    params.check()?;
    let needed = u64::from(params.n_heads) * u64::from(params.head_dim);
    check_len("flash_attn_vec", "q", q, needed)?;
    attention::dst(params, q, k_row, v_row)
}
