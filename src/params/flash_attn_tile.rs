//! Parameters of `flash_attn_tile`: the block, the records of sequences, and what must hold
//! between them and the block table.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::{FlashAttnVecParams, MASK_NONE, MASK_SLIDING, partials_floats};
use crate::codec::ring::MAX_CAPACITY;
use crate::codec::{HeadDim, Ring};
use crate::error::{Error, Result};

/// `flash_attn_tile`: attention of several query tokens of several sequences.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct FlashAttnTileParams {
    /// Query heads.
    pub n_heads: u32,
    /// KV heads; divides `n_heads`.
    pub n_kv_heads: u32,
    /// Coordinates of a head vector.
    pub head_dim: u32,
    /// Query tokens of all sequences.
    pub num_tokens: u32,
    /// Sequences.
    pub num_sequences: u32,
    /// Most query tokens of one sequence; more than that only costs empty workgroups.
    pub max_query_tokens: u32,
    /// Slots of a page. A contiguous cache is one page of at least its capacity.
    pub page_size: u32,
    /// Pages of the K and V buffers.
    pub num_pages: u32,
    /// Entries of the block table.
    pub num_blocks: u32,
    /// Factor on `dot(q, k)`.
    pub scale: f32,
    /// 0 none, 1 causal, 2 sliding window: by the positions of the query and the key.
    pub mask_type: u32,
    /// Positions that a query sees with mask 2, itself included; 0 means no window.
    pub sliding_window: u32,
    /// `c tanh(score / c)` when c > 0; 0 is off.
    pub softcap: f32,
    /// Slots of the partials of a row. 1: `dst` is the output. More: `dst` holds partials.
    pub nwg: u32,
    /// First slot that this dispatch writes.
    pub split_base: u32,
    /// Slots that this dispatch writes, each with an equal part of the positions.
    pub splits: u32,
    /// Scale between block norm and codebook at head_dim 512.
    pub scale_factor_d512: f32,
}

/// One sequence of a `flash_attn_tile` dispatch.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct TileSequence {
    /// Its first query token in q; the sequences follow each other without gaps.
    pub first_token: u32,
    /// Its query tokens; none is allowed.
    pub query_tokens: u32,
    /// Position of its first query token, counted from the oldest stored position.
    pub position: u32,
    /// Positions stored.
    pub kv_seq_len: u32,
    /// Slot of the oldest position.
    pub ring_start: u32,
    /// Slots of its ring; the last page may have more.
    pub kv_capacity: u32,
    /// Its first entry of the block table; it has `kv_capacity / page_size` of them, rounded up.
    pub first_block: u32,
}

impl TileSequence {
    /// The ring that the record describes.
    pub fn ring(&self) -> Result<Ring> {
        Ring::new(self.kv_capacity, self.ring_start, self.kv_seq_len)
    }
}

impl FlashAttnTileParams {
    /// Checks the block alone.
    pub fn check(&self) -> Result<HeadDim> {
        at_least_1("num_tokens", self.num_tokens)?;
        at_least_1("num_sequences", self.num_sequences)?;
        at_least_1("num_blocks", self.num_blocks)?;
        at_least_1("num_pages", self.num_pages)?;
        if self.page_size == 0 || self.page_size > MAX_CAPACITY {
            return Err(Error::param("page_size", format!("1 to {MAX_CAPACITY}"), self.page_size));
        }
        let head_dim = self.shape().check()?;
        super::check_scale_factor(self.scale_factor_d512)?;
        let last = u64::from(self.split_base) + u64::from(self.splits);
        if self.splits == 0 || last > u64::from(self.nwg) {
            return Err(Error::param(
                "split_base, splits",
                format!("at least one slot, to end by nwg {}", self.nwg),
                format!("{}, {}", self.split_base, self.splits),
            ));
        }
        let rows = u64::from(self.num_tokens) * u64::from(self.n_heads);
        if rows > u64::from(u32::MAX) {
            return Err(Error::param("num_tokens", "num_tokens x n_heads under 2^32", rows));
        }
        let values = u64::from(self.num_pages) * u64::from(self.page_size);
        let slots = values * u64::from(self.n_kv_heads);
        if values > u64::from(u32::MAX) || slots > u64::from(u32::MAX) {
            let need = "num_pages x page_size x n_kv_heads under 2^32";
            return Err(Error::param("num_pages", need, format!("{values} x {}", self.n_kv_heads)));
        }
        Ok(head_dim)
    }

