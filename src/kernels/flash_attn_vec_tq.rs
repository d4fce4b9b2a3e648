//! `flash_attn_vec_tq`: decode attention of one query token over packed K and V.

use bytemuck::bytes_of;

use super::row_groups::{READING_AHEAD, RowGroups, Shape};
use super::{Context, codebook_constants, head_dim_constants, kernel};
use crate::codec::{Bits, Codec, row};
use crate::contract::Scalar::{F32, U32};
use crate::contract::{
    Access, Binding, Caps, Constant, Contract, Language, Launch, Plan, constant,
};
use crate::error::{Error, Result};
use crate::params::{FlashAttnVecParams, FlashAttnVecTqParams};

/// Bindings, parameters and text.
pub const CONTRACT: Contract = Contract {
    stem: "flash_attn_vec_tq",
    summary: "decode attention over packed K and V, in the rotated basis",
    bindings: &[
        Binding { name: "params", access: Access::Uniform, layout: "FlashAttnVecTqParams" },
        Binding { name: "q", access: Access::Read, layout: "f32 [head][coord], rotated" },
        Binding { name: "k_packed", access: Access::Read, layout: "u32 [kv_head][slot][word]" },
        Binding { name: "k_norms", access: Access::Read, layout: "f32 [kv_head][slot][block]" },
        Binding { name: "v_packed", access: Access::Read, layout: "u32 [kv_head][slot][word]" },
        Binding { name: "v_norms", access: Access::Read, layout: "f32 [kv_head][slot][block]" },
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
        ("scale_factor_d512", F32),
    ],
    published_params: 12,
    wgsl: include_str!("../../wgsl/flash_attn_vec_tq.wgsl"),
    msl: include_str!("../../msl/flash_attn_vec_tq.metal"),
};

kernel! {
    /// Marker of the `flash_attn_vec_tq` kernel.
    FlashAttnVecTq {
        /// [`FlashAttnVecTqParams`].
        params,
        /// f32 `[nh, D]`, rotated.
        q,
        /// `[nkv, cap, row]`.
        k_packed,
        /// f32 `[nkv, cap, norms_per_pos]`.
        k_norms,
        /// `[nkv, cap, row]`.
        v_packed,
        /// f32 `[nkv, cap, norms_per_pos]`.
        v_norms,
        /// f32 `[nh, D]` at one split, else partials.
        dst,
    }
}

/// The attention shape a pipeline is made for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Problem {
    /// Width of a K code.
    pub k_bits: Bits,
    /// V's codec; K differs in its width only. The rotation does not matter here, q arrives rotated.
    pub codec: Codec,
    /// Query heads.
    pub num_heads: u32,
    /// KV heads; divides `num_heads`.
    pub num_kv_heads: u32,
}

impl Problem {
    pub(super) fn shape(&self) -> Shape {
        Shape {
            head_dim: self.codec.head_dim,
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            coord_bits: self.k_bits.get() + self.codec.bits.get(),
            widest: Some(self.k_bits.max(self.codec.bits)),
        }
    }

    /// The widths whose codebooks the kernel holds: one where K and V share it.
    fn widths(&self) -> Vec<Bits> {
        let mut widths = vec![self.k_bits, self.codec.bits];
        widths.dedup();
        widths
    }

    /// Their levels: the length of what [`Self::codebooks`] puts into workgroup memory.
    pub(super) fn levels(&self) -> u32 {
        self.widths().iter().map(|b| b.levels() as u32).sum()
    }

    /// Constants of `shared/codebook` for K and V.
    pub(super) fn codebooks(&self) -> Vec<Constant> {
        let base = self.levels() - self.codec.bits.levels() as u32;
        let mut constants = codebook_constants(self.codec.head_dim, &self.widths());
        constants.push(constant("K_BITS", self.k_bits.get()));
        constants.push(constant("V_BITS", self.codec.bits.get()));
        constants.push(constant("V_BASE", base));
        constants
    }

