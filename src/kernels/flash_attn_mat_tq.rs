//! `flash_attn_mat_tq`: `flash_attn_vec_tq` with f16 products on cooperative matrices.
//!
//! For many query heads a KV head, where f32 multiply-adds are what an f32 kernel waits for.

use super::flash_attn_vec_tq::{self, Problem as VecProblem};
use super::{head_dim_constants, kernel};
use crate::codec::{Bits, Codec};
use crate::contract::{Caps, Contract, Language, Launch, Plan, constant};
use crate::error::{Error, Result};
use crate::params::{FlashAttnVecTqParams, MAX_SPLITS, check_heads};

/// Bindings, parameters and text: those of `flash_attn_vec_tq` but for the text.
pub const CONTRACT: Contract = Contract {
    stem: "flash_attn_mat_tq",
    summary: "decode attention over packed K and V on cooperative matrices, in f16 with f32 sums",
    wgsl: include_str!("../../wgsl/flash_attn_mat_tq.wgsl"),
    msl: include_str!("../../msl/flash_attn_mat_tq.metal"),
    ..flash_attn_vec_tq::CONTRACT
};

kernel! {
    /// Marker of the `flash_attn_mat_tq` kernel.
    FlashAttnMatTq {
        /// [`FlashAttnVecTqParams`].
        params,
        /// f32 `[nh, D]`, rotated.
        q,
        /// `[nkv, cap, row]`.
        k_packed,
        /// f32 `[nkv, cap, norms_per_pos]`.
        k_norms,
        /// `[nkv, cap, row]`.
        v_packed,
        /// f32 `[nkv, cap, norms_per_pos]`.
        v_norms,
        /// f32 `[nh, D]` at one split, else partials.
        dst,
    }
}

/// Query heads of a workgroup: sixteen rows of matrices, of which a head takes two.
const HEADS: u32 = 8;
/// Threads of a workgroup, without a table and with one, which they share.
const THREADS: [u32; 2] = [128, 256];
/// Copies of a codebook of 256 centroids, which lanes would meet in the banks of: as many as leave two
/// lanes in a bank.
const COPIES: u32 = 16;
/// Threads that a multiprocessor has room for, as their registers allow.
const RESIDENT: u32 = 256;
/// Lanes of a subgroup, no more and no fewer: it loads and multiplies a matrix together.
pub(super) const SUBGROUP: u32 = 32;
/// Positions that are multiplied at a time.
const BLOCK: u32 = 16;
/// Positions of a WGSL workgroup at a time, where its memory has room for the scores of so many: barriers
/// and the softmax are waited for once.
const TILE: u32 = 32;
/// Fewest positions of a split, no fewer than any tile has.
const SPLIT_POSITIONS: u32 = 64;

/// Refuses a device whose subgroups are not as wide as a matrix takes.
pub(super) fn check_lanes(contract: &Contract, caps: &Caps) -> Result<()> {
    if caps.subgroup_size == Some(SUBGROUP) {
        return Ok(());
    }
    Err(Error::Limit {
        kernel: contract.stem,
        limit: "lanes of a subgroup, no fewer and no more",
        needed: SUBGROUP.into(),
        found: caps.subgroup_size.unwrap_or(0).into(),
    })
}

/// The piece with the matrices of a device; where it has none the plan is refused.
pub(super) fn matrices(caps: &Caps) -> &'static str {
    if caps.matrices == Some(8) { "matrices_8" } else { "matrices_16" }
}

/// The attention shape a pipeline is made for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Problem {
    /// Width of a K code.
    pub k_bits: Bits,
    /// V's codec; K differs in its width only.
    pub codec: Codec,
    /// Query heads.
    pub num_heads: u32,
    /// KV heads; divides `num_heads`.
    pub num_kv_heads: u32,
}

/// How a workgroup is laid out.
#[derive(Debug, Clone, Copy)]
struct Layout {
    threads: u32,
    /// Copies of the codebook of 8 bits; 0 for none beside the codebook itself.
    copies: u32,
    /// Blocks of a position group's tile.
    blocks: u32,
}

impl From<VecProblem> for Problem {
    fn from(VecProblem { k_bits, codec, num_heads, num_kv_heads }: VecProblem) -> Self {
        Self { k_bits, codec, num_heads, num_kv_heads }
    }
}

impl Problem {
    /// The same shape for the f32 kernel.
    const fn f32(&self) -> VecProblem {
        VecProblem {
            k_bits: self.k_bits,
            codec: self.codec,
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
        }
    }

    /// Query heads a workgroup serves, and workgroups that share a KV head.
    fn groups(&self) -> Result<(u32, u32)> {
        check_heads(self.num_heads, self.num_kv_heads)?;
        let gqa = self.num_heads / self.num_kv_heads;
        let groups_per_kv = gqa.div_ceil(HEADS);
        Ok((gqa.div_ceil(groups_per_kv), groups_per_kv))
    }

    /// Position groups of a workgroup.
    fn position_groups(&self, threads: u32) -> u32 {
        threads / SUBGROUP / (self.codec.head_dim.get() / 128).max(1)
    }