    /// Checks the block with the records and the block table that go with it: everything that the
    /// kernel relies on.
    pub fn check_all(&self, sequences: &[TileSequence], block_table: &[u32]) -> Result<HeadDim> {
        let head_dim = self.check()?;
        equal("num_sequences", sequences.len(), self.num_sequences)?;
        equal("num_blocks", block_table.len(), self.num_blocks)?;
        if let Some(at) = block_table.iter().position(|&page| page >= self.num_pages) {
            return Err(Error::param(
                "block_table",
                format!("pages under num_pages {}", self.num_pages),
                format!("{} in entry {at}", block_table[at]),
            ));
        }
        let mut tokens = 0;
        for (number, sequence) in sequences.iter().enumerate() {
            if u64::from(sequence.first_token) != tokens {
                return Err(Error::param(
                    "first_token",
                    format!("{tokens}, where the sequence before ends"),
                    format!("{} in sequence {number}", sequence.first_token),
                ));
            }
            self.check_sequence(number, sequence)?;
            tokens += u64::from(sequence.query_tokens);
        }
        if tokens != u64::from(self.num_tokens) {
            let need = format!("the {tokens} query tokens of the sequences");
            return Err(Error::param("num_tokens", need, self.num_tokens));
        }
        Ok(head_dim)
    }

    fn check_sequence(&self, number: usize, sequence: &TileSequence) -> Result<()> {
        let refuse = |name, need: String, found: u64| {
            Err(Error::param(name, need, format!("{found} in sequence {number}")))
        };
        sequence.ring().map_err(|e| match e {
            Error::Param { name, need, found } => {
                Error::param(name, need, format!("{found} in sequence {number}"))
            }
            other => other,
        })?;
        if sequence.query_tokens > self.max_query_tokens {
            let need = format!("at most max_query_tokens {}", self.max_query_tokens);
            return refuse("query_tokens", need, sequence.query_tokens.into());
        }
        let last = u64::from(sequence.position) + u64::from(sequence.query_tokens);
        if last > u64::from(MAX_CAPACITY) {
            return refuse("position", format!("tokens to end by {MAX_CAPACITY}"), last);
        }
        let blocks = sequence.kv_capacity.div_ceil(self.page_size);
        let end = u64::from(sequence.first_block) + u64::from(blocks);
        if end > u64::from(self.num_blocks) {
            let need = format!("its {blocks} blocks to end by num_blocks {}", self.num_blocks);
            return refuse("first_block", need, end);
        }
        Ok(())
    }

    /// Positions that the query token `t` of `sequence` sees.
    pub fn visible(&self, sequence: &TileSequence, t: u32) -> Range<u32> {
        if self.mask_type == MASK_NONE {
            return 0..sequence.kv_seq_len;
        }
        let (next, window) = (sequence.position + t + 1, self.sliding_window);
        let end = next.min(sequence.kv_seq_len);
        let windowed = self.mask_type == MASK_SLIDING && window > 0;
        let first = if windowed { next.saturating_sub(window) } else { 0 };
        first.min(end)..end
    }

    /// Positions of split `w`: equal contiguous parts of what the sequence sees, from the first
    /// position that its first query token sees to the last that its last one sees.
    pub fn split(&self, sequence: &TileSequence, w: u32) -> Range<u32> {
        if sequence.query_tokens == 0 {
            return 0..0;
        }
        let first = self.visible(sequence, 0).start;
        let end = self.visible(sequence, sequence.query_tokens - 1).end;
        let part = (end - first).div_ceil(self.splits);
        let at = |w: u32| end.min(first.saturating_add(w.saturating_mul(part)));
        at(w)..at(w + 1)
    }

    /// Page and slot in the page of a chronological position.
    pub fn locate(&self, ring: Ring, table: &[u32], i: u32) -> (u32, u32) {
        let slot = ring.slot(i);
        (table[(slot / self.page_size) as usize], slot % self.page_size)
    }

    /// Floats of `dst`: the output at one slot, else the partials.
    pub fn dst_floats(&self) -> u64 {
        let rows = u64::from(self.num_tokens) * u64::from(self.n_heads);
        if self.nwg == 1 {
            rows * u64::from(self.head_dim)
        } else {
            partials_floats(1, self.head_dim, self.nwg) * rows
        }
    }

    /// What it has in common with attention of one token over one page.
    pub(crate) fn shape(&self) -> FlashAttnVecParams {
        FlashAttnVecParams {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            kv_seq_len: 0,
            kv_capacity: self.page_size,
            scale: self.scale,
            mask_type: self.mask_type,
            sliding_window: self.sliding_window,
            softcap: self.softcap,
            nwg: self.nwg,
            ring_start: 0,
        }
    }
}

fn at_least_1(name: &'static str, value: u32) -> Result<()> {
    if value == 0 { Err(Error::param(name, "at least 1", value)) } else { Ok(()) }
}

