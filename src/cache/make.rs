//! What `KvCache::new` makes, and the checks before it.

use super::config::{Config, LayerConfig, slot_bytes};
use super::io::LayerBuffers;
use super::kind::{Kind, LARGEST_BLOCK, Pools, Span};
use crate::codec::{KeyFormat, KvFormat};
use crate::contract::Caps;
use crate::error::{Error, Result};

/// Bytes from one parameter slot to the next: sequences are bound as storage, the rest as uniforms.
pub(super) fn param_slot_bytes(limits: &wgpu::Limits) -> u32 {
    let alignment =
        limits.min_uniform_buffer_offset_alignment.max(limits.min_storage_buffer_offset_alignment);
    LARGEST_BLOCK.next_multiple_of(alignment)
}

/// The distinct layers, and which one each layer is.
pub(super) fn kinds(
    device: &wgpu::Device,
    caps: &Caps,
    config: &Config,
) -> Result<(Vec<Kind>, Vec<usize>)> {
    let mut pools = Pools::new(device, config);
    let mut kinds: Vec<Kind> = Vec::new();
    let mut of_layer = Vec::with_capacity(config.layers.len());
    for layer in &config.layers {
        let kind = match kinds.iter().position(|kind| kind.config == *layer) {
            Some(kind) => kind,
            None => {
                kinds.push(Kind::new(layer, config, caps, &mut pools)?);
                kinds.len() - 1
            }
        };
        of_layer.push(kind);
    }
    Ok((kinds, of_layer))
}

/// Checks that the device can dispatch the largest step of every kind.
pub(super) fn check_largest_step(kinds: &[Kind], config: &Config) -> Result<()> {
    for kind in kinds {
        let room = if kind.history.is_ring() { u32::MAX } else { kind.config.capacity };
        let span = Span { len: 0, tokens: config.max_step_tokens.min(room), appends: true };
        let grown = kind.history.grown_to(span.tokens.into()).unwrap_or(kind.history);
        kind.launches(span, grown)?;
    }
    Ok(())
}

/// Bytes of partials, shared by all layers.
pub(super) fn most_partials(kinds: &[Kind], config: &Config) -> Result<u64> {
    kinds
        .iter()
        .try_fold(0, |most: u64, kind| Ok(most.max(kind.most_partials(config.max_step_tokens)?)))
}

pub(super) fn layer_buffers(device: &wgpu::Device, layer: &LayerConfig) -> Result<LayerBuffers> {
    let slots = u64::from(layer.num_kv_heads) * u64::from(layer.capacity);
    let usage =
        wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let make = |label, bytes: u64| buffer(device, label, slots * bytes, usage);
    let KvFormat { k, v } = layer.format;
    let [[k, k_norms], [v, norms]] =
        [k, KeyFormat::Tq(v)].map(|format| slot_bytes(layer.head_dim, format));
    Ok(LayerBuffers {
        k: make("KvCache K", k)?,
        k_norms: (k_norms > 0).then(|| make("KvCache K norms", k_norms)).transpose()?,
        v_packed: make("KvCache V", v)?,
        v_norms: make("KvCache V norms", norms)?,
    })
}

pub(super) fn buffer(
    device: &wgpu::Device,
    label: &'static str,
    size: u64,
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer> {
    let (limits, storage) = (device.limits(), usage.contains(wgpu::BufferUsages::STORAGE));
    let check = |limit, found: u64| {
        if size <= found {
            return Ok(());
        }
        Err(Error::Limit { kernel: "KvCache", limit, needed: size, found })
    };
    check("max_buffer_size", limits.max_buffer_size)?;
    if storage {
        check("max_storage_buffer_binding_size", limits.max_storage_buffer_binding_size)?;
    }
    let descriptor =
        wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
    Ok(device.create_buffer(&descriptor))
}
