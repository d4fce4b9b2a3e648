//! Parameter blocks: what a kernel and its oracle are both called with.
//!
//! Scalars are 4 bytes, tightly packed, in the published order; a block may grow at its end and
//! never changes at its front, so a shader written for the shorter block keeps working.
//! `tests/contract.rs` holds each struct against the WGSL and the MSL.

mod flash_attn_tile;

use bytemuck::{Pod, Zeroable};

pub use flash_attn_tile::{FlashAttnTileParams, TileSequence};

use crate::codec::{HeadDim, Ring};
use crate::error::{Error, Result};

/// `mask_type`: everything stored is visible.
pub const MASK_NONE: u32 = 0;
/// `mask_type`: causal; for one query at the newest position the same as none.
pub const MASK_CAUSAL: u32 = 1;
/// `mask_type`: only the newest `sliding_window` positions; a window of 0 means no window.
pub const MASK_SLIDING: u32 = 2;

/// Most splits of one row: what `flash_attn_vec_reduce` merges in one workgroup.
pub const MAX_SPLITS: u32 = 256;

/// `fwht`: rows are transformed in place.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct FwhtParams {
    /// Coordinates of a row.
    pub head_dim: u32,
    /// Rows (heads, or heads x tokens).
    pub num_heads: u32,
}

/// `quantize_kv`: T tokens x nkv heads of K or V into packed rows.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct QuantizeKvParams {
    /// Coordinates of a head vector.
    pub head_dim: u32,
    /// KV heads.
    pub num_kv_heads: u32,
    /// Slot of the first token.
    pub write_pos: u32,
    /// Slots a KV head.
    pub cache_capacity: u32,
    /// 1: slots wrap at the capacity. 0: they must not reach it.
    pub is_sliding: u32,
    /// Scale between block norm and codebook at head_dim 512.
    pub scale_factor_d512: f32,
    /// Published debugging probe. This project's kernels have none: must be 0.
    pub rms_probe_enabled: u32,
    /// Tokens in `src`. When a sliding run is longer than the capacity, the newest win.
    pub num_tokens: u32,
}

impl QuantizeKvParams {
    /// Slot of token `t`, or none when a later token of the same run takes it.
    pub fn slot(&self, t: u32) -> Option<u32> {
        if self.is_sliding == 0 {
            return Some(self.write_pos + t);
        }
        let overwritten =
            u64::from(t) + u64::from(self.cache_capacity) < u64::from(self.num_tokens);
        let slot = (u64::from(self.write_pos) + u64::from(t)) % u64::from(self.cache_capacity);
        (!overwritten).then_some(slot as u32)
    }

    /// Checks everything that the kernel relies on.
    pub fn check(&self) -> Result<HeadDim> {
        let head_dim = HeadDim::new(self.head_dim)?;
        check_run(
            self.num_kv_heads,
            self.write_pos,
            self.num_tokens,
            self.cache_capacity,
            self.is_sliding,
        )?;
        check_values(self.num_kv_heads, self.cache_capacity, self.head_dim)?;
        check_scale_factor(self.scale_factor_d512)?;
        if self.rms_probe_enabled != 0 {
            return Err(Error::param("rms_probe_enabled", "0", self.rms_probe_enabled));
        }
        Ok(head_dim)
    }
}

/// `dequantize_kv`: packed rows to f32, still in the rotated basis.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct DequantizeKvParams {
    /// Coordinates of a head vector.
    pub head_dim: u32,
    /// KV heads.
    pub num_kv_heads: u32,
    /// Slot of the first position.
    pub read_pos: u32,
    /// Slots a KV head.
    pub cache_capacity: u32,
    /// Norms a position: 1, or 2 at head_dim 512.
    pub norms_per_pos: u32,
    /// Scale between block norm and codebook at head_dim 512.
    pub scale_factor_d512: f32,
    /// Positions to decode, in slots `(read_pos + t) % cache_capacity`.
    pub num_tokens: u32,
    /// Floats from one position to the next in `dst`.
    pub dst_token_stride: u32,
    /// Floats from one KV head to the next in `dst`.
    pub dst_head_stride: u32,
}