    /// Chooses the constants, for a long context.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        self.plan_for(Context::Long, 0.0, caps, language)
    }

    /// The same for any context. With a `weight_floor` rows of V that no query head of the workgroup gives a weight of at least
    /// `weight_floor`, at most 1, are not decoded, and smaller weights count as none; 0 skips nothing.
    ///
    /// A weight is `exp(score - M)`, M the largest score of all that the row group sees or up to 32
    /// under it. So what is left out weighs less than `weight_floor` against the largest score of
    /// all, and moves a coordinate by at most `sum(weight * |v|) / S` over weights below the floor.
    /// The sum S stays complete.
    pub fn plan_for(
        &self,
        context: Context,
        weight_floor: f32,
        caps: &Caps,
        language: Language,
    ) -> Result<Plan> {
        if !(0.0..=1.0).contains(&weight_floor) {
            return Err(Error::param("weight_floor", "0 to 1", weight_floor));
        }
        let groups = RowGroups::choose(self.shape(), context, caps, language)?;
        let plan = self.plan_of(&groups, weight_floor, language);
        plan.check(caps)?;
        Ok(plan)
    }

    /// The plan for these row groups, not checked.
    pub(super) fn plan_of(
        &self,
        groups: &RowGroups,
        weight_floor: f32,
        language: Language,
    ) -> Plan {
        let mut constants = head_dim_constants(self.codec.head_dim);
        constants.extend(self.codebooks());
        constants.extend(groups.constants(self.shape()));
        constants.push(constant("WEIGHT_FLOOR", weight_floor));
        let mut pieces =
            vec!["codebook", "scores", "attention", groups.exchange(language), "attend"];
        pieces.extend(groups.look_up(language));
        if language == Language::Wgsl {
            let pick = |bits: Bits, [words, pairs, vectors]: [&'static str; 3]| match self
                .codec
                .head_dim
                .get()
                / groups.lanes
                * bits.get()
            {
                lane_bits if lane_bits.is_multiple_of(128) => vectors,
                lane_bits if lane_bits.is_multiple_of(64) => pairs,
                _ => words,
            };
            pieces.push(pick(self.k_bits, ["k_words", "k_pairs", "k_vectors"]));
            pieces.push(pick(self.codec.bits, ["v_words", "v_pairs", "v_vectors"]));
        }
        Plan {
            contract: &CONTRACT,
            language,
            label: format!(
                "flash_attn_vec_tq_k{}v{}_{}{}",
                self.k_bits,
                self.codec.bits,
                groups.label(self.shape()),
                if weight_floor == 0.0 { String::new() } else { format!("_floor{weight_floor:e}") }
            ),
            constants,
            pieces,
            workgroup_size: groups.threads,
            workgroup_bytes: groups.packed_bytes(self.shape()) + 4 * self.levels(),
            subgroups: groups.subgroups,
            matrices: false,
            storage_fence: false,
        }
    }

    /// The largest number of splits for up to `visible` positions.
    pub fn most_splits(&self, visible: u32, caps: &Caps, language: Language) -> Result<u32> {
        let short = self.splits(visible.min(Context::LONG - 1), caps, language)?;
        Ok(short.max(self.splits(visible, caps, language)?))
    }

    /// The number of splits to use for `visible` positions.
    pub fn splits(&self, visible: u32, caps: &Caps, language: Language) -> Result<u32> {
        let groups = RowGroups::choose(self.shape(), Context::of(visible), caps, language)?;
        Ok(groups.splits(self.shape(), visible, caps, READING_AHEAD))
    }

    /// One dispatch.
    pub fn launch(
        &self,
        params: &FlashAttnVecTqParams,
        caps: &Caps,
        language: Language,
    ) -> Result<Launch> {
        let head_dim = params.check()?;
        let planned = (self.codec.head_dim, self.num_heads, self.num_kv_heads);
        if (head_dim, params.n_heads, params.n_kv_heads) != planned {
            return Err(Error::param(
                "head_dim, n_heads, n_kv_heads",
                format!("the plan's {planned:?}"),
                format!("({head_dim}, {}, {})", params.n_heads, params.n_kv_heads),
            ));
        }
        let slots = u64::from(params.n_kv_heads) * u64::from(params.kv_capacity);
        let packed = |bits| slots * row::row_bytes(head_dim, bits);
        let norms = slots * u64::from(head_dim.norms_per_pos()) * 4;
        // Every context has this grid.
        let groups = RowGroups::choose(self.shape(), Context::Long, caps, language)?;
        Ok(Launch {
            contract: &CONTRACT,
            grid: groups.grid(CONTRACT.stem, self.shape(), params.nwg, caps)?,
            needed: vec![
                size_of::<FlashAttnVecTqParams>() as u64,
                u64::from(params.n_heads) * u64::from(params.head_dim) * 4,
                packed(self.k_bits),
                norms,
                packed(self.codec.bits),
                norms,
                FlashAttnVecParams::from(*params).dst_floats() * 4,
            ],
            uniforms: vec![(0, bytes_of(params).to_vec())],
        })
    }
}
