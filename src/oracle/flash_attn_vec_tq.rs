//! Attention over packed K and V.

use super::attention;
use super::check_len;
use super::dequantize_kv::PackedRows;
use crate::error::Result;
use crate::params::{FlashAttnVecParams, FlashAttnVecTqParams};

/// The kernel: a rotated `q` `[nh, D]` over packed rows, in the rotated basis throughout; the
/// rotated output at one split, else partials.
pub fn flash_attn_vec_tq(
    params: &FlashAttnVecTqParams,
    q_rotated: &[f32],
    k: PackedRows,
    v: PackedRows,
) -> Result<Vec<f64>> {
    let (shape, k, v) = prepare(params, q_rotated, k, v)?;
    attention::dst(&shape, q_rotated, &|h, s, o| k.decode_rotated(h, s, o), &|h, s, o| {
        v.decode_rotated(h, s, o)
    })
}

/// How far leaving out rows of V can move each coordinate of the output: `sum(weight * |v|) / S`
/// over the positions whose weight `exp(score - M)` is below `weight_floor`, M the largest score.
pub fn weighing_less(
    params: &FlashAttnVecTqParams,
    weight_floor: f64,
    q_rotated: &[f32],
    k: PackedRows,
    v: PackedRows,
) -> Result<Vec<f64>> {
    let (shape, k, v) = prepare(params, q_rotated, k, v)?;
    let k_row: attention::Rows<'_> = &|h, s, o| k.decode_rotated(h, s, o);
    let ring = shape.ring()?;
    let visible: Vec<u32> = (shape.first_visible()..shape.kv_seq_len).collect();
    let scores = attention::scores(&shape, q_rotated, k_row)?;
    let d = shape.head_dim as usize;
    let mut row = vec![0.0; d];
    let mut most = vec![0.0; scores.len() * d];
    for (h, (scores, most)) in scores.iter().zip(most.chunks_exact_mut(d)).enumerate() {
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (&i, &weight) in visible.iter().zip(&weights).filter(|(_, w)| **w < weight_floor) {
            v.decode_rotated(h as u32 / shape.group_size(), ring.slot(i), &mut row);
            most.iter_mut().zip(&row).for_each(|(m, v)| *m += weight * v.abs() / sum);
        }
    }
    Ok(most)
}

/// The dequantising oracle of a whole decode step: K and V are decoded and un-rotated, then
/// plain attention with the natural `q`. Knows nothing of rotated queries.
pub fn dequantizing_attention(
    params: &FlashAttnVecTqParams,
    q: &[f32],
    k: PackedRows,
    v: PackedRows,
) -> Result<Vec<f64>> {
    let (shape, k, v) = prepare(params, q, k, v)?;
    let shape = FlashAttnVecParams { nwg: 1, ..shape };
    attention::dst(&shape, q, &|h, s, o| k.decode(h, s, o), &|h, s, o| v.decode(h, s, o))
}

fn prepare<'a>(
    params: &FlashAttnVecTqParams,
    q: &[f32],
    k: PackedRows<'a>,
    v: PackedRows<'a>,
) -> Result<(FlashAttnVecParams, PackedRows<'a>, PackedRows<'a>)> {
    params.check()?;
    let needed = u64::from(params.n_heads) * u64::from(params.head_dim);
    check_len("flash_attn_vec_tq", "q", q, needed)?;
    k.check("flash_attn_vec_tq", params.n_kv_heads)?;
    v.check("flash_attn_vec_tq", params.n_kv_heads)?;
    let with_scale = |rows: PackedRows<'a>| PackedRows {
        codec: crate::codec::Codec { scale_factor_d512: params.scale_factor_d512, ..rows.codec },
        ..rows
    };
    Ok((FlashAttnVecParams::from(*params), with_scale(k), with_scale(v)))
}