impl DequantizeKvParams {
    /// Slot of position `t`.
    pub fn slot(&self, t: u32) -> u32 {
        ((u64::from(self.read_pos) + u64::from(t)) % u64::from(self.cache_capacity)) as u32
    }

    /// Floats of `dst` that a launch writes, from its first to its last.
    pub fn dst_floats(&self) -> u64 {
        if self.num_tokens == 0 || self.num_kv_heads == 0 {
            return 0;
        }
        let last = |count: u32, stride: u32| u64::from(count - 1) * u64::from(stride);
        last(self.num_tokens, self.dst_token_stride)
            + last(self.num_kv_heads, self.dst_head_stride)
            + u64::from(self.head_dim)
    }

    /// Checks everything that the kernel relies on.
    pub fn check(&self) -> Result<HeadDim> {
        let head_dim = HeadDim::new(self.head_dim)?;
        check_run(self.num_kv_heads, self.read_pos, self.num_tokens, self.cache_capacity, 1)?;
        check_values(self.num_kv_heads, self.cache_capacity, self.head_dim)?;
        check_scale_factor(self.scale_factor_d512)?;
        if self.norms_per_pos != head_dim.norms_per_pos() {
            return Err(Error::param(
                "norms_per_pos",
                format!("{} at head_dim {head_dim}", head_dim.norms_per_pos()),
                self.norms_per_pos,
            ));
        }
        if self.num_tokens > self.cache_capacity {
            return Err(Error::param(
                "num_tokens",
                format!("at most cache_capacity {}", self.cache_capacity),
                self.num_tokens,
            ));
        }
        Ok(head_dim)
    }
}

/// `flash_attn_vec_tq`: decode attention over packed K and V.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct FlashAttnVecTqParams {
    /// Query heads.
    pub n_heads: u32,
    /// KV heads; divides `n_heads`.
    pub n_kv_heads: u32,
    /// Coordinates of a head vector.
    pub head_dim: u32,
    /// Positions stored.
    pub kv_seq_len: u32,
    /// Slots a KV head.
    pub kv_capacity: u32,
    /// Factor on `dot(q, k)`.
    pub scale: f32,
    /// 0 none, 1 causal, 2 sliding window.
    pub mask_type: u32,
    /// Newest positions that are visible with mask 2; 0 means no window.
    pub sliding_window: u32,
    /// `c tanh(score / c)` when c > 0; 0 is off.
    pub softcap: f32,
    /// Splits of the context. 1: `dst` is the output. More: `dst` holds partials.
    pub nwg: u32,
    /// Slot of the oldest position.
    pub ring_start: u32,
    /// Scale between block norm and codebook at head_dim 512.
    pub scale_factor_d512: f32,
}

/// `flash_attn_vec`: the dense control, f32 or f16 K and V.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct FlashAttnVecParams {
    /// Query heads.
    pub n_heads: u32,
    /// KV heads; divides `n_heads`.
    pub n_kv_heads: u32,
    /// Coordinates of a head vector.
    pub head_dim: u32,
    /// Positions stored.
    pub kv_seq_len: u32,
    /// Slots a KV head.
    pub kv_capacity: u32,
    /// Factor on `dot(q, k)`.
    pub scale: f32,
    /// 0 none, 1 causal, 2 sliding window.
    pub mask_type: u32,
    /// Newest positions that are visible with mask 2; 0 means no window.
    pub sliding_window: u32,
    /// `c tanh(score / c)` when c > 0; 0 is off.
    pub softcap: f32,
    /// Splits of the context. 1: `dst` is the output. More: `dst` holds partials.
    pub nwg: u32,
    /// Slot of the oldest position. Ours: the published block ends before it.
    pub ring_start: u32,
}

