//! The engine's buffers, bound to a layer once.

use super::append;
use super::config::Output;
use super::kind::{Kind, One};
use super::misuse::Misuse;
use crate::error::{Error, Result};
use crate::gpu::{Bound, Kernel};
use crate::kernels::Context;
use crate::kernels::flash_attn_decode_tq::{self, FlashAttnDecodeTq};
use crate::kernels::flash_attn_tile::{self, FlashAttnTile};
use crate::kernels::flash_attn_vec_reduce::{self, FlashAttnVecReduce};
use crate::kernels::flash_attn_vec_tq::{self, FlashAttnVecTq};
use crate::kernels::fwht::{self, Fwht};
use crate::kernels::{quantize_k_and_v, quantize_kv, store_kv};
use crate::params::{
    FlashAttnTileParams, FlashAttnVecTqParams, FwhtParams, QuantizeKvParams, TileSequence,
};

/// An engine's buffers for one layer, all f32 and after RoPE. They may be parts of larger buffers,
/// and the same for every layer; only `q` and `out` must be in different ones.
#[derive(Debug, Clone)]
pub struct Io<'a> {
    /// `[token][head][coord]`. Rotated in place by `attend` where K is packed, except in a step that
    /// is one dispatch; see [`super`].
    pub q: wgpu::BufferBinding<'a>,
    /// `[token][kv_head][coord]`.
    pub k: wgpu::BufferBinding<'a>,
    /// `[token][kv_head][coord]`.
    pub v: wgpu::BufferBinding<'a>,
    /// `[token][head][coord]`, or partials; see [`Output`].
    pub out: wgpu::BufferBinding<'a>,
}

/// An [`Io`] bound to a layer of a cache, for as many steps as its buffers live.
#[derive(Debug)]
pub struct LayerIo {
    pub(super) cache: u64,
    pub(super) layer: usize,
    pub(super) append: append::Bindings,
    /// This and the next are none where K is dense.
    pub(super) rotate_q: Option<Bound<Fwht>>,
    pub(super) one: Option<BoundOne>,
    /// None where no step needs it.
    pub(super) several: Option<Attending<FlashAttnTile>>,
    /// From the cache's partials into `out`; none where it has none.
    pub(super) reduce: Option<Bound<FlashAttnVecReduce>>,
    /// None where `out` takes partials.
    pub(super) unrotate_out: Option<Bound<Fwht>>,
    /// Tokens that q and out, and k and v, have room for.
    query_tokens: Room,
    kv_tokens: Room,
}

/// The attention of one token, bound.
#[derive(Debug)]
pub(super) enum BoundOne {
    Rotated(Attending<FlashAttnVecTq>),
    Whole(Bound<FlashAttnDecodeTq>),
}

/// An attention kernel bound to where it may have to write.
#[derive(Debug)]
pub(super) struct Attending<K> {
    /// `out`.
    whole: Bound<K>,
    /// The cache's partials, where it has any.
    split: Option<Bound<K>>,
}

impl<K> Attending<K> {
    /// The binding for a step whose splits are reduced, or not.
    pub fn target(&self, reduced: bool) -> &Bound<K> {
        self.split.as_ref().filter(|_| reduced).unwrap_or(&self.whole)
    }
}

/// How many tokens a buffer has room for.
#[derive(Debug, Clone, Copy)]
struct Room {
    buffer: &'static str,
    found: u64,
    stride: u64,
}

impl Room {
    fn of(buffer: &'static str, binding: &wgpu::BufferBinding<'_>, stride: u64) -> Self {
        let rest = binding.buffer.size().saturating_sub(binding.offset);
        let found = binding.size.map_or(rest, wgpu::BufferSize::get).min(rest);
        Self { buffer, found, stride }
    }

    fn less(self, other: Self) -> Self {
        if other.found / other.stride < self.found / self.stride { other } else { self }
    }

    fn check(&self, tokens: u32) -> Result<()> {
        let needed = u64::from(tokens) * self.stride;
        if needed > self.found {
            let (buffer, found) = (self.buffer, self.found);
            return Err(Error::BufferTooSmall { kernel: "KvCache", buffer, needed, found });
        }
        Ok(())
    }
}

