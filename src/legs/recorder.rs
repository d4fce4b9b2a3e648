//! Writes the dispatches of a decode step onto a tape, planned for one leg: what the drivers have
//! in common.

use super::tape::{BufferId, Tape};
use super::{Leg, LegName};
use crate::codec::{Bits, Codec, Direction};
use crate::contract::{Caps, Language};
use crate::driver::DriverError;
use crate::error::Error;
use crate::kernels::{
    dequantize_kv, flash_attn_vec, flash_attn_vec_reduce, flash_attn_vec_tq, fwht, quantize_kv,
};
use crate::params::{
    DequantizeKvParams, FlashAttnVecParams, FlashAttnVecReduceParams, FlashAttnVecTqParams,
    FwhtParams, QuantizeKvParams,
};

/// One side of a packed cache on a tape.
#[derive(Debug, Clone, Copy)]
pub struct PackedBuffers {
    /// Width of a code.
    pub bits: Bits,
    /// Codes.
    pub packed: BufferId,
    /// Norms.
    pub norms: BufferId,
}

/// A tape with everything that plans for its leg need.
#[derive(Debug)]
pub struct Recorder<'r, 't> {
    /// The tape.
    pub tape: &'r mut Tape<'t>,
    codec: Codec,
    caps: Caps,
    language: Language,
    max_splits: u32,
}

impl<'r, 't> Recorder<'r, 't> {
    /// Records for `leg`. The codec is that of K and V alike, but for the width of a code, which a
    /// side of the cache knows itself.
    pub fn new(tape: &'r mut Tape<'t>, leg: &dyn Leg, codec: Codec) -> Self {
        Self {
            tape,
            codec,
            caps: leg.caps(),
            language: LegName::language(leg.name()),
            max_splits: leg.max_splits(),
        }
    }

    /// Rotates `rows` rows in place.
    pub fn rotate(
        &mut self,
        data: BufferId,
        direction: Direction,
        rows: u32,
    ) -> Result<(), DriverError> {
        let (head_dim, rotation) = (self.codec.head_dim, self.codec.rotation);
        let problem = fwht::Problem { head_dim, rotation, direction };
        let params = FwhtParams { head_dim: head_dim.get(), num_heads: rows };
        let launch = problem.launch(&params, &self.caps, self.language)?;
        self.tape.step(problem.plan(&self.caps, self.language)?, launch, &[data]);
        Ok(())
    }

    /// Encodes `src` into `side`.
    pub fn quantize(
        &mut self,
        params: &QuantizeKvParams,
        src: BufferId,
        side: PackedBuffers,
    ) -> Result<(), DriverError> {
        let problem = quantize_kv::Problem { codec: self.codec_of(side) };
        let launch = problem.launch(params, &self.caps, self.language)?;
        let plan = problem.plan(&self.caps, self.language)?;
        self.tape.step(plan, launch, &[src, side.packed, side.norms]);
        Ok(())
    }

    /// Decodes `side` into `dst`, still rotated.
    pub fn dequantize(
        &mut self,
        params: &DequantizeKvParams,
        side: PackedBuffers,
        dst: BufferId,
    ) -> Result<(), DriverError> {
        let problem = dequantize_kv::Problem { codec: self.codec_of(side) };
        let launch = problem.launch(params, &self.caps)?;
        let plan = problem.plan(&self.caps, self.language)?;
        self.tape.step(plan, launch, &[side.packed, side.norms, dst]);
        Ok(())
    }

