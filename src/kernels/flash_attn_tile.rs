//! `flash_attn_tile`: attention of several query tokens of several sequences over a paged cache,
//! K and V each packed or dense.

use bytemuck::bytes_of;

use super::{codebook_constants, head_dim_constants, kernel};
use crate::codec::{Bits, HeadDim, KeyFormat, row};
use crate::contract::Scalar::{F32, U32};
use crate::contract::{
    Access, Binding, Caps, Constant, Contract, Language, Launch, Plan, constant,
};
use crate::error::{Error, Result};
use crate::params::{FlashAttnTileParams, TileSequence, check_heads};

/// Bindings, parameters and text.
pub const CONTRACT: Contract = Contract {
    stem: "flash_attn_tile",
    summary: "attention of several query tokens of several sequences over a paged cache",
    bindings: &[
        Binding { name: "params", access: Access::Uniform, layout: "FlashAttnTileParams" },
        Binding { name: "q", access: Access::Read, layout: "f32 [token][head][coord]" },
        Binding { name: "sequences", access: Access::Read, layout: "u32 [sequence][field of 7]" },
        Binding { name: "block_table", access: Access::Read, layout: "u32 [block], its page" },
        Binding { name: "k", access: Access::Read, layout: "u32 [page][kv_head][slot][word]" },
        Binding {
            name: "k_norms",
            access: Access::Read,
            layout: "f32 [page][kv_head][slot][block], unread where K is dense",
        },
        Binding { name: "v", access: Access::Read, layout: "u32 [page][kv_head][slot][word]" },
        Binding {
            name: "v_norms",
            access: Access::Read,
            layout: "f32 [page][kv_head][slot][block], unread where V is dense",
        },
        Binding {
            name: "dst",
            access: Access::ReadWrite,
            layout: "f32 [token][head][coord], or partials",
        },
    ],
    params: &[
        ("n_heads", U32),
        ("n_kv_heads", U32),
        ("head_dim", U32),
        ("num_tokens", U32),
        ("num_sequences", U32),
        ("max_query_tokens", U32),
        ("page_size", U32),
        ("num_pages", U32),
        ("num_blocks", U32),
        ("scale", F32),
        ("mask_type", U32),
        ("sliding_window", U32),
        ("softcap", F32),
        ("nwg", U32),
        ("split_base", U32),
        ("splits", U32),
        ("scale_factor_d512", F32),
    ],
    published_params: 0,
    wgsl: include_str!("../../wgsl/flash_attn_tile.wgsl"),
    msl: include_str!("../../msl/flash_attn_tile.metal"),
};

kernel! {
    /// Marker of the `flash_attn_tile` kernel.
    FlashAttnTile {
        /// [`FlashAttnTileParams`].
        params,
        /// f32 `[tokens, nh, D]`, in the basis of K.
        q,
        /// [`TileSequence`] records.
        sequences,
        /// u32, the page of each block.
        block_table,
        /// `[pages, nkv, page_size, row]`.
        k,
        /// f32 `[pages, nkv, page_size, norms_per_pos]`; any four bytes where K is dense.
        k_norms,
        /// `[pages, nkv, page_size, row]`.
        v,
        /// f32 `[pages, nkv, page_size, norms_per_pos]`; any four bytes where V is dense.
        v_norms,
        /// f32 `[tokens, nh, D]` at one slot, else partials of the rows `token * nh + head`.
        dst,
    }
}

/// The attention shape a pipeline is made for. V comes in the same formats as K.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Coordinates of a head vector.
    pub head_dim: HeadDim,
    /// How K is stored.
    pub k: KeyFormat,
    /// How V is stored.
    pub v: KeyFormat,
    /// Query heads.
    pub num_heads: u32,
    /// KV heads; divides `num_heads`.
    pub num_kv_heads: u32,
}

/// Threads of a workgroup.
const THREADS: u32 = 128;
/// Positions of a block: what is scored between two steps of the running softmax.
const BLOCK: u32 = 32;
/// Coordinates of K or V in workgroup memory at a time; four a lane.
const CHUNK: u32 = 64;
/// Lanes that share the queries of a group.
const LANES: u32 = CHUNK / 4;

const fn packed_bits(format: KeyFormat) -> Option<Bits> {
    match format {
        KeyFormat::Tq(bits) => Some(bits),
        KeyFormat::F32 | KeyFormat::F16 => None,
    }
}

