//! `dequantize_kv`: packed rows back to f32, in the rotated basis.

use bytemuck::bytes_of;

use super::{codec_constants, head_dim_constants, kernel};
use crate::codec::{Codec, row};
use crate::contract::Scalar::{F32, U32};
use crate::contract::{Access, Binding, Caps, Contract, Language, Launch, Plan, constant, grid};
use crate::error::{Error, Result};
use crate::params::DequantizeKvParams;

/// Bindings, parameters and text.
pub const CONTRACT: Contract = Contract {
    stem: "dequantize_kv",
    summary: "unpack and scale K or V rows to f32, still rotated",
    bindings: &[
        Binding { name: "packed", access: Access::Read, layout: "u32 [kv_head][slot][word]" },
        Binding { name: "norms", access: Access::Read, layout: "f32 [kv_head][slot][block]" },
        Binding { name: "dst", access: Access::ReadWrite, layout: "f32 [token][kv_head][coord]" },
        Binding { name: "params", access: Access::Uniform, layout: "DequantizeKvParams" },
    ],
    params: &[
        ("head_dim", U32),
        ("num_kv_heads", U32),
        ("read_pos", U32),
        ("cache_capacity", U32),
        ("norms_per_pos", U32),
        ("scale_factor_d512", F32),
        ("num_tokens", U32),
        ("dst_token_stride", U32),
        ("dst_head_stride", U32),
    ],
    published_params: 6,
    wgsl: include_str!("../../wgsl/dequantize_kv.wgsl"),
    msl: include_str!("../../msl/dequantize_kv.metal"),
};

kernel! {
    /// Marker of the `dequantize_kv` kernel.
    DequantizeKv {
        /// `[nkv, cap, row]`.
        packed,
        /// f32 `[nkv, cap, norms_per_pos]`.
        norms,
        /// f32, `[T, nkv, D]` by the strides of the parameters.
        dst,
        /// [`DequantizeKvParams`].
        params,
    }
}

/// How the rows were encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Problem {
    /// The cache's codec.
    pub codec: Codec,
}

/// Threads of a workgroup.
const THREADS: u32 = 64;

impl Problem {
    /// Chooses the constants.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        let mut constants = head_dim_constants(self.codec.head_dim);
        constants.extend(codec_constants(&self.codec));
        constants.push(constant("WORKGROUP_SIZE", THREADS));
        let plan = Plan {
            contract: &CONTRACT,
            language,
            label: format!("dequantize_kv_d{}_b{}", self.codec.head_dim, self.codec.bits.get()),
            constants,
            pieces: vec!["codebook"],
            workgroup_size: THREADS,
            workgroup_bytes: 4 * self.codec.bits.levels() as u32,
            subgroups: false,
            matrices: false,
            storage_fence: false,
        };
        plan.check(caps)?;
        Ok(plan)
    }

    /// One dispatch over `params.num_tokens` positions of every KV head.
    pub fn launch(&self, params: &DequantizeKvParams, caps: &Caps) -> Result<Launch> {
        let head_dim = params.check()?;
        if head_dim != self.codec.head_dim {
            return Err(Error::param(
                "head_dim",
                format!("the plan's {}", self.codec.head_dim),
                head_dim,
            ));
        }
        if params.num_tokens == 0 {
            return Err(Error::param("num_tokens", "at least 1", 0));
        }
        let slots = u64::from(params.num_kv_heads) * u64::from(params.cache_capacity);
        let rows = u64::from(params.num_tokens) * u64::from(params.num_kv_heads);
        let octets = rows * u64::from(head_dim.get() / 8);
        if octets.max(params.dst_floats()) > u64::from(u32::MAX) {
            let most = octets.max(params.dst_floats());
            return Err(Error::param("num_tokens", "under 2^32 octets and floats", most));
        }
        Ok(Launch {
            contract: &CONTRACT,
            grid: grid("dequantize_kv", octets.div_ceil(THREADS.into()), caps)?,
            needed: vec![
                slots * row::row_bytes(head_dim, self.codec.bits),
                slots * u64::from(head_dim.norms_per_pos()) * 4,
                params.dst_floats() * 4,
                size_of::<DequantizeKvParams>() as u64,
            ],
            uniforms: vec![(3, bytes_of(params).to_vec())],
        })
    }
}
