//! Attention of several query tokens of several sequences over a paged cache, packed or dense.

use rayon::prelude::*;

use super::attention::{Attended, Partials, score};
use super::check_len;
use super::dequantize_kv::PackedRows;
use super::flash_attn_vec::DenseRows;
use crate::codec::Codec;
use crate::error::Result;
use crate::params::{FlashAttnTileParams, TileSequence};

/// K or V of every page: `[page][kv_head][slot in page]` rows.
#[derive(Debug, Clone, Copy)]
pub enum Pages<'a> {
    /// Codes and norms; the capacity is the page size.
    Packed(PackedRows<'a>),
    /// Floats.
    Dense(DenseRows<'a>),
}

impl Pages<'_> {
    fn check(&self, buffer: &'static str, params: &FlashAttnTileParams) -> Result<()> {
        // A page of all KV heads is a KV head more of one cache of page_size slots.
        let heads = params.num_pages * params.n_kv_heads;
        match self {
            Self::Packed(rows) => rows.check("flash_attn_tile", heads),
            Self::Dense(rows) => {
                let values = u64::from(heads) * u64::from(params.page_size);
                let needed = values * u64::from(params.head_dim);
                match rows {
                    DenseRows::F32(x) => check_len("flash_attn_tile", buffer, x, needed),
                    DenseRows::F16(x) => check_len("flash_attn_tile", buffer, x, needed),
                }
            }
        }
    }

    /// The row of a KV head of a page, in the rotated basis where it is packed.
    fn read(&self, params: &FlashAttnTileParams, kv_head: u32, at: (u32, u32), out: &mut [f64]) {
        let (page, slot) = at;
        let head = page * params.n_kv_heads + kv_head;
        match self {
            Self::Packed(rows) => {
                let scale_factor_d512 = params.scale_factor_d512;
                let codec = Codec { scale_factor_d512, ..rows.codec };
                PackedRows { codec, ..*rows }.decode_rotated(head, slot, out);
            }
            Self::Dense(rows) => rows.read(params.page_size, head, slot, out),
        }
    }
}

/// What the kernel reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The records.
    pub sequences: &'a [TileSequence],
    /// The page of each block.
    pub block_table: &'a [u32],
    /// `[token][head][coord]`.
    pub q: &'a [f32],
    /// K.
    pub k: Pages<'a>,
    /// V.
    pub v: Pages<'a>,
}

impl Inputs<'_> {
    fn check(&self, params: &FlashAttnTileParams) -> Result<()> {
        params.check_all(self.sequences, self.block_table)?;
        let rows = u64::from(params.num_tokens) * u64::from(params.n_heads);
        check_len("flash_attn_tile", "q", self.q, rows * u64::from(params.head_dim))?;
        self.k.check("k", params)?;
        self.v.check("v", params)
    }

    /// The rows of one KV head of a sequence, oldest first, end to end.
    fn rows(
        &self,
        params: &FlashAttnTileParams,
        pages: &Pages,
        sequence: &TileSequence,
        kv_head: u32,
    ) -> Result<Vec<f64>> {
        let d = params.head_dim as usize;
        let (ring, table) = (sequence.ring()?, &self.block_table[sequence.first_block as usize..]);
        let mut rows = vec![0.0; sequence.kv_seq_len as usize * d];
        for (row, i) in rows.chunks_exact_mut(d).zip(0..) {
            pages.read(params, kv_head, params.locate(ring, table, i), row);
        }
        Ok(rows)
    }

    /// The vector of one query: a head of a token.
    fn query(&self, params: &FlashAttnTileParams, row: usize) -> &[f32] {
        let d = params.head_dim as usize;
        &self.q[row * d..][..d]
    }
}

