//! How the attention kernels cut a workgroup into row groups: a pure function of shape and
//! device, shared by the packed and the dense kernel.

use crate::codec::HeadDim;
use crate::contract::{Caps, Constant, Language, constant};
use crate::error::{Error, Result};
use crate::params::check_heads;

/// The shape that the choice depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub head_dim: HeadDim,
    pub num_heads: u32,
    pub num_kv_heads: u32,
}

/// The choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowGroups {
    /// Lanes that score one position together.
    pub lanes: u32,
    /// Positions a row group has in flight.
    pub rows: u32,
    /// Query heads a workgroup serves.
    pub group: u32,
    /// Workgroups that share one KV head: 1 up to eight query heads a KV head.
    pub groups_per_kv: u32,
    /// Threads.
    pub threads: u32,
    /// Whether lanes are added up by shuffles.
    pub subgroups: bool,
}

/// Most query heads a workgroup keeps in registers.
const MAX_GROUP: u32 = 8;
/// Threads of a workgroup, before memory asks for fewer.
const THREADS: u32 = 128;
/// Merge memory that a workgroup may take: half of what WebGPU guarantees, so that two fit.
const MERGE_BYTES: u32 = 8 << 10;

impl RowGroups {
    pub fn choose(shape: Shape, caps: &Caps, language: Language) -> Result<Self> {
        check_heads(shape.num_heads, shape.num_kv_heads)?;
        let gqa = shape.num_heads / shape.num_kv_heads;
        let groups_per_kv = gqa.div_ceil(MAX_GROUP);
        let group = gqa.div_ceil(groups_per_kv);
        let subgroup = match language {
            Language::Wgsl => caps.subgroup_size,
            Language::Msl => Some(32),
        };
        // A lane owns at least one packed word (eight coordinates) and at most sixteen lanes
        // share a row: beyond that the shuffles cost more than the registers they save.
        let widest = subgroup.unwrap_or(8).min(16).min(shape.head_dim.get() / 8);
        let lanes = 1 << widest.max(2).ilog2();
        let coords = shape.head_dim.get() / lanes;
        let rows = if subgroup.is_some() { (16 / group).clamp(1, 4) } else { 1 };
        let mut threads = THREADS.min(caps.max_workgroup_threads);
        while threads > lanes && threads * coords * 4 > MERGE_BYTES {
            threads /= 2;
        }
        Ok(Self { lanes, rows, group, groups_per_kv, threads, subgroups: subgroup.is_some() })
    }

    pub fn constants(&self, shape: Shape) -> Vec<Constant> {
        vec![
            constant("GQA", shape.num_heads / shape.num_kv_heads),
            constant("GROUP", self.group),
            constant("GROUPS_PER_KV", self.groups_per_kv),
            constant("LANES", self.lanes),
            constant("ROWS", self.rows),
            constant("WORKGROUP_SIZE", self.threads),
        ]
    }

    /// Workgroup memory: merge arrays, and the exchange of the variant without subgroups.
    pub fn bytes(&self, shape: Shape) -> u32 {
        let row_groups = self.threads / self.lanes;
        let exchange = if self.subgroups { 0 } else { self.rows * self.group * self.threads };
        4 * (row_groups * (shape.head_dim.get() + 2) + exchange)
    }

    /// Shared piece that adds up the lanes; MSL has it in `attention.h`.
    pub fn row_sum(&self, language: Language) -> Option<&'static str> {
        match (language, self.subgroups) {
            (Language::Msl, _) => None,
            (_, true) => Some("row_sum_subgroup"),
            (_, false) => Some("row_sum_workgroup"),
        }
    }

    /// Splits for `visible` positions: enough workgroups to fill a device, each with at least
    /// 128 positions.
    pub fn splits(&self, shape: Shape, visible: u32) -> u32 {
        let fill = 256u32.div_ceil(shape.num_kv_heads.saturating_mul(self.groups_per_kv));
        visible.div_ceil(128).clamp(1, fill.min(64))
    }

    pub fn grid(
        &self,
        kernel: &'static str,
        shape: Shape,
        nwg: u32,
        caps: &Caps,
    ) -> Result<[u32; 3]> {
        let x = shape.num_kv_heads * self.groups_per_kv;
        let (needed, found) = (u64::from(x.max(nwg)), u64::from(caps.max_workgroups_per_dim));
        if needed > found {
            let limit = "max_compute_workgroups_per_dimension";
            return Err(Error::Limit { kernel, limit, needed, found });
        }
        Ok([x, nwg, 1])
    }

    pub fn label(&self, shape: Shape) -> String {
        let sum = if self.subgroups { "shuffle" } else { "memory" };
        format!(
            "d{}_g{}_l{}x{}_{sum}",
            shape.head_dim,
            shape.num_heads / shape.num_kv_heads,
            self.lanes,
            self.rows
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(d: u32, g: u32, subgroup: Option<u32>) -> RowGroups {
        let shape = Shape { head_dim: HeadDim::new(d).unwrap(), num_heads: g * 2, num_kv_heads: 2 };
        RowGroups::choose(shape, &Caps { subgroup_size: subgroup, ..Caps::WEBGPU }, Language::Wgsl)
            .unwrap()
    }

    #[test]
    fn a_row_group_never_outgrows_its_subgroup() {
        for d in [64, 128, 256, 512] {
            for width in [4, 8, 16, 32, 64] {
                let c = choose(d, 2, Some(width));
                assert!(c.lanes <= width && c.threads.is_multiple_of(c.lanes), "{c:?}");
            }
        }
    }

    #[test]
    fn up_to_eight_query_heads_share_one_read() {
        for g in 1..=8 {
            assert_eq!(
                (choose(128, g, Some(32)).group, choose(128, g, None).groups_per_kv),
                (g, 1)
            );
        }
        let c = choose(128, 13, Some(32));
        assert_eq!((c.group, c.groups_per_kv), (7, 2));
    }

    #[test]
    fn every_choice_fits_what_webgpu_guarantees() {
        for d in HeadDim::ALL {
            for g in 1..=32 {
                for width in [None, Some(4), Some(8), Some(32)] {
                    let shape = Shape { head_dim: d, num_heads: g, num_kv_heads: 1 };
                    let caps = Caps { subgroup_size: width, ..Caps::WEBGPU };
                    let c = RowGroups::choose(shape, &caps, Language::Wgsl).unwrap();
                    assert!(c.bytes(shape) + 64 <= caps.max_workgroup_storage, "{shape:?} {c:?}");
                }
            }
        }
    }
}
