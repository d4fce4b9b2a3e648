//! Causal attention over rows in memory, in the type that they have, and the store of such rows.

use candle_core::{D, Device, Tensor};

use super::Shape;
use crate::error::Result;

/// K and V of every layer, `[n, nkv, D]` each.
#[derive(Debug)]
pub struct Store {
    layers: Vec<Option<[Tensor; 2]>>,
}

impl Store {
    /// An empty one.
    pub fn new(shape: &Shape) -> Self {
        Self { layers: vec![None; shape.layers] }
    }

    /// Appends rows and returns all of the layer.
    pub fn append(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<[Tensor; 2]> {
        let all = match &self.layers[layer] {
            Some([old_k, old_v]) => [Tensor::cat(&[old_k, k], 0)?, Tensor::cat(&[old_v, v], 0)?],
            None => [k.clone(), v.clone()],
        };
        Ok(self.layers[layer].insert(all).clone())
    }
}

/// Attends with `q` `[T, nh, D]` over `k` and `v` `[n, nkv, D]`; the last row is the last query's
/// own. Returns `[T, nh * D]`.
pub fn attend(shape: &Shape, q: &Tensor, [k, v]: &[Tensor; 2]) -> Result<Tensor> {
    let (tokens, heads, d) = q.dims3()?;
    let (stored, kv_heads, _) = k.dims3()?;
    // Query heads that share a KV head are rows of one product.
    let rows = heads / kv_heads * tokens;
    let by_head = |x: &Tensor| x.transpose(0, 1)?.contiguous();

    let q = by_head(q)?.reshape((kv_heads, rows, d))?;
    let scores = q.matmul(&by_head(k)?.t()?)?.affine(shape.scale().into(), 0.0)?;
    let scores = scores.reshape((heads, tokens, stored))?;
    let scores = scores.broadcast_add(&causal_mask(tokens, stored)?.to_dtype(scores.dtype())?)?;
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    let out = weights.reshape((kv_heads, rows, stored))?.matmul(&by_head(v)?)?;
    Ok(by_head(&out.reshape((heads, tokens, d))?)?.reshape((tokens, heads * d))?)
}

/// 0 where query `i` of the newest `tokens` may see row `j`, else minus infinity.
fn causal_mask(tokens: usize, stored: usize) -> Result<Tensor> {
    let mask: Vec<f32> = (0..tokens)
        .flat_map(|i| {
            (0..stored).map(move |j| if j > stored - tokens + i { f32::NEG_INFINITY } else { 0.0 })
        })
        .collect();
    Ok(Tensor::from_vec(mask, (tokens, stored), &Device::Cpu)?)
}
