//! `quantize_k_and_v`: encodes T tokens x nkv heads of K and of V into ring slots, in one dispatch.

use bytemuck::bytes_of;

use super::encoder::Encoder;
use super::kernel;
use crate::codec::{Bits, Codec};
use crate::contract::Scalar::{F32, U32};
use crate::contract::{Access, Binding, Caps, Contract, Language, Launch, Plan, constant};
use crate::error::Result;
use crate::params::QuantizeKvParams;

/// Bindings, parameters and text.
pub const CONTRACT: Contract = Contract {
    stem: "quantize_k_and_v",
    summary: "rotate, normalise, quantise and pack K and V rows into their rings",
    bindings: &[
        Binding { name: "params", access: Access::Uniform, layout: "QuantizeKvParams" },
        Binding { name: "k", access: Access::Read, layout: "f32 [token][kv_head][coord]" },
        Binding { name: "v", access: Access::Read, layout: "f32 [token][kv_head][coord]" },
        Binding {
            name: "k_packed",
            access: Access::ReadWrite,
            layout: "u32 [kv_head][slot][word]",
        },
        Binding {
            name: "k_norms",
            access: Access::ReadWrite,
            layout: "f32 [kv_head][slot][block]",
        },
        Binding {
            name: "v_packed",
            access: Access::ReadWrite,
            layout: "u32 [kv_head][slot][word]",
        },
        Binding {
            name: "v_norms",
            access: Access::ReadWrite,
            layout: "f32 [kv_head][slot][block]",
        },
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
    wgsl: include_str!("../../wgsl/quantize_k_and_v.wgsl"),
    msl: include_str!("../../msl/quantize_k_and_v.metal"),
};

kernel! {
    /// Marker of the `quantize_k_and_v` kernel.
    QuantizeKAndV {
        /// [`QuantizeKvParams`], the same for K and V.
        params,
        /// f32 `[T, nkv, D]`.
        k,
        /// f32 `[T, nkv, D]`.
        v,
        /// `[nkv, cap, row]`, written at the tokens' slots only.
        k_packed,
        /// f32 `[nkv, cap, norms_per_pos]`, written at the tokens' slots only.
        k_norms,
        /// `[nkv, cap, row]`, written at the tokens' slots only.
        v_packed,
        /// f32 `[nkv, cap, norms_per_pos]`, written at the tokens' slots only.
        v_norms,
    }
}

/// How rows are encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Problem {
    /// Width of a K code.
    pub k_bits: Bits,
    /// V's codec; K differs in its width only.
    pub codec: Codec,
}

impl Problem {
    /// The widths whose tables the kernel holds: one where K and V share them.
    fn widths(&self) -> Vec<Bits> {
        let mut widths = vec![self.k_bits, self.codec.bits];
        widths.dedup();
        widths
    }

    /// Chooses the constants.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        let (widths, v_bits) = (self.widths(), self.codec.bits);
        let encoder = Encoder { codec: &self.codec, widths: &widths };
        let shared = widths.len() == 1;
        let mut constants = encoder.constants(language);
        constants.push(constant("K_BITS", self.k_bits.get()));
        constants.push(constant("V_BITS", v_bits.get()));
        constants.push(Encoder::guess("K_GUESS", self.k_bits));
        constants.push(Encoder::guess("V_GUESS", v_bits));
        constants.push(constant("V_BASE", if shared { 0 } else { self.k_bits.levels() as u32 }));
        let plan = Plan {
            contract: &CONTRACT,
            language,
            label: format!(
                "quantize_k_and_v_d{}_k{}v{v_bits}_{}",
                self.codec.head_dim,
                self.k_bits,
                encoder.label()
            ),
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

    /// One dispatch over `params.num_tokens` x `params.num_kv_heads` rows of K and as many of V.
    pub fn launch(
        &self,
        params: &QuantizeKvParams,
        caps: &Caps,
        language: Language,
    ) -> Result<Launch> {
        let widths = self.widths();
        let encoder = Encoder { codec: &self.codec, widths: &widths };
        let call = encoder.call(CONTRACT.stem, params, caps, language)?;
        let [x, y, _] = call.grid;
        Ok(Launch {
            contract: &CONTRACT,
            grid: [x, y, 2],
            needed: vec![
                size_of::<QuantizeKvParams>() as u64,
                call.source_bytes(),
                call.source_bytes(),
                call.packed_bytes(self.k_bits),
                call.norms_bytes(),
                call.packed_bytes(self.codec.bits),
                call.norms_bytes(),
            ],
            uniforms: vec![(0, bytes_of(params).to_vec())],
        })
    }
}
