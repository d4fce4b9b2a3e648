//! Attention with its KV cache, behind one trait.

mod dense;
mod exact;
mod gpu;
mod oracle;
#[cfg(test)]
mod stored;

use std::str::FromStr;

use candle_core::Tensor;
use wgtq::codec::{Bits, Codec, HeadDim, KeyFormat, KvCodec, Rotation};
use wgtq::gpu::device::Selection;

use crate::error::{ModelError, Result};
pub use exact::Exact;
pub use gpu::Gpu;
pub use oracle::{Oracle, stored_bits};
#[cfg(test)]
pub use stored::Stored;

/// What a model's attention looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Layers, each with a cache of its own.
    pub layers: usize,
    /// Query heads.
    pub num_heads: u32,
    /// KV heads.
    pub num_kv_heads: u32,
    /// Coordinates of a head vector.
    pub head_dim: HeadDim,
}

impl Shape {
    /// Factor on `dot(q, k)`.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim.get() as f32).sqrt()
    }

    /// Bytes of cache for one token in all layers, given the bytes of a K and of a V row.
    fn bytes_per_token(&self, [k, v]: [u64; 2]) -> u64 {
        self.layers as u64 * u64::from(self.num_kv_heads) * (k + v)
    }
}

/// Attention with a cache for every layer.
pub trait Attention {
    /// Appends the K and V rows of T tokens to the cache of `layer` and attends: each token sees
    /// every row up to its own. `q` `[T, nh, D]`, `k` and `v` `[T, nkv, D]`, all after RoPE; the
    /// output is `[T, nh * D]`.
    fn append_and_attend(
        &mut self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor>;

    /// Bytes of cache that one token takes in all layers.
    fn bytes_per_token(&self) -> u64;
}

/// How K and V are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitPair {
    /// K: the width of a code, or floats.
    pub k: KeyFormat,
    /// V: the width of a code.
    pub v: Bits,
}

/// How K and V are encoded; the rotation is plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    /// The widths.
    pub bits: BitPair,
    /// Whether norms are corrected so that decoded rows keep theirs.
    pub norm_correction: bool,
}

impl Coding {
    /// The codec of K and V.
    pub const fn codec(self, head_dim: HeadDim) -> KvCodec {
        let BitPair { k, v } = self.bits;
        let norm_correction = self.norm_correction;
        KvCodec { k, v: Codec { norm_correction, ..Codec::new(head_dim, v, Rotation::Plain) } }
    }
}

impl From<BitPair> for Coding {
    fn from(bits: BitPair) -> Self {
        Self { bits, norm_correction: false }
    }
}

impl std::fmt::Display for Coding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let corrected = if self.norm_correction { " corrected" } else { "" };
        write!(f, "{}{corrected}", self.bits)
    }
}

impl BitPair {
    /// Every pair that gives K at least the bits of V, widest first.
    pub fn all() -> Vec<Self> {
        let widths: Vec<Bits> = (1..=8).rev().filter_map(|b| Bits::new(b).ok()).collect();
        let pairs = widths.iter().flat_map(|&k| widths.iter().map(move |&v| (k, v)));
        let of = |(k, v)| Self { k: KeyFormat::Tq(k), v };
        pairs.filter(|(k, v)| k >= v).map(of).collect()
    }
}

impl std::fmt::Display for BitPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.k, self.v)
    }
}

impl FromStr for BitPair {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let bits = |text: &str| -> std::result::Result<Bits, String> {
            let number = text.parse().map_err(|_| format!("need a number, found {text:?}"))?;
            Bits::new(number).map_err(|e| e.to_string())
        };
        let (k, v) = text.split_once('/').ok_or("need K bits / V bits, as in 4/4 or f16/4")?;
        let k = match k {
            "f16" => KeyFormat::F16,
            "f32" => KeyFormat::F32,
            width => KeyFormat::Tq(bits(width)?),
        };
        Ok(Self { k, v: bits(v)? })
    }
}

/// Who attends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Unquantised cache on the CPU
    Exact,
    /// K and V through wgtq's codec on the CPU, then unquantised attention
    Oracle,
    /// wgtq's kernels on a GPU
    Gpu,
}

impl Kind {
    /// The name as written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Oracle => "oracle",
            Self::Gpu => "gpu",
        }
    }

    /// The pairs that it can run, widest first; none for an unquantised cache.
    pub fn pairs(self) -> Vec<BitPair> {
        match self {
            Self::Exact => Vec::new(),
            Self::Oracle | Self::Gpu => BitPair::all(),
        }
    }

    /// An empty cache for up to `capacity` tokens.
    pub fn open(
        self,
        shape: Shape,
        coding: impl Into<Coding>,
        capacity: usize,
    ) -> Result<Box<dyn Attention>> {
        let coding = coding.into();
        Ok(match self {
            Self::Exact => Box::new(Exact::new(shape)),
            Self::Oracle => Box::new(Oracle::new(shape, coding)),
            Self::Gpu => {
                let capacity = u32::try_from(capacity).map_err(|_| ModelError::Argument {
                    flag: "--tokens",
                    need: "under 2^32".to_owned(),
                    found: capacity.to_string(),
                })?;
                Box::new(Gpu::open(shape, coding, capacity, &Selection::default())?)
            }
        })
    }
}