/// Bits of a stored coordinate: what the text tells codes, halves and floats apart by.
const fn stored_bits(format: KeyFormat) -> u32 {
    match format {
        KeyFormat::F32 => 32,
        KeyFormat::F16 => 16,
        KeyFormat::Tq(bits) => bits.get(),
    }
}

impl Problem {
    /// Queries of a thread: as many accumulators as registers hold.
    const fn thread_queries(&self) -> u32 {
        if self.head_dim.get() == 512 { 2 } else { 4 }
    }

    /// Queries of a tile: heads of tokens that share a KV head.
    pub const fn queries(&self) -> u32 {
        THREADS / LANES * self.thread_queries()
    }

    /// The widths whose codebooks the kernel holds: one where K and V share it.
    fn widths(&self) -> Vec<Bits> {
        let mut widths: Vec<Bits> = [self.k, self.v].into_iter().filter_map(packed_bits).collect();
        widths.dedup();
        widths
    }

    /// Entries of the codebooks, at least one.
    pub(super) fn levels(&self) -> u32 {
        self.widths().iter().map(|b| b.levels() as u32).sum::<u32>().max(1)
    }

    /// The codebooks, and how K and V are stored.
    pub(super) fn codebooks(&self) -> Vec<Constant> {
        let mut constants = codebook_constants(self.head_dim, &self.widths());
        let v_levels = packed_bits(self.v).map_or(0, |bits| bits.levels() as u32);
        constants.push(constant("K_BITS", stored_bits(self.k)));
        constants.push(constant("V_BITS", stored_bits(self.v)));
        constants.push(constant("V_BASE", self.levels() - v_levels));
        constants
    }

    /// Staged coordinates, weights, what lanes exchange, and the rows of a block.
    fn workgroup_bytes(&self) -> u32 {
        let staged = BLOCK * (LANES + 1) * 4;
        4 * (staged + (BLOCK + LANES) * self.queries() + BLOCK + self.levels())
    }

    /// Chooses the constants. No subgroup operations, and one text for every device.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        check_heads(self.num_heads, self.num_kv_heads)?;
        let group = self.num_heads / self.num_kv_heads;
        let mut constants = head_dim_constants(self.head_dim);
        constants.extend(self.codebooks());
        constants.extend([
            constant("GQA", group),
            constant("BLOCK", BLOCK),
            constant("THREAD_QUERIES", self.thread_queries()),
            constant("WORKGROUP_SIZE", THREADS),
        ]);
        let plan = Plan {
            contract: &CONTRACT,
            language,
            label: format!("flash_attn_tile_k{}v{}_d{}_g{group}", self.k, self.v, self.head_dim),
            constants,
            pieces: vec!["codebook", "octets", "scores"],
            workgroup_size: THREADS,
            workgroup_bytes: self.workgroup_bytes(),
            subgroups: false,
            matrices: false,
            storage_fence: false,
        };
        plan.check(caps)?;
        Ok(plan)
    }

    /// The number of splits to use for one sequence of `query_tokens` tokens that see `visible`
    /// positions: two workgroups a multiprocessor, each with at least 128 positions.
    pub fn splits(&self, query_tokens: u32, visible: u32, caps: &Caps) -> u32 {
        let group = self.num_heads / self.num_kv_heads.max(1);
        let tiles = query_tokens.saturating_mul(group).div_ceil(self.queries());
        let workgroups = caps.multiprocessors.saturating_mul(2);
        let fill = workgroups / tiles.saturating_mul(self.num_kv_heads).max(1);
        visible.div_ceil(128).clamp(1, fill.clamp(1, 64))
    }

    /// One dispatch. The records and the block table are checked here, and must be what the
    /// buffers hold: the kernel itself only keeps wrong ones from reaching beyond the buffers.
    pub fn launch(
        &self,
        params: &FlashAttnTileParams,
        sequences: &[TileSequence],
        block_table: &[u32],
        caps: &Caps,
    ) -> Result<Launch> {
        let needed = self.needed(params, sequences, block_table)?;
        Ok(Launch {
            contract: &CONTRACT,
            grid: grid(&CONTRACT, params, self.queries(), caps)?,
            needed,
            uniforms: vec![(0, bytes_of(params).to_vec())],
        })
    }

    /// Checks everything about a call but its grid, and says which bytes it touches in each binding.
    pub(super) fn needed(
        &self,
        params: &FlashAttnTileParams,
        sequences: &[TileSequence],
        block_table: &[u32],
    ) -> Result<Vec<u64>> {
        let head_dim = params.check_all(sequences, block_table)?;
        let planned = (self.head_dim, self.num_heads, self.num_kv_heads);
        if (head_dim, params.n_heads, params.n_kv_heads) != planned {
            return Err(Error::param(
                "head_dim, n_heads, n_kv_heads",
                format!("the plan's {planned:?}"),
                format!("({head_dim}, {}, {})", params.n_heads, params.n_kv_heads),
            ));
        }
        let slots = u64::from(params.num_pages)
            * u64::from(params.n_kv_heads)
            * u64::from(params.page_size);
        let rows = |format| match format {
            KeyFormat::Tq(bits) => (
                slots * row::row_bytes(head_dim, bits),
                slots * 4 * u64::from(head_dim.norms_per_pos()),
            ),
            dense => (slots * u64::from(head_dim.get() * stored_bits(dense) / 8), 4),
        };
        let ((k, k_norms), (v, v_norms)) = (rows(self.k), rows(self.v));
        let queries = u64::from(params.num_tokens) * u64::from(params.n_heads);
        Ok(vec![
            size_of::<FlashAttnTileParams>() as u64,
            queries * u64::from(head_dim.get()) * 4,
            size_of_val(sequences) as u64,
            size_of_val(block_table) as u64,
            k,
            k_norms,
            v,
            v_norms,
            params.dst_floats() * 4,
        ])
    }
}