/// A layer's own buffers.
#[derive(Debug)]
pub(super) struct LayerBuffers {
    pub k: wgpu::Buffer,
    /// None where K is dense.
    pub k_norms: Option<wgpu::Buffer>,
    pub v_packed: wgpu::Buffer,
    pub v_norms: wgpu::Buffer,
}

/// What a bind takes from the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    pub cache: u64,
    pub layer: usize,
    pub kind: &'a Kind,
    pub buffers: &'a LayerBuffers,
    pub params: &'a wgpu::Buffer,
    /// The block table of one page, in `params`.
    pub table: u64,
    pub partials: Option<&'a wgpu::Buffer>,
    pub output: Output,
}

impl LayerIo {
    pub(super) fn check_append(&self, tokens: u32) -> Result<()> {
        self.kv_tokens.check(tokens)
    }

    pub(super) fn check_attend(&self, tokens: u32) -> Result<()> {
        self.query_tokens.check(tokens)
    }

    pub(super) fn new(device: &wgpu::Device, own: Own<'_>, io: &Io<'_>) -> Result<Self> {
        if io.q.buffer == io.out.buffer {
            return Err(Misuse::SharedBuffer { layer: own.layer }.into());
        }
        let (row, kv_row) = (own.kind.row_bytes(), own.kind.kv_row_bytes());
        let query_tokens =
            Room::of("q", &io.q, row).less(Room::of("out", &io.out, own.kind.out_bytes()?));
        let kv_tokens = Room::of("k", &io.k, kv_row).less(Room::of("v", &io.v, kv_row));
        query_tokens.check(1)?;
        kv_tokens.check(1)?;
        let unrotate_out = match own.output {
            Output::Rows => Some(own.rotation(device, &own.kind.unrotate, &io.out)?),
            Output::Partials => None,
        };
        Ok(Self {
            cache: own.cache,
            layer: own.layer,
            append: own.append(device, io)?,
            rotate_q: match &own.kind.rotate {
                Some(rotate) => Some(own.rotation(device, rotate, &io.q)?),
                None => None,
            },
            one: match &own.kind.one {
                Some(One::Rotated(one)) => {
                    let bound = own
                        .attending(io, |dst| own.one(device, one.of(Context::Long), &io.q, dst))?;
                    Some(BoundOne::Rotated(bound))
                }
                Some(One::Whole(whole, scratch)) => Some(BoundOne::Whole(own.whole(
                    device,
                    whole.of(Context::Long),
                    io,
                    scratch,
                )?)),
                None => None,
            },
            several: match &own.kind.tile {
                Some(tile) => Some(own.attending(io, |dst| own.tile(device, tile, &io.q, dst))?),
                None => None,
            },
            reduce: own
                .partials
                .map(|partials| own.reduce(device, partials, &io.out))
                .transpose()?,
            unrotate_out,
            query_tokens,
            kv_tokens,
        })
    }
}

impl<'a> Own<'a> {
    fn append(&self, device: &wgpu::Device, io: &Io<'_>) -> Result<append::Bindings> {
        let params = self.block::<QuantizeKvParams>();
        let (k_cache, v_packed) = (
            self.buffers.k.as_entire_buffer_binding(),
            self.buffers.v_packed.as_entire_buffer_binding(),
        );
        let v_norms = self.buffers.v_norms.as_entire_buffer_binding();
        let (k, v) = (io.k.clone(), io.v.clone());
        Ok(match &self.kind.append {
            append::Kernels::Packed(both) => {
                let (k_packed, k_norms) = (k_cache, self.k_norms());
                let buffers = quantize_k_and_v::Buffers {
                    params,
                    k,
                    v,
                    k_packed,
                    k_norms,
                    v_packed,
                    v_norms,
                };
                append::Bindings::Packed(both.bind(device, buffers)?)
            }
            append::Kernels::DenseK { k: store, v: quantize } => {
                let k = store_kv::Buffers { src: k, rows: k_cache, params: params.clone() };
                let v = quantize_kv::Buffers { src: v, packed: v_packed, norms: v_norms, params };
                let (k, v) = (store.bind(device, k)?, quantize.bind(device, v)?);
                append::Bindings::DenseK { k, v }
            }
        })
    }

