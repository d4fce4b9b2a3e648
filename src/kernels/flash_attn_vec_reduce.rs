//! `flash_attn_vec_reduce`: merges the splits of each row.

use super::kernel;
use crate::codec::HeadDim;
use crate::contract::{Access, Binding, Caps, Contract, Language, Launch, Plan, constant, grid};
use crate::error::Result;
use crate::params::{FlashAttnVecReduceParams, partials_floats};

/// Bindings, parameters and text.
pub const CONTRACT: Contract = Contract {
    stem: "flash_attn_vec_reduce",
    summary: "merge split-KV partials into the attention output",
    bindings: &[
        Binding { name: "nrows", access: Access::Uniform, layout: "u32" },
        Binding {
            name: "partials",
            access: Access::Read,
            layout: "f32 [row][coord / 4][split][4], then (S, M) [row][split]",
        },
        Binding { name: "dst", access: Access::ReadWrite, layout: "f32 [row][coord]" },
        Binding { name: "nwg", access: Access::Uniform, layout: "u32" },
    ],
    params: &[],
    published_params: 0,
    wgsl: include_str!("../../wgsl/flash_attn_vec_reduce.wgsl"),
    msl: include_str!("../../msl/flash_attn_vec_reduce.metal"),
};

kernel! {
    /// Marker of the `flash_attn_vec_reduce` kernel.
    FlashAttnVecReduce {
        /// u32, the number of rows.
        nrows,
        /// f32, `nrows * nwg * (D + 2)` values.
        partials,
        /// f32 `[nrows, D]`.
        dst,
        /// u32, the number of splits.
        nwg,
    }
}

/// The row length that a pipeline is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Coordinates of a row.
    pub head_dim: HeadDim,
}

/// Threads of a workgroup.
const THREADS: u32 = 128;

impl Problem {
    /// Workgroups a row: each merges 64 coordinates.
    const fn parts(&self) -> u32 {
        self.head_dim.get() / 64
    }

    /// Chooses the constants.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        let plan = Plan {
            contract: &CONTRACT,
            language,
            label: format!("flash_attn_vec_reduce_d{}", self.head_dim),
            constants: vec![
                constant("HEAD_DIM", self.head_dim.get()),
                constant("PARTS", self.parts()),
                constant("WORKGROUP_SIZE", THREADS),
            ],
            pieces: vec![],
            workgroup_size: THREADS,
            workgroup_bytes: (4 + 4 + 16) * THREADS,
            subgroups: false,
            matrices: false,
            storage_fence: false,
        };
        plan.check(caps)?;
        Ok(plan)
    }

    /// One dispatch over `params.nrows` rows.
    pub fn launch(&self, params: &FlashAttnVecReduceParams, caps: &Caps) -> Result<Launch> {
        params.check()?;
        let rows = u64::from(params.nrows);
        Ok(Launch {
            contract: &CONTRACT,
            grid: grid("flash_attn_vec_reduce", rows * u64::from(self.parts()), caps)?,
            needed: vec![
                4,
                partials_floats(params.nrows, self.head_dim.get(), params.nwg) * 4,
                rows * u64::from(self.head_dim.get()) * 4,
                4,
            ],
            uniforms: vec![
                (0, params.nrows.to_le_bytes().to_vec()),
                (3, params.nwg.to_le_bytes().to_vec()),
            ],
        })
    }
}
