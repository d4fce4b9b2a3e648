//! Layers that are equal: their pipelines, and what a step dispatches in each of them.

use std::sync::Arc;

use bytemuck::bytes_of;

use super::config::{Config, LayerConfig, Output};
use super::history::History;
use crate::codec::{Codec, Direction};
use crate::contract::{Caps, Language, Launch, Plan};
use crate::error::Result;
use crate::gpu::{Kernel, Options};
use crate::kernels::KernelSpec;
use crate::kernels::flash_attn_vec_reduce::{self, FlashAttnVecReduce};
use crate::kernels::flash_attn_vec_tq::{self, FlashAttnVecTq};
use crate::kernels::fwht::{self, Fwht};
use crate::kernels::quantize_kv::{self, QuantizeKv};
use crate::params::{
    FlashAttnVecReduceParams, FlashAttnVecTqParams, FwhtParams, QuantizeKvParams, partials_floats,
};

/// Parameter slots of a kind in one step; the slots of its tokens follow.
pub(super) mod slot {
    pub const QUANTIZE: u32 = 0;
    pub const ROTATE: u32 = 1;
    pub const NROWS: u32 = 2;
    pub const NWG: u32 = 3;
    pub const ATTEND: u32 = 4;
}

/// Bytes of the largest parameter block.
pub(super) const LARGEST_BLOCK: u32 = size_of::<FlashAttnVecTqParams>() as u32;

/// Pipelines by plan: two equal plans make the same pipeline.
#[derive(Debug)]
pub(super) struct Pool<'a, K> {
    device: &'a wgpu::Device,
    options: Options<'a>,
    made: Vec<(Plan, Arc<Kernel<K>>)>,
}

impl<'a, K: KernelSpec> Pool<'a, K> {
    /// An empty one; every kernel of it has these dynamic bindings.
    fn new(device: &'a wgpu::Device, config: &Config, dynamic: &'a [u32]) -> Self {
        let options = Options { checks: config.checks, dynamic, ..Options::default() };
        Self { device, options, made: Vec::new() }
    }

    fn get(&mut self, plan: Plan) -> Result<Arc<Kernel<K>>> {
        if let Some((_, kernel)) = self.made.iter().find(|(made, _)| *made == plan) {
            return Ok(Arc::clone(kernel));
        }
        let kernel = Arc::new(Kernel::new(self.device, &plan, &self.options)?);
        self.made.push((plan, Arc::clone(&kernel)));
        Ok(kernel)
    }
}

/// The pools of all kernels.
#[derive(Debug)]
pub(super) struct Pools<'a> {
    quantize: Pool<'a, QuantizeKv>,
    rotate: Pool<'a, Fwht>,
    attend: Pool<'a, FlashAttnVecTq>,
    reduce: Pool<'a, FlashAttnVecReduce>,
}

impl<'a> Pools<'a> {
    /// Empty ones. Parameters move with the step; q, output and partials with the token.
    pub fn new(device: &'a wgpu::Device, config: &Config) -> Self {
        Self {
            quantize: Pool::new(device, config, &[3]),
            rotate: Pool::new(device, config, &[1]),
            attend: Pool::new(device, config, &[0, 1, 6]),
            reduce: Pool::new(device, config, &[0, 2, 3]),
        }
    }
}

/// Equal layers.
#[derive(Debug)]
pub(super) struct Kind {
    pub config: LayerConfig,
    pub history: History,
    pub quantize_k: Arc<Kernel<QuantizeKv>>,
    pub quantize_v: Arc<Kernel<QuantizeKv>>,
    pub rotate: Arc<Kernel<Fwht>>,
    pub unrotate: Arc<Kernel<Fwht>>,
    pub attend: Arc<Kernel<FlashAttnVecTq>>,
    pub reduce: Arc<Kernel<FlashAttnVecReduce>>,
    /// Splits of the longest context.
    pub most_splits: u32,
    output: Output,
    codecs: [Codec; 2],
    caps: Caps,
    language: Language,
}

/// What a step is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// Tokens in the cache before it.
    pub len: u32,
    pub tokens: u32,
    /// Whether the tokens' own rows are appended, and seen causally.
    pub appends: bool,
}

/// A step's dispatches in one kind of layer.
#[derive(Debug)]
pub(super) struct Launches {
    /// K and V; none in a step that only reads.
    pub quantize: Option<[Launch; 2]>,
    pub rotate: Launch,
    pub unrotate: Launch,
    /// Of the last token; the others differ in their parameters only.
    pub attend: Launch,
    /// Of one token; none where attention writes what is asked for by itself.
    pub reduce: Option<Launch>,
    /// One block a token.
    attention: Vec<FlashAttnVecTqParams>,
    /// The positions that the layers hold after the step.
    pub history: History,
}

impl Kind {
    pub fn new(
        config: &LayerConfig,
        cache: &Config,
        caps: &Caps,
        pools: &mut Pools<'_>,
    ) -> Result<Self> {
        let codecs = config.codecs()?;
        let (caps, language) = (*caps, cache.language);
        let [k, v] = codecs.map(|codec| quantize_kv::Problem { codec }.plan(&caps, language));
        let [forward, inverse] = [Direction::Forward, Direction::Inverse]
            .map(|direction| rotation(config, direction).plan(&caps, language));
        let attention = attention(config, codecs);
        let reduce = reduction(config);
        Ok(Self {
            config: *config,
            history: History::new(config),
            quantize_k: pools.quantize.get(k?)?,
            quantize_v: pools.quantize.get(v?)?,
            rotate: pools.rotate.get(forward?)?,
            unrotate: pools.rotate.get(inverse?)?,
            attend: pools.attend.get(attention.plan(&caps, language)?)?,
            reduce: pools.reduce.get(reduce.plan(&caps, language)?)?,
            most_splits: attention.splits(config.most_visible(), &caps, language)?,
            output: cache.output,
            codecs,
            caps,
            language,
        })
    }

