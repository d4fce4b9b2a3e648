//! Layers that are equal: their pipelines, and what a step dispatches in each of them.

use std::sync::Arc;

use bytemuck::bytes_of;

use super::append;
use super::config::{Config, LayerConfig, Output};
use super::history::History;
use super::make::buffer;
use crate::codec::{Direction, KeyFormat, Ring};
use crate::contract::{Caps, Language, Launch, Plan};
use crate::error::Result;
use crate::gpu::{Kernel, Options};
use crate::kernels::flash_attn_decode_tq::{self, FlashAttnDecodeTq};
use crate::kernels::flash_attn_tile::{self, FlashAttnTile};
use crate::kernels::flash_attn_vec_reduce::{self, FlashAttnVecReduce};
use crate::kernels::flash_attn_vec_tq::{self, FlashAttnVecTq};
use crate::kernels::fwht::{self, Fwht};
use crate::kernels::quantize_k_and_v::QuantizeKAndV;
use crate::kernels::quantize_kv::QuantizeKv;
use crate::kernels::store_kv::StoreKv;
use crate::kernels::{Context, KernelSpec};
use crate::params::{
    FlashAttnTileParams, FlashAttnVecReduceParams, FwhtParams, QuantizeKvParams, TileSequence,
    partials_floats,
};

/// Parameter slots of a kind in one step.
pub(super) mod slot {
    pub const APPEND: u32 = 0;
    pub const ROTATE: u32 = 1;
    pub const NROWS: u32 = 2;
    pub const NWG: u32 = 3;
    pub const ATTEND: u32 = 4;
    pub const SEQUENCE: u32 = 5;
    /// How many there are.
    pub const COUNT: u32 = 6;
}

/// Bytes of the largest parameter block.
pub(super) const LARGEST_BLOCK: u32 = size_of::<FlashAttnTileParams>() as u32;

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

    pub fn get(&mut self, plan: Plan) -> Result<Arc<Kernel<K>>> {
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
    pub quantize: Pool<'a, QuantizeKAndV>,
    pub quantize_v: Pool<'a, QuantizeKv>,
    pub store: Pool<'a, StoreKv>,
    rotate: Pool<'a, Fwht>,
    attend: Pool<'a, FlashAttnVecTq>,
    whole: Pool<'a, FlashAttnDecodeTq>,
    tile: Pool<'a, FlashAttnTile>,
    reduce: Pool<'a, FlashAttnVecReduce>,
}

impl<'a> Pools<'a> {
    /// Empty ones. Only parameters move, with the step.
    pub fn new(device: &'a wgpu::Device, config: &Config) -> Self {
        Self {
            quantize: Pool::new(device, config, &[0]),
            quantize_v: Pool::new(device, config, &[3]),
            store: Pool::new(device, config, &[2]),
            rotate: Pool::new(device, config, &[1]),
            attend: Pool::new(device, config, &[0]),
            whole: Pool::new(device, config, &[0]),
            tile: Pool::new(device, config, &[0, 2]),
            reduce: Pool::new(device, config, &[0, 3]),
        }
    }
}

/// Equal layers.
#[derive(Debug)]
pub(super) struct Kind {
    pub config: LayerConfig,
    pub history: History,
    pub append: append::Kernels,
    /// None where K is dense: then q is not rotated.
    pub rotate: Option<Arc<Kernel<Fwht>>>,
    pub unrotate: Arc<Kernel<Fwht>>,
    /// Steps of one token; none where K is dense.
    pub one: Option<One>,
    /// All others; none where there are none.
    pub tile: Option<Arc<Kernel<FlashAttnTile>>>,
    pub reduce: Arc<Kernel<FlashAttnVecReduce>>,
    appending: append::Problems,
    output: Output,
    caps: Caps,
    language: Language,
}

/// The pipelines of an attention kernel, by the length of the context.
#[derive(Debug)]
pub(super) struct Contexts<K> {
    short: Arc<Kernel<K>>,
    long: Arc<Kernel<K>>,
}