    /// Decodes and un-rotates the stored positions of `side` into a new buffer `[nkv, n, D]`,
    /// chronological.
    pub fn decode(
        &mut self,
        shape: &FlashAttnVecTqParams,
        side: PackedBuffers,
        label: &'static str,
    ) -> Result<BufferId, DriverError> {
        let too_long = || {
            Error::param(
                "kv_seq_len",
                "head_dim x kv_seq_len and rows under 2^32",
                shape.kv_seq_len,
            )
        };
        let params = DequantizeKvParams {
            head_dim: shape.head_dim,
            num_kv_heads: shape.n_kv_heads,
            read_pos: shape.ring_start,
            cache_capacity: shape.kv_capacity,
            norms_per_pos: self.codec.head_dim.norms_per_pos(),
            scale_factor_d512: shape.scale_factor_d512,
            num_tokens: shape.kv_seq_len,
            dst_token_stride: shape.head_dim,
            dst_head_stride: shape.head_dim.checked_mul(shape.kv_seq_len).ok_or_else(too_long)?,
        };
        let dense = self.tape.scratch(label, params.dst_floats() * 4);
        self.dequantize(&params, side, dense)?;
        let rows = shape.n_kv_heads.checked_mul(shape.kv_seq_len).ok_or_else(too_long)?;
        self.rotate(dense, Direction::Inverse, rows)?;
        Ok(dense)
    }

    /// Attends over packed K and V into `out`, in the rotated basis, with as many splits as the
    /// plan wants. Returns the parameter block that the kernel gets, read back from the launch.
    pub fn attend_packed(
        &mut self,
        shape: &FlashAttnVecTqParams,
        q: BufferId,
        [k, v]: [PackedBuffers; 2],
        out: BufferId,
    ) -> Result<FlashAttnVecTqParams, DriverError> {
        let problem = flash_attn_vec_tq::Problem {
            k_bits: k.bits,
            codec: self.codec_of(v),
            num_heads: shape.n_heads,
            num_kv_heads: shape.n_kv_heads,
        };
        let visible = shape.kv_seq_len - FlashAttnVecParams::from(*shape).first_visible();
        let nwg = problem.splits(visible, &self.caps, self.language)?.min(self.max_splits);
        let params = FlashAttnVecTqParams { nwg, ..*shape };
        let launch = problem.launch(&params, &self.caps, self.language)?;
        let passed = bytemuck::pod_read_unaligned(launch.uniform(0));
        let dst = self.partials_or(out, nwg, launch.needed[6]);
        let plan = problem.plan(&self.caps, self.language)?;
        self.tape.step(plan, launch, &[q, k.packed, k.norms, v.packed, v.norms, dst]);
        self.reduce(shape.n_heads, nwg, dst, out)?;
        Ok(passed)
    }

    /// Attends over dense f32 K and V into `out`; returns the number of splits.
    pub fn attend_dense(
        &mut self,
        shape: &FlashAttnVecParams,
        [q, k, v]: [BufferId; 3],
        out: BufferId,
    ) -> Result<u32, DriverError> {
        let problem = flash_attn_vec::Problem {
            head_dim: self.codec.head_dim,
            kv_type: flash_attn_vec::KvType::F32,
            num_heads: shape.n_heads,
            num_kv_heads: shape.n_kv_heads,
        };
        let visible = shape.kv_seq_len - shape.first_visible();
        let nwg = problem.splits(visible, &self.caps, self.language)?.min(self.max_splits);
        let params = FlashAttnVecParams { nwg, ..*shape };
        let launch = problem.launch(&params, &self.caps, self.language)?;
        let dst = self.partials_or(out, nwg, launch.needed[4]);
        let plan = problem.plan(&self.caps, self.language)?;
        self.tape.step(plan, launch, &[q, k, v, dst]);
        self.reduce(shape.n_heads, nwg, dst, out)?;
        Ok(nwg)
    }

    const fn codec_of(&self, side: PackedBuffers) -> Codec {
        Codec { bits: side.bits, ..self.codec }
    }

    fn partials_or(&mut self, out: BufferId, nwg: u32, bytes: u64) -> BufferId {
        if nwg == 1 { out } else { self.tape.scratch("partials", bytes) }
    }

    fn reduce(
        &mut self,
        nrows: u32,
        nwg: u32,
        partials: BufferId,
        out: BufferId,
    ) -> Result<(), DriverError> {
        if nwg == 1 {
            return Ok(());
        }
        let problem = flash_attn_vec_reduce::Problem { head_dim: self.codec.head_dim };
        let params = FlashAttnVecReduceParams { nrows, nwg };
        let launch = problem.launch(&params, &self.caps)?;
        self.tape.step(problem.plan(&self.caps, self.language)?, launch, &[partials, out]);
        Ok(())
    }
}
