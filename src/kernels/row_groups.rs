//! How the attention kernels cut a workgroup into row groups: a pure function of shape and
//! device, shared by the packed and the dense kernel.

use super::Context;
use crate::codec::{Bits, HeadDim};
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
    /// Width of the codes that a [`Table`] would be of; none where nothing is looked up.
    pub widest: Option<Bits>,
}

/// A look-up table in workgroup memory that lanes do not wait for each other at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// Width of the codes.
    pub bits: Bits,
    /// Copies of every entry.
    pub copies: u32,
    /// Bytes that the table, and later the merge, may take.
    pub room: u32,
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
    /// Row groups of a subgroup that shuffles make one of, before all are merged through memory.
    pub joined: u32,
    /// Fewest vectors that the merge's memory holds, for what else a kernel keeps there.
    pub kept: u32,
    /// Query heads that are merged at a time.
    pub merge_heads: u32,
    /// Whether lanes exchange by shuffles.
    pub subgroups: bool,
    /// None where codes are looked up in the codebooks as they are.
    pub table: Option<Table>,
}

/// Most query heads a workgroup keeps in registers.
const MAX_GROUP: u32 = 4;
/// Most coordinates x query heads of a lane where subgroups are wide: it holds q and an
/// accumulator of each in registers, and more leave too few threads to hide the memory's latency.
const LANE_FLOATS: u32 = 64;
/// Bits of K and V that a lane has in flight, twice: in use and read ahead.
const LANE_BITS: u32 = 1024;
/// The same in a short context, where few tiles are in flight and a small one is there sooner.
const SHORT_LANE_BITS: u32 = 512;
/// The same with a table, whose workgroups have a multiprocessor's registers to themselves.
const TABLE_LANE_BITS: u32 = 2048;
/// Scores of a row group in one tile.
const MAX_SCORES: u32 = 16;
/// Threads of a workgroup, before memory asks for fewer.
const THREADS: u32 = 128;
/// The same with a table, which they share: two such workgroups do not fit a multiprocessor.
const TABLE_THREADS: u32 = 256;
/// Workgroup memory of a device that has room for a table, and what of it the table takes. Drivers
/// give a multiprocessor's workgroups 64 KiB or so together, whatever the chip has.
const TABLE_STORAGE: (u32, u32) = (48 << 10, 32 << 10);
/// The same of software, whose tables are for tests: nothing there waits for a bank.
const SOFTWARE_TABLE_STORAGE: (u32, u32) = (32 << 10, 16 << 10);
/// Merge memory that a workgroup may take, of the 16 KiB that WebGPU guarantees: codebooks and the
/// exchange of the variant without subgroups need the rest.
const MERGE_BYTES: u32 = 8 << 10;

/// Workgroups of 128 threads that keep a multiprocessor busy where each reads ahead. What it costs to
/// start one and to merge its part is not free.
pub(super) const READING_AHEAD: u32 = 2;
/// The same where none reads ahead, and others have to fill the wait.
pub(super) const WAITING: u32 = 4;
/// Fewest positions of a split: under them the merge costs more than the split gains.
const SPLIT_POSITIONS: u32 = 64;

/// Lanes that share a row: sixteen coordinates each where subgroups are wide enough, eight where a
/// row is short, or the context is and many query heads make a lane's work long.
fn lanes(head_dim: u32, gqa: u32, context: Context, subgroup: Option<u32>) -> u32 {
    let coords = if context == Context::Short && gqa > 2 { 8 } else { 16 };
    let widest = subgroup.unwrap_or(8).min((head_dim / coords).max(8));
    1 << widest.max(2).ilog2()
}

impl Table {
    /// The one that pays for a shape in a long context, if the device has room for it.
    fn choose(shape: Shape, caps: &Caps, software: bool) -> Option<Self> {
        let bits = shape.widest.filter(|bits| [Bits::B4, Bits::B6, Bits::B8].contains(bits))?;
        let (storage, room) = if software { SOFTWARE_TABLE_STORAGE } else { TABLE_STORAGE };
        if caps.max_workgroup_storage < storage {
            return None;
        }
        let whole = if bits == Bits::B4 { 16 } else { 32 };
        let table = Self { bits, copies: 1, room };
        Some(Self { copies: whole.min(room / table.bytes()), ..table })
    }

    /// Bytes: a pair of floats for every two codes of 4 bits, else a float a code.
    fn bytes(&self) -> u32 {
        let once = match self.bits {
            Bits::B4 => 8 << 8,
            bits => 4 << bits.get(),
        };
        once * self.copies
    }

