//! Cases of `flash_attn_vec_reduce`.

use super::{ATTENTION_NRMSE, CaseResult, judge};
use crate::codec::HeadDim;
use crate::kernels::flash_attn_vec_reduce::Problem;
use crate::legs::{Leg, Tape};
use crate::oracle::flash_attn_vec_reduce::flash_attn_vec_reduce;
use crate::params::{FlashAttnVecReduceParams, partials_floats};
use crate::rng::Gaussian;

/// Partials to merge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// Coordinates of a row.
    pub head_dim: HeadDim,
    /// Rows.
    pub nrows: u32,
    /// Splits.
    pub nwg: u32,
    /// Every which split saw nothing; 0 for none, 1 for all.
    pub empty_every: u32,
    /// Seed of the data.
    pub seed: u64,
}

impl Case {
    /// Runs the kernel on `leg` over random partials and compares.
    pub fn run(&self, leg: &mut dyn Leg) -> CaseResult {
        let d = self.head_dim.as_usize();
        let (rows, nwg) = (self.nrows as usize, self.nwg as usize);
        let floats = partials_floats(self.nrows, self.head_dim.get(), self.nwg) as usize;
        let mut partials = Gaussian::new(self.seed).normals(floats);
        for row in 0..rows {
            for w in 0..nwg {
                let at = rows * d * nwg + row * 2 * nwg + 2 * w;
                let empty = self.empty_every > 0 && (w as u32).is_multiple_of(self.empty_every);
                partials[at] = if empty { 0.0 } else { partials[at].abs() + 1.0 };
                // The maximum of an empty split is meaningless: make it the largest of all.
                partials[at + 1] = if empty { 99.0 } else { 4.0 * partials[at + 1] };
                for c in (0..d).filter(|_| empty) {
                    partials[((row * (d / 4) + c / 4) * nwg + w) * 4 + c % 4] = 0.0;
                }
            }
        }
        let params = FlashAttnVecReduceParams { nrows: self.nrows, nwg: self.nwg };
        let want = flash_attn_vec_reduce(&params, self.head_dim.get(), &partials)?;

        let (caps, language) = (leg.caps(), leg.name().language());
        let problem = Problem { head_dim: self.head_dim };
        let mut tape = Tape::default();
        let input = tape.input("partials", bytemuck::cast_slice(&partials));
        let dst = tape.output("dst", (rows * d * 4) as u64);
        let launch = problem.launch(&params, &caps)?;
        tape.step(problem.plan(&caps, language)?, launch, &[input, dst]);
        let got = leg.run(&tape)?.floats(dst);
        Ok(judge(&got, &want, d, ATTENTION_NRMSE))
    }
}
