//! Original Metal files in place of this project's: which published kernel stands for a plan, how
//! it is dispatched, and whether a file's argument table fits the contract.
//!
//! The published kernels keep the contract's buffer indices and the front of its parameter blocks.
//! What differs is here: entry names, grids, threads, threadgroup arguments, and that
//! `hadamard_quantize_kv*` and `tq_dequantize_kv` take one token at a time.

mod files;

use std::ops::RangeInclusive;

use bytemuck::{bytes_of, pod_read_unaligned};

pub use files::{Found, Originals};

use crate::contract::{Launch, Plan, Value};
use crate::driver::DriverError;
use crate::params::{
    DequantizeKvParams, FlashAttnVecParams, FlashAttnVecTqParams, FwhtParams, QuantizeKvParams,
};

/// Most splits of a row: the published reduce kernel has one lane a split.
pub const MAX_SPLITS: u32 = 32;

/// Head dims that kernels with a head dim in their name are published for.
const HEAD_DIMS: [u32; 2] = [256, 512];

/// `qL` of the published dense kernel: query tokens of a dispatch. It is the eleventh word, where
/// this project's block has `ring_start`.
const QUERY_TOKENS: u32 = 1;

/// A published kernel that stands for a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its entry point.
    pub entry: String,
    /// Bytes of `[[threadgroup(0)]]`; 0 for none.
    pub threadgroup_bytes: u32,
    /// Threads of a threadgroup; the reduce kernel takes as many for each split.
    pub threads: u32,
    /// Bytes that its parameter block may have, over its published versions.
    pub params: RangeInclusive<u32>,
    /// Index of a scratch buffer that the contract does not have.
    pub scratch: Option<u32>,
    /// Bytes of an element of dense K and V.
    pub kv_bytes: u32,
}

impl Published {
    /// The published kernels that implement `plan`, best first.
    ///
    /// # Errors
    ///
    /// [`DriverError::Unpublished`] where none was ever published.
    pub fn candidates(plan: &Plan) -> Result<Vec<Self>, DriverError> {
        check_format(plan)?;
        let d = head_dim(plan);
        let named = |prefix: &str| {
            if HEAD_DIMS.contains(&d) {
                Ok(Self::simd(format!("{prefix}{d}")))
            } else {
                Err(DriverError::Unpublished {
                    kernel: plan.contract.stem,
                    published: "head_dim 256 and 512",
                    found: d.to_string(),
                })
            }
        };
        let attention = |prefix: &str, params| {
            // D halves of q, 64 floats of scores, D floats of the accumulator.
            let threadgroup_bytes = 2 * (d + 128 + 2 * d);
            Ok(vec![Self { threadgroup_bytes, params, ..named(prefix)? }])
        };
        match plan.contract.stem {
            "fwht" => {
                let prefix = match (flag(plan, "SIGN_BEFORE"), flag(plan, "SIGN_AFTER")) {
                    (true, _) => "fwht_sign_premult_f32_d",
                    (_, true) => "fwht_sign_undo_f32_d",
                    _ => "fwht_standalone_f32_d",
                };
                Ok(vec![Self { params: 8..=8, ..named(prefix)? }])
            }
            "quantize_kv" => quantize(plan, d, named("hadamard_quantize_kv_fast_d")),
            "dequantize_kv" => {
                let entry = "tq_dequantize_kv".to_owned();
                Ok(vec![Self { threads: d, params: 24..=24, ..Self::simd(entry) }])
            }
            "flash_attn_vec_tq" => attention("flash_attn_vec_tq_dk", 40..=48),
            "flash_attn_vec" if plan.pieces.contains(&"kv_f16") => {
                let mut kernels = attention("flash_attn_vec_f16kv_dk", 40..=44)?;
                kernels.iter_mut().for_each(|k| k.kv_bytes = 2);
                Ok(kernels)
            }
            "flash_attn_vec" => attention("flash_attn_vec_dk", 40..=44),
            "flash_attn_vec_reduce" => Ok(vec![named("flash_attn_vec_reduce_dk")?]),
            stem => Err(DriverError::Unpublished {
                kernel: stem,
                published: "the kernels of the first version",
                found: stem.to_owned(),
            }),
        }
    }

    /// A kernel of one simdgroup without threadgroup memory, its scalars 4 bytes each.
    fn simd(entry: String) -> Self {
        let params = 4..=4;
        Self { entry, threadgroup_bytes: 0, threads: 32, params, scratch: None, kv_bytes: 4 }
    }

    /// Whether this encoder multiplies by the SRHT signs: all but the generic one do, always.
    pub fn always_signs(&self) -> bool {
        self.entry.starts_with("hadamard_quantize_kv_fast")
    }
}

/// The encoders: the one with signs, and for plain rotation the generic one, which has none and
/// stores one norm a position.
fn quantize(
    plan: &Plan,
    d: u32,
    fast: Result<Published, DriverError>,
) -> Result<Vec<Published>, DriverError> {
    let fast = fast.map(|k| Published { params: 20..=28, scratch: Some(4), ..k });
    if flag(plan, "SIGN_BEFORE") || d > 256 {
        return Ok(vec![fast?]);
    }
    let generic = Published {
        threads: d,
        threadgroup_bytes: 2 * d * 4,
        params: 20..=28,
        ..Published::simd("hadamard_quantize_kv".to_owned())
    };
    Ok(std::iter::once(generic).chain(fast.ok()).collect())
}

