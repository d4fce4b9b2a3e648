//! `quantize_kv`: encodes T tokens x nkv heads of K or V into ring slots, in one dispatch.

use bytemuck::bytes_of;

use super::encoder::Encoder;
use super::kernel;
use crate::codec::Codec;
use crate::contract::Scalar::{F32, U32};
use crate::contract::{Access, Binding, Caps, Contract, Language, Launch, Plan, constant};
use crate::error::Result;
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

impl Problem {
    /// Chooses the constants.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        let Codec { head_dim, bits, .. } = self.codec;
        let encoder = Encoder { codec: &self.codec, widths: &[bits] };
        let mut constants = encoder.constants(language);
        constants.push(constant("BITS", bits.get()));
        constants.push(Encoder::guess("GUESS", bits));
        let plan = Plan {
            contract: &CONTRACT,
            language,
            label: format!("quantize_kv_d{head_dim}_b{bits}_{}", encoder.label()),
            constants,
            pieces: vec!["rotate", "encode"],
            workgroup_size: encoder.threads(language),
            workgroup_bytes: encoder.workgroup_bytes(language),
            subgroups: language == Language::Msl,
            matrices: false,
            storage_fence: false,
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
        let bits = self.codec.bits;
        let encoder = Encoder { codec: &self.codec, widths: &[bits] };
        let call = encoder.call(CONTRACT.stem, params, caps, language)?;
        Ok(Launch {
            contract: &CONTRACT,
            grid: call.grid,
            needed: vec![
                call.source_bytes(),
                call.packed_bytes(bits),
                call.norms_bytes(),
                size_of::<QuantizeKvParams>() as u64,
            ],
            uniforms: vec![(3, bytes_of(params).to_vec())],
        })
    }
}
