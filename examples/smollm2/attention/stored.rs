//! What a GPU stored, read back: its rows against the codec's, and attention over them on the CPU.

use candle_core::{Device, Tensor};
use wgtq::cache::Snapshot;
use wgtq::codec::{Codec, row};
use wgtq::oracle::dequantize_kv::PackedRows;
use wgtq::oracle::quantize_kv::{Encoded, encode};
use wgtq::parity::quantize_kv::Case;

use super::dense::attend;
use super::{Attention, Coding, Shape};
use crate::error::Result;

/// A cache whose rows are there already: what is appended is not stored.
#[derive(Debug)]
pub struct Stored {
    shape: Shape,
    bytes_per_token: u64,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    sides: [Side; 2],
    /// Rows that attention has come to.
    seen: usize,
}

/// K or V of a layer, `[nkv, n, ..]`.
#[derive(Debug)]
struct Side {
    codec: Codec,
    kv_heads: u32,
    positions: u32,
    packed: Vec<u8>,
    norms: Vec<f32>,
}

impl Stored {
    /// The rows of a snapshot, which were encoded as `coding` says.
    pub fn new(shape: Shape, coding: Coding, snapshot: &Snapshot<'_>) -> Self {
        let codec = coding.codec(shape.head_dim);
        let [k, v] = [codec.key_codec().expect("a packed K"), codec.v];
        let side = |codec, packed: &[u8], norms: &[u8]| Side {
            codec,
            kv_heads: shape.num_kv_heads,
            positions: snapshot.header.len,
            packed: packed.to_vec(),
            norms: bytemuck::pod_collect_to_vec(norms),
        };
        let layers: Vec<Layer> = snapshot
            .layers()
            .map(|rows| {
                let k = side(k, rows.k, rows.k_norms);
                Layer { sides: [k, side(v, rows.v_packed, rows.v_norms)], seen: 0 }
            })
            .collect();
        let row_bytes = [k, v].map(|codec| super::oracle::stored_bytes(&codec));
        Self { shape, bytes_per_token: shape.bytes_per_token(row_bytes), layers }
    }

    /// Compares the codes and norms of a layer with those of `k` and `v`, `[n, nkv, D]`, by the rules
    /// of the kernel's own tests. Returns how many codes rounding has turned, or what is wrong.
    pub fn judge(
        &self,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
    ) -> std::result::Result<usize, String> {
        let mut turned = 0;
        for ((side, rows), name) in self.layers[layer].sides.iter().zip([k, v]).zip(["K", "V"]) {
            let want = side.encoded(rows).map_err(|e| e.to_string())?;
            let case = side.case();
            let outcome = case.judge(&want, &side.packed, &side.norms);
            if !outcome.pass() {
                return Err(format!("layer {layer} {name}: {}", outcome.detail));
            }
            turned += side.turned(&want);
        }
        Ok(turned)
    }
}

impl Side {
    fn case(&self) -> Case {
        Case {
            codec: self.codec,
            num_kv_heads: self.kv_heads,
            num_tokens: self.positions,
            capacity: self.positions,
            write_pos: 0,
            sliding: false,
            amplitude: 1.0,
            seed: 0,
        }
    }

    /// What the codec makes of rows `[n, nkv, D]`, in the order stored.
    fn encoded(&self, rows: &Tensor) -> Result<Vec<Option<Encoded>>> {
        let rows: Vec<f32> = rows.transpose(0, 1)?.flatten_all()?.to_vec1()?;
        let rows = rows.chunks_exact(self.codec.head_dim.as_usize());
        Ok(rows.map(|x| Some(encode(&self.codec, x))).collect())
    }

    fn turned(&self, want: &[Option<Encoded>]) -> usize {
        let want = want.iter().flatten().flat_map(|row| row.codes.iter().copied());
        let got = row::unpack(self.codec.bits, &self.packed);
        got.zip(want).filter(|(got, want)| got != want).count()
    }

    /// The first rows decoded, `[count, nkv, D]`.
    fn decoded(&self, count: usize) -> Result<Tensor> {
        let (packed, norms) = (self.packed.as_slice(), self.norms.as_slice());
        let rows = PackedRows { codec: self.codec, capacity: self.positions, packed, norms };
        let (heads, d) = (self.kv_heads as usize, self.codec.head_dim.as_usize());
        let mut values = Vec::with_capacity(count * heads * d);
        for position in 0..count as u32 {
            for head in 0..self.kv_heads {
                let mut row = vec![0.0; d];
                rows.decode(head, position, &mut row);
                values.extend(row.iter().map(|&x| x as f32));
            }
        }
        Ok(Tensor::from_vec(values, (count, heads, d), &Device::Cpu)?)
    }
}

impl Attention for Stored {
    fn append_and_attend(
        &mut self,
        layer: usize,
        q: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<Tensor> {
        let Layer { sides: [k, v], seen } = &mut self.layers[layer];
        *seen += q.dim(0)?;
        attend(&self.shape, q, &[k.decoded(*seen)?, v.decoded(*seen)?])
    }

    fn bytes_per_token(&self) -> u64 {
        self.bytes_per_token
    }
}