fn equal(name: &'static str, entries: usize, found: u32) -> Result<()> {
    if entries as u64 == u64::from(found) {
        return Ok(());
    }
    Err(Error::param(name, format!("the {entries} entries that go with it"), found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> FlashAttnTileParams {
        FlashAttnTileParams {
            n_heads: 6,
            n_kv_heads: 2,
            head_dim: 64,
            num_tokens: 5,
            num_sequences: 2,
            max_query_tokens: 4,
            page_size: 16,
            num_pages: 7,
            num_blocks: 3,
            scale: 0.125,
            mask_type: MASK_SLIDING,
            sliding_window: 9,
            softcap: 0.0,
            nwg: 4,
            split_base: 1,
            splits: 3,
            scale_factor_d512: 1.0,
        }
    }

    fn sequences() -> [TileSequence; 2] {
        let first = TileSequence {
            first_token: 0,
            query_tokens: 4,
            position: 20,
            kv_seq_len: 24,
            ring_start: 3,
            kv_capacity: 30,
            first_block: 0,
        };
        let second = TileSequence { first_token: 4, query_tokens: 1, position: 0, ..first };
        [first, TileSequence { kv_seq_len: 0, kv_capacity: 16, first_block: 2, ..second }]
    }

    const TABLE: [u32; 3] = [6, 0, 3];

    #[test]
    fn splits_cover_what_a_sequence_sees_once_and_in_order() {
        for (mask_type, sliding_window, splits) in [(0, 0, 1), (1, 0, 3), (2, 5, 2), (2, 3, 40)] {
            let p = FlashAttnTileParams { mask_type, sliding_window, splits, ..params() };
            for s in sequences() {
                let all: Vec<u32> = (0..splits).flat_map(|w| p.split(&s, w)).collect();
                let end = p.visible(&s, s.query_tokens - 1).end;
                let want: Vec<u32> = (p.visible(&s, 0).start..end).collect();
                assert_eq!(all, want, "{p:?} {s:?}");
            }
        }
    }

    #[test]
    fn every_token_sees_itself_and_what_its_window_reaches_back_to() {
        let s = sequences()[0];
        let seen: Vec<_> = (0..4).map(|t| params().visible(&s, t)).collect();
        assert_eq!(seen, [12..21, 13..22, 14..23, 15..24]);
        let causal = FlashAttnTileParams { mask_type: 1, ..params() };
        assert_eq!(causal.visible(&s, 1), 0..22);
        let none = FlashAttnTileParams { mask_type: 0, ..params() };
        assert_eq!(none.visible(&s, 0), 0..24);
    }

    #[test]
    fn every_number_that_does_not_fit_is_refused_by_name() {
        assert!(params().check_all(&sequences(), &TABLE).is_ok());
        type Change = fn(&mut FlashAttnTileParams, &mut [TileSequence; 2], &mut [u32; 3]);
        let changes: [(&str, Change); 22] = [
            ("head_dim", |p, _, _| p.head_dim = 96),
            ("num_heads", |p, _, _| p.n_heads = 5),
            ("num_tokens", |p, _, _| p.num_tokens = 0),
            ("num_tokens", |p, _, _| p.num_tokens = 6),
            ("num_tokens", |p, _, _| p.num_tokens = 1 << 30),
            ("num_sequences", |p, _, _| p.num_sequences = 3),
            ("num_blocks", |p, _, _| p.num_blocks = 2),
            ("num_pages", |p, _, _| p.num_pages = 1 << 27),
            ("page_size", |p, _, _| p.page_size = 0),
            ("mask_type", |p, _, _| p.mask_type = 3),
            ("scale", |p, _, _| p.scale = f32::NAN),
            ("softcap", |p, _, _| p.softcap = -1.0),
            ("scale_factor_d512", |p, _, _| p.scale_factor_d512 = 0.0),
            ("nwg", |p, _, _| p.nwg = 257),
            ("split_base", |p, _, _| p.split_base = 2),
            ("split_base", |p, _, _| p.splits = 0),
            ("block_table", |_, _, table| table[1] = 7),
            ("first_token", |_, s, _| s[1].first_token = 3),
            ("query_tokens", |p, _, _| p.max_query_tokens = 3),
            ("position", |_, s, _| s[0].position = 1 << 31),
            ("kv_seq_len", |_, s, _| s[0].kv_seq_len = 31),
            ("first_block", |_, s, _| s[0].kv_capacity = 49),
        ];
        for (name, change) in changes {
            let (mut p, mut s, mut table) = (params(), sequences(), TABLE);
            change(&mut p, &mut s, &mut table);
            let error = p.check_all(&s, &table).unwrap_err().to_string();
            assert!(error.starts_with(name), "{name}: {error}");
        }
    }
}