impl From<FlashAttnVecTqParams> for FlashAttnVecParams {
    fn from(p: FlashAttnVecTqParams) -> Self {
        Self {
            n_heads: p.n_heads,
            n_kv_heads: p.n_kv_heads,
            head_dim: p.head_dim,
            kv_seq_len: p.kv_seq_len,
            kv_capacity: p.kv_capacity,
            scale: p.scale,
            mask_type: p.mask_type,
            sliding_window: p.sliding_window,
            softcap: p.softcap,
            nwg: p.nwg,
            ring_start: p.ring_start,
        }
    }
}

impl FlashAttnVecTqParams {
    /// Checks everything that the kernel relies on.
    pub fn check(&self) -> Result<HeadDim> {
        check_scale_factor(self.scale_factor_d512)?;
        FlashAttnVecParams::from(*self).check()
    }
}

impl FlashAttnVecParams {
    /// Checks everything that the kernel relies on.
    pub fn check(&self) -> Result<HeadDim> {
        let head_dim = HeadDim::new(self.head_dim)?;
        check_heads(self.n_heads, self.n_kv_heads)?;
        check_values(self.n_kv_heads, self.kv_capacity, self.head_dim)?;
        Ring::new(self.kv_capacity, self.ring_start, self.kv_seq_len)?;
        if self.mask_type > MASK_SLIDING {
            return Err(Error::param("mask_type", "0, 1 or 2", self.mask_type));
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Err(Error::param("scale", "a finite number above 0", self.scale));
        }
        if !(self.softcap.is_finite() && self.softcap >= 0.0) {
            return Err(Error::param("softcap", "a finite number, 0 or above", self.softcap));
        }
        if self.nwg == 0 || self.nwg > MAX_SPLITS {
            return Err(Error::param("nwg", format!("1 to {MAX_SPLITS}"), self.nwg));
        }
        Ok(head_dim)
    }

    /// The ring that the parameters describe.
    pub fn ring(&self) -> Result<Ring> {
        Ring::new(self.kv_capacity, self.ring_start, self.kv_seq_len)
    }

    /// Query heads that share one KV head.
    pub fn group_size(&self) -> u32 {
        self.n_heads / self.n_kv_heads
    }

    /// First visible chronological position.
    pub fn first_visible(&self) -> u32 {
        if self.mask_type == MASK_SLIDING && self.sliding_window > 0 {
            self.kv_seq_len.saturating_sub(self.sliding_window)
        } else {
            0
        }
    }

    /// Chronological positions of split `w`: equal contiguous parts of the visible range.
    pub fn split(&self, w: u32) -> std::ops::Range<u32> {
        let first = self.first_visible();
        let part = (self.kv_seq_len - first).div_ceil(self.nwg);
        let at = |w: u32| (first + (w * part).min(self.kv_seq_len - first)).min(self.kv_seq_len);
        at(w)..at(w + 1)
    }

    /// Floats of `dst`: the output at one split, else the partials.
    pub fn dst_floats(&self) -> u64 {
        if self.nwg == 1 {
            u64::from(self.n_heads) * u64::from(self.head_dim)
        } else {
            partials_floats(self.n_heads, self.head_dim, self.nwg)
        }
    }
}

/// `flash_attn_vec_reduce`: merges the splits of each row. Two scalars in two bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlashAttnVecReduceParams {
    /// Rows: query heads.
    pub nrows: u32,
    /// Splits to merge.
    pub nwg: u32,
}

impl FlashAttnVecReduceParams {
    /// Checks everything that the kernel relies on.
    pub fn check(&self) -> Result<()> {
        if self.nrows == 0 {
            return Err(Error::param("nrows", "at least 1", self.nrows));
        }
        if self.nwg == 0 || self.nwg > MAX_SPLITS {
            return Err(Error::param("nwg", format!("1 to {MAX_SPLITS}"), self.nwg));
        }
        Ok(())
    }
}

