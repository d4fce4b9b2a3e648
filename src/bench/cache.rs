//! A synthetic cache with its query, on the device in several copies and on the host for the
//! oracle. Any code is valid, so codes are random bits.

use super::array::{Array, copies};
use super::{Arithmetic, Dispatches, Format, Plan, Preset};
use crate::codec::{Codec, HeadDim, Rotation, row};
use crate::driver::DriverError;
use crate::gpu::device::Gpu;
use crate::oracle::dequantize_kv::PackedRows;
use crate::oracle::flash_attn_decode_tq::flash_attn_decode_tq as decode_attention;
use crate::oracle::flash_attn_vec::{DenseRows, flash_attn_vec};
use crate::oracle::flash_attn_vec_tq::{flash_attn_vec_tq, weighing_less};
use crate::oracle::max_abs_score;
use crate::params::{FlashAttnVecParams, FlashAttnVecTqParams, MASK_CAUSAL};
use crate::parity::flash_attn_vec_tq::nrmse_of;
use crate::parity::{
    attention_tolerance, flash_attn_decode_tq, flash_attn_mat_tile, flash_attn_mat_tq,
};
use crate::rng::Gaussian;

/// Query and cache on the device, and what the last KV head's query heads must come to.
#[derive(Debug)]
pub(super) struct Cache {
    pub q: wgpu::Buffer,
    /// In the order of the kernel's bindings.
    pub arrays: Vec<Array>,
    pub copies: u64,
    /// Stored bytes of one copy.
    pub bytes: u64,
    /// Of the last query token.
    pub params: FlashAttnVecTqParams,
    pub query_tokens: u32,
    /// Rows of the output that `want` has, one after the other.
    pub rows: Vec<usize>,
    pub want: Vec<f64>,
    pub tolerance: f64,
}

impl Cache {
    /// Makes and uploads the cache.
    pub fn new(
        gpu: &Gpu,
        (preset, length, query_tokens, format): (Preset, u32, u32, Format),
        plan: &Plan,
    ) -> Result<Self, DriverError> {
        let (num_heads, num_kv_heads, head_dim) = preset.shape();
        let params = FlashAttnVecTqParams {
            n_heads: num_heads,
            n_kv_heads: num_kv_heads,
            head_dim: head_dim.get(),
            kv_seq_len: length,
            kv_capacity: length,
            scale: 1.0 / (head_dim.get() as f32).sqrt(),
            mask_type: MASK_CAUSAL,
            sliding_window: 0,
            softcap: 0.0,
            nwg: 1,
            ring_start: length / 3,
            scale_factor_d512: 1.0,
        };
        params.check()?;
        let mut rng = Gaussian::new(plan.seed);
        let q_floats = (num_heads * head_dim.get()) as usize;
        let q = rng.normals(query_tokens as usize * q_floats);
        let mut host = host_arrays(format, head_dim, &params, &mut rng);
        let bytes: u64 = host.iter().map(|a| a.len() as u64).sum();
        let longest = host.iter().map(|a| a.len() as u64).max().unwrap_or(1);
        let copies = copies(gpu, plan, bytes, longest);
        let (mut rows, mut want, mut tolerance) = (Vec::new(), Vec::new(), 0.0_f64);
        for token in checked_tokens(query_tokens) {
            let seen = length - query_tokens + token + 1;
            let one = FlashAttnVecTqParams { kv_seq_len: seen, ..params };
            let q = &q[token as usize * q_floats..][..q_floats];
            let (head, bound) = last_head((format, query_tokens, plan), head_dim, &one, q, &host)?;
            let first = (token + 1) * num_heads - num_heads / num_kv_heads;
            rows.extend(first as usize..((token + 1) * num_heads) as usize);
            want.extend(head);
            tolerance = tolerance.max(bound);
        }
        if query_tokens > 1 && format == Format::F16 {
            // Norms, which nobody reads.
            host = host.into_iter().flat_map(|dense| [dense, vec![0; 4]]).collect();
        }
        let upload = |a: &[u8], copies| Array::filled(gpu, a.len() as u64, a, copies);
        let arrays = host.iter().map(|a| upload(a, copies)).collect::<Result<_, _>>()?;
        let q = upload(bytemuck::cast_slice(&q), 1)?.buffer;
        Ok(Self { q, arrays, copies, bytes, params, query_tokens, rows, want, tolerance })
    }

    /// Multiplications and additions of both products.
    pub fn flops(&self) -> f64 {
        let [tokens, length] = [self.query_tokens, self.params.kv_seq_len].map(f64::from);
        let seen = tokens * length - tokens * (tokens - 1.0) / 2.0;
        4.0 * f64::from(self.params.n_heads) * f64::from(self.params.head_dim) * seen
    }
}

/// Tokens that are held against the oracle: eight spread over all, the first and the last among them.
fn checked_tokens(query_tokens: u32) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..8).map(|i| (query_tokens - 1) * i / 7).collect();
    tokens.dedup();
    tokens
}