/// Tiles of so many queries for the longest sequence, KV heads and splits, sequences.
pub(super) fn grid(
    contract: &Contract,
    params: &FlashAttnTileParams,
    queries: u32,
    caps: &Caps,
) -> Result<[u32; 3]> {
    let group = u64::from(params.n_heads / params.n_kv_heads);
    let tiles = (u64::from(params.max_query_tokens) * group).div_ceil(queries.into());
    let heads = u64::from(params.n_kv_heads) * u64::from(params.splits);
    let sizes = [tiles, heads, u64::from(params.num_sequences)];
    let most = caps.max_workgroups_per_dim;
    if let Some(&needed) = sizes.iter().find(|&&size| size > u64::from(most)) {
        return Err(Error::Limit {
            kernel: contract.stem,
            limit: "max_compute_workgroups_per_dimension",
            needed,
            found: most.into(),
        });
    }
    Ok(sizes.map(|size| size as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_queries_split_a_long_context_and_many_do_not() {
        let key = KeyFormat::Tq(Bits::B4);
        let problem =
            Problem { head_dim: HeadDim::ALL[1], k: key, v: key, num_heads: 8, num_kv_heads: 2 };
        assert_eq!(problem.queries(), 32);
        assert_eq!(
            [(2, 100), (2, 1000), (2, 1 << 20)].map(|(t, n)| problem.splits(t, n, &Caps::WEBGPU)),
            [1, 8, 64]
        );
        // 64 and 128 tiles of each KV head.
        let of = |caps: Caps| [512, 1024, 4096].map(|t| problem.splits(t, 1 << 20, &caps));
        assert_eq!(of(Caps::WEBGPU), [2, 1, 1]);
        assert_eq!(of(Caps { multiprocessors: 10, ..Caps::WEBGPU }), [1, 1, 1]);
    }

    #[test]
    fn every_pair_of_formats_fits_what_webgpu_guarantees() {
        let formats = || {
            let packed = Bits::ALL.into_iter().map(KeyFormat::Tq);
            packed.chain([KeyFormat::F32, KeyFormat::F16])
        };
        for head_dim in HeadDim::ALL {
            for (k, v) in formats().flat_map(|k| formats().map(move |v| (k, v))) {
                let problem = Problem { head_dim, k, v, num_heads: 7, num_kv_heads: 1 };
                let plan = problem.plan(&Caps::WEBGPU, Language::Wgsl);
                assert!(plan.is_ok(), "{plan:?}");
            }
        }
        let storage = |b: &&Binding| b.access != Access::Uniform;
        assert_eq!(CONTRACT.bindings.iter().filter(storage).count(), 8);
    }
}
