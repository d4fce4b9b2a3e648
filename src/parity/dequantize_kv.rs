//! Cases of `dequantize_kv`.

use super::{CaseResult, PackedCache, ROUNDOFF, judge};
use crate::codec::{Codec, Ring};
use crate::kernels::dequantize_kv::Problem;
use crate::legs::{Leg, Tape};
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

impl Case {
    /// Runs the kernel on `leg` and compares.
    pub fn run(&self, leg: &mut dyn Leg) -> CaseResult {
        let head_dim = self.codec.head_dim;
        let ring = Ring::new(self.capacity, self.read_pos, self.num_tokens)?;
        let values = self.num_kv_heads as usize * self.num_tokens as usize * head_dim.as_usize();
        let rows = Gaussian::new(self.seed).normals(values);
        let cache = PackedCache::encode(&self.codec, ring, self.num_kv_heads, &rows, self.seed);
        let d = head_dim.get();
        let params = DequantizeKvParams {
            head_dim: d,
            num_kv_heads: self.num_kv_heads,
            read_pos: self.read_pos,
            cache_capacity: self.capacity,
            norms_per_pos: head_dim.norms_per_pos(),
            scale_factor_d512: self.codec.scale_factor_d512,
            num_tokens: self.num_tokens,
            dst_token_stride: if self.head_major { d } else { self.num_kv_heads * d },
            dst_head_stride: if self.head_major { self.num_tokens * d } else { d },
        };
        let want = dequantize_kv(&self.codec, &params, &cache.packed, &cache.norms)?;

        let (caps, language) = (leg.caps(), leg.name().language());
        let problem = Problem { codec: self.codec };
        let mut tape = Tape::default();
        let packed = tape.input("packed", &cache.packed);
        let norms = tape.input("norms", bytemuck::cast_slice(&cache.norms));
        let dst = tape.output("dst", params.dst_floats() * 4);
        let launch = problem.launch(&params, &caps)?;
        tape.step(problem.plan(&caps, language)?, launch, &[packed, norms, dst]);
        let got = leg.run(&tape)?.floats(dst);
        Ok(judge(&got, &want, head_dim.as_usize(), TOLERANCE))
    }
}
