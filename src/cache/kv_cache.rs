//! The cache: everything is made in `new` and `bind`; after that, steps are only recorded.

use std::sync::atomic::{AtomicU64, Ordering};

use super::bytes::Bytes;
use super::config::{Config, LayerConfig};
use super::history::History;
use super::io::{BoundOne, Io, LayerBuffers, LayerIo, Own};
use super::kind::{Attend, Kind, Launches, One, Span, slot};
use super::make::{
    buffer, check_largest_step, kinds, layer_buffers, most_partials, param_slot_bytes,
};
use super::misuse::Misuse;
use crate::contract::Caps;
use crate::error::{Error, Result};

/// A cache of packed K and V for every layer of a model, on the caller's device.
///
/// See the [module](super) for the order of calls.
pub struct KvCache {
    id: u64,
    pub(super) config: Config,
    pub(super) kinds: Vec<Kind>,
    pub(super) layers: Vec<Layer>,
    params: wgpu::Buffer,
    /// Bytes of a parameter slot, and of all slots of a step.
    slot_bytes: u32,
    step_bytes: u32,
    /// Where `params` has a block table of one page: a zero after the slots, never written.
    table: u64,
    /// A step's slots on their way to `params`.
    staged: Vec<u8>,
    partials: Option<wgpu::Buffer>,
    len: u32,
    /// Steps since the last submit.
    unsubmitted: u32,
    open: Option<Open>,
}

/// Without the pipelines, which hold their shaders' text.
impl std::fmt::Debug for KvCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvCache")
            .field("config", &self.config)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// One layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub kind: usize,
    pub buffers: LayerBuffers,
    appended: bool,
    attended: bool,
}

/// A step between `begin_step` and `end_step`.
#[derive(Debug)]
struct Open {
    span: Span,
    /// Where its slots start in `params`.
    base: u32,
    /// One entry a kind.
    launches: Vec<Launches>,
}

/// The partials of a step; see [`Output::Partials`](super::Output::Partials).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialsLayout {
    /// Rows `[token][head]`.
    pub nrows: u32,
    /// Splits.
    pub nwg: u32,
    /// Bytes of all.
    pub bytes: u64,
}

