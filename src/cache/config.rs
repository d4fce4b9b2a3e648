//! What a cache is made for.

use crate::codec::{Codec, HeadDim, KeyFormat, KvCodec, KvFormat, Rotation, row};
use crate::contract::Language;
use crate::error::{Error, Result};
use crate::gpu::Checks;
use crate::params::{FlashAttnVecTqParams, MASK_CAUSAL, MASK_SLIDING};

/// What happens when a layer's slots are full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// Nothing is overwritten; a step that does not fit is refused.
    Linear,
    /// The oldest rows are overwritten. Needs a window, and a capacity of at least
    /// `sliding_window + max_step_tokens - 1`, so that every token of a step finds its whole
    /// window; what is more is how far [`truncate`](super::KvCache::truncate) can go back.
    Ring,
}

/// One layer. Layers that are equal share pipelines and parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerConfig {
    /// Query heads.
    pub num_heads: u32,
    /// KV heads; divides `num_heads`.
    pub num_kv_heads: u32,
    /// Coordinates of a head vector.
    pub head_dim: HeadDim,
    /// Widths of K and V codes, apart; or a dense K, as in `kf16v4`: see [dense K](super#dense-k).
    pub format: KvFormat,
    /// The rotation in front of the quantiser.
    pub rotation: Rotation,
    /// Whether norms are corrected so that decoded rows keep theirs, see
    /// [`Codec::norm_correction`]. Costs nothing when rows are read.
    pub norm_correction: bool,
    /// Slots a KV head.
    pub capacity: u32,
    /// What happens when they are full.
    pub storage: Storage,
    /// Newest positions that a token sees, itself included; 0 means all.
    pub sliding_window: u32,
    /// Factor on `dot(q, k)`, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// `c tanh(score / c)` when c > 0; 0 is off.
    pub softcap: f32,
}

/// What `attend` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Output {
    /// The attention output, f32 `[token][head][coord]`.
    #[default]
    Rows,
    /// Partials of the rows `[token][head]`, still rotated: for a cache that holds a part
    /// of a context. See [`KvCache::partials`](super::KvCache::partials) and
    /// [`merge`](super::merge).
    Partials,
}

/// A whole cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Each layer by itself, so that the first and last may keep more bits.
    pub layers: Vec<LayerConfig>,
    /// Most tokens of one step: a chunk of a prompt, or 1 + drafted tokens.
    pub max_step_tokens: u32,
    /// Steps that may be recorded before a submit. Each has a parameter slot of its own.
    pub steps_per_submit: u32,
    /// What `attend` writes.
    pub output: Output,
    /// The language of the kernels: [`Language::Msl`] needs Metal and `PASSTHROUGH_SHADERS`.
    pub language: Language,
    /// Run-time checks of the WGSL.
    pub checks: Checks,
}

impl Config {
    /// One step a submit, attention output, WGSL with wgpu's checks.
    pub const fn new(layers: Vec<LayerConfig>, max_step_tokens: u32) -> Self {
        Self {
            layers,
            max_step_tokens,
            steps_per_submit: 1,
            output: Output::Rows,
            language: Language::Wgsl,
            checks: Checks::Checked,
        }
    }

    /// Checks every number.
    pub fn check(&self) -> Result<()> {
        if self.layers.is_empty() {
            return Err(Error::param("layers", "at least 1", 0));
        }
        for (name, value) in
            [("max_step_tokens", self.max_step_tokens), ("steps_per_submit", self.steps_per_submit)]
        {
            if value == 0 {
                return Err(Error::param(name, "at least 1", value));
            }
        }
        self.layers.iter().try_for_each(|layer| layer.check(self.max_step_tokens))
    }
}

/// Bytes of one row of K or V of one KV head, and of its norms.
pub(super) fn slot_bytes(head_dim: HeadDim, format: KeyFormat) -> [u64; 2] {
    let d = u64::from(head_dim.get());
    match format {
        KeyFormat::F32 => [d * 4, 0],
        KeyFormat::F16 => [d * 2, 0],
        KeyFormat::Tq(bits) => {
            [row::row_bytes(head_dim, bits), u64::from(head_dim.norms_per_pos()) * 4]
        }
    }
}

impl LayerConfig {
    /// The codec of K and V.
    pub const fn codec(&self) -> KvCodec {
        let KvCodec { k, v } = self.format.codec(self.head_dim, self.rotation);
        KvCodec { k, v: Codec { norm_correction: self.norm_correction, ..v } }
    }

    /// Bytes that one position takes in this layer, norms included.
    pub fn bytes_per_token(&self) -> u64 {
        let KvCodec { k, v } = self.codec();
        let rows = [k, KeyFormat::Tq(v.bits)].map(|format| slot_bytes(self.head_dim, format));
        u64::from(self.num_kv_heads) * rows.iter().flatten().sum::<u64>()
    }

    /// Bytes of the layer's buffers: all its slots.
    pub fn bytes(&self) -> u64 {
        self.bytes_per_token() * u64::from(self.capacity)
    }

    /// Most positions that one token sees.
    pub(super) const fn most_visible(&self) -> u32 {
        if self.sliding_window > 0 && self.sliding_window < self.capacity {
            self.sliding_window
        } else {
            self.capacity
        }
    }

    /// The parameters of attention over `kv_seq_len` positions, the oldest at slot `ring_start`.
    pub(super) const fn attention(
        &self,
        kv_seq_len: u32,
        ring_start: u32,
        nwg: u32,
    ) -> FlashAttnVecTqParams {
        FlashAttnVecTqParams {
            n_heads: self.num_heads,
            n_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim.get(),
            kv_seq_len,
            kv_capacity: self.capacity,
            scale: self.scale,
            mask_type: if self.sliding_window > 0 { MASK_SLIDING } else { MASK_CAUSAL },
            sliding_window: self.sliding_window,
            softcap: self.softcap,
            nwg,
            ring_start,
            scale_factor_d512: 1.0,
        }
    }

    fn check(&self, max_step_tokens: u32) -> Result<()> {
        self.attention(0, 0, 1).check()?;
        if self.storage == Storage::Linear {
            return Ok(());
        }
        if self.sliding_window == 0 {
            return Err(Error::param("sliding_window", "at least 1 for a ring", 0));
        }
        let needed = u64::from(self.sliding_window) + u64::from(max_step_tokens) - 1;
        if u64::from(self.capacity) < needed {
            let need =
                format!("at least {needed} for a ring: sliding_window + max_step_tokens - 1");
            return Err(Error::param("capacity", need, self.capacity));
        }
        Ok(())
    }
}