/// One query over the positions `range` of the rows of its KV head.
fn attend(
    params: &FlashAttnTileParams,
    q: &[f32],
    (k, v): (&[f64], &[f64]),
    range: std::ops::Range<u32>,
) -> Attended {
    let (d, shape) = (params.head_dim as usize, params.shape());
    let at = |i: u32| i as usize * d..(i as usize + 1) * d;
    let scores: Vec<f64> = range.clone().map(|i| score(&shape, q, &k[at(i)])).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut out = Attended { acc: vec![0.0; d], sum: 0.0, max };
    for (i, s) in range.zip(&scores) {
        let p = (s - max).exp();
        out.sum += p;
        out.acc.iter_mut().zip(&v[at(i)]).for_each(|(a, v)| *a += p * v);
    }
    out
}

/// A row of the output with what it accumulates in each of the dispatch's splits.
type Rows = Vec<(usize, Vec<Attended>)>;

/// Every query of one KV head of a sequence.
fn attend_head(
    params: &FlashAttnTileParams,
    inputs: &Inputs,
    sequence: &TileSequence,
    kv_head: u32,
) -> Result<Rows> {
    let k = inputs.rows(params, &inputs.k, sequence, kv_head)?;
    let v = inputs.rows(params, &inputs.v, sequence, kv_head)?;
    let group = params.n_heads / params.n_kv_heads;
    let queries = (0..sequence.query_tokens).flat_map(|t| (0..group).map(move |h| (t, h)));
    let attend_all = |(t, h)| {
        let token = sequence.first_token + t;
        let row = (token * params.n_heads + kv_head * group + h) as usize;
        let sees = params.visible(sequence, t);
        let part = |w| {
            let split = params.split(sequence, w);
            let range = split.start.max(sees.start)..split.end.min(sees.end);
            attend(params, inputs.query(params, row), (&k, &v), range)
        };
        (row, (0..params.splits).map(part).collect())
    };
    Ok(queries.map(attend_all).collect())
}

fn attend_all(params: &FlashAttnTileParams, inputs: &Inputs) -> Result<Rows> {
    inputs.check(params)?;
    let heads = inputs.sequences.iter().flat_map(|s| (0..params.n_kv_heads).map(move |h| (s, h)));
    let heads: Vec<_> = heads.collect();
    let rows: Vec<Rows> = heads
        .into_par_iter()
        .map(|(sequence, kv_head)| attend_head(params, inputs, sequence, kv_head))
        .collect::<Result<_>>()?;
    Ok(rows.into_iter().flatten().collect())
}

/// The kernel's `dst`: the output `[token][head][coord]` at one slot, else partials of the rows
/// `token * n_heads + head`, in which slots of other dispatches are 0.
pub fn flash_attn_tile(params: &FlashAttnTileParams, inputs: &Inputs) -> Result<Vec<f64>> {
    let rows = attend_all(params, inputs)?;
    let d = params.head_dim as usize;
    if params.nwg == 1 {
        let mut dst = vec![0.0; params.dst_floats() as usize];
        for (row, parts) in rows {
            dst[row * d..][..d].copy_from_slice(&parts[0].output());
        }
        return Ok(dst);
    }
    let mut partials = Partials::new((params.num_tokens * params.n_heads) as usize, d, params.nwg);
    for (row, parts) in rows {
        for (part, slot) in parts.iter().zip(params.split_base..) {
            partials.put(row, slot as usize, part);
        }
    }
    Ok(partials.floats)
}

