//! How the attention kernels cut a workgroup into row groups: a pure function of shape and
//! device, shared by the packed and the dense kernel.

use crate::codec::HeadDim;
use crate::contract::{Caps, Constant, Language, constant};
use crate::error::{Error, Result};
use crate::params::{MAX_SPLITS, check_heads};

/// The shape that the choice depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub head_dim: HeadDim,
    pub num_heads: u32,
    pub num_kv_heads: u32,
    /// Bits of a coordinate that a lane has in flight: of K and V together where both are read ahead.
    pub coord_bits: u32,
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
    /// Workgroups that share one KV head.
    pub groups_per_kv: u32,
    /// Threads.
    pub threads: u32,
    /// Query heads that are merged at a time.
    pub merge_heads: u32,
    /// Whether lanes exchange by shuffles.
    pub subgroups: bool,
}

/// Most query heads a workgroup keeps in registers.
const MAX_GROUP: u32 = 4;
/// Most coordinates x query heads of a lane where subgroups are wide: it holds q and an
/// accumulator of each in registers, and more leave too few threads to hide the memory's latency.
const LANE_FLOATS: u32 = 64;
/// Bits of K and V that a lane has in flight, twice: in use and read ahead.
const LANE_BITS: u32 = 1024;
/// Scores of a row group in one tile.
const MAX_SCORES: u32 = 16;
/// Threads of a workgroup, before memory asks for fewer.
const THREADS: u32 = 128;
/// Merge memory that a workgroup may take, of the 16 KiB that WebGPU guarantees: codebooks and the
/// exchange of the variant without subgroups need the rest.
const MERGE_BYTES: u32 = 8 << 10;

/// Workgroups that keep a large device busy where each reads ahead: two of 128 threads on each of
/// 132 multiprocessors. What it costs to start one and to merge its part is not free.
pub(super) const READING_AHEAD: u32 = 264;
/// The same where none reads ahead, and others have to fill the wait.
pub(super) const WAITING: u32 = 528;
/// Fewest positions of a split: under them the merge costs more than the split gains.
const SPLIT_POSITIONS: u32 = 64;

/// Lanes that share a row: sixteen coordinates each where subgroups are wide enough, eight where a
/// row is short.
fn lanes(head_dim: u32, subgroup: Option<u32>) -> u32 {
    let widest = subgroup.unwrap_or(8).min((head_dim / 16).max(8));
    1 << widest.max(2).ilog2()
}

impl RowGroups {
    pub fn choose(shape: Shape, caps: &Caps, language: Language) -> Result<Self> {
        check_heads(shape.num_heads, shape.num_kv_heads)?;
        let subgroup = match language {
            Language::Wgsl => caps.subgroup_size,
            Language::Msl => Some(32),
        };
        let head_dim = shape.head_dim.get();
        let gqa = shape.num_heads / shape.num_kv_heads;
        let lanes = lanes(head_dim, subgroup);
        let coords = head_dim / lanes;
        // Narrow subgroups are software's: its registers are memory, and its compiler takes its time.
        let software = subgroup.is_none_or(|width| width < 16);
        let held = if software { MAX_GROUP } else { (LANE_FLOATS / coords).clamp(1, MAX_GROUP) };
        let groups_per_kv = gqa.div_ceil(held);
        let group = gqa.div_ceil(groups_per_kv);
        let rows = (LANE_BITS / (coords * shape.coord_bits)).clamp(1, 8);
        let rows = match subgroup {
            None => 1,
            Some(_) if software => 2,
            Some(_) => (1 << rows.ilog2()).min(MAX_SCORES / group.next_power_of_two()),
        };
        let mut threads = THREADS.min(caps.max_workgroup_threads);
        while threads > lanes && threads / lanes * head_dim * 4 > MERGE_BYTES {
            threads /= 2;
        }
        let merge_heads = (MERGE_BYTES / (threads / lanes * head_dim * 4)).clamp(1, group);
        let subgroups = subgroup.is_some();
        Ok(Self { lanes, rows, group, groups_per_kv, threads, merge_heads, subgroups })
    }

    pub fn constants(&self, shape: Shape) -> Vec<Constant> {
        vec![
            constant("GQA", shape.num_heads / shape.num_kv_heads),
            constant("GROUP", self.group),
            constant("GROUP_PAD", self.group.next_power_of_two()),
            constant("GROUPS_PER_KV", self.groups_per_kv),
            constant("LANES", self.lanes),
            constant("ROWS", self.rows),
            constant("MERGE_HEADS", self.merge_heads),
            constant("WORKGROUP_SIZE", self.threads),
        ]
    }

    /// Scores of a row group in one tile, and how many of them a lane owns.
    fn scores(&self, shape: Shape) -> (u32, u32) {
        let scores = self.rows * self.group.next_power_of_two();
        (scores, scores / scores.min(self.lanes / shape.head_dim.norms_per_pos()))
    }

    /// Workgroup memory of the packed kernel but for its codebooks.
    pub fn packed_bytes(&self, shape: Shape) -> u32 {
        let (scores, owned) = self.scores(shape);
        let exchange = if self.subgroups { 0 } else { (scores + 3 * owned) * self.threads };
        4 * (self.merge_floats(shape) + self.threads / self.lanes * scores + exchange)
    }