    /// The shared piece.
    const fn piece(&self) -> &'static str {
        match self.bits {
            Bits::B4 => "look_up_pairs",
            _ => "look_up_singles",
        }
    }
}

impl RowGroups {
    pub fn choose(shape: Shape, context: Context, caps: &Caps, language: Language) -> Result<Self> {
        check_heads(shape.num_heads, shape.num_kv_heads)?;
        let subgroup = match language {
            Language::Wgsl => caps.subgroup_size,
            Language::Msl => Some(32),
        };
        let head_dim = shape.head_dim.get();
        let gqa = shape.num_heads / shape.num_kv_heads;
        // The MSL is planned as for a long context: nobody has timed it.
        let context = if language == Language::Msl { Context::Long } else { context };
        let lanes = lanes(head_dim, gqa, context, subgroup);
        let coords = head_dim / lanes;
        // Narrow subgroups are software's: its registers are memory, and its compiler takes its time.
        let software = subgroup.is_none_or(|width| width < 16);
        let tables = context == Context::Long && language == Language::Wgsl && subgroup.is_some();
        let table = tables.then(|| Table::choose(shape, caps, software)).flatten();
        let held = if software { MAX_GROUP } else { (LANE_FLOATS / coords).clamp(1, MAX_GROUP) };
        let groups_per_kv = gqa.div_ceil(held);
        let group = gqa.div_ceil(groups_per_kv);
        let lane_bits = match (context, table) {
            (Context::Short, _) => SHORT_LANE_BITS,
            (_, Some(_)) => TABLE_LANE_BITS,
            _ => LANE_BITS,
        };
        let rows = (lane_bits / (coords * shape.coord_bits)).clamp(1, 8);
        let rows = match subgroup {
            None => 1,
            Some(_) if software => 2,
            Some(_) => (1 << rows.ilog2()).min(MAX_SCORES / group.next_power_of_two()),
        };
        let threads = if table.is_some() && !software { TABLE_THREADS } else { THREADS };
        let mut threads = threads.min(caps.max_workgroup_threads);
        let room = table.map_or(MERGE_BYTES, |table| table.room);
        let joined = match (subgroup, shape.widest) {
            // A lane keeps whole vectors of each query head.
            (Some(width), Some(_)) => (width.min(threads) / lanes).min(coords / 4),
            _ => 1,
        };
        let joined = 1 << joined.max(1).ilog2();
        while threads > lanes * joined && threads / (lanes * joined) * head_dim * 4 > room {
            threads /= 2;
        }
        let merge_heads = (room / (threads / (lanes * joined) * head_dim * 4)).clamp(1, group);
        let subgroups = subgroup.is_some();
        Ok(Self {
            lanes,
            rows,
            group,
            groups_per_kv,
            threads,
            joined,
            kept: 0,
            merge_heads,
            subgroups,
            table,
        })
    }

    pub fn constants(&self, shape: Shape) -> Vec<Constant> {
        let table = self.table.map(|table| {
            [constant("TABLE_BITS", table.bits.get()), constant("COPIES", table.copies)]
        });
        let table = table.into_iter().flatten();
        let groups = [
            constant("GQA", shape.num_heads / shape.num_kv_heads),
            constant("GROUP", self.group),
            constant("GROUP_PAD", self.group.next_power_of_two()),
            constant("GROUPS_PER_KV", self.groups_per_kv),
            constant("LANES", self.lanes),
            constant("ROWS", self.rows),
            constant("JOINED", self.joined),
            constant("MERGE_HEADS", self.merge_heads),
            constant("MERGE_VECTORS", self.merge_vectors(shape)),
            constant("WORKGROUP_SIZE", self.threads),
        ];
        groups.into_iter().chain(table).collect()
    }

