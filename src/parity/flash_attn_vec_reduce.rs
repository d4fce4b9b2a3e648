//! Cases of `flash_attn_vec_reduce`.

use super::{ATTENTION_NRMSE, CaseResult, Prepared, floats, judge, judge_pair};
use crate::codec::HeadDim;
use crate::contract::{Caps, Language};
use crate::driver::DriverError;
use crate::kernels::flash_attn_vec_reduce::Problem;
use crate::legs::{BufferId, Tape};
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

/// Every head dim, few and many splits; none, some and all of them empty.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for head_dim in HeadDim::ALL {
        for (nrows, nwg) in [(1, 1), (3, 2), (9, 33), (2, 256)] {
            for empty_every in [0, 1, 3] {
                cases.push(Case { head_dim, nrows, nwg, empty_every, seed: nwg.into() });
            }
        }
    }
    cases
}

impl Case {
    /// Random partials, with empty splits as a kernel leaves them.
    fn partials(&self) -> Vec<f32> {
        let (d, nwg) = (self.head_dim.as_usize(), self.nwg as usize);
        let floats = partials_floats(self.nrows, self.head_dim.get(), self.nwg) as usize;
        let mut partials = Gaussian::new(self.seed).normals(floats);
        for row in 0..self.nrows as usize {
            for w in 0..nwg {
                let at = self.nrows as usize * d * nwg + row * 2 * nwg + 2 * w;
                let empty = self.empty_every > 0 && (w as u32).is_multiple_of(self.empty_every);
                partials[at] = if empty { 0.0 } else { partials[at].abs() + 1.0 };
                // The maximum of an empty split is meaningless: make it the largest of all.
                partials[at + 1] = if empty { 99.0 } else { 4.0 * partials[at + 1] };
                for c in (0..d).filter(|_| empty) {
                    partials[((row * (d / 4) + c / 4) * nwg + w) * 4 + c % 4] = 0.0;
                }
            }
        }
        partials
    }

    fn params(&self) -> FlashAttnVecReduceParams {
        FlashAttnVecReduceParams { nrows: self.nrows, nwg: self.nwg }
    }
}

impl super::Case for Case {
    fn kernel(&self) -> &'static str {
        "flash_attn_vec_reduce"
    }

    fn id(&self) -> String {
        let empty = match self.empty_every {
            0 => "none empty".to_owned(),
            1 => "all empty".to_owned(),
            n => format!("one of {n} empty"),
        };
        format!("d{} rows{} splits{} {empty}", self.head_dim.get(), self.nrows, self.nwg)
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        let partials = self.partials();
        let want = flash_attn_vec_reduce(&self.params(), self.head_dim.get(), &partials)?;
        Ok(Box::new(Data { case: *self, partials, want }))
    }
}

struct Data {
    case: Case,
    partials: Vec<f32>,
    want: Vec<f64>,
}

impl Prepared for Data {
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError> {
        let problem = Problem { head_dim: self.case.head_dim };
        let mut tape = Tape::default();
        let input = tape.input("partials", bytemuck::cast_slice(&self.partials));
        let dst = tape.output("dst", (self.want.len() * 4) as u64);
        let launch = problem.launch(&self.case.params(), caps)?;
        tape.step(problem.plan(caps, language)?, launch, &[input, dst]);
        Ok((tape, vec![dst]))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        let d = self.case.head_dim.as_usize();
        Ok(judge(&floats(outputs[0]), &self.want, d, ATTENTION_NRMSE))
    }

    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        Ok(judge_pair(&floats(left[0]), &floats(right[0]), &self.want, ATTENTION_NRMSE))
    }
}