/// Floats of a partials buffer: `nrows * nwg * (D + 2)`.
pub fn partials_floats(nrows: u32, head_dim: u32, nwg: u32) -> u64 {
    u64::from(nrows) * u64::from(nwg) * (u64::from(head_dim) + 2)
}

/// Checks that the query heads are a positive multiple of the KV heads.
pub fn check_heads(num_heads: u32, num_kv_heads: u32) -> Result<()> {
    if num_kv_heads == 0 {
        return Err(Error::param("num_kv_heads", "at least 1", num_kv_heads));
    }
    if num_heads == 0 || !num_heads.is_multiple_of(num_kv_heads) {
        return Err(Error::param(
            "num_heads",
            format!("a positive multiple of num_kv_heads {num_kv_heads}"),
            num_heads,
        ));
    }
    Ok(())
}

/// Most values of one cache: keeps every byte count far inside u64.
const MAX_VALUES: u64 = 1 << 40;

fn check_values(kv_heads: u32, capacity: u32, head_dim: u32) -> Result<()> {
    let rows = u64::from(kv_heads) * u64::from(capacity);
    if rows > MAX_VALUES / u64::from(head_dim) {
        return Err(Error::param(
            "kv_capacity",
            format!("num_kv_heads x kv_capacity x head_dim at most {MAX_VALUES}"),
            format!("{kv_heads} x {capacity} x {head_dim}"),
        ));
    }
    Ok(())
}

fn check_run(kv_heads: u32, pos: u32, tokens: u32, capacity: u32, sliding: u32) -> Result<()> {
    if kv_heads == 0 {
        return Err(Error::param("num_kv_heads", "at least 1", kv_heads));
    }
    if u64::from(kv_heads) * u64::from(tokens) > u64::from(u32::MAX) {
        let rows = u64::from(kv_heads) * u64::from(tokens);
        return Err(Error::param("num_tokens", "num_kv_heads x num_tokens under 2^32", rows));
    }
    Ring::new(capacity, 0, 0)?;
    if sliding > 1 {
        return Err(Error::param("is_sliding", "0 or 1", sliding));
    }
    if pos >= capacity {
        return Err(Error::param("position", format!("less than capacity {capacity}"), pos));
    }
    let end = u64::from(pos) + u64::from(tokens);
    if sliding == 0 && end > u64::from(capacity) {
        return Err(Error::param("write_pos", format!("tokens to end by slot {capacity}"), end));
    }
    Ok(())
}

fn check_scale_factor(sf: f32) -> Result<()> {
    if sf.is_finite() && sf > 0.0 {
        Ok(())
    } else {
        Err(Error::param("scale_factor_d512", "a finite number above 0", sf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_the_visible_positions_once_and_in_order() {
        for (n, window, nwg) in [(1, 0, 1), (33, 0, 4), (1000, 7, 16), (5, 0, 8), (0, 0, 3)] {
            let p = FlashAttnVecParams {
                kv_seq_len: n,
                mask_type: MASK_SLIDING,
                sliding_window: window,
                nwg,
                ..Zeroable::zeroed()
            };
            let all: Vec<u32> = (0..nwg).flat_map(|w| p.split(w)).collect();
            assert_eq!(all, (p.first_visible()..n).collect::<Vec<_>>(), "n {n} nwg {nwg}");
        }
    }

    #[test]
    fn a_sliding_run_longer_than_the_cache_keeps_its_newest_tokens() {
        let p = QuantizeKvParams {
            write_pos: 2,
            cache_capacity: 4,
            is_sliding: 1,
            num_tokens: 6,
            ..Zeroable::zeroed()
        };
        let slots: Vec<_> = (0..6).map(|t| p.slot(t)).collect();
        assert_eq!(slots, [None, None, Some(0), Some(1), Some(2), Some(3)]);
    }
}
