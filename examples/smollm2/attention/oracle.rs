//! What a perfect kernel would give: every K and V row through wgtq's codec in f64, or K through
//! f16, as it is written, then attention over the decoded rows.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use wgtq::codec::{Codec, KeyFormat, KvCodec, row};
use wgtq::oracle::dequantize_kv::PackedRows;
use wgtq::oracle::quantize_kv::encode;

use super::dense::{Store, attend};
use super::{Attention, Coding, Shape};
use crate::error::Result;

/// K and V encoded and decoded.
#[derive(Debug)]
pub struct Oracle {
    shape: Shape,
    codec: KvCodec,
    store: Store,
}

impl Oracle {
    /// An empty cache.
    pub fn new(shape: Shape, coding: Coding) -> Self {
        Self { store: Store::new(&shape), codec: coding.codec(shape.head_dim), shape }
    }
}

impl Attention for Oracle {
    fn append_and_attend(
        &mut self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor> {
        let codec = self.codec.v;
        let rounded = |dtype| -> Result<Tensor> { Ok(k.to_dtype(dtype)?.to_dtype(k.dtype())?) };
        let k = match self.codec.k {
            KeyFormat::F32 => rounded(DType::F32)?,
            KeyFormat::F16 => rounded(DType::F16)?,
            KeyFormat::Tq(bits) => through(&Codec { bits, ..codec }, k)?,
        };
        let v = through(&codec, v)?;
        attend(&self.shape, q, &self.store.append(layer, &k, &v)?)
    }

    fn bytes_per_token(&self) -> u64 {
        let k = match self.codec.key_codec() {
            Some(codec) => stored_bytes(&codec),
            None => u64::from(self.shape.head_dim.get()) * u64::from(stored_bits(self.codec.k)) / 8,
        };
        self.shape.bytes_per_token([k, stored_bytes(&self.codec.v)])
    }
}

/// Bits of a stored coordinate.
pub const fn stored_bits(format: KeyFormat) -> u32 {
    match format {
        KeyFormat::F32 => 32,
        KeyFormat::F16 => 16,
        KeyFormat::Tq(bits) => bits.get(),
    }
}

/// Bytes of one encoded row with its norms.
pub fn stored_bytes(codec: &Codec) -> u64 {
    row::row_bytes(codec.head_dim, codec.bits) + u64::from(codec.head_dim.norms_per_pos()) * 4
}

/// Rows `[.., D]` encoded from f32, packed and decoded.
fn through(codec: &Codec, rows: &Tensor) -> Result<Tensor> {
    let values = rows.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    let mut decoded = vec![0.0f64; values.len()];
    let d = codec.head_dim.as_usize();
    decoded.par_chunks_exact_mut(d).zip(values.par_chunks_exact(d)).for_each(|(out, x)| {
        let encoded = encode(codec, x);
        let norms: Vec<f32> = encoded.norms.iter().map(|&n| n as f32).collect();
        let mut packed = vec![0; row::row_bytes(codec.head_dim, codec.bits) as usize];
        row::pack(codec.bits, &encoded.codes, &mut packed);
        let rows = PackedRows { codec: *codec, capacity: 1, packed: &packed, norms: &norms };
        rows.decode(0, 0, out);
    });
    Ok(Tensor::from_vec(decoded, rows.shape(), &Device::Cpu)?.to_dtype(rows.dtype())?)
}
