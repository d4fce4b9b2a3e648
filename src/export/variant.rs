//! The variants of the kernels: what decides a text, as values.

use crate::codec::{Bits, Codec, Direction, HeadDim, KeyFormat, Rotation};
use crate::contract::{Caps, Contract, Language, Plan};
use crate::error::Result;
use crate::kernels::flash_attn_vec::KvType;
use crate::kernels::{
    dequantize_kv, flash_attn_tile, flash_attn_vec, flash_attn_vec_reduce, flash_attn_vec_tq, fwht,
    quantize_k_and_v, quantize_kv, store_kv,
};

/// One kernel at one shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Variant {
    /// `fwht`.
    Fwht(fwht::Problem),
    /// `quantize_kv`.
    QuantizeKv(quantize_kv::Problem),
    /// `quantize_k_and_v`.
    QuantizeKAndV(quantize_k_and_v::Problem),
    /// `store_kv`.
    StoreKv(store_kv::Problem),
    /// `dequantize_kv`.
    DequantizeKv(dequantize_kv::Problem),
    /// `flash_attn_vec_tq`.
    FlashAttnVecTq(flash_attn_vec_tq::Problem),
    /// `flash_attn_vec`.
    FlashAttnVec(flash_attn_vec::Problem),
    /// `flash_attn_vec_reduce`.
    FlashAttnVecReduce(flash_attn_vec_reduce::Problem),
    /// `flash_attn_tile`.
    FlashAttnTile(flash_attn_tile::Problem),
}

/// The values that variants are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choices {
    /// Coordinates of a head vector.
    pub head_dims: Vec<HeadDim>,
    /// Widths of K and V codes. Kernels of K and V have a text a pair, the others one a width.
    pub bits: Vec<[Bits; 2]>,
    /// Query heads a KV head.
    pub ratios: Vec<u32>,
    /// Rotations.
    pub rotations: Vec<Rotation>,
    /// Whether encoders correct norms.
    pub norm_correction: bool,
}

impl Variant {
    /// Every variant of the kernel `contract` among `choices`, each text once.
    pub fn all(contract: &Contract, choices: &Choices) -> Vec<Self> {
        let mut variants: Vec<Self> = Vec::new();
        for &head_dim in &choices.head_dims {
            for variant in Self::of_head_dim(contract, head_dim, choices) {
                if !variants.contains(&variant) {
                    variants.push(variant);
                }
            }
        }
        variants
    }

    fn of_head_dim(contract: &Contract, head_dim: HeadDim, choices: &Choices) -> Vec<Self> {
        let widths = choices.bits.iter().flatten();
        // Decoding and attention work in the rotated basis: the rotation is not in their text.
        let unrotated = |bits| Codec::new(head_dim, bits, Rotation::Plain);
        match contract.stem {
            "fwht" => fwht_problems(head_dim, &choices.rotations),
            "quantize_kv" => {
                let norm_correction = choices.norm_correction;
                let of = |bits, rotation| {
                    let codec = Codec::new(head_dim, bits, rotation);
                    let codec = Codec { norm_correction, ..codec };
                    Self::QuantizeKv(quantize_kv::Problem { codec })
                };
                let rotations = &choices.rotations;
                widths.flat_map(|&b| rotations.iter().map(move |&r| of(b, r))).collect()
            }
            "quantize_k_and_v" => {
                let norm_correction = choices.norm_correction;
                let of = |[k_bits, v_bits]: [Bits; 2], rotation| {
                    let codec = Codec::new(head_dim, v_bits, rotation);
                    let codec = Codec { norm_correction, ..codec };
                    Self::QuantizeKAndV(quantize_k_and_v::Problem { k_bits, codec })
                };
                let (pairs, rotations) = (&choices.bits, &choices.rotations);
                pairs.iter().flat_map(|&p| rotations.iter().map(move |&r| of(p, r))).collect()
            }
            "store_kv" => [KvType::F32, KvType::F16]
                .map(|kv_type| Self::StoreKv(store_kv::Problem { head_dim, kv_type }))
                .to_vec(),
            "dequantize_kv" => {
                let of = |codec| Self::DequantizeKv(dequantize_kv::Problem { codec });
                widths.map(|&bits| of(unrotated(bits))).collect()
            }
            "flash_attn_vec_tq" => {
                let of = |[k_bits, v_bits]: [Bits; 2], num_heads| {
                    Self::FlashAttnVecTq(flash_attn_vec_tq::Problem {
                        k_bits,
                        codec: unrotated(v_bits),
                        num_heads,
                        num_kv_heads: 1,
                    })
                };
                let (pairs, ratios) = (&choices.bits, &choices.ratios);
                pairs.iter().flat_map(|&p| ratios.iter().map(move |&r| of(p, r))).collect()
            }
            "flash_attn_vec" => {
                let of = |kv_type, num_heads| {
                    Self::FlashAttnVec(flash_attn_vec::Problem {
                        head_dim,
                        kv_type,
                        num_heads,
                        num_kv_heads: 1,
                    })
                };
                let ratios = &choices.ratios;
                [KvType::F32, KvType::F16]
                    .into_iter()
                    .flat_map(|t| ratios.iter().map(move |&r| of(t, r)))
                    .collect()
            }
            "flash_attn_vec_reduce" => {
                vec![Self::FlashAttnVecReduce(flash_attn_vec_reduce::Problem { head_dim })]
            }
            "flash_attn_tile" => tile_problems(head_dim, choices),
            // A test exports every contract of `kernels::ALL`, so a new kernel cannot stay out.
            _ => Vec::new(),
        }
    }

