//! Cases of `quantize_kv`.

use super::{CaseResult, Outcome};
use crate::codec::{Codec, codebook, row};
use crate::kernels::quantize_kv::Problem;
use crate::legs::{Leg, Tape};
use crate::metrics::ulp_distance;
use crate::oracle::quantize_kv::encode;
use crate::params::QuantizeKvParams;
use crate::rng::Gaussian;

/// A code may differ from the oracle's only if the coordinate is this close to a boundary of
/// the codebook's scale: eleven f32 stages of values up to 4 are off by under 3e-6.
pub const BOUNDARY_MARGIN: f64 = 1e-5;
/// Units in the last place that a norm may differ: a sum of up to 256 squares in two levels,
/// halved by the square root, and the square root and 1 / sqrt(D) themselves.
pub const NORM_ULPS: u32 = 4;

/// Rows to encode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// The cache's codec.
    pub codec: Codec,
    /// KV heads.
    pub num_kv_heads: u32,
    /// Tokens.
    pub num_tokens: u32,
    /// Slots a KV head.
    pub capacity: u32,
    /// Slot of the first token.
    pub write_pos: u32,
    /// Whether slots wrap.
    pub sliding: bool,
    /// Factor on the N(0, 1) data; 0 makes zero rows.
    pub amplitude: f32,
    /// Seed of the data.
    pub seed: u64,
}

impl Case {
    fn params(&self) -> QuantizeKvParams {
        QuantizeKvParams {
            head_dim: self.codec.head_dim.get(),
            num_kv_heads: self.num_kv_heads,
            write_pos: self.write_pos,
            cache_capacity: self.capacity,
            is_sliding: self.sliding.into(),
            scale_factor_d512: self.codec.scale_factor_d512,
            rms_probe_enabled: 0,
            num_tokens: self.num_tokens,
        }
    }

    /// Runs the kernel on `leg` over a cache full of known bytes and compares.
    pub fn run(&self, leg: &mut dyn Leg) -> CaseResult {
        let head_dim = self.codec.head_dim;
        let rows = self.num_tokens as usize * self.num_kv_heads as usize;
        let mut src = Gaussian::new(self.seed).normals(rows * head_dim.as_usize());
        src.iter_mut().for_each(|x| *x *= self.amplitude);
        let slots = self.num_kv_heads as usize * self.capacity as usize;
        let bytes = row::row_bytes(head_dim, self.codec.bits) as usize;
        let before = vec![0xa5u8; slots * bytes];
        let norms_before = vec![-1.0f32; slots * head_dim.norms_per_pos() as usize];

        let (caps, language) = (leg.caps(), leg.name().language());
        let problem = Problem { codec: self.codec };
        let mut tape = Tape::default();
        let input = tape.input("src", bytemuck::cast_slice(&src));
        let packed = tape.in_out("packed", &before);
        let norms = tape.in_out("norms", bytemuck::cast_slice(&norms_before));
        let launch = problem.launch(&self.params(), &caps, language)?;
        tape.step(problem.plan(&caps, language)?, launch, &[input, packed, norms]);
        let run = leg.run(&tape)?;
        Ok(self.judge(&src, run.bytes(packed), &run.floats(norms)))
    }

    /// Compares a written cache with the oracle: codes, norms, and that every slot that no token
    /// maps to still holds what it held. The error is the number of violations.
    pub fn judge(&self, src: &[f32], packed: &[u8], norms: &[f32]) -> Outcome {
        let (codec, params) = (&self.codec, self.params());
        let (d, npp) = (codec.head_dim.as_usize(), codec.head_dim.norms_per_pos() as usize);
        let bytes = row::row_bytes(codec.head_dim, codec.bits) as usize;
        let mut written = vec![None; norms.len() / npp];
        for t in 0..self.num_tokens {
            for head in 0..self.num_kv_heads {
                if let Some(slot) = params.slot(t) {
                    let source = t as usize * self.num_kv_heads as usize + head as usize;
                    written[head as usize * self.capacity as usize + slot as usize] = Some(source);
                }
            }
        }
        let mut violations = Vec::new();
        for (at, source) in written.iter().enumerate() {
            let got = &packed[at * bytes..(at + 1) * bytes];
            let got_norms = &norms[at * npp..(at + 1) * npp];
            let Some(source) = *source else {
                if got.iter().any(|&b| b != 0xa5) || got_norms.iter().any(|&n| n != -1.0) {
                    violations.push(format!("row {at}: no token maps to it, yet it changed"));
                }
                continue;
            };
            let want = encode(codec, &src[source * d..(source + 1) * d]);
            for c in 0..d {
                let (code, near) = (row::code(codec.bits, got, c), want.codes[c]);
                let distance = codebook::boundary_distance(codec.bits, want.z[c]);
                let excused = code.abs_diff(near) == 1 && distance < BOUNDARY_MARGIN;
                if code != near && !excused {
                    violations.push(format!(
                        "row {at} coordinate {c}: code {code}, want {near}, {distance:.1e} from a boundary"
                    ));
                }
            }
            for (block, (&got, &want)) in got_norms.iter().zip(&want.norms).enumerate() {
                let ulps = ulp_distance(got, want as f32);
                if !got.is_finite() || ulps > NORM_ULPS {
                    violations.push(format!(
                        "row {at} norm {block}: {got:e}, want {want:e} ({ulps} ulp)"
                    ));
                }
            }
        }
        Outcome {
            error: violations.len() as f64,
            tolerance: 0.0,
            detail: violations.first().cloned().unwrap_or_else(|| "codes and norms".into()),
        }
    }
}
