//! Attention of several query tokens: the newest ones of one sequence, whose cache is one page.

use super::cache::Cache;
use super::leg::filled;
use super::{Arithmetic, Format, Point};
use crate::codec::KeyFormat;
use crate::contract::{Caps, Language, Launch, Plan as KernelPlan};
use crate::driver::DriverError;
use crate::gpu::device::Gpu;
use crate::kernels::{flash_attn_mat_tile, flash_attn_tile};
use crate::params::{FlashAttnTileParams, TileSequence};

/// The page of the only block.
const BLOCK_TABLE: [u32; 1] = [0];

/// The kernel by what its products are made with.
enum Problem {
    F32(flash_attn_tile::Problem),
    F16(flash_attn_mat_tile::Problem),
}

fn problem(point: &Point) -> Problem {
    let (num_heads, num_kv_heads, head_dim) = point.preset.shape();
    let (k, v) = match point.format {
        Format::F16 => (KeyFormat::F16, KeyFormat::F16),
        Format::Packed { k, v } => (KeyFormat::Tq(k), KeyFormat::Tq(v)),
    };
    let tile = flash_attn_tile::Problem { head_dim, k, v, num_heads, num_kv_heads };
    match point.arithmetic {
        Arithmetic::F32 => Problem::F32(tile),
        Arithmetic::F16 => Problem::F16(flash_attn_mat_tile::Problem(tile)),
    }
}

/// Stem of the kernel and its plan.
pub(super) fn plan(
    point: &Point,
    caps: &Caps,
    language: Language,
) -> crate::Result<(&'static str, KernelPlan)> {
    let plan = match problem(point) {
        Problem::F32(problem) => problem.plan(caps, language)?,
        Problem::F16(problem) => problem.plan(caps, language)?,
    };
    Ok((plan.contract.stem, plan))
}

/// The kernel's own choice of splits.
pub(super) fn splits(point: &Point, caps: &Caps, language: Language) -> u32 {
    let (tokens, length) = (point.query_tokens, point.length);
    match problem(point) {
        Problem::F32(problem) => problem.splits(tokens, length, caps),
        Problem::F16(problem) => problem.splits(tokens, length, caps, language),
    }
}

fn record(cache: &Cache) -> TileSequence {
    TileSequence {
        first_token: 0,
        query_tokens: cache.query_tokens,
        position: cache.params.kv_seq_len - cache.query_tokens,
        kv_seq_len: cache.params.kv_seq_len,
        ring_start: cache.params.ring_start,
        kv_capacity: cache.params.kv_capacity,
        first_block: 0,
    }
}

/// A call.
pub(super) fn launch(
    point: &Point,
    cache: &Cache,
    nwg: u32,
    (caps, language): (&Caps, Language),
) -> crate::Result<Launch> {
    let p = &cache.params;
    let params = FlashAttnTileParams {
        n_heads: p.n_heads,
        n_kv_heads: p.n_kv_heads,
        head_dim: p.head_dim,
        num_tokens: cache.query_tokens,
        num_sequences: 1,
        max_query_tokens: cache.query_tokens,
        page_size: p.kv_capacity,
        num_pages: 1,
        num_blocks: 1,
        scale: p.scale,
        mask_type: p.mask_type,
        sliding_window: p.sliding_window,
        softcap: p.softcap,
        nwg,
        split_base: 0,
        splits: nwg,
        scale_factor_d512: p.scale_factor_d512,
    };
    let records = [record(cache)];
    match problem(point) {
        Problem::F32(problem) => problem.launch(&params, &records, &BLOCK_TABLE, caps),
        Problem::F16(problem) => problem.launch(&params, &records, &BLOCK_TABLE, (caps, language)),
    }
}

/// What is bound between q and the cache.
pub(super) fn tables(gpu: &Gpu, cache: &Cache) -> Result<Vec<wgpu::Buffer>, DriverError> {
    let records = [record(cache)];
    let storage = wgpu::BufferUsages::STORAGE;
    Ok(vec![
        filled(gpu, bytemuck::cast_slice(&records), storage)?,
        filled(gpu, bytemuck::cast_slice(&BLOCK_TABLE), storage)?,
    ])
}
