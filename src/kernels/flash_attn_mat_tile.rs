//! `flash_attn_mat_tile`: `flash_attn_tile` with f16 products on cooperative matrices.
//!
//! For prompts and drafts: many query heads of many tokens share every row of the cache.

use bytemuck::bytes_of;

use super::flash_attn_mat_tq::{SUBGROUP, check_lanes, matrices};
use super::flash_attn_tile::{self, Problem as TileProblem, grid};
use super::{head_dim_constants, kernel};
use crate::contract::{Caps, Contract, Language, Launch, Plan, constant};
use crate::error::Result;
use crate::params::{FlashAttnTileParams, TileSequence, check_heads};

/// Bindings, parameters and text: those of `flash_attn_tile` but for the text.
pub const CONTRACT: Contract = Contract {
    stem: "flash_attn_mat_tile",
    summary: "attention of several query tokens on cooperative matrices, in f16 with f32 sums",
    wgsl: include_str!("../../wgsl/flash_attn_mat_tile.wgsl"),
    msl: include_str!("../../msl/flash_attn_mat_tile.metal"),
    ..flash_attn_tile::CONTRACT
};

kernel! {
    /// Marker of the `flash_attn_mat_tile` kernel.
    FlashAttnMatTile {
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

/// Queries that the subgroups of a query group share.
const GROUP_QUERIES: u32 = 16;
/// Threads of a workgroup, in that order: of more, more share what is decoded, where the device's
/// workgroup memory has room for it.
const THREADS: [u32; 2] = [256, 128];
/// Threads that a multiprocessor has room for.
const RESIDENT: u32 = 256;
/// Fewest positions of a split.
const SPLIT_POSITIONS: u32 = 128;

/// The attention shape a pipeline is made for, as `flash_attn_tile` has it. q, K and V are taken as f16:
/// dense values and q must be no larger than it holds, 65504; norms of packed rows may be any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Problem(pub TileProblem);

impl Problem {
    /// Subgroups that share a query: each has 128 coordinates, or all.
    const fn row_subgroups(&self) -> u32 {
        self.0.head_dim.get().div_ceil(128)
    }

    /// Threads of a workgroup. Native MSL has as many as an Apple GPU has room for.
    fn threads(&self, caps: &Caps, language: Language) -> u32 {
        let fits = |&threads: &u32| {
            self.workgroup_bytes(threads) <= caps.max_workgroup_storage
                && threads <= caps.max_workgroup_threads
        };
        let [_, least] = THREADS;
        let most = THREADS.into_iter().find(fits).unwrap_or(least);
        if language == Language::Msl { least } else { most }
    }

    /// Queries of a tile of a workgroup of `threads`: heads of tokens that share a KV head.
    const fn queries(&self, threads: u32) -> u32 {
        threads / SUBGROUP / self.row_subgroups() * GROUP_QUERIES
    }

    /// Positions of a block: as many as 32 KiB of workgroup memory hold as f16.
    const fn block(&self) -> u32 {
        if self.0.head_dim.get() == 512 { 16 } else { 32 }
    }

    /// Staged rows, sums, weights, and what is kept of positions and queries.
    fn workgroup_bytes(&self, threads: u32) -> u32 {
        let (block, d) = (self.block(), self.0.head_dim.get());
        let (queries, norms) = (self.queries(threads), self.0.head_dim.norms_per_pos());
        let strips = block * (d + 8) * 2;
        let sums = threads / SUBGROUP * GROUP_QUERIES * (block + 4) * 4;
        let weights = queries * norms * (block + 8) * 2;
        let positions = threads * (2 + 2 * norms);
        let votes = (threads / SUBGROUP).next_multiple_of(4);
        strips + sums + weights + 4 * (positions + queries + votes + self.0.levels() + 2)
    }

    /// Chooses the constants.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        let TileProblem { head_dim, k, v, num_heads, num_kv_heads } = self.0;
        check_heads(num_heads, num_kv_heads)?;
        let (group, threads) = (num_heads / num_kv_heads, self.threads(caps, language));
        let mut constants = head_dim_constants(head_dim);
        constants.extend(self.0.codebooks());
        constants.extend([
            constant("GQA", group),
            constant("BLOCK", self.block()),
            constant("WORKGROUP_SIZE", threads),
        ]);
        let mut pieces = vec!["codebook", "octets", "scores"];
        if language == Language::Wgsl {
            pieces.push(matrices(caps));
        }
        let plan = Plan {
            contract: &CONTRACT,
            language,
            label: format!("flash_attn_mat_tile_k{k}v{v}_d{head_dim}_g{group}"),
            constants,
            pieces,
            workgroup_size: threads,
            workgroup_bytes: self.workgroup_bytes(threads),
            subgroups: true,
            matrices: language == Language::Wgsl,
            storage_fence: false,
        };
        plan.check(caps)?;
        check_lanes(&CONTRACT, caps)?;
        Ok(plan)
    }

    /// The number of splits to use for one sequence of `query_tokens` tokens that see `visible`
    /// positions: as many workgroups as a device has room for, each with at least 128 positions.
    pub fn splits(&self, query_tokens: u32, visible: u32, caps: &Caps, language: Language) -> u32 {
        let threads = self.threads(caps, language);
        let group = self.0.num_heads / self.0.num_kv_heads.max(1);
        let tiles = query_tokens.saturating_mul(group).div_ceil(self.queries(threads));
        let workgroups = caps.multiprocessors.saturating_mul(RESIDENT / threads);
        let fill = workgroups / tiles.saturating_mul(self.0.num_kv_heads).max(1);
        visible.div_ceil(SPLIT_POSITIONS).clamp(1, fill.clamp(1, 64))
    }

    /// One dispatch, checked as `flash_attn_tile` checks it.
    pub fn launch(
        &self,
        params: &FlashAttnTileParams,
        sequences: &[TileSequence],
        block_table: &[u32],
        (caps, language): (&Caps, Language),
    ) -> Result<Launch> {
        let needed = self.0.needed(params, sequences, block_table)?;
        let queries = self.queries(self.threads(caps, language));
        Ok(Launch {
            contract: &CONTRACT,
            grid: grid(&CONTRACT, params, queries, caps)?,
            needed,
            uniforms: vec![(0, bytes_of(params).to_vec())],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Bits, HeadDim, KeyFormat};

    #[test]
    fn few_queries_split_a_long_context_and_many_do_not() {
        let key = KeyFormat::Tq(Bits::B4);
        let (num_heads, num_kv_heads) = (8, 2);
        let of = |d: usize| {
            let head_dim = HeadDim::ALL[d];
            Problem(TileProblem { head_dim, k: key, v: key, num_heads, num_kv_heads })
        };
        let large = Caps { matrices: Some(16), max_workgroup_storage: 48 << 10, ..Caps::APPLE };
        let splits =
            |caps: &Caps, tokens, visible| of(1).splits(tokens, visible, caps, Language::Wgsl);
        // 128 queries a workgroup where memory has room for 256 threads, else 64.
        assert_eq!(of(1).queries(of(1).threads(&large, Language::Wgsl)), 128);
        assert_eq!(of(1).queries(of(1).threads(&Caps::APPLE, Language::Wgsl)), 64);
        assert_eq!(of(3).queries(of(3).threads(&large, Language::Wgsl)), 32);
        assert_eq!(of(3).queries(of(3).threads(&large, Language::Msl)), 16);
        assert_eq!([100, 1000, 1 << 20].map(|n| splits(&large, 2, n)), [1, 8, 64]);
        assert_eq!([256, 1024, 4096].map(|t| splits(&large, t, 1 << 20)), [8, 2, 1]);
        // As many threads in all, in twice as many workgroups, for half as many queries each.
        assert_eq!([256, 1024, 4096].map(|t| splits(&Caps::APPLE, t, 1 << 20)), [8, 2, 1]);
    }

    #[test]
    fn every_pair_of_formats_fits_an_apple_gpu() {
        for head_dim in HeadDim::ALL {
            let formats = || {
                let packed = Bits::ALL.into_iter().map(KeyFormat::Tq);
                packed.chain([KeyFormat::F32, KeyFormat::F16])
            };
            for (k, v) in formats().flat_map(|k| formats().map(move |v| (k, v))) {
                let (num_heads, num_kv_heads) = (7, 1);
                let problem = Problem(TileProblem { head_dim, k, v, num_heads, num_kv_heads });
                for language in [Language::Wgsl, Language::Msl] {
                    let plan = problem.plan(&Caps::APPLE, language);
                    assert!(plan.is_ok(), "{plan:?}");
                }
            }
        }
    }
}
