//! Kernels on a device against their oracles. One binary: wgpu links once, one device is opened.
//!
//! Needs a GPU or Debian's mesa-vulkan-drivers. `WGTQ_GPU=none` is the explicit way to leave
//! these tests out; a missing GPU without it is a failure.

mod dequantize_kv;
mod flash_attn_decode_tq;
mod flash_attn_mat_tile;
mod flash_attn_mat_tq;
mod flash_attn_tile;
mod flash_attn_vec;
mod flash_attn_vec_reduce;
mod flash_attn_vec_tq;
mod fwht;
mod quantize_k_and_v;
mod quantize_kv;
mod store_kv;
mod support;