    /// Workgroup memory of the dense kernel.
    pub fn dense_bytes(&self, shape: Shape) -> u32 {
        let sums = self.threads / self.lanes * self.group.next_power_of_two();
        let exchange = if self.subgroups { 0 } else { self.rows * self.group * self.threads };
        4 * (self.merge_floats(shape) + sums + exchange)
    }

    /// Accumulators; and the maximum, factor and sum of each query head.
    fn merge_floats(&self, shape: Shape) -> u32 {
        let each = self.merge_heads * shape.head_dim.get() + 3 * self.group.next_power_of_two();
        self.threads / self.lanes * each
    }

    /// Shared piece that adds up the lanes in the dense kernel; MSL has it in `attention.h`.
    pub fn row_sum(&self, language: Language) -> Option<&'static str> {
        match (language, self.subgroups) {
            (Language::Msl, _) => None,
            (_, true) => Some("row_sum_subgroup"),
            (_, false) => Some("row_sum_workgroup"),
        }
    }

    /// Shared piece by which the packed kernel's lanes exchange scores.
    pub fn exchange(&self, language: Language) -> &'static str {
        match (language, self.subgroups) {
            (Language::Msl, _) => "exchange",
            (_, true) => "exchange_subgroup",
            (_, false) => "exchange_workgroup",
        }
    }

    /// Splits for `visible` positions: so many workgroups if each has enough positions and a whole
    /// tile of its row groups, since a part of one takes the time of a whole.
    pub fn splits(&self, shape: Shape, visible: u32, workgroups: u32) -> u32 {
        let fill = workgroups / shape.num_kv_heads.saturating_mul(self.groups_per_kv);
        let fewest = SPLIT_POSITIONS.max(self.threads / self.lanes * self.rows);
        visible.div_ceil(fewest).clamp(1, fill.clamp(1, MAX_SPLITS))
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
        let head_dim = HeadDim::new(d).unwrap();
        let shape = Shape { head_dim, num_heads: g * 2, num_kv_heads: 2, coord_bits: 8 };
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
    fn query_heads_share_a_read_as_far_as_registers_go() {
        for d in [64, 128, 256, 512] {
            for g in 1..=16 {
                let c = choose(d, g, Some(32));
                assert!(c.group * c.groups_per_kv >= g && c.group * (c.groups_per_kv - 1) < g);
                assert!(c.group * d / c.lanes <= LANE_FLOATS, "{c:?}");
                assert_eq!(choose(d, g.min(MAX_GROUP), None).groups_per_kv, 1);
            }
        }
        let chosen = |d, g| {
            let c = choose(d, g, Some(32));
            (c.lanes, c.rows, c.group, c.groups_per_kv)
        };
        assert_eq!(chosen(256, 2), (16, 8, 2, 1));
        assert_eq!(chosen(128, 4), (8, 4, 4, 1));
        assert_eq!(chosen(512, 8), (32, 4, 4, 2));
        assert_eq!(chosen(128, 13), (8, 4, 4, 4));
    }

    #[test]
    fn wide_codes_leave_fewer_rows_in_flight() {
        let rows = |coord_bits| {
            let head_dim = HeadDim::new(256).unwrap();
            let shape = Shape { head_dim, num_heads: 16, num_kv_heads: 8, coord_bits };
            let caps = Caps { subgroup_size: Some(32), ..Caps::WEBGPU };
            RowGroups::choose(shape, &caps, Language::Wgsl).unwrap().rows
        };
        assert_eq!([4, 8, 12, 16, 32, 64].map(rows), [8, 8, 4, 4, 2, 1]);
    }

    #[test]
    fn splits_fill_the_device_and_none_is_shorter_than_a_tile() {
        let head_dim = HeadDim::new(256).unwrap();
        let shape = Shape { head_dim, num_heads: 16, num_kv_heads: 8, coord_bits: 8 };
        let caps = Caps { subgroup_size: Some(32), ..Caps::WEBGPU };
        let c = RowGroups::choose(shape, &caps, Language::Wgsl).unwrap();
        let splits = [0, 1, 33, 1024, 131_072].map(|n| c.splits(shape, n, READING_AHEAD));
        assert_eq!(splits, [1, 1, 1, 16, 33], "{c:?}");
        let many = Shape { num_heads: 4096, num_kv_heads: 4096, ..shape };
        assert_eq!(c.splits(many, 131_072, READING_AHEAD), 1);
    }

    #[test]
    fn every_choice_fits_what_webgpu_guarantees() {
        for d in HeadDim::ALL {
            for g in 1..=32 {
                for width in [None, Some(4), Some(8), Some(32)] {
                    let shape = Shape { head_dim: d, num_heads: g, num_kv_heads: 1, coord_bits: 4 };
                    let caps = Caps { subgroup_size: width, ..Caps::WEBGPU };
                    let c = RowGroups::choose(shape, &caps, Language::Wgsl).unwrap();
                    let codebooks = 4 * 2 * 256;
                    for bytes in [c.packed_bytes(shape) + codebooks, c.dense_bytes(shape)] {
                        assert!(bytes <= caps.max_workgroup_storage, "{shape:?} {c:?} {bytes}");
                    }
                }
            }
        }
    }
}
