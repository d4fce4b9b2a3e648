//! The function of `flash_attn_tile`: matrices change how it is computed, not what.

pub use super::flash_attn_tile::flash_attn_tile as flash_attn_mat_tile;
