//! `flash_attn_vec`: decode attention over dense K and V, the control of the packed kernel.

use bytemuck::bytes_of;

use super::row_groups::{RowGroups, Shape, WAITING};
use super::{Context, head_dim_constants, kernel};
use crate::codec::HeadDim;
use crate::contract::Scalar::{F32, U32};
use crate::contract::{Access, Binding, Caps, Contract, Language, Launch, Plan};
use crate::error::{Error, Result};
use crate::params::FlashAttnVecParams;

/// Bindings, parameters and text.
pub const CONTRACT: Contract = Contract {
    stem: "flash_attn_vec",
    summary: "decode attention over dense f32 or f16 K and V: the control",
    bindings: &[
        Binding { name: "params", access: Access::Uniform, layout: "FlashAttnVecParams" },
        Binding { name: "q", access: Access::Read, layout: "f32 [head][coord]" },
        Binding { name: "k", access: Access::Read, layout: "f32 or f16 [kv_head][slot][coord]" },
        Binding { name: "v", access: Access::Read, layout: "f32 or f16 [kv_head][slot][coord]" },
        Binding {
            name: "dst",
            access: Access::ReadWrite,
            layout: "f32 [head][coord], or partials",
        },
    ],
    params: &[
        ("n_heads", U32),
        ("n_kv_heads", U32),
        ("head_dim", U32),
        ("kv_seq_len", U32),
        ("kv_capacity", U32),
        ("scale", F32),
        ("mask_type", U32),
        ("sliding_window", U32),
        ("softcap", F32),
        ("nwg", U32),
        ("ring_start", U32),
    ],
    published_params: 10,
    wgsl: include_str!("../../wgsl/flash_attn_vec.wgsl"),
    msl: include_str!("../../msl/flash_attn_vec.metal"),
};

kernel! {
    /// Marker of the `flash_attn_vec` kernel.
    FlashAttnVec {
        /// [`FlashAttnVecParams`].
        params,
        /// f32 `[nh, D]`.
        q,
        /// f32 or f16 `[nkv, cap, D]`.
        k,
        /// f32 or f16 `[nkv, cap, D]`.
        v,
        /// f32 `[nh, D]` at one split, else partials.
        dst,
    }
}

/// Element type of dense K and V.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
}

impl KvType {
    /// `f32` or `f16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }

    /// Bytes of one element.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// The attention shape a pipeline is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Coordinates of a head vector.
    pub head_dim: HeadDim,
    /// Element type of K and V.
    pub kv_type: KvType,
    /// Query heads.
    pub num_heads: u32,
    /// KV heads; divides `num_heads`.
    pub num_kv_heads: u32,
}

impl Problem {
    fn shape(&self) -> Shape {
        Shape {
            head_dim: self.head_dim,
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            coord_bits: match self.kv_type {
                KvType::F32 => 32,
                KvType::F16 => 16,
            },
            widest: None,
        }
    }

    /// Chooses the constants.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        let groups = RowGroups::choose(self.shape(), Context::Long, caps, language)?;
        let mut constants = head_dim_constants(self.head_dim);
        constants.extend(groups.constants(self.shape()));
        let (piece, kv) = match self.kv_type {
            KvType::F32 => ("kv_f32", "f32"),
            KvType::F16 => ("kv_f16", "f16"),
        };
        let mut pieces = vec![piece, "scores", "attention"];
        pieces.extend(groups.row_sum(language));
        if language == Language::Wgsl {
            pieces.push("merge_memory");
        }
        let plan = Plan {
            contract: &CONTRACT,
            language,
            label: format!("flash_attn_vec_{kv}_{}", groups.label(self.shape())),
            constants,
            pieces,
            workgroup_size: groups.threads,
            workgroup_bytes: groups.dense_bytes(self.shape()),
            subgroups: groups.subgroups,
            matrices: false,
            storage_fence: false,
        };
        plan.check(caps)?;
        Ok(plan)
    }

    /// The number of splits to use for `visible` positions.
    pub fn splits(&self, visible: u32, caps: &Caps, language: Language) -> Result<u32> {
        Ok(RowGroups::choose(self.shape(), Context::Long, caps, language)?.splits(
            self.shape(),
            visible,
            caps,
            WAITING,
        ))
    }

    /// One dispatch.
    pub fn launch(
        &self,
        params: &FlashAttnVecParams,
        caps: &Caps,
        language: Language,
    ) -> Result<Launch> {
        let head_dim = params.check()?;
        let planned = (self.head_dim, self.num_heads, self.num_kv_heads);
        if (head_dim, params.n_heads, params.n_kv_heads) != planned {
            return Err(Error::param(
                "head_dim, n_heads, n_kv_heads",
                format!("the plan's {planned:?}"),
                format!("({head_dim}, {}, {})", params.n_heads, params.n_kv_heads),
            ));
        }
        let row = u64::from(params.head_dim) * self.kv_type.bytes();
        let dense = u64::from(params.n_kv_heads) * u64::from(params.kv_capacity) * row;
        let groups = RowGroups::choose(self.shape(), Context::Long, caps, language)?;
        Ok(Launch {
            contract: &CONTRACT,
            grid: groups.grid(CONTRACT.stem, self.shape(), params.nwg, caps)?,
            needed: vec![
                size_of::<FlashAttnVecParams>() as u64,
                u64::from(params.n_heads) * u64::from(params.head_dim) * 4,
                dense,
                dense,
                params.dst_floats() * 4,
            ],
            uniforms: vec![(0, bytes_of(params).to_vec())],
        })
    }
}
