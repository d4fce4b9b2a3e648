//! `flash_attn_decode_tq`: decode attention of one query token in one dispatch.
//!
//! Rotates q, attends over packed K and V as `flash_attn_vec_tq` does, merges the splits and
//! rotates the output back: four dispatches' work, for engines that wait for each dispatch. Or all but
//! the rotations, for engines that keep q and the output in the rotated basis.

use super::flash_attn_vec_tq::{self, Problem as VecProblem};
use super::row_groups::{READING_AHEAD, RowGroups};
use super::rows::Rows;
use super::{Context, has_signs, kernel, rotation_constants};
use crate::codec::{Bits, Codec};
use crate::contract::{Access, Binding, Caps, Contract, Language, Launch, Plan, constant};
use crate::error::{Error, Result};
use crate::params::FlashAttnVecTqParams;

/// Bindings, parameters and text.
pub const CONTRACT: Contract = Contract {
    stem: "flash_attn_decode_tq",
    summary: "decode attention over packed K and V in one dispatch, rotations and merge included",
    bindings: &[
        Binding { name: "params", access: Access::Uniform, layout: "FlashAttnVecTqParams" },
        Binding { name: "q", access: Access::Read, layout: "f32 [head][coord]" },
        Binding { name: "k_packed", access: Access::Read, layout: "u32 [kv_head][slot][word]" },
        Binding { name: "k_norms", access: Access::Read, layout: "f32 [kv_head][slot][block]" },
        Binding { name: "v_packed", access: Access::Read, layout: "u32 [kv_head][slot][word]" },
        Binding { name: "v_norms", access: Access::Read, layout: "f32 [kv_head][slot][block]" },
        Binding { name: "dst", access: Access::ReadWrite, layout: "f32 [head][coord]" },
        Binding {
            name: "scratch",
            access: Access::ReadWrite,
            layout: "u32 [COLUMNS] counters, zero between dispatches, then f32 [head][split][D + 4] partials",
        },
    ],
    wgsl: include_str!("../../wgsl/flash_attn_decode_tq.wgsl"),
    msl: include_str!("../../msl/flash_attn_decode_tq.metal"),
    ..flash_attn_vec_tq::CONTRACT
};

kernel! {
    /// Marker of the `flash_attn_decode_tq` kernel.
    FlashAttnDecodeTq {
        /// [`FlashAttnVecTqParams`].
        params,
        /// f32 `[nh, D]`, rotated only where [`Problem::rotated`].
        q,
        /// `[nkv, cap, row]`.
        k_packed,
        /// f32 `[nkv, cap, norms_per_pos]`.
        k_norms,
        /// `[nkv, cap, row]`.
        v_packed,
        /// f32 `[nkv, cap, norms_per_pos]`.
        v_norms,
        /// f32 `[nh, D]`, rotated only where [`Problem::rotated`].
        dst,
        /// [`Problem::scratch_bytes`], zero before the first dispatch: counters, then for each query head
        /// and split D accumulators and (S, M, 0, 0). Every dispatch leaves it ready for the next, of
        /// whatever number of splits; two that may overlap need one each.
        scratch,
    }
}

/// Threads of a workgroup, no fewer: they rotate rows and hold the merge's weights.
const THREADS: u32 = 128;
/// Workgroups a multiprocessor that a short context is split into at most, since the last of a column
/// reads what all others left.
const SHORT_WORKGROUPS: u32 = 1;
/// Most coordinates that a workgroup rotates at a time, 2 KiB of its memory: every thread of 128 has
/// four of them to merge.
const COORDINATES: u32 = 512;
/// The same without subgroups, where the exchange of scores takes memory too.
const COORDINATES_IN_MEMORY: u32 = 256;

/// The attention shape a pipeline is made for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Problem {
    /// Width of a K code.
    pub k_bits: Bits,
    /// V's codec; K differs in its width only. q and the output are rotated as its rows are.
    pub codec: Codec,
    /// Query heads.
    pub num_heads: u32,
    /// KV heads; divides `num_heads`.
    pub num_kv_heads: u32,
    /// Whether q arrives rotated and the output stays so, as with `flash_attn_vec_tq`; else both
    /// rotations are part of the dispatch.
    pub rotated: bool,
}

/// Rotations included.
impl From<VecProblem> for Problem {
    fn from(VecProblem { k_bits, codec, num_heads, num_kv_heads }: VecProblem) -> Self {
        Self { k_bits, codec, num_heads, num_kv_heads, rotated: false }
    }
}

/// How a workgroup shares the work.
struct Groups {
    attention: RowGroups,
    rows: Rows,
}

impl Problem {
    /// The same shape for the kernel that leaves rotations and merge to others.
    const fn attention(&self) -> VecProblem {
        VecProblem {
            k_bits: self.k_bits,
            codec: self.codec,
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
        }
    }