    /// Shared pieces that look codes up and keep what the packed kernel merges; in MSL they are
    /// `codebook.h` and the kernel's own memory.
    pub fn look_up(&self, language: Language) -> Vec<&'static str> {
        match (language, self.table) {
            (Language::Msl, _) => vec![],
            (Language::Wgsl, None) => vec!["look_up_plain", "merge_memory"],
            (Language::Wgsl, Some(table)) => vec!["look_up_table", table.piece()],
        }
    }

    /// Scores of a row group in one tile, and how many of them a lane owns.
    fn scores(&self, shape: Shape) -> (u32, u32) {
        let scores = self.rows * self.group.next_power_of_two();
        (scores, scores / scores.min(self.lanes / shape.head_dim.norms_per_pos()))
    }

    /// Workgroup memory of the packed kernel but for its codebooks.
    pub fn packed_bytes(&self, shape: Shape) -> u32 {
        let (scores, owned) = self.scores(shape);
        let rises = self.threads / self.lanes;
        let exchange = if self.subgroups { 0 } else { (scores + 3 * owned) * self.threads + rises };
        let sums = self.merge_groups() * scores;
        self.merge_bytes(shape) + 4 * (self.weight_floats() + sums + exchange)
    }

    /// Workgroup memory of the dense kernel.
    pub fn dense_bytes(&self, shape: Shape) -> u32 {
        let sums = self.merge_groups() * self.group.next_power_of_two();
        let exchange = if self.subgroups { 0 } else { self.rows * self.group * self.threads };
        self.merge_bytes(shape) + 4 * (self.weight_floats() + sums + exchange)
    }

    /// Row groups that are merged through memory.
    pub const fn merge_groups(&self) -> u32 {
        self.threads / (self.lanes * self.joined)
    }

    /// Vectors of accumulators, or of what else is kept in their memory.
    pub fn merge_vectors(&self, shape: Shape) -> u32 {
        (self.merge_groups() * self.merge_heads * shape.head_dim.get() / 4).max(self.kept)
    }

    /// Accumulators, or the table that is there before them.
    fn merge_bytes(&self, shape: Shape) -> u32 {
        let accumulators = self.merge_vectors(shape) * 16;
        // Rows of the table are whole.
        let row =
            self.table.map_or(1, |table| table.copies * if table.bits == Bits::B4 { 8 } else { 4 });
        accumulators.next_multiple_of(row).max(self.table.map_or(0, |table| table.bytes()))
    }

    /// The maximum, factor and sum of each query head.
    fn weight_floats(&self) -> u32 {
        self.merge_groups() * 3 * self.group.next_power_of_two()
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

    /// Splits for `visible` positions: `busy` workgroups of 128 threads a multiprocessor if each has
    /// enough positions and a whole tile of its row groups, since a part of one takes the time of a whole.
    pub fn splits(&self, shape: Shape, visible: u32, caps: &Caps, busy: u32) -> u32 {
        let workgroups = caps.multiprocessors.saturating_mul(busy) / self.threads.div_ceil(THREADS);
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
        let table = self.table.map_or(String::new(), |t| format!("_t{}x{}", t.bits, t.copies));
        format!(
            "d{}_g{}_l{}x{}_{sum}{table}",
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
        let shape =
            Shape { head_dim, num_heads: g * 2, num_kv_heads: 2, coord_bits: 8, widest: None };
        let context = Context::Long;
        RowGroups::choose(
            shape,
            context,
            &Caps { subgroup_size: subgroup, ..Caps::WEBGPU },
            Language::Wgsl,
        )
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
            let shape =
                Shape { head_dim, num_heads: 16, num_kv_heads: 8, coord_bits, widest: None };
            let caps = Caps { subgroup_size: Some(32), ..Caps::WEBGPU };
            RowGroups::choose(shape, Context::Long, &caps, Language::Wgsl).unwrap().rows
        };
        assert_eq!([4, 8, 12, 16, 32, 64].map(rows), [8, 8, 4, 4, 2, 1]);
    }

    #[test]
    fn splits_fill_the_device_and_none_is_shorter_than_a_tile() {
        let head_dim = HeadDim::new(256).unwrap();
        let shape = Shape { head_dim, num_heads: 16, num_kv_heads: 8, coord_bits: 8, widest: None };
        let caps = Caps { subgroup_size: Some(32), ..Caps::WEBGPU };
        let c = RowGroups::choose(shape, Context::Long, &caps, Language::Wgsl).unwrap();
        let of = |multiprocessors| {
            let caps = Caps { multiprocessors, ..caps };
            [0, 1, 33, 1024, 131_072].map(|n| c.splits(shape, n, &caps, READING_AHEAD))
        };
        assert_eq!(of(Caps::MULTIPROCESSORS), [1, 1, 1, 16, 33], "{c:?}");
        assert_eq!((of(10), of(40)), ([1, 1, 1, 2, 2], [1, 1, 1, 10, 10]));
        assert_eq!((of(0), of(u32::MAX)), ([1; 5], [1, 1, 1, 16, 256]));
        let many = Shape { num_heads: 4096, num_kv_heads: 4096, ..shape };
        assert_eq!(c.splits(many, 131_072, &caps, READING_AHEAD), 1);
    }

    /// head_dim, query heads a KV head, bits of K and of V.
    fn packed(d: u32, g: u32, [k, v]: [Bits; 2]) -> Shape {
        Shape {
            head_dim: HeadDim::new(d).unwrap(),
            num_heads: 8 * g,
            num_kv_heads: 8,
            coord_bits: k.get() + v.get(),
            widest: Some(k.max(v)),
        }
    }

    const LARGE: Caps =
        Caps { subgroup_size: Some(32), max_workgroup_storage: 48 << 10, ..Caps::WEBGPU };

    #[test]
    fn a_table_is_for_long_contexts_and_large_workgroup_memory() {
        let table = |shape, context, caps: &Caps, language| {
            let c = RowGroups::choose(shape, context, caps, language).unwrap();
            assert_eq!(c.threads > THREADS, c.table.is_some());
            c.table.map(|table| (table.bits, table.copies, table.bytes()))
        };
        let long = |shape| table(shape, Context::Long, &LARGE, Language::Wgsl);
        let [b4, b5, b6, b8] = [Bits::B4, Bits::B5, Bits::B6, Bits::B8];
        assert_eq!(long(packed(256, 2, [b4, b4])), Some((b4, 16, 32 << 10)));
        assert_eq!(long(packed(256, 2, [b8, b4])), Some((b8, 32, 32 << 10)));
        assert_eq!(long(packed(128, 4, [b8, b4])), Some((b8, 32, 32 << 10)));
        assert_eq!(long(packed(256, 2, [b4, b6])), Some((b6, 32, 8 << 10)));
        assert_eq!(long(packed(64, 3, [b4, b4])), Some((b4, 16, 32 << 10)));
        assert_eq!(long(packed(256, 2, [b5, b5])), None);
        let shape = packed(256, 2, [b4, b4]);
        assert_eq!(table(shape, Context::Short, &LARGE, Language::Wgsl), None);
        assert_eq!(table(shape, Context::Long, &LARGE, Language::Msl), None);
        for caps in [Caps::APPLE, Caps::WEBGPU, Caps { subgroup_size: None, ..LARGE }] {
            assert_eq!(table(shape, Context::Long, &caps, Language::Wgsl), None, "{caps:?}");
        }
        let software =
            Caps { subgroup_size: Some(8), max_workgroup_storage: 32 << 10, ..Caps::WEBGPU };
        let c = RowGroups::choose(shape, Context::Long, &software, Language::Wgsl).unwrap();
        assert_eq!(c.table.map(|table| (table.copies, table.bytes())), Some((8, 16 << 10)));
    }

    #[test]
    fn every_context_has_the_same_grid_and_fits() {
        for d in HeadDim::ALL {
            for g in 1..=32 {
                for bits in Bits::ALL {
                    let shape = packed(d.get(), g, [bits, bits]);
                    let of = |context, caps: &Caps| {
                        let c = RowGroups::choose(shape, context, caps, Language::Wgsl).unwrap();
                        let bytes = c.packed_bytes(shape) + 4 * 256;
                        assert!(bytes <= caps.max_workgroup_storage, "{shape:?} {c:?} {bytes}");
                        (c.group, c.groups_per_kv)
                    };
                    for caps in [LARGE, Caps { subgroup_size: Some(16), ..LARGE }] {
                        assert_eq!(of(Context::Short, &caps), of(Context::Long, &caps));
                    }
                }
            }
        }
    }

    #[test]
    fn short_contexts_have_less_in_flight() {
        let chosen = |d, g, context| {
            let shape = packed(d, g, [Bits::B4; 2]);
            let c = RowGroups::choose(shape, context, &LARGE, Language::Wgsl).unwrap();
            (c.lanes, c.rows, c.threads)
        };
        assert_eq!(chosen(256, 2, Context::Short), (16, 4, 128));
        assert_eq!(chosen(256, 2, Context::Long), (16, 8, 256));
        assert_eq!(chosen(128, 4, Context::Short), (16, 4, 128));
        assert_eq!(chosen(128, 4, Context::Long), (8, 4, 256));
    }

    #[test]
    fn every_choice_fits_what_webgpu_guarantees() {
        for d in HeadDim::ALL {
            for g in 1..=32 {
                for width in [None, Some(4), Some(8), Some(32)] {
                    let shape = Shape {
                        head_dim: d,
                        num_heads: g,
                        num_kv_heads: 1,
                        coord_bits: 4,
                        widest: None,
                    };
                    let caps = Caps { subgroup_size: width, ..Caps::WEBGPU };
                    let c = RowGroups::choose(shape, Context::Long, &caps, Language::Wgsl).unwrap();
                    let codebooks = 4 * 2 * 256;
                    for bytes in [c.packed_bytes(shape) + codebooks, c.dense_bytes(shape)] {
                        assert!(bytes <= caps.max_workgroup_storage, "{shape:?} {c:?} {bytes}");
                    }
                }
            }
        }
    }
}
