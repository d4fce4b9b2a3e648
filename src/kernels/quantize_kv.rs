//! `quantize_kv`: encodes T tokens x nkv heads of K or V into ring slots, in one dispatch.

use bytemuck::bytes_of;

use super::{
    codec_constants, has_signs, head_dim_constants, kernel, rotate_bytes, rotation_constants,
};
use crate::codec::{Codec, ZERO_NORM, codebook, row};
use crate::contract::Scalar::{F32, U32};
use crate::contract::{Access, Binding, Caps, Contract, Language, Launch, Plan, constant, grid};
use crate::error::{Error, Result};
use crate::params::QuantizeKvParams;

/// Bindings, parameters and text.
pub const CONTRACT: Contract = Contract {
    stem: "quantize_kv",
    summary: "rotate, normalise, quantise and pack K or V rows into a ring",
    bindings: &[
        Binding { name: "src", access: Access::Read, layout: "f32 [token][kv_head][coord]" },
        Binding { name: "packed", access: Access::ReadWrite, layout: "u32 [kv_head][slot][word]" },
        Binding { name: "norms", access: Access::ReadWrite, layout: "f32 [kv_head][slot][block]" },
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
    published_params: 7,
    wgsl: include_str!("../../wgsl/quantize_kv.wgsl"),
    msl: include_str!("../../msl/quantize_kv.metal"),
};

kernel! {
    /// Marker of the `quantize_kv` kernel.
    QuantizeKv {
        /// f32 `[T, nkv, D]`.
        src,
        /// `[nkv, cap, row]`, written at the tokens' slots only.
        packed,
        /// f32 `[nkv, cap, norms_per_pos]`, written at the tokens' slots only.
        norms,
        /// [`QuantizeKvParams`].
        params,
    }
}

/// How rows are encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Problem {
    /// The cache's codec.
    pub codec: Codec,
}

/// Threads of a workgroup.
const THREADS: u32 = 128;

impl Problem {
    fn rows_per_workgroup(&self, language: Language) -> u32 {
        match language {
            // Eight coordinates a thread.
            Language::Wgsl => THREADS / (self.codec.head_dim.get() / 8),
            // One simdgroup a row.
            Language::Msl => THREADS / 32,
        }
    }

    /// Chooses the constants.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        let (head_dim, bits) = (self.codec.head_dim, self.codec.bits);
        let rows = self.rows_per_workgroup(language);
        let mut constants = head_dim_constants(head_dim);
        constants.push(constant("SQRT_HEAD_DIM", f64::from(head_dim.get()).sqrt() as f32));
        constants.push(constant("ZERO_NORM", ZERO_NORM));
        constants.extend(codec_constants(&self.codec));
        constants.push(constant("BOUNDARIES", codebook::boundaries(bits).to_vec()));
        constants.extend(rotation_constants(head_dim, has_signs(self.codec.rotation), false));
        constants.push(constant("NORM_CORRECTION", self.codec.norm_correction));
        constants.push(constant("ROWS_PER_WORKGROUP", rows));
        constants.push(constant("WORKGROUP_SIZE", THREADS));
        let plan = Plan {
            contract: &CONTRACT,
            language,
            label: format!(
                "quantize_kv_d{head_dim}_b{bits}_{}{}",
                self.codec.rotation.name(),
                if self.codec.norm_correction { "_corrected" } else { "" }
            ),
            constants,
            pieces: vec!["rotate"],
            workgroup_size: THREADS,
            workgroup_bytes: match language {
                Language::Wgsl => {
                    let codes = rows * head_dim.get();
                    rotate_bytes(head_dim, rows) + 4 * (bits.levels() as u32 + THREADS + codes)
                }
                Language::Msl => rows * head_dim.get(),
            },
            subgroups: language == Language::Msl,
        };
        plan.check(caps)?;
        Ok(plan)
    }

    /// One dispatch over `params.num_tokens` x `params.num_kv_heads` rows.
    pub fn launch(
        &self,
        params: &QuantizeKvParams,
        caps: &Caps,
        language: Language,
    ) -> Result<Launch> {
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
        let rows = u64::from(params.num_tokens) * u64::from(params.num_kv_heads);
        let slots = u64::from(params.num_kv_heads) * u64::from(params.cache_capacity);
        Ok(Launch {
            contract: &CONTRACT,
            grid: grid(
                "quantize_kv",
                rows.div_ceil(self.rows_per_workgroup(language).into()),
                caps,
            )?,
            needed: vec![
                rows * u64::from(head_dim.get()) * 4,
                slots * row::row_bytes(head_dim, self.codec.bits),
                slots * u64::from(head_dim.norms_per_pos()) * 4,
                size_of::<QuantizeKvParams>() as u64,
            ],
            uniforms: vec![(3, bytes_of(params).to_vec())],
        })
    }
}