/// Largest absolute score over all queries and visible positions: what f32 rounding grows with.
pub fn max_abs_score(params: &FlashAttnTileParams, inputs: &Inputs) -> Result<f64> {
    inputs.check(params)?;
    let (d, group, shape) =
        (params.head_dim as usize, params.n_heads / params.n_kv_heads, params.shape());
    let mut largest: f64 = 0.0;
    for sequence in inputs.sequences {
        for kv_head in 0..params.n_kv_heads {
            let k = inputs.rows(params, &inputs.k, sequence, kv_head)?;
            for t in 0..sequence.query_tokens {
                let first = (sequence.first_token + t) * params.n_heads + kv_head * group;
                for (row, i) in (first..first + group)
                    .flat_map(|row| params.visible(sequence, t).map(move |i| (row, i)))
                {
                    let key = &k[i as usize * d..][..d];
                    let q = inputs.query(params, row as usize);
                    largest = largest.max(score(&shape, q, key).abs());
                }
            }
        }
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::flash_attn_vec::flash_attn_vec;
    use crate::params::{FlashAttnVecParams, MASK_SLIDING};

    const D: usize = 64;
    const HEADS: u32 = 6;
    const KV_HEADS: u32 = 2;
    const PAGE: u32 = 4;

    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| (i * step % 251) as f32 / 64.0 - 2.0).collect()
    }

    /// Two rings of 10 and 7 slots in pages of 4, which are in no order.
    fn batch() -> ([TileSequence; 2], [u32; 5]) {
        let first = TileSequence {
            first_token: 0,
            query_tokens: 3,
            position: 6,
            kv_seq_len: 9,
            ring_start: 8,
            kv_capacity: 10,
            first_block: 0,
        };
        let second = TileSequence { first_token: 3, query_tokens: 2, position: 5, ..first };
        let second = TileSequence { kv_seq_len: 7, kv_capacity: 7, ring_start: 2, ..second };
        ([first, TileSequence { first_block: 3, ..second }], [4, 0, 5, 1, 3])
    }

    /// What the oracle of one token makes of query token `t`: over the ring in one piece, with
    /// the positions after the token's own cut off.
    fn one_token(
        params: &FlashAttnTileParams,
        sequence: &TileSequence,
        inputs: &Inputs,
        t: u32,
    ) -> Vec<f64> {
        let (capacity, table) =
            (sequence.kv_capacity, &inputs.block_table[sequence.first_block as usize..]);
        let gather = |pages: Pages| -> Vec<f32> {
            let Pages::Dense(DenseRows::F32(all)) = pages else { panic!("not dense") };
            let slots = (0..KV_HEADS).flat_map(|h| (0..capacity).map(move |slot| (h, slot)));
            let row = |(h, slot)| {
                let page = table[(slot / PAGE) as usize];
                let at = ((page * KV_HEADS + h) * PAGE + slot % PAGE) as usize;
                &all[at * D..][..D]
            };
            slots.flat_map(row).copied().collect()
        };
        let shape = FlashAttnVecParams {
            kv_seq_len: sequence.position + t + 1,
            kv_capacity: capacity,
            ring_start: sequence.ring_start,
            ..params.shape()
        };
        let token = (sequence.first_token + t) as usize;
        let q = &inputs.q[token * HEADS as usize * D..][..HEADS as usize * D];
        let (k, v) = (gather(inputs.k), gather(inputs.v));
        flash_attn_vec(&shape, q, DenseRows::F32(&k), DenseRows::F32(&v)).unwrap()
    }

    #[test]
    fn a_batch_in_pages_equals_single_tokens_over_rings_in_one_piece() {
        let (sequences, block_table) = batch();
        let params = FlashAttnTileParams {
            n_heads: HEADS,
            n_kv_heads: KV_HEADS,
            head_dim: D as u32,
            num_tokens: 5,
            num_sequences: 2,
            max_query_tokens: 3,
            page_size: PAGE,
            num_pages: 6,
            num_blocks: 5,
            scale: 0.125,
            mask_type: MASK_SLIDING,
            sliding_window: 5,
            softcap: 3.0,
            nwg: 1,
            split_base: 0,
            splits: 1,
            scale_factor_d512: 1.0,
        };
        let rows = (params.num_pages * KV_HEADS * PAGE) as usize;
        let (k, v) = (numbers(rows * D, 37), numbers(rows * D, 101));
        let q = numbers(5 * HEADS as usize * D, 53);
        let inputs = Inputs {
            sequences: &sequences,
            block_table: &block_table,
            q: &q,
            k: Pages::Dense(DenseRows::F32(&k)),
            v: Pages::Dense(DenseRows::F32(&v)),
        };
        let tokens = sequences.iter().flat_map(|s| (0..s.query_tokens).map(move |t| (s, t)));
        let want: Vec<f64> = tokens.flat_map(|(s, t)| one_token(&params, s, &inputs, t)).collect();
        let got = flash_attn_tile(&params, &inputs).unwrap();
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((got - want).abs() < 1e-12, "value {i}: got {got}, want {want}");
        }
    }
}