/// The arrays of the cache as bytes, in binding order.
fn host_arrays(
    format: Format,
    head_dim: HeadDim,
    params: &FlashAttnVecTqParams,
    rng: &mut Gaussian,
) -> Vec<Vec<u8>> {
    let rows = params.n_kv_heads as usize * params.kv_seq_len as usize;
    let random = |bytes: usize, rng: &mut Gaussian| -> Vec<u8> {
        let words: Vec<u64> = (0..bytes / 8).map(|_| rng.bits()).collect();
        bytemuck::cast_slice(&words).to_vec()
    };
    match format {
        Format::F16 => {
            let bytes = rows * head_dim.as_usize() * 2;
            // Sign and mantissa are random, the exponent is that of 1: the values are 1 to 2.
            let halves = |bits: u64| bits & 0x83ff_83ff_83ff_83ff | 0x3c00_3c00_3c00_3c00;
            let dense = |rng: &mut Gaussian| -> Vec<u8> {
                let words: Vec<u64> = (0..bytes / 8).map(|_| halves(rng.bits())).collect();
                bytemuck::cast_slice(&words).to_vec()
            };
            vec![dense(rng), dense(rng)]
        }
        Format::Packed { k, v } => {
            let usual =
                if head_dim.norms_per_pos() == 1 { (head_dim.get() as f32).sqrt() } else { 1.0 };
            let norms = |rng: &mut Gaussian| -> Vec<u8> {
                let count = rows * head_dim.norms_per_pos() as usize;
                let norms: Vec<f32> =
                    (0..count).map(|_| usual * (0.9 + (rng.bits() % 2048) as f32 / 1e4)).collect();
                bytemuck::cast_slice(&norms).to_vec()
            };
            let mut arrays = Vec::new();
            for bits in [k, v] {
                arrays.push(random(rows * row::row_bytes(head_dim, bits) as usize, rng));
                arrays.push(norms(rng));
            }
            arrays
        }
    }
}

/// The tolerance of the kernel that these choose; dense rows of one token are multiplied in f32 alone.
fn tolerance_of(format: Format, query_tokens: u32, arithmetic: Arithmetic) -> fn(f64) -> f64 {
    match arithmetic {
        Arithmetic::F16 if query_tokens > 1 => flash_attn_mat_tile::tolerance,
        Arithmetic::F16 if format != Format::F16 => flash_attn_mat_tq::tolerance,
        _ => attention_tolerance,
    }
}

/// The last KV head's query heads by the oracle, and the tolerance of their scores.
fn last_head(
    (format, query_tokens, plan): (Format, u32, &Plan),
    head_dim: HeadDim,
    params: &FlashAttnVecTqParams,
    q: &[f32],
    host: &[Vec<u8>],
) -> Result<(Vec<f64>, f64), DriverError> {
    let bound = tolerance_of(format, query_tokens, plan.arithmetic);
    let last = params.n_kv_heads as usize - 1;
    let of = |array: &Vec<u8>| -> Vec<u8> {
        let each = array.len() / params.n_kv_heads as usize;
        array[last * each..].to_vec()
    };
    let one = FlashAttnVecTqParams {
        n_heads: params.n_heads / params.n_kv_heads,
        n_kv_heads: 1,
        ..*params
    };
    let q = &q[q.len() - (one.n_heads * one.head_dim) as usize..];
    let shape = FlashAttnVecParams::from(one);
    let capacity = params.kv_capacity;
    Ok(match format {
        Format::F16 => {
            let [k, v] =
                [0, 1].map(|i| bytemuck::pod_collect_to_vec::<u8, half::f16>(&of(&host[i])));
            let (k, v) = (DenseRows::F16(&k), DenseRows::F16(&v));
            let largest = max_abs_score(&shape, q, &|h, s, o| k.read(capacity, h, s, o))?;
            (flash_attn_vec(&shape, q, k, v)?, bound(largest))
        }
        Format::Packed { k, v } => {
            let arrays: Vec<Vec<u8>> = host.iter().map(of).collect();
            let norms = |i: usize| bytemuck::pod_collect_to_vec::<u8, f32>(&arrays[i]);
            let (k_norms, v_norms) = (norms(1), norms(3));
            let rows = |bits, packed, norms| PackedRows {
                codec: Codec::new(head_dim, bits, Rotation::Plain),
                capacity,
                packed,
                norms,
            };
            let (k, v) = (rows(k, &arrays[0], &k_norms), rows(v, &arrays[2], &v_norms));
            if plan.dispatches == Dispatches::One {
                let largest = max_abs_score(&shape, q, &|h, s, o| k.decode(h, s, o))?;
                let want = decode_attention(&one, q, k, v)?;
                return Ok((want, flash_attn_decode_tq::tolerance(head_dim, largest)));
            }
            let largest = max_abs_score(&shape, q, &|h, s, o| k.decode_rotated(h, s, o))?;
            let want = flash_attn_vec_tq(&one, q, k, v)?;
            let mut tolerance = bound(largest);
            if plan.weight_floor > 0.0 {
                let floor = f64::from(plan.weight_floor);
                tolerance += nrmse_of(&weighing_less(&one, floor, q, k, v)?, &want);
            }
            (want, tolerance)
        }
    })
}
