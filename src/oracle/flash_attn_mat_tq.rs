//! The function of `flash_attn_vec_tq`: matrices change how it is computed, not what.

pub use super::flash_attn_vec_tq::flash_attn_vec_tq as flash_attn_mat_tq;