    /// Bytes of one token's q or output.
    pub fn row_bytes(&self) -> u64 {
        u64::from(self.config.num_heads) * u64::from(self.config.head_dim.get()) * 4
    }

    /// Bytes of one token's K or V.
    pub fn kv_row_bytes(&self) -> u64 {
        u64::from(self.config.num_kv_heads) * u64::from(self.config.head_dim.get()) * 4
    }

    /// Splits of partials that are the caller's: always as many, and never so few that the kernel
    /// would write an output in their place.
    pub fn partials_splits(&self) -> u32 {
        self.most_splits.max(2)
    }

    /// Bytes of one token's partials in `nwg` splits.
    pub fn partials_bytes(&self, nwg: u32) -> u64 {
        partials_floats(self.config.num_heads, self.config.head_dim.get(), nwg) * 4
    }

    fn splits(&self, visible: u32) -> Result<u32> {
        match self.output {
            Output::Partials => Ok(self.partials_splits()),
            Output::Rows => {
                attention(&self.config, self.codecs).splits(visible, &self.caps, self.language)
            }
        }
    }

    /// The dispatches of a step that ends with `history`.
    pub fn launches(&self, span: Span, history: History) -> Result<Launches> {
        let Self { config, caps, language, .. } = self;
        let attention = self.attention_params(span, &history)?;
        // A step has a token.
        let last = attention[attention.len() - 1];
        let rotate = FwhtParams {
            head_dim: config.head_dim.get(),
            num_heads: span.tokens.saturating_mul(config.num_heads),
        };
        let rotate = |direction| rotation(config, direction).launch(&rotate, caps, *language);
        let reduce = FlashAttnVecReduceParams { nrows: config.num_heads, nwg: last.nwg };
        let reduce = reduction(config).launch(&reduce, caps)?;
        Ok(Launches {
            quantize: span.appends.then(|| self.quantize(span)).transpose()?,
            rotate: rotate(Direction::Forward)?,
            unrotate: rotate(Direction::Inverse)?,
            attend: self::attention(config, self.codecs).launch(&last, caps, *language)?,
            reduce: (self.output == Output::Rows && last.nwg > 1).then_some(reduce),
            attention,
            history,
        })
    }

    /// Both have the same parameters.
    fn quantize(&self, span: Span) -> Result<[Launch; 2]> {
        let params = QuantizeKvParams {
            head_dim: self.config.head_dim.get(),
            num_kv_heads: self.config.num_kv_heads,
            write_pos: self.history.write_pos(span.len),
            cache_capacity: self.config.capacity,
            is_sliding: u32::from(self.history.is_ring()),
            scale_factor_d512: 1.0,
            rms_probe_enabled: 0,
            num_tokens: span.tokens,
        };
        let [k, v] = self
            .codecs
            .map(|codec| quantize_kv::Problem { codec }.launch(&params, &self.caps, self.language));
        Ok([k?, v?])
    }

    /// One block a token, each up to its own position. All have the splits of the last one.
    fn attention_params(&self, span: Span, history: &History) -> Result<Vec<FlashAttnVecTqParams>> {
        let end = |token| if span.appends { span.len + token + 1 } else { span.len };
        let visible = history.slots(end(span.tokens - 1))?.len().min(self.config.most_visible());
        let nwg = self.splits(visible)?;
        (0..span.tokens)
            .map(|token| {
                let slots = history.slots(end(token))?;
                Ok(self.config.attention(slots.len(), slots.start(), nwg))
            })
            .collect()
    }
}

impl Launches {
    /// Parameter slots that [`Self::blocks`] fills.
    pub fn slots(&self) -> u32 {
        slot::ATTEND + self.attention.len() as u32
    }

    /// The contents of the slots, in order.
    pub fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        let (nrows, nwg) = match &self.reduce {
            Some(reduce) => (reduce.uniform(0), reduce.uniform(3)),
            None => (&[][..], &[][..]),
        };
        let quantize = self.quantize.as_ref().map_or(&[][..], |[k, _]| k.uniform(3));
        [quantize, self.rotate.uniform(1), nrows, nwg]
            .into_iter()
            .chain(self.attention.iter().map(|block| bytes_of(block)))
    }
}

fn rotation(config: &LayerConfig, direction: Direction) -> fwht::Problem {
    fwht::Problem { head_dim: config.head_dim, rotation: config.rotation, direction }
}

fn attention(config: &LayerConfig, [k, v]: [Codec; 2]) -> flash_attn_vec_tq::Problem {
    flash_attn_vec_tq::Problem {
        k_bits: k.bits,
        codec: v,
        num_heads: config.num_heads,
        num_kv_heads: config.num_kv_heads,
    }
}

fn reduction(config: &LayerConfig) -> flash_attn_vec_reduce::Problem {
    flash_attn_vec_reduce::Problem { head_dim: config.head_dim }
}