    fn groups(&self, context: Context, caps: &Caps, language: Language) -> Result<Groups> {
        if caps.max_workgroup_threads < THREADS {
            return Err(Error::Limit {
                kernel: CONTRACT.stem,
                limit: "max_compute_invocations_per_workgroup",
                needed: THREADS.into(),
                found: caps.max_workgroup_threads.into(),
            });
        }
        let mut attention = RowGroups::choose(self.attention().shape(), context, caps, language)?;
        let coordinates = if attention.subgroups { COORDINATES } else { COORDINATES_IN_MEMORY };
        let most = (coordinates / self.codec.head_dim.get()).max(1);
        let rows = Rows::of(
            self.codec.head_dim,
            language,
            most.min(attention.group.next_power_of_two()),
            attention.threads,
        );
        attention.merge_heads = attention.merge_heads.min(rows.per_workgroup);
        // q where row groups merge later.
        attention.kept = attention.group * self.codec.head_dim.get() / 4;
        Ok(Groups { attention, rows })
    }

    /// Chooses the constants, for a long context.
    ///
    /// WGSL needs [`Caps::storage_fence`]; the MSL needs Metal 3.2.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        self.plan_for(Context::Long, caps, language)
    }

    /// The same for any context.
    pub fn plan_for(&self, context: Context, caps: &Caps, language: Language) -> Result<Plan> {
        let Groups { attention, rows } = self.groups(context, caps, language)?;
        let mut plan = self.attention().plan_of(&attention, 0.0, language);
        let signs = has_signs(self.codec.rotation) && !self.rotated;
        plan.contract = &CONTRACT;
        plan.label = plan.label.replacen(flash_attn_vec_tq::CONTRACT.stem, CONTRACT.stem, 1)
            + if self.rotated {
                "_rotated"
            } else if signs {
                "_signs"
            } else {
                ""
            };
        plan.constants.push(constant("ROTATED", self.rotated));
        plan.constants.extend(rotation_constants(self.codec.head_dim, signs, signs));
        plan.constants.extend(rows.row_constants());
        plan.constants.push(constant("COLUMNS", self.columns(&attention)));
        plan.pieces.push("rotate");
        // The rows being rotated, and the number of workgroups that are done.
        plan.workgroup_bytes += rows.exchange_bytes() + 4;
        plan.storage_fence = language == Language::Wgsl;
        plan.check(caps)?;
        Ok(plan)
    }

    /// The largest number of splits for up to `visible` positions.
    pub fn most_splits(&self, visible: u32, caps: &Caps, language: Language) -> Result<u32> {
        let short = self.splits(visible.min(Context::LONG - 1), caps, language)?;
        Ok(short.max(self.splits(visible, caps, language)?))
    }

    /// The number of splits to use for `visible` positions.
    pub fn splits(&self, visible: u32, caps: &Caps, language: Language) -> Result<u32> {
        let context = Context::of(visible);
        let busy = if context == Context::Short { SHORT_WORKGROUPS } else { READING_AHEAD };
        let attention = self.groups(context, caps, language)?.attention;
        Ok(attention.splits(self.attention().shape(), visible, caps, busy))
    }

    /// Bytes of scratch for up to `nwg` splits.
    pub fn scratch_bytes(&self, nwg: u32, caps: &Caps, language: Language) -> Result<u64> {
        let attention = self.groups(Context::Long, caps, language)?.attention;
        let partial = u64::from(self.codec.head_dim.get()) + 4;
        let partials = u64::from(self.num_heads) * u64::from(nwg) * partial;
        Ok(4 * (u64::from(self.columns(&attention)) + partials))
    }

    /// Counters in the scratch, one a column, to whole lines of memory. No grid has more than 2^31.
    fn columns(&self, attention: &RowGroups) -> u32 {
        let columns = self.num_kv_heads.saturating_mul(attention.groups_per_kv);
        columns.min(1 << 31).next_multiple_of(32)
    }

    /// One dispatch.
    pub fn launch(
        &self,
        params: &FlashAttnVecTqParams,
        caps: &Caps,
        language: Language,
    ) -> Result<Launch> {
        params.check()?;
        // Same bytes but for the output, which is whole.
        let whole = FlashAttnVecTqParams { nwg: 1, ..*params };
        let mut launch = self.attention().launch(&whole, caps, language)?;
        let shape = self.attention().shape();
        let attention = self.groups(Context::Long, caps, language)?.attention;
        launch.contract = &CONTRACT;
        launch.grid = attention.grid(CONTRACT.stem, shape, params.nwg, caps)?;
        launch.needed.push(self.scratch_bytes(params.nwg, caps, language)?);
        launch.uniforms = vec![(0, bytemuck::bytes_of(params).to_vec())];
        Ok(launch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{HeadDim, Rotation};

    /// What the kernel takes for granted: where row groups merge there is room for q, and the rows that
    /// are rotated at a time divide a workgroup.
    #[test]
    fn a_workgroup_has_room_for_its_merge_at_every_shape() {
        for head_dim in HeadDim::ALL {
            for num_heads in 1..=32 {
                for width in [None, Some(4), Some(8), Some(16), Some(32), Some(64)] {
                    let codec = Codec::new(head_dim, Bits::B8, Rotation::Srht);
                    let problem = Problem {
                        k_bits: Bits::B6,
                        codec,
                        num_heads,
                        num_kv_heads: 1,
                        rotated: false,
                    };
                    let caps = Caps { subgroup_size: width, storage_fence: true, ..Caps::WEBGPU };
                    // The second with a table that the merge has the memory of.
                    let large = Caps { max_workgroup_storage: 48 << 10, ..caps };
                    for caps in [caps, large] {
                        let plan = problem.plan(&caps, Language::Wgsl).unwrap();
                        assert!(plan.workgroup_bytes <= caps.max_workgroup_storage);
                        let Groups { attention: a, rows } =
                            problem.groups(Context::Long, &caps, Language::Wgsl).unwrap();
                        let vectors = a.merge_vectors(problem.attention().shape());
                        assert!(vectors >= a.group * head_dim.get() / 4, "{a:?}");
                        assert!(rows.per_workgroup.is_power_of_two() && rows.per_workgroup >= 1);
                        assert!(rows.per_workgroup >= a.merge_heads, "{a:?}");
                        assert!(rows.threads() <= a.threads, "{a:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn few_threads_and_no_fence_are_refused() {
        let codec = Codec::new(HeadDim::ALL[1], Bits::B4, Rotation::Plain);
        let problem =
            Problem { k_bits: Bits::B4, codec, num_heads: 8, num_kv_heads: 2, rotated: false };
        let caps = Caps { storage_fence: true, ..Caps::WEBGPU };
        assert!(problem.plan(&caps, Language::Wgsl).is_ok());
        let few = Caps { max_workgroup_threads: 64, ..caps };
        let error = problem.plan(&few, Language::Wgsl).unwrap_err().to_string();
        assert!(error.contains("128") && error.contains("64"), "{error}");
        let error = problem.plan(&Caps::WEBGPU, Language::Wgsl).unwrap_err().to_string();
        assert!(error.contains("storage barrier"), "{error}");
        assert!(error.contains("MEMORY_DECORATION_COHERENT"), "{error}");
        assert!(problem.plan(&Caps::APPLE, Language::Msl).is_ok());
    }

    #[test]
    fn short_contexts_have_a_workgroup_on_each_multiprocessor() {
        let codec = Codec::new(HeadDim::ALL[2], Bits::B4, Rotation::Plain);
        let vec = VecProblem { k_bits: Bits::B4, codec, num_heads: 16, num_kv_heads: 8 };
        let caps = Caps {
            subgroup_size: Some(32),
            storage_fence: true,
            max_workgroup_storage: 48 << 10,
            ..Caps::WEBGPU
        };
        for rotated in [false, true] {
            let problem = Problem { rotated, ..vec.into() };
            let splits = |visible| problem.splits(visible, &caps, Language::Wgsl).unwrap();
            assert_eq!([1, 64, 65, 1024, 2048, 4095].map(splits), [1, 1, 2, 16, 16, 16]);
            assert_eq!([4096, 8192, 131_072].map(splits), [16, 16, 16]);
        }
    }

    /// Counters fill whole lines, so that partials start at a vector; a partial is D + 4 floats.
    #[test]
    fn scratch_holds_counters_and_a_partial_for_each_head_and_split() {
        let codec = Codec::new(HeadDim::ALL[1], Bits::B4, Rotation::Plain);
        let caps = Caps { storage_fence: true, ..Caps::WEBGPU };
        for (num_heads, num_kv_heads, counters) in [(8, 2, 32), (33, 33, 64), (64, 8, 32)] {
            let problem =
                Problem { k_bits: Bits::B4, codec, num_heads, num_kv_heads, rotated: false };
            for nwg in [1, 5] {
                let want = 4 * (counters + u64::from(num_heads * nwg) * (128 + 4));
                assert_eq!(problem.scratch_bytes(nwg, &caps, Language::Wgsl).unwrap(), want);
            }
        }
        let heads = u32::MAX;
        let many = Problem {
            k_bits: Bits::B4,
            codec,
            num_heads: heads,
            num_kv_heads: heads,
            rotated: false,
        };
        assert!(many.plan(&caps, Language::Wgsl).is_ok());
        assert!(many.scratch_bytes(1, &caps, Language::Wgsl).is_ok());
    }
}