/// The attention of one token over packed K.
#[derive(Debug)]
pub(super) enum One {
    /// In the rotated basis, between rotations and a merge.
    Rotated(Contexts<FlashAttnVecTq>),
    /// With all of these, and the scratch that layers of a kind share: dispatches of one pass that write
    /// it follow each other.
    Whole(Contexts<FlashAttnDecodeTq>, wgpu::Buffer),
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
    /// None in a step that only reads.
    pub append: Option<append::Launches>,
    pub rotate: Launch,
    pub unrotate: Launch,
    pub attend: Attend,
    /// None where attention writes what is asked for by itself.
    pub reduce: Option<Launch>,
    /// The positions that the layers hold after the step.
    pub history: History,
}

/// The attention of a step.
#[derive(Debug)]
pub(super) enum Attend {
    /// By `flash_attn_vec_tq`.
    One(Launch, Context),
    /// By `flash_attn_decode_tq`, which takes the place of rotations and merge too.
    Whole(Launch, Context),
    /// By `flash_attn_tile`: the cache is one page, the step one sequence.
    Several(Launch, TileSequence),
}

/// The block table of one page.
const ONE_PAGE: [u32; 1] = [0];

impl Kind {
    pub fn new(
        config: &LayerConfig,
        cache: &Config,
        caps: &Caps,
        pools: &mut Pools<'_>,
    ) -> Result<Self> {
        let (caps, language) = (*caps, cache.language);
        let rotation = |direction| rotation(config, direction).plan(&caps, language);
        let appending = append::Problems::of(config);
        let packed_k = attention(config).is_some();
        let tiled = cache.max_step_tokens > 1 || !packed_k;
        let tile = tiled.then(|| pools.tile.get(tile(config).plan(&caps, language)?));
        let rotate = packed_k.then(|| pools.rotate.get(rotation(Direction::Forward)?));
        Ok(Self {
            config: *config,
            history: History::new(config),
            append: appending.kernels(&caps, language, pools)?,
            rotate: rotate.transpose()?,
            unrotate: pools.rotate.get(rotation(Direction::Inverse)?)?,
            one: One::new(config, cache, &caps, pools)?,
            tile: tile.transpose()?,
            reduce: pools.reduce.get(reduction(config).plan(&caps, language)?)?,
            appending,
            output: cache.output,
            caps,
            language,
        })
    }

    /// Bytes of one token's q.
    pub fn row_bytes(&self) -> u64 {
        u64::from(self.config.num_heads) * u64::from(self.config.head_dim.get()) * 4
    }

    /// Bytes of one token's K or V.
    pub fn kv_row_bytes(&self) -> u64 {
        u64::from(self.config.num_kv_heads) * u64::from(self.config.head_dim.get()) * 4
    }

    /// Bytes of one token's output.
    pub fn out_bytes(&self) -> Result<u64> {
        match self.output {
            Output::Rows => Ok(self.row_bytes()),
            Output::Partials => Ok(self.partials_bytes(1, self.partials_splits()?)),
        }
    }

    /// Splits of partials that are the caller's: always as many, and never so few that the kernel
    /// would write an output in their place.
    pub fn partials_splits(&self) -> Result<u32> {
        Ok(self.own_splits(1, self.config.most_visible())?.max(2))
    }

    /// Bytes of the partials of `tokens` tokens in `nwg` splits.
    pub fn partials_bytes(&self, tokens: u32, nwg: u32) -> u64 {
        let of_one = partials_floats(self.config.num_heads, self.config.head_dim.get(), nwg) * 4;
        u64::from(tokens) * of_one
    }

    /// Bytes of the cache's own partials, for any step of up to `most_tokens` tokens; 0 where one
    /// split is always enough, or where partials are the caller's.
    pub fn most_partials(&self, most_tokens: u32) -> Result<u64> {
        let mut most = 0;
        let first = if self.scratch().is_some() { 2 } else { 1 };
        for tokens in first..=most_tokens {
            let splits = self.most_splits(tokens, self.seen_by(tokens, self.config.capacity))?;
            if self.output == Output::Rows && splits > 1 {
                most = most.max(self.partials_bytes(tokens, splits));
            }
            // More tokens fill the device by themselves.
            if tokens > 1 && self.own_splits(tokens, u32::MAX)? == 1 {
                break;
            }
        }
        Ok(most)
    }

