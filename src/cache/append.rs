//! How the rows of a step get into a layer's slots: K and V as codes in one dispatch, or K as it
//! is and V as codes in one each.

use std::sync::Arc;

use super::config::LayerConfig;
use super::io::LayerIo;
use super::kind::Pools;
use super::misuse::Misuse;
use crate::codec::{KeyFormat, KvCodec};
use crate::contract::{Caps, Language, Launch};
use crate::error::Result;
use crate::gpu::{Bound, Kernel};
use crate::kernels::flash_attn_vec::KvType;
use crate::kernels::quantize_k_and_v::{self, QuantizeKAndV};
use crate::kernels::quantize_kv::{self, QuantizeKv};
use crate::kernels::store_kv::{self, StoreKv};
use crate::params::QuantizeKvParams;

/// One of these for packed K and V, and one for dense K.
#[derive(Debug)]
pub(super) enum Rows<Packed, K, V> {
    Packed(Packed),
    DenseK { k: K, v: V },
}

pub(super) type Problems = Rows<quantize_k_and_v::Problem, store_kv::Problem, quantize_kv::Problem>;
pub(super) type Kernels =
    Rows<Arc<Kernel<QuantizeKAndV>>, Arc<Kernel<StoreKv>>, Arc<Kernel<QuantizeKv>>>;
pub(super) type Bindings = Rows<Bound<QuantizeKAndV>, Bound<StoreKv>, Bound<QuantizeKv>>;
pub(super) type Launches = Rows<Launch, Launch, Launch>;

impl Problems {
    pub fn of(layer: &LayerConfig) -> Self {
        let KvCodec { k, v } = layer.codec();
        let dense = |kv_type| Self::DenseK {
            k: store_kv::Problem { head_dim: v.head_dim, kv_type },
            v: quantize_kv::Problem { codec: v },
        };
        match k {
            KeyFormat::Tq(k_bits) => Self::Packed(quantize_k_and_v::Problem { k_bits, codec: v }),
            KeyFormat::F32 => dense(KvType::F32),
            KeyFormat::F16 => dense(KvType::F16),
        }
    }

    pub fn kernels(
        &self,
        caps: &Caps,
        language: Language,
        pools: &mut Pools<'_>,
    ) -> Result<Kernels> {
        Ok(match self {
            Self::Packed(both) => Rows::Packed(pools.quantize.get(both.plan(caps, language)?)?),
            Self::DenseK { k, v } => Rows::DenseK {
                k: pools.store.get(k.plan(caps, language)?)?,
                v: pools.quantize_v.get(v.plan(caps, language)?)?,
            },
        })
    }

    /// The parameters are the same for K and V.
    pub fn launches(
        &self,
        params: &QuantizeKvParams,
        caps: &Caps,
        language: Language,
    ) -> Result<Launches> {
        Ok(match self {
            Self::Packed(both) => Rows::Packed(both.launch(params, caps, language)?),
            Self::DenseK { k, v } => {
                Rows::DenseK { k: k.launch(params, caps)?, v: v.launch(params, caps, language)? }
            }
        })
    }
}

impl Launches {
    /// The block of the parameters, which all dispatches share.
    pub fn block(&self) -> &[u8] {
        match self {
            Self::Packed(both) => both.uniform(0),
            Self::DenseK { k, .. } => k.uniform(2),
        }
    }
}

impl Kernels {
    /// Records the dispatches of one layer, with their parameters at `offset`.
    pub fn record(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        io: &LayerIo,
        launches: &Launches,
        offset: u32,
    ) -> Result<()> {
        match (self, &io.append, launches) {
            (Self::Packed(kernel), Bindings::Packed(bound), Launches::Packed(launch)) => {
                kernel.record_at(pass, bound, launch, &[offset])
            }
            (
                Self::DenseK { k, v },
                Bindings::DenseK { k: k_bound, v: v_bound },
                Launches::DenseK { k: k_launch, v: v_launch },
            ) => {
                k.record_at(pass, k_bound, k_launch, &[offset])?;
                v.record_at(pass, v_bound, v_launch, &[offset])
            }
            // Not while all three come from one configuration.
            _ => Err(Misuse::Foreign { layer: io.layer }.into()),
        }
    }
}