impl KvCache {
    /// Makes everything: buffers of all layers, pipelines (one of each for equal layers),
    /// parameter slots, and partials for the longest context. The slots start as zeros.
    ///
    /// Fails when a number of `config` is out of range, or when the device allows less than the
    /// largest step needs.
    pub fn new(device: &wgpu::Device, caps: &Caps, config: &Config) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        config.check()?;
        let (kinds, of_layer) = kinds(device, caps, config)?;
        check_largest_step(&kinds, config)?;
        let slot_bytes = param_slot_bytes(&device.limits());
        let step_bytes = u64::from(slot_bytes) * u64::from(slot::COUNT) * kinds.len() as u64;
        let table = step_bytes * u64::from(config.steps_per_submit);
        let params_bytes = table + u64::from(slot_bytes);
        if params_bytes > u64::from(u32::MAX) {
            let need = format!("parameters under 2^32 bytes, {step_bytes} a step");
            return Err(Error::param("steps_per_submit", need, config.steps_per_submit));
        }
        let usage = wgpu::BufferUsages::UNIFORM
            | wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_DST;
        let params = buffer(device, "KvCache parameters", params_bytes, usage)?;
        let partials = match most_partials(&kinds, config)? {
            0 => None,
            bytes => Some(buffer(device, "KvCache partials", bytes, wgpu::BufferUsages::STORAGE)?),
        };
        let layers = of_layer
            .into_iter()
            .map(|kind| {
                let buffers = layer_buffers(device, &kinds[kind].config)?;
                Ok(Layer { kind, buffers, appended: false, attended: false })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            config: config.clone(),
            kinds,
            layers,
            params,
            slot_bytes,
            step_bytes: step_bytes as u32,
            table,
            staged: Vec::with_capacity(step_bytes as usize),
            partials,
            len: 0,
            unsubmitted: 0,
            open: None,
        })
    }

    /// Binds an engine's buffers to `layer`, for as many steps as they live. They need room for
    /// as many tokens as the largest step that uses them.
    pub fn bind(&self, device: &wgpu::Device, layer: usize, io: Io<'_>) -> Result<LayerIo> {
        let found = self.layer(layer)?;
        let kind = &self.kinds[found.kind];
        let own = Own {
            cache: self.id,
            layer,
            kind,
            buffers: &found.buffers,
            params: &self.params,
            table: self.table,
            partials: self.partials.as_ref(),
            output: self.config.output,
        };
        LayerIo::new(device, own, &io)
    }

    /// Opens a step of `tokens` tokens, which every layer then appends, and writes its parameters
    /// through `queue`: one write, which lands before what is submitted next.
    pub fn begin_step(&mut self, queue: &wgpu::Queue, tokens: u32) -> Result<()> {
        self.begin(queue, Span { len: self.len, tokens, appends: true })
    }

    /// Opens a step of `tokens` queries that appends nothing: each sees everything in the cache.
    /// For the devices of a split context that the newest token does not belong to, and for
    /// cross-attention.
    pub fn begin_read(&mut self, queue: &wgpu::Queue, tokens: u32) -> Result<()> {
        let windowed = self.config.layers.iter().position(|layer| layer.sliding_window > 0);
        if let Some(layer) = windowed {
            let window = self.config.layers[layer].sliding_window;
            return Err(Misuse::WindowedRead { layer, window }.into());
        }
        self.begin(queue, Span { len: self.len, tokens, appends: false })
    }

    fn begin(&mut self, queue: &wgpu::Queue, span: Span) -> Result<()> {
        self.check_closed()?;
        let (most, found) = (self.config.max_step_tokens, span.tokens);
        if found == 0 || found > most {
            return Err(Misuse::Tokens { most, found }.into());
        }
        let most = self.config.steps_per_submit;
        if self.unsubmitted == most {
            return Err(Misuse::NotSubmitted { most }.into());
        }
        let launches = self
            .kinds
            .iter()
            .enumerate()
            .map(|(index, kind)| kind.launches(span, self.grown(index, span)?))
            .collect::<Result<Vec<_>>>()?;

        let base = self.unsubmitted * self.step_bytes;
        self.stage(&launches);
        queue.write_buffer(&self.params, base.into(), &self.staged);
        for layer in &mut self.layers {
            (layer.appended, layer.attended) = (!span.appends, false);
        }
        self.unsubmitted += 1;
        self.open = Some(Open { span, base, launches });
        Ok(())
    }

    /// The positions that layers of a kind hold after a step.
    fn grown(&self, kind: usize, span: Span) -> Result<History> {
        let history = &self.kinds[kind].history;
        if !span.appends {
            return Ok(*history);
        }
        let needed = u64::from(span.len) + u64::from(span.tokens);
        history.grown_to(needed).ok_or_else(|| {
            let layer = self.layers.iter().position(|l| l.kind == kind).unwrap_or_default();
            let found = self.kinds[kind].config.capacity;
            Misuse::NoRoom { layer, needed, found }.into()
        })
    }

    /// Puts the blocks of every kind into slots, one kind after the other.
    fn stage(&mut self, launches: &[Launches]) {
        self.staged.clear();
        for block in launches.iter().flat_map(Launches::blocks) {
            let end = self.staged.len() + self.slot_bytes as usize;
            self.staged.extend_from_slice(block);
            self.staged.resize(end, 0);
        }
    }

    /// Records the storing of the step's K and V in the layer's next slots.
    pub fn append(&mut self, pass: &mut wgpu::ComputePass<'_>, io: &LayerIo) -> Result<()> {
        let (layer, step) = self.recording(io)?;
        let (kind, launches) = (&self.kinds[layer.kind], &step.launches[layer.kind]);
        let Some(append) = &launches.append else {
            return Err(Misuse::ReadOnly { layer: io.layer }.into());
        };
        if layer.appended {
            return Err(Misuse::AppendedTwice { layer: io.layer }.into());
        }
        io.check_append(step.span.tokens)?;
        kind.append.record(pass, io, append, self.offset(step, layer.kind, slot::APPEND))?;
        self.layers[io.layer].appended = true;
        Ok(())
    }

    /// Records the attention of the step's queries, each over the positions up to its own: rotates
    /// q in place where K is packed, attends, and rotates the output back. Where a step of one token is
    /// one dispatch, q stays as it is.
    pub fn attend(&mut self, pass: &mut wgpu::ComputePass<'_>, io: &LayerIo) -> Result<()> {
        let (layer, step) = self.recording(io)?;
        if !layer.appended {
            return Err(Misuse::NotAppended { layer: io.layer }.into());
        }
        if layer.attended {
            return Err(Misuse::AttendedTwice { layer: io.layer }.into());
        }
        io.check_attend(step.span.tokens)?;
        let (kind, launches) = (&self.kinds[layer.kind], &step.launches[layer.kind]);
        let rotate = [self.offset(step, layer.kind, slot::ROTATE)];
        let rotates = !matches!(launches.attend, Attend::Whole(..));
        if let (true, Some(kernel), Some(bound)) = (rotates, &kind.rotate, &io.rotate_q) {
            kernel.record_at(pass, bound, &launches.rotate, &rotate)?;
        }
        self.attend_alone(pass, io, layer.kind, step)?;
        if let (true, Some(unrotate)) = (rotates, &io.unrotate_out) {
            kind.unrotate.record_at(pass, unrotate, &launches.unrotate, &rotate)?;
        }
        self.layers[io.layer].attended = true;
        Ok(())
    }

    /// Attention itself, and the merge where the context is split and has one to itself.
    fn attend_alone(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        io: &LayerIo,
        index: usize,
        step: &Open,
    ) -> Result<()> {
        let (kind, launches) = (&self.kinds[index], &step.launches[index]);
        let at = |slot| self.offset(step, index, slot);
        let reduced = launches.reduce.is_some();
        match (&launches.attend, &kind.one, &io.one) {
            (
                Attend::Whole(launch, context),
                Some(One::Whole(whole, _)),
                Some(BoundOne::Whole(bound)),
            ) => {
                whole.of(*context).record_at(pass, bound, launch, &[at(slot::ATTEND)])?;
            }
            (
                Attend::One(launch, context),
                Some(One::Rotated(one)),
                Some(BoundOne::Rotated(bound)),
            ) => {
                one.of(*context).record_at(
                    pass,
                    bound.target(reduced),
                    launch,
                    &[at(slot::ATTEND)],
                )?;
            }
            (Attend::Several(launch, _), ..) => {
                let (Some(tile), Some(bound)) = (&kind.tile, &io.several) else {
                    return Err(Misuse::Tokens { most: 1, found: step.span.tokens }.into());
                };
                let offsets = [at(slot::ATTEND), at(slot::SEQUENCE)];
                tile.record_at(pass, bound.target(reduced), launch, &offsets)?;
            }
            _ => return Err(Misuse::Foreign { layer: io.layer }.into()),
        }
        if let (Some(launch), Some(bound)) = (&launches.reduce, &io.reduce) {
            kind.reduce.record_at(pass, bound, launch, &[at(slot::NROWS), at(slot::NWG)])?;
        }
        Ok(())
    }

    /// Closes the step: its tokens are in the cache. Fails when a layer has not appended them; the
    /// step stays open then.
    pub fn end_step(&mut self) -> Result<()> {
        let Some(open) = &self.open else { return Err(Misuse::NoStep.into()) };
        if let Some(layer) = self.layers.iter().position(|layer| !layer.appended) {
            return Err(Misuse::NotAppended { layer }.into());
        }
        if open.span.appends {
            self.len += open.span.tokens;
        }
        self.close();
        Ok(())
    }

    /// Drops the open step, if there is one: the cache has the tokens that it had before, whether
    /// or not what was recorded is submitted.
    pub fn cancel_step(&mut self) {
        self.close();
    }

    /// Ends the open step. What it may have overwritten in a ring is gone either way.
    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            for (kind, launches) in self.kinds.iter_mut().zip(&open.launches) {
                kind.history = launches.history;
            }
        }
    }

    /// Tells the cache that every step so far has been submitted, or never will be, so that its
    /// parameter slots are free again.
    pub fn submitted(&mut self) -> Result<()> {
        self.check_closed()?;
        self.unsubmitted = 0;
        Ok(())
    }

    /// Goes back to the first `len` tokens, in all layers: for rejected drafts and edited prompts.
    pub fn truncate(&mut self, len: u32) -> Result<()> {
        self.check_closed()?;
        if len > self.len {
            return Err(Misuse::Longer { len: self.len, found: len }.into());
        }
        let shorter = self
            .kinds
            .iter()
            .enumerate()
            .map(|(index, kind)| {
                let layer = self.layers.iter().position(|l| l.kind == index).unwrap_or_default();
                kind.history.truncated_to(layer, len)
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.set(len, shorter);
        Ok(())
    }

    /// Forgets every token.
    pub fn clear(&mut self) -> Result<()> {
        self.truncate(0)
    }

    /// Replaces the positions of every kind.
    pub(super) fn set(&mut self, len: u32, histories: Vec<History>) {
        self.len = len;
        for (kind, history) in self.kinds.iter_mut().zip(histories) {
            kind.history = history;
        }
    }

    /// Tokens in the cache.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the cache was made for.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What the cache takes on the device.
    pub fn bytes(&self) -> Bytes {
        Bytes {
            layers: self.config.layers.iter().map(LayerConfig::bytes).collect(),
            per_token: self.config.layers.iter().map(LayerConfig::bytes_per_token).sum(),
            partials: self.partials.as_ref().map_or(0, wgpu::Buffer::size),
            scratch: self.kinds.iter().filter_map(Kind::scratch).map(wgpu::Buffer::size).sum(),
            parameters: self.params.size(),
        }
    }

    /// The partials that `attend` puts into `out` in a step of `tokens` tokens, for a cache made
    /// with [`Output::Partials`](super::Output::Partials): what [`merge`](super::merge) needs to know of them.
    pub fn partials(&self, layer: usize, tokens: u32) -> Result<PartialsLayout> {
        let kind = &self.kinds[self.layer(layer)?.kind];
        let nwg = kind.partials_splits()?;
        Ok(PartialsLayout {
            nrows: kind.config.num_heads.saturating_mul(tokens),
            nwg,
            bytes: kind.partials_bytes(tokens, nwg),
        })
    }

    fn layer(&self, layer: usize) -> Result<&Layer, Misuse> {
        let missing = Misuse::NoLayer { layers: self.layers.len(), found: layer };
        self.layers.get(layer).ok_or(missing)
    }

    /// The layer of `io` and the open step.
    fn recording(&self, io: &LayerIo) -> Result<(&Layer, &Open), Misuse> {
        if io.cache != self.id {
            return Err(Misuse::Foreign { layer: io.layer });
        }
        Ok((self.layer(io.layer)?, self.open.as_ref().ok_or(Misuse::NoStep)?))
    }

    pub(super) fn check_closed(&self) -> Result<(), Misuse> {
        match &self.open {
            Some(open) => Err(Misuse::StepOpen { tokens: open.span.tokens }),
            None => Ok(()),
        }
    }

    /// Steps that may not have been submitted.
    pub(super) const fn unsubmitted(&self) -> u32 {
        self.unsubmitted
    }

    /// Offset of a parameter slot of a kind.
    fn offset(&self, step: &Open, kind: usize, slot: u32) -> u32 {
        step.base + (kind as u32 * slot::COUNT + slot) * self.slot_bytes
    }
}