    /// The largest layout that pays and that the device has room for.
    fn layout(&self, caps: &Caps, language: Language) -> Layout {
        let [threads, sharing] = THREADS;
        let least = Layout { threads, copies: 0, blocks: 1 };
        if language == Language::Msl {
            return least;
        }
        let fits = |layout: &Layout| {
            self.workgroup_bytes(layout, caps) <= caps.max_workgroup_storage
                && layout.threads <= caps.max_workgroup_threads
        };
        let tiled = |layout: Layout| {
            let blocks = TILE.div_ceil(self.position_groups(layout.threads) * BLOCK);
            Layout { blocks, ..layout }
        };
        let table = Layout { threads: sharing, copies: COPIES, ..least };
        let wide = [self.k_bits, self.codec.bits] == [Bits::B8; 2];
        let tables = wide.then(|| tiled(table));
        tables.into_iter().chain([tiled(least)]).find(fits).unwrap_or(least)
    }

    /// Chooses the constants.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        let (group, groups_per_kv) = self.groups()?;
        let layout = self.layout(caps, language);
        let (k, v, head_dim) = (self.k_bits, self.codec.bits, self.codec.head_dim);
        let mut constants = head_dim_constants(head_dim);
        constants.extend(self.f32().codebooks());
        constants.extend([
            constant("GQA", self.num_heads / self.num_kv_heads),
            constant("GROUP", group),
            constant("GROUPS_PER_KV", groups_per_kv),
            constant("WORKGROUP_SIZE", layout.threads),
        ]);
        let mut pieces = vec!["codebook", "scores"];
        if language == Language::Wgsl {
            pieces.push(matrices(caps));
            // A lane reads 32 codes, so whole words at every width.
            let pick = |bits: Bits, [words, pairs, vectors]: [&'static str; 3]| match bits.get() {
                bits if bits.is_multiple_of(4) => vectors,
                bits if bits.is_multiple_of(2) => pairs,
                _ => words,
            };
            pieces.push(pick(k, ["k_words", "k_pairs", "k_vectors"]));
            pieces.push(pick(v, ["v_words", "v_pairs", "v_vectors"]));
            constants.push(constant("BLOCKS", layout.blocks));
            if layout.copies > 0 {
                pieces.extend(["look_up_table", "look_up_singles"]);
                constants.extend([
                    constant("TABLE_BITS", Bits::B8.get()),
                    constant("COPIES", layout.copies),
                    // Nothing else takes the table's place.
                    constant("MERGE_VECTORS", 0u32),
                ]);
            } else {
                pieces.push("look_up_plain");
            }
        }
        let plan = Plan {
            contract: &CONTRACT,
            language,
            label: format!("flash_attn_mat_tq_k{k}v{v}_d{head_dim}_g{group}"),
            constants,
            pieces,
            workgroup_size: layout.threads,
            workgroup_bytes: self.workgroup_bytes(&layout, caps),
            subgroups: true,
            matrices: language == Language::Wgsl,
            storage_fence: false,
        };
        plan.check(caps)?;
        check_lanes(&CONTRACT, caps)?;
        Ok(plan)
    }

    /// Of the WGSL: codebooks, strips, sums, weights, and what is kept of each head.
    fn workgroup_bytes(&self, layout: &Layout, caps: &Caps) -> u32 {
        let &Layout { threads, copies, blocks } = layout;
        let side = caps.matrices.unwrap_or(8);
        let levels = self.f32().levels() + copies * Bits::B8.levels() as u32;
        let (subgroups, groups) = (threads / SUBGROUP, self.position_groups(threads));
        let strips = subgroups * BLOCK * (64 / 4 + 2) * 8;
        let sums = subgroups * blocks * side * BLOCK * 4;
        let weighed = groups * blocks * self.codec.head_dim.norms_per_pos();
        let weights = weighed * BLOCK * (BLOCK / 4 + 2) * 8;
        let votes = subgroups.next_multiple_of(4);
        strips + sums + weights + 4 * (levels + (3 * groups + 1) * HEADS + votes)
    }

    /// The number of splits to use for `visible` positions.
    pub fn splits(&self, visible: u32, caps: &Caps, language: Language) -> Result<u32> {
        let (_, groups_per_kv) = self.groups()?;
        let resident = RESIDENT / self.layout(caps, language).threads;
        let workgroups = caps.multiprocessors.saturating_mul(resident);
        let fill = workgroups / self.num_kv_heads.saturating_mul(groups_per_kv).max(1);
        Ok(visible.div_ceil(SPLIT_POSITIONS).clamp(1, fill.clamp(1, MAX_SPLITS)))
    }

    /// One dispatch.
    pub fn launch(
        &self,
        params: &FlashAttnVecTqParams,
        caps: &Caps,
        language: Language,
    ) -> Result<Launch> {
        let (_, groups_per_kv) = self.groups()?;
        let grid = [self.num_kv_heads * groups_per_kv, params.nwg, 1];
        let (needed, found) = (grid[0].max(grid[1]), caps.max_workgroups_per_dim);
        if needed > found {
            return Err(Error::Limit {
                kernel: CONTRACT.stem,
                limit: "max_compute_workgroups_per_dimension",
                needed: needed.into(),
                found: found.into(),
            });
        }
        // Same buffers, same bytes, same parameters.
        let launch = self.f32().launch(params, caps, language)?;
        Ok(Launch { contract: &CONTRACT, grid, ..launch })
    }
}