    /// Chooses the constants.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        match self {
            Self::Fwht(p) => p.plan(caps, language),
            Self::QuantizeKv(p) => p.plan(caps, language),
            Self::QuantizeKAndV(p) => p.plan(caps, language),
            Self::StoreKv(p) => p.plan(caps, language),
            Self::DequantizeKv(p) => p.plan(caps, language),
            Self::FlashAttnVecTq(p) => p.plan(caps, language),
            Self::FlashAttnVec(p) => p.plan(caps, language),
            Self::FlashAttnVecReduce(p) => p.plan(caps, language),
            Self::FlashAttnTile(p) => p.plan(caps, language),
        }
    }

    /// Coordinates of a head vector.
    pub fn head_dim(&self) -> HeadDim {
        match self {
            Self::Fwht(p) => p.head_dim,
            Self::QuantizeKv(p) => p.codec.head_dim,
            Self::QuantizeKAndV(p) => p.codec.head_dim,
            Self::StoreKv(p) => p.head_dim,
            Self::DequantizeKv(p) => p.codec.head_dim,
            Self::FlashAttnVecTq(p) => p.codec.head_dim,
            Self::FlashAttnVec(p) => p.head_dim,
            Self::FlashAttnVecReduce(p) => p.head_dim,
            Self::FlashAttnTile(p) => p.head_dim,
        }
    }

    /// Query heads a KV head, for the attention kernels.
    pub fn ratio(&self) -> Option<u32> {
        match self {
            Self::FlashAttnVecTq(p) => Some(p.num_heads / p.num_kv_heads),
            Self::FlashAttnVec(p) => Some(p.num_heads / p.num_kv_heads),
            Self::FlashAttnTile(p) => Some(p.num_heads / p.num_kv_heads),
            _ => None,
        }
    }

    /// What distinguishes the variant, as names and values for the contract.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![("head_dim", self.head_dim().to_string())];
        match self {
            Self::Fwht(p) => {
                facts.push(("rotation", p.rotation.name().to_owned()));
                let forward = p.direction == Direction::Forward;
                facts.push(("direction", if forward { "forward" } else { "inverse" }.to_owned()));
            }
            Self::QuantizeKv(p) => {
                facts.push(("bits", p.codec.bits.to_string()));
                facts.push(("rotation", p.codec.rotation.name().to_owned()));
                facts.push(("norm_correction", p.codec.norm_correction.to_string()));
            }
            Self::QuantizeKAndV(p) => {
                facts.push(("k_bits", p.k_bits.to_string()));
                facts.push(("v_bits", p.codec.bits.to_string()));
                facts.push(("rotation", p.codec.rotation.name().to_owned()));
                facts.push(("norm_correction", p.codec.norm_correction.to_string()));
            }
            Self::StoreKv(p) => facts.push(("kv_type", p.kv_type.name().to_owned())),
            Self::DequantizeKv(p) => facts.push(("bits", p.codec.bits.get().to_string())),
            Self::FlashAttnVecTq(p) => {
                facts.push(("k_bits", p.k_bits.to_string()));
                facts.push(("v_bits", p.codec.bits.to_string()));
            }
            Self::FlashAttnVec(p) => facts.push(("kv_type", p.kv_type.name().to_owned())),
            Self::FlashAttnVecReduce(_) => {}
            Self::FlashAttnTile(p) => {
                facts.extend([("k", p.k.to_string()), ("v", p.v.to_string())])
            }
        }
        if let Some(ratio) = self.ratio() {
            facts.push(("ratio", ratio.to_string()));
        }
        facts
    }
}

/// Each pair of widths, dense K with each width of V, and both dense.
fn tile_problems(head_dim: HeadDim, choices: &Choices) -> Vec<Variant> {
    let dense = [KeyFormat::F32, KeyFormat::F16];
    let packed = choices.bits.iter().map(|pair| pair.map(KeyFormat::Tq));
    let half = choices.bits.iter().flat_map(|&[_, v]| dense.map(|k| [k, KeyFormat::Tq(v)]));
    let formats = packed.chain(half).chain(dense.map(|format| [format; 2]));
    let of = |[k, v]: [KeyFormat; 2], num_heads| {
        let num_kv_heads = 1;
        Variant::FlashAttnTile(flash_attn_tile::Problem { head_dim, k, v, num_heads, num_kv_heads })
    };
    formats.flat_map(|format| choices.ratios.iter().map(move |&r| of(format, r))).collect()
}

/// Plain rotation is its own inverse and one text; SRHT has a text a direction.
fn fwht_problems(head_dim: HeadDim, rotations: &[Rotation]) -> Vec<Variant> {
    let of = |rotation, direction| Variant::Fwht(fwht::Problem { head_dim, rotation, direction });
    let directions = |&rotation: &Rotation| match rotation {
        Rotation::Plain => vec![of(rotation, Direction::Forward)],
        Rotation::Srht => [Direction::Forward, Direction::Inverse].map(|d| of(rotation, d)).into(),
    };
    rotations.iter().flat_map(directions).collect()
}
