//! Cases of `flash_attn_vec_tq`.

use super::{CaseResult, Outcome, PackedCache, attention_tolerance, judge};
use crate::codec::{Codec, Ring};
use crate::driver::DriverError;
use crate::kernels::flash_attn_vec_tq::Problem;
use crate::legs::{Leg, Tape};
use crate::oracle::dequantize_kv::PackedRows;
use crate::oracle::flash_attn_vec_reduce::flash_attn_vec_reduce;
use crate::oracle::flash_attn_vec_tq::flash_attn_vec_tq;
use crate::oracle::max_abs_score;
use crate::params::{FlashAttnVecParams, FlashAttnVecReduceParams, FlashAttnVecTqParams};
use crate::rng::Gaussian;

/// An attention shape and its data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// The cache's codec.
    pub codec: Codec,
    /// Query heads.
    pub num_heads: u32,
    /// KV heads.
    pub num_kv_heads: u32,
    /// Positions stored.
    pub kv_seq_len: u32,
    /// Slots a KV head.
    pub kv_capacity: u32,
    /// Slot of the oldest position.
    pub ring_start: u32,
    /// 0 none, 1 causal, 2 sliding.
    pub mask_type: u32,
    /// Window of mask 2.
    pub sliding_window: u32,
    /// Softcap; 0 is off.
    pub softcap: f32,
    /// Splits.
    pub nwg: u32,
    /// Standard deviation of the scores before the softcap.
    pub score_sigma: f32,
    /// Seed of the data.
    pub seed: u64,
}

impl Case {
    /// Parameters of the case.
    pub fn params(&self) -> FlashAttnVecTqParams {
        let d = self.codec.head_dim.get();
        FlashAttnVecTqParams {
            n_heads: self.num_heads,
            n_kv_heads: self.num_kv_heads,
            head_dim: d,
            kv_seq_len: self.kv_seq_len,
            kv_capacity: self.kv_capacity,
            // q and k are N(0, 1): their product has standard deviation sqrt(D).
            scale: self.score_sigma / (d as f32).sqrt(),
            mask_type: self.mask_type,
            sliding_window: self.sliding_window,
            softcap: self.softcap,
            nwg: self.nwg,
            ring_start: self.ring_start,
            scale_factor_d512: self.codec.scale_factor_d512,
        }
    }

    /// Runs the kernel on `leg` and compares. Partials are merged by the reduce oracle, after
    /// each split's sum has been checked to be 0 exactly when the split is empty.
    pub fn run(&self, leg: &mut dyn Leg) -> CaseResult {
        let params = self.params();
        let shape = FlashAttnVecParams::from(params);
        let ring = Ring::new(self.kv_capacity, self.ring_start, self.kv_seq_len)?;
        let d = self.codec.head_dim.as_usize();
        let mut rng = Gaussian::new(self.seed);
        let values = self.num_kv_heads as usize * self.kv_seq_len as usize * d;
        let encode = |rows: &[f32], seed| {
            PackedCache::encode(&self.codec, ring, self.num_kv_heads, rows, seed)
        };
        let k = encode(&rng.normals(values), self.seed);
        let v = encode(&rng.normals(values), self.seed + 1);
        let q = rng.normals(self.num_heads as usize * d);

        let (k_rows, v_rows) = (self.rows(&k), self.rows(&v));
        let one = FlashAttnVecTqParams { nwg: 1, ..params };
        let want = flash_attn_vec_tq(&one, &q, k_rows, v_rows)?;
        let largest = max_abs_score(&shape, &q, &|h, s, o| k_rows.decode_rotated(h, s, o))?;

        let (caps, language) = (leg.caps(), leg.name().language());
        let problem = Problem {
            codec: self.codec,
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
        };
        let mut tape = Tape::default();
        let inputs = [
            tape.input("q", bytemuck::cast_slice(&q)),
            tape.input("k_packed", &k.packed),
            tape.input("k_norms", bytemuck::cast_slice(&k.norms)),
            tape.input("v_packed", &v.packed),
            tape.input("v_norms", bytemuck::cast_slice(&v.norms)),
        ];
        let dst = tape.output("dst", shape.dst_floats() * 4);
        let launch = problem.launch(&params, &caps, language)?;
        let buffers: Vec<_> = inputs.into_iter().chain([dst]).collect();
        tape.step(problem.plan(&caps, language)?, launch, &buffers);
        let got = leg.run(&tape)?.floats(dst);
        judge_attention(&shape, &got, &want, attention_tolerance(largest))
    }

    fn rows<'a>(&self, cache: &'a PackedCache) -> PackedRows<'a> {
        PackedRows {
            codec: self.codec,
            capacity: self.kv_capacity,
            packed: &cache.packed,
            norms: &cache.norms,
        }
    }
}

/// Judges the `dst` of an attention kernel, output or partials, against the attention output.
pub fn judge_attention(
    shape: &FlashAttnVecParams,
    dst: &[f32],
    want: &[f64],
    tolerance: f64,
) -> Result<Outcome, DriverError> {
    let d = shape.head_dim as usize;
    if shape.nwg == 1 {
        return Ok(judge(dst, want, d, tolerance));
    }
    let (rows, nwg) = (shape.n_heads as usize, shape.nwg as usize);
    for row in 0..rows {
        for w in 0..nwg {
            let sum = dst[rows * d * nwg + row * 2 * nwg + 2 * w];
            let empty = shape.split(w as u32).is_empty();
            // The NaN case: neither side of the comparison holds, which is a failure too.
            if (sum == 0.0) != empty {
                return Ok(Outcome {
                    error: f64::INFINITY,
                    tolerance,
                    detail: format!("row {row} split {w}: S is {sum}, the split is empty: {empty}"),
                });
            }
        }
    }
    let reduce = FlashAttnVecReduceParams { nrows: shape.n_heads, nwg: shape.nwg };
    let merged = flash_attn_vec_reduce(&reduce, shape.head_dim, dst)?;
    let merged: Vec<f32> = merged.iter().map(|&x| x as f32).collect();
    Ok(judge(&merged, want, d, tolerance))
}
