//! `store_kv`: T tokens x nkv heads of K or V into ring slots as they are, in f32 or f16.

use bytemuck::bytes_of;

use super::flash_attn_vec::KvType;
use super::{head_dim_constants, kernel};
use crate::codec::HeadDim;
use crate::contract::Scalar::{F32, U32};
use crate::contract::{Access, Binding, Caps, Contract, Language, Launch, Plan, constant, grid};
use crate::error::{Error, Result};
use crate::params::QuantizeKvParams;

/// Bindings, parameters and text. The block is that of `quantize_kv`, whose slots it shares.
pub const CONTRACT: Contract = Contract {
    stem: "store_kv",
    summary: "store K or V rows as they are, f32 or f16, into a ring",
    bindings: &[
        Binding { name: "src", access: Access::Read, layout: "f32 [token][kv_head][coord]" },
        Binding {
            name: "rows",
            access: Access::ReadWrite,
            layout: "f32 or f16 [kv_head][slot][coord]",
        },
        Binding { name: "params", access: Access::Uniform, layout: "QuantizeKvParams" },
    ],
    params: &[
        ("head_dim", U32),
        ("num_kv_heads", U32),
        ("write_pos", U32),
        ("cache_capacity", U32),
        ("is_sliding", U32),
        ("scale_factor_d512", F32),
        ("rms_probe_enabled", U32),
        ("num_tokens", U32),
    ],
    published_params: 0,
    wgsl: include_str!("../../wgsl/store_kv.wgsl"),
    msl: include_str!("../../msl/store_kv.metal"),
};

kernel! {
    /// Marker of the `store_kv` kernel.
    StoreKv {
        /// f32 `[T, nkv, D]`. Beyond 65504, what f16 holds is the device's choice.
        src,
        /// f32 or f16 `[nkv, cap, D]`, written at the tokens' slots only.
        rows,
        /// [`QuantizeKvParams`]; its scale factor does nothing here.
        params,
    }
}

/// How rows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Coordinates of a head vector.
    pub head_dim: HeadDim,
    /// Element type of the stored rows.
    pub kv_type: KvType,
}

/// Threads of a workgroup.
const THREADS: u32 = 64;

impl Problem {
    /// Chooses the constants.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        let mut constants = head_dim_constants(self.head_dim);
        constants.push(constant("COORD_BITS", self.kv_type.bytes() as u32 * 8));
        constants.push(constant("WORKGROUP_SIZE", THREADS));
        let plan = Plan {
            contract: &CONTRACT,
            language,
            label: format!("store_kv_d{}_{}", self.head_dim, self.kv_type.name()),
            constants,
            pieces: Vec::new(),
            workgroup_size: THREADS,
            workgroup_bytes: 0,
            subgroups: false,
            matrices: false,
            storage_fence: false,
        };
        plan.check(caps)?;
        Ok(plan)
    }

    /// One dispatch over `params.num_tokens` x `params.num_kv_heads` rows.
    pub fn launch(&self, params: &QuantizeKvParams, caps: &Caps) -> Result<Launch> {
        let head_dim = params.check()?;
        if head_dim != self.head_dim {
            return Err(Error::param(
                "head_dim",
                format!("the plan's {}", self.head_dim),
                head_dim,
            ));
        }
        if params.num_tokens == 0 {
            return Err(Error::param("num_tokens", "at least 1", 0));
        }
        let rows = u64::from(params.num_tokens) * u64::from(params.num_kv_heads);
        let slots = u64::from(params.num_kv_heads) * u64::from(params.cache_capacity);
        let d = u64::from(head_dim.get());
        if rows * d > u64::from(u32::MAX) {
            return Err(Error::param("num_tokens", "under 2^32 floats", rows * d));
        }
        Ok(Launch {
            contract: &CONTRACT,
            grid: grid(CONTRACT.stem, (rows * d / 4).div_ceil(THREADS.into()), caps)?,
            needed: vec![
                rows * d * 4,
                slots * d * self.kv_type.bytes(),
                size_of::<QuantizeKvParams>() as u64,
            ],
            uniforms: vec![(2, bytes_of(params).to_vec())],
        })
    }
}