    /// The scratch of steps of one token, where they are one dispatch.
    pub const fn scratch(&self) -> Option<&wgpu::Buffer> {
        match &self.one {
            Some(One::Whole(_, scratch)) => Some(scratch),
            _ => None,
        }
    }

    /// Positions from the first that a step's first token sees to the last, of `stored` ones.
    fn seen_by(&self, tokens: u32, stored: u32) -> u32 {
        match self.config.sliding_window {
            0 => stored,
            window => stored.min(window.saturating_add(tokens - 1)),
        }
    }

    /// Splits for a step of `tokens` tokens that see `visible` positions.
    fn own_splits(&self, tokens: u32, visible: u32) -> Result<u32> {
        match attention(&self.config) {
            Some(one) if tokens == 1 => one.splits(visible, &self.caps, self.language),
            _ => Ok(tile(&self.config).splits(tokens, visible, &self.caps)),
        }
    }

    /// The largest number of splits for a step of `tokens` tokens that see up to `visible` positions.
    fn most_splits(&self, tokens: u32, visible: u32) -> Result<u32> {
        match attention(&self.config) {
            Some(one) if tokens == 1 => one.most_splits(visible, &self.caps, self.language),
            _ => self.own_splits(tokens, visible),
        }
    }

    /// The dispatches of a step that ends with `history`.
    pub fn launches(&self, span: Span, history: History) -> Result<Launches> {
        let Self { config, caps, language, .. } = self;
        let slots = history.slots(if span.appends { span.len + span.tokens } else { span.len })?;
        let nwg = match self.output {
            Output::Rows => self.own_splits(span.tokens, self.seen_by(span.tokens, slots.len()))?,
            Output::Partials => self.partials_splits()?,
        };
        let rows = span.tokens.saturating_mul(config.num_heads);
        let rotate = FwhtParams { head_dim: config.head_dim.get(), num_heads: rows };
        let rotate = |direction| rotation(config, direction).launch(&rotate, caps, *language);
        let in_one = span.tokens == 1 && self.scratch().is_some();
        let reduce = FlashAttnVecReduceParams { nrows: rows, nwg };
        let reduce = reduction(config).launch(&reduce, caps)?;
        Ok(Launches {
            append: span.appends.then(|| self.append(span)).transpose()?,
            rotate: rotate(Direction::Forward)?,
            unrotate: rotate(Direction::Inverse)?,
            attend: match attention(config) {
                Some(one) if span.tokens == 1 => {
                    let params = config.attention(slots.len(), slots.start(), nwg);
                    let context = Context::of(self.seen_by(1, slots.len()));
                    match self.scratch() {
                        Some(_) => Attend::Whole(
                            flash_attn_decode_tq::Problem::from(one)
                                .launch(&params, caps, *language)?,
                            context,
                        ),
                        None => Attend::One(one.launch(&params, caps, *language)?, context),
                    }
                }
                _ => self.tile(span, slots, nwg)?,
            },
            reduce: (self.output == Output::Rows && nwg > 1 && !in_one).then_some(reduce),
            history,
        })
    }

    fn append(&self, span: Span) -> Result<append::Launches> {
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
        self.appending.launches(&params, &self.caps, self.language)
    }

    /// Queries of a step that only reads come after everything that is stored, so they see all.
    fn tile(&self, span: Span, slots: Ring, nwg: u32) -> Result<Attend> {
        let one = self.config.attention(slots.len(), slots.start(), nwg);
        let sequence = TileSequence {
            first_token: 0,
            query_tokens: span.tokens,
            position: slots.len() - if span.appends { span.tokens } else { 0 },
            kv_seq_len: one.kv_seq_len,
            ring_start: one.ring_start,
            kv_capacity: one.kv_capacity,
            first_block: 0,
        };
        let params = FlashAttnTileParams {
            n_heads: one.n_heads,
            n_kv_heads: one.n_kv_heads,
            head_dim: one.head_dim,
            num_tokens: span.tokens,
            num_sequences: 1,
            max_query_tokens: span.tokens,
            page_size: one.kv_capacity,
            num_pages: 1,
            num_blocks: 1,
            scale: one.scale,
            mask_type: one.mask_type,
            sliding_window: one.sliding_window,
            softcap: one.softcap,
            nwg,
            split_base: 0,
            splits: nwg,
            scale_factor_d512: one.scale_factor_d512,
        };
        let problem = tile(&self.config);
        let launch = problem.launch(&params, &[sequence], &ONE_PAGE, &self.caps)?;
        Ok(Attend::Several(launch, sequence))
    }
}

