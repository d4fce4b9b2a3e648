//! Cases of `dequantize_kv`.

use super::{CaseResult, PackedCache, Prepared, ROUNDOFF, floats, judge, judge_pair};
use crate::codec::{Bits, Codec, HeadDim, Ring, Rotation};
use crate::contract::{Caps, Language};
use crate::driver::DriverError;
use crate::kernels::dequantize_kv::Problem;
use crate::legs::{BufferId, Tape};
use crate::oracle::dequantize_kv::dequantize_kv;
use crate::params::DequantizeKvParams;
use crate::rng::Gaussian;

/// A product of three rounded factors, and at head_dim 512 a division of 2.5 ulp.
const TOLERANCE: f64 = 6.0 * ROUNDOFF;

/// Positions to decode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// The cache's codec.
    pub codec: Codec,
    /// KV heads.
    pub num_kv_heads: u32,
    /// Positions, from the ring's start.
    pub num_tokens: u32,
    /// Slots a KV head.
    pub capacity: u32,
    /// Slot of the first position.
    pub read_pos: u32,
    /// Write `[nkv, T, D]` instead of `[T, nkv, D]`.
    pub head_major: bool,
    /// Seed of the data.
    pub seed: u64,
}

/// Every head dim and layout; one slot, a part of a ring across its end, a full ring.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for head_dim in HeadDim::ALL {
        let codec =
            Codec { scale_factor_d512: 0.75, ..Codec::new(head_dim, Bits::B4, Rotation::Plain) };
        for (num_tokens, capacity, read_pos) in [(1, 1, 0), (4, 9, 7), (9, 9, 3)] {
            for head_major in [false, true] {
                cases.push(Case {
                    codec,
                    num_kv_heads: 3,
                    num_tokens,
                    capacity,
                    read_pos,
                    head_major,
                    seed: 5,
                });
            }
        }
    }
    for head_dim in HeadDim::ALL {
        cases.extend(Bits::ALL.map(|bits| Case {
            codec: Codec::new(head_dim, bits, Rotation::Plain),
            num_kv_heads: 2,
            num_tokens: 5,
            capacity: 7,
            read_pos: 4,
            head_major: false,
            seed: 6,
        }));
    }
    cases
}

impl Case {
    fn params(&self) -> DequantizeKvParams {
        let d = self.codec.head_dim.get();
        DequantizeKvParams {
            head_dim: d,
            num_kv_heads: self.num_kv_heads,
            read_pos: self.read_pos,
            cache_capacity: self.capacity,
            norms_per_pos: self.codec.head_dim.norms_per_pos(),
            scale_factor_d512: self.codec.scale_factor_d512,
            num_tokens: self.num_tokens,
            dst_token_stride: if self.head_major { d } else { self.num_kv_heads * d },
            dst_head_stride: if self.head_major { self.num_tokens * d } else { d },
        }
    }
}

impl super::Case for Case {
    fn kernel(&self) -> &'static str {
        "dequantize_kv"
    }

    fn id(&self) -> String {
        format!(
            "d{} b{} kv{} {}/{} at {} {}",
            self.codec.head_dim.get(),
            self.codec.bits,
            self.num_kv_heads,
            self.num_tokens,
            self.capacity,
            self.read_pos,
            if self.head_major { "head-major" } else { "token-major" }
        )
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        let ring = Ring::new(self.capacity, self.read_pos, self.num_tokens)?;
        let d = self.codec.head_dim.as_usize();
        let values = self.num_kv_heads as usize * self.num_tokens as usize * d;
        let rows = Gaussian::new(self.seed).normals(values);
        let cache = PackedCache::encode(&self.codec, ring, self.num_kv_heads, &rows, self.seed);
        let want = dequantize_kv(&self.codec, &self.params(), &cache.packed, &cache.norms)?;
        Ok(Box::new(Data { case: *self, cache, want }))
    }
}

struct Data {
    case: Case,
    cache: PackedCache,
    want: Vec<f64>,
}

impl Prepared for Data {
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError> {
        let (problem, params) = (Problem { codec: self.case.codec }, self.case.params());
        let mut tape = Tape::default();
        let packed = tape.input("packed", &self.cache.packed);
        let norms = tape.input("norms", bytemuck::cast_slice(&self.cache.norms));
        let dst = tape.output("dst", params.dst_floats() * 4);
        let launch = problem.launch(&params, caps)?;
        tape.step(problem.plan(caps, language)?, launch, &[packed, norms, dst]);
        Ok((tape, vec![dst]))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        let d = self.case.codec.head_dim.as_usize();
        Ok(judge(&floats(outputs[0]), &self.want, d, TOLERANCE))
    }

    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        Ok(judge_pair(&floats(left[0]), &floats(right[0]), &self.want, TOLERANCE))
    }
}
