//! Rotate, take the norm, scale to N(0, 1), pick the nearest centroid, pack.

use super::check_len;
use super::fwht::rotate;
use crate::codec::{Codec, Direction, codebook, row};
use crate::error::Result;
use crate::params::QuantizeKvParams;

/// One encoded head vector with what a comparison needs to know about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// One code a coordinate.
    pub codes: Vec<u8>,
    /// One norm a block, as stored: after the norm correction if the codec has it.
    pub norms: Vec<f64>,
    /// One norm a block, as the block has it.
    pub block_norms: Vec<f64>,
    /// What each coordinate was on the codebook's scale.
    pub z: Vec<f64>,
}

/// Encodes one head vector.
pub fn encode(codec: &Codec, x: &[f32]) -> Encoded {
    let mut y: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    rotate(codec.rotation, Direction::Forward, &mut y);
    let block = codec.head_dim.norm_block() as usize;
    let block_norms: Vec<f64> = y.chunks_exact(block).map(|b| codec.norm_of(b)).collect();
    let scale: Vec<f64> = block_norms.iter().map(|&norm| codec.encode_scale(norm)).collect();
    let z: Vec<f64> = y.iter().enumerate().map(|(c, &y)| y * scale[c / block]).collect();
    let codes: Vec<u8> = z.iter().map(|&z| codebook::nearest(codec.bits, z)).collect();
    let norms = stored_norms(codec, &block_norms, &codes);
    Encoded { codes, norms, block_norms, z }
}

/// The norms to store beside `codes`, given those that the blocks have.
pub fn stored_norms(codec: &Codec, block_norms: &[f64], codes: &[u8]) -> Vec<f64> {
    if codec.norm_correction { corrected(codec, block_norms, codes) } else { block_norms.to_vec() }
}

/// Norms with which every block decodes to the norm that it had. No centroid is 0, so no decoded
/// norm is.
fn corrected(codec: &Codec, norms: &[f64], codes: &[u8]) -> Vec<f64> {
    let (table, scale) = (codebook::levels(codec.bits), codec.decode_scale(1.0));
    let blocks = codes.chunks_exact(codec.head_dim.norm_block() as usize);
    let decoded = |block: &[u8]| -> Vec<f64> {
        block.iter().map(|&code| f64::from(table[usize::from(code)]) * scale).collect()
    };
    norms.iter().zip(blocks).map(|(norm, block)| norm / codec.norm_of(&decoded(block))).collect()
}

/// The kernel: `src` `[T, nkv, D]` into `packed` `[nkv, cap, row]` and `norms`
/// `[nkv, cap, norms_per_pos]`. Slots that no token maps to are left as they are.
pub fn quantize_kv(
    codec: &Codec,
    params: &QuantizeKvParams,
    src: &[f32],
    packed: &mut [u8],
    norms: &mut [f32],
) -> Result<()> {
    let head_dim = params.check()?;
    let codec = &Codec { scale_factor_d512: params.scale_factor_d512, ..*codec };
    let (heads, cap) = (u64::from(params.num_kv_heads), u64::from(params.cache_capacity));
    let (bytes, npp) = (row::row_bytes(head_dim, codec.bits), head_dim.norms_per_pos() as usize);
    let values = u64::from(params.num_tokens) * heads * u64::from(head_dim.get());
    check_len("quantize_kv", "src", src, values)?;
    check_len("quantize_kv", "packed", packed, heads * cap * bytes)?;
    check_len("quantize_kv", "norms", norms, heads * cap * npp as u64)?;

    for (i, x) in src[..values as usize].chunks_exact(head_dim.as_usize()).enumerate() {
        let (t, head) = (i as u32 / params.num_kv_heads, i as u32 % params.num_kv_heads);
        let Some(slot) = params.slot(t) else { continue };
        let at = (u64::from(head) * cap + u64::from(slot)) as usize;
        let encoded = encode(codec, x);
        let bytes = bytes as usize;
        row::pack(codec.bits, &encoded.codes, &mut packed[at * bytes..(at + 1) * bytes]);
        for (block, &norm) in encoded.norms.iter().enumerate() {
            norms[at * npp + block] = norm as f32;
        }
    }
    Ok(())
}