/// Every published kernel has codes of 4 bits and stores norms as they are.
fn check_format(plan: &Plan) -> Result<(), DriverError> {
    let refuse = |published, found| {
        Err(DriverError::Unpublished { kernel: plan.contract.stem, published, found })
    };
    for name in ["BITS", "K_BITS", "V_BITS"] {
        match number(plan, name) {
            None | Some(4) => {}
            Some(bits) => return refuse("codes of 4 bits", bits.to_string()),
        }
    }
    if flag(plan, "NORM_CORRECTION") {
        return refuse("norms without correction", "norm_correction".to_owned());
    }
    Ok(())
}

fn head_dim(plan: &Plan) -> u32 {
    number(plan, "HEAD_DIM").unwrap_or(0)
}

fn number(plan: &Plan, name: &str) -> Option<u32> {
    plan.constants.iter().find_map(|c| match c.value {
        Value::U32(value) if c.name == name => Some(value),
        _ => None,
    })
}

fn flag(plan: &Plan, name: &str) -> bool {
    plan.constants.iter().any(|c| c.name == name && c.value == Value::Bool(true))
}

/// One dispatch of a published kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Threadgroups.
    pub grid: [u32; 3],
    /// Threads of a threadgroup.
    pub threads: u32,
    /// Contents of the parameter buffers by index, at their full published length.
    pub uniforms: Vec<(u32, Vec<u8>)>,
    /// Token of `src` or `dst` that this dispatch is about, for kernels that take one at a time.
    pub token: Option<Token>,
}

/// Where a token's rows are, in bytes of the contract's `src` or `dst`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// First byte of the token's first row.
    pub at: usize,
    /// From one head to the next.
    pub stride: usize,
    /// Of one row.
    pub row: usize,
    /// KV heads.
    pub rows: usize,
}

/// The dispatches that do what `launch` does in one.
///
/// # Errors
///
/// [`DriverError::Unpublished`] for more splits than the published kernels take.
pub fn calls(published: &Published, launch: &Launch) -> Result<Vec<Call>, DriverError> {
    let one = |grid, threads, uniforms| Ok(vec![Call { grid, threads, uniforms, token: None }]);
    let threads = published.threads;
    match launch.contract.stem {
        "fwht" => {
            let p: FwhtParams = pod_read_unaligned(launch.uniform(1));
            one([p.num_heads, 1, 1], threads, launch.uniforms.clone())
        }
        "quantize_kv" => Ok(quantize_calls(threads, launch)),
        "dequantize_kv" => Ok(dequantize_calls(threads, launch)),
        "flash_attn_vec_tq" => {
            let p: FlashAttnVecTqParams = pod_read_unaligned(launch.uniform(0));
            check_splits(launch, p.nwg)?;
            one([1, p.n_heads, p.nwg], threads, launch.uniforms.clone())
        }
        "flash_attn_vec" => {
            let p: FlashAttnVecParams = pod_read_unaligned(launch.uniform(0));
            check_splits(launch, p.nwg)?;
            let mut block = bytes_of(&p)[..4 * launch.contract.published_params].to_vec();
            block.extend_from_slice(&QUERY_TOKENS.to_le_bytes());
            one([1, p.n_heads, p.nwg], threads, vec![(0, block)])
        }
        _ => {
            let [nrows, nwg] = [0, 3].map(|i| pod_read_unaligned::<u32>(launch.uniform(i)));
            check_splits(launch, nwg)?;
            one([nrows, 1, 1], threads * nwg, launch.uniforms.clone())
        }
    }
}

fn check_splits(launch: &Launch, nwg: u32) -> Result<(), DriverError> {
    if nwg <= MAX_SPLITS {
        return Ok(());
    }
    let (kernel, published) = (launch.contract.stem, "nwg 1 to 32");
    Err(DriverError::Unpublished { kernel, published, found: nwg.to_string() })
}

/// A dispatch for each token that a later one does not overwrite.
fn quantize_calls(threads: u32, launch: &Launch) -> Vec<Call> {
    let all: QuantizeKvParams = pod_read_unaligned(launch.uniform(3));
    let row = all.head_dim as usize * 4;
    let rows = all.num_kv_heads as usize;
    (0..all.num_tokens)
        .filter_map(|t| Some((t, all.slot(t)?)))
        .map(|(t, slot)| {
            let params = QuantizeKvParams { write_pos: slot, num_tokens: 1, ..all };
            Call {
                grid: [all.num_kv_heads, 1, 1],
                threads,
                uniforms: vec![(3, bytes_of(&params).to_vec())],
                token: Some(Token { at: t as usize * rows * row, stride: row, row, rows }),
            }
        })
        .collect()
}

/// A dispatch for each position.
fn dequantize_calls(threads: u32, launch: &Launch) -> Vec<Call> {
    let all: DequantizeKvParams = pod_read_unaligned(launch.uniform(3));
    (0..all.num_tokens)
        .map(|t| {
            let params = DequantizeKvParams { read_pos: all.slot(t), num_tokens: 1, ..all };
            Call {
                grid: [all.num_kv_heads, 1, 1],
                threads,
                uniforms: vec![(3, bytes_of(&params).to_vec())],
                token: Some(Token {
                    at: t as usize * all.dst_token_stride as usize * 4,
                    stride: all.dst_head_stride as usize * 4,
                    row: all.head_dim as usize * 4,
                    rows: all.num_kv_heads as usize,
                }),
            }
        })
        .collect()
}