    /// The norms of K; where it has none, four bytes that nobody reads.
    fn k_norms(&self) -> wgpu::BufferBinding<'a> {
        match &self.buffers.k_norms {
            Some(norms) => norms.as_entire_buffer_binding(),
            None => self.one_page(),
        }
    }

    /// The block table of one page.
    fn one_page(&self) -> wgpu::BufferBinding<'a> {
        wgpu::BufferBinding { offset: self.table, ..self.block::<u32>() }
    }

    fn rotation(
        &self,
        device: &wgpu::Device,
        kernel: &Kernel<Fwht>,
        data: &wgpu::BufferBinding<'_>,
    ) -> Result<Bound<Fwht>> {
        let params = self.block::<FwhtParams>();
        kernel.bind(device, fwht::Buffers { data: data.clone(), params })
    }

    fn attending<K>(
        &self,
        io: &Io<'_>,
        bind: impl Fn(wgpu::BufferBinding<'_>) -> Result<Bound<K>>,
    ) -> Result<Attending<K>> {
        let split = self.partials.map(|partials| bind(partials.as_entire_buffer_binding()));
        Ok(Attending { whole: bind(io.out.clone())?, split: split.transpose()? })
    }

    fn one(
        &self,
        device: &wgpu::Device,
        kernel: &Kernel<FlashAttnVecTq>,
        q: &wgpu::BufferBinding<'_>,
        dst: wgpu::BufferBinding<'_>,
    ) -> Result<Bound<FlashAttnVecTq>> {
        let buffers = flash_attn_vec_tq::Buffers {
            params: self.block::<FlashAttnVecTqParams>(),
            q: q.clone(),
            k_packed: self.buffers.k.as_entire_buffer_binding(),
            k_norms: self.k_norms(),
            v_packed: self.buffers.v_packed.as_entire_buffer_binding(),
            v_norms: self.buffers.v_norms.as_entire_buffer_binding(),
            dst,
        };
        kernel.bind(device, buffers)
    }

    fn whole(
        &self,
        device: &wgpu::Device,
        kernel: &Kernel<FlashAttnDecodeTq>,
        io: &Io<'_>,
        scratch: &wgpu::Buffer,
    ) -> Result<Bound<FlashAttnDecodeTq>> {
        let buffers = flash_attn_decode_tq::Buffers {
            params: self.block::<FlashAttnVecTqParams>(),
            q: io.q.clone(),
            k_packed: self.buffers.k.as_entire_buffer_binding(),
            k_norms: self.k_norms(),
            v_packed: self.buffers.v_packed.as_entire_buffer_binding(),
            v_norms: self.buffers.v_norms.as_entire_buffer_binding(),
            dst: io.out.clone(),
            scratch: scratch.as_entire_buffer_binding(),
        };
        kernel.bind(device, buffers)
    }

    fn tile(
        &self,
        device: &wgpu::Device,
        kernel: &Kernel<FlashAttnTile>,
        q: &wgpu::BufferBinding<'_>,
        dst: wgpu::BufferBinding<'_>,
    ) -> Result<Bound<FlashAttnTile>> {
        let buffers = flash_attn_tile::Buffers {
            params: self.block::<FlashAttnTileParams>(),
            q: q.clone(),
            sequences: self.block::<TileSequence>(),
            block_table: self.one_page(),
            k: self.buffers.k.as_entire_buffer_binding(),
            k_norms: self.k_norms(),
            v: self.buffers.v_packed.as_entire_buffer_binding(),
            v_norms: self.buffers.v_norms.as_entire_buffer_binding(),
            dst,
        };
        kernel.bind(device, buffers)
    }

    fn reduce(
        &self,
        device: &wgpu::Device,
        partials: &wgpu::Buffer,
        out: &wgpu::BufferBinding<'_>,
    ) -> Result<Bound<FlashAttnVecReduce>> {
        let buffers = flash_attn_vec_reduce::Buffers {
            nrows: self.block::<u32>(),
            partials: partials.as_entire_buffer_binding(),
            dst: out.clone(),
            nwg: self.block::<u32>(),
        };
        self.kind.reduce.bind(device, buffers)
    }

    /// A parameter block, in whichever slot the recording names.
    fn block<T>(&self) -> wgpu::BufferBinding<'a> {
        let size = wgpu::BufferSize::new(size_of::<T>() as u64);
        wgpu::BufferBinding { buffer: self.params, offset: 0, size }
    }
}