impl<K: KernelSpec> Contexts<K> {
    fn new(pool: &mut Pool<'_, K>, plan: impl Fn(Context) -> Result<Plan>) -> Result<Self> {
        let [short, long] = [Context::Short, Context::Long].map(|c| pool.get(plan(c)?));
        Ok(Self { short: short?, long: long? })
    }

    /// The pipeline of a context; both have the same bindings.
    pub const fn of(&self, context: Context) -> &Arc<Kernel<K>> {
        match context {
            Context::Short => &self.short,
            Context::Long => &self.long,
        }
    }
}

impl One {
    /// One dispatch where the device can order its workgroups and the output is whole.
    fn new(
        config: &LayerConfig,
        cache: &Config,
        caps: &Caps,
        pools: &mut Pools<'_>,
    ) -> Result<Option<Self>> {
        let Some(rotated) = attention(config) else { return Ok(None) };
        let language = cache.language;
        if cache.output == Output::Partials || !caps.storage_fence {
            let plan = |context| rotated.plan_for(context, 0.0, caps, language);
            return Ok(Some(Self::Rotated(Contexts::new(&mut pools.attend, plan)?)));
        }
        let whole = flash_attn_decode_tq::Problem::from(rotated);
        let most = whole.most_splits(config.most_visible(), caps, language)?;
        let scratch = buffer(
            pools.whole.device,
            "KvCache scratch",
            whole.scratch_bytes(most, caps, language)?,
            wgpu::BufferUsages::STORAGE,
        )?;
        let plan = |context| whole.plan_for(context, caps, language);
        Ok(Some(Self::Whole(Contexts::new(&mut pools.whole, plan)?, scratch)))
    }
}

impl Launches {
    /// The contents of the parameter slots, in order.
    pub fn blocks(&self) -> [&[u8]; slot::COUNT as usize] {
        let append = self.append.as_ref().map_or(&[][..], append::Launches::block);
        let reduce = |binding| self.reduce.as_ref().map_or(&[][..], |r| r.uniform(binding));
        let (attend, sequence) = match &self.attend {
            Attend::One(launch, _) | Attend::Whole(launch, _) => (launch.uniform(0), &[][..]),
            Attend::Several(launch, sequence) => (launch.uniform(0), bytes_of(sequence)),
        };
        [append, self.rotate.uniform(1), reduce(0), reduce(3), attend, sequence]
    }
}

fn rotation(config: &LayerConfig, direction: Direction) -> fwht::Problem {
    fwht::Problem { head_dim: config.head_dim, rotation: config.rotation, direction }
}

/// The attention of one token, over packed K.
fn attention(config: &LayerConfig) -> Option<flash_attn_vec_tq::Problem> {
    let codec = config.codec();
    codec.key_codec().map(|k| flash_attn_vec_tq::Problem {
        k_bits: k.bits,
        codec: codec.v,
        num_heads: config.num_heads,
        num_kv_heads: config.num_kv_heads,
    })
}

fn tile(config: &LayerConfig) -> flash_attn_tile::Problem {
    flash_attn_tile::Problem {
        head_dim: config.head_dim,
        k: config.format.k,
        v: KeyFormat::Tq(config.format.v),
        num_heads: config.num_heads,
        num_kv_heads: config.num_kv_heads,
    }
}

fn reduction(config: &LayerConfig) -> flash_attn_vec_reduce::Problem {
    flash_attn_vec_reduce::Problem { head_dim: config.head_dim }
}
