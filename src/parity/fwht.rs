//! Cases of `fwht`.

use super::{CaseResult, Prepared, ROUNDOFF, floats, judge, judge_pair};
use crate::codec::{Direction, HeadDim, Rotation};
use crate::contract::{Caps, Language};
use crate::driver::DriverError;
use crate::kernels::fwht::Problem;
use crate::legs::{BufferId, Tape};
use crate::oracle::fwht::rotate_rows;
use crate::params::FwhtParams;
use crate::rng::Gaussian;

/// Rows to rotate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// Coordinates of a row.
    pub head_dim: HeadDim,
    /// Plain or SRHT.
    pub rotation: Rotation,
    /// Into the rotated basis or back.
    pub direction: Direction,
    /// Rows.
    pub rows: u32,
    /// Seed of the data.
    pub seed: u64,
}

/// Every head dim, rotation and direction, and rows around a workgroup's.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for head_dim in HeadDim::ALL {
        for rotation in [Rotation::Plain, Rotation::Srht] {
            for direction in [Direction::Forward, Direction::Inverse] {
                for rows in [1, 3, 16, 17] {
                    cases.push(Case { head_dim, rotation, direction, rows, seed: rows.into() });
                }
            }
        }
    }
    cases
}

impl Case {
    /// Each of the log2(D) stages and the final product round once: in the 2-norm the relative
    /// errors add up to at most (log2(D) + 1) roundoffs; one more for 1 / sqrt(D) itself.
    pub fn tolerance(&self) -> f64 {
        (f64::from(self.head_dim.get()).log2() + 2.0) * ROUNDOFF
    }
}

impl super::Case for Case {
    fn kernel(&self) -> &'static str {
        "fwht"
    }

    fn id(&self) -> String {
        let direction = match self.direction {
            Direction::Forward => "forward",
            Direction::Inverse => "inverse",
        };
        format!("d{} {} {direction} rows{}", self.head_dim.get(), self.rotation.name(), self.rows)
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        let d = self.head_dim.as_usize();
        let x = Gaussian::new(self.seed).normals(self.rows as usize * d);
        let want = rotate_rows(self.rotation, self.direction, d, &x);
        Ok(Box::new(Data { case: *self, x, want }))
    }
}

struct Data {
    case: Case,
    x: Vec<f32>,
    want: Vec<f64>,
}

impl Prepared for Data {
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError> {
        let Case { head_dim, rotation, direction, rows, .. } = self.case;
        let problem = Problem { head_dim, rotation, direction };
        let params = FwhtParams { head_dim: head_dim.get(), num_heads: rows };
        let mut tape = Tape::default();
        let data = tape.in_out("data", bytemuck::cast_slice(&self.x));
        let launch = problem.launch(&params, caps, language)?;
        tape.step(problem.plan(caps, language)?, launch, &[data]);
        Ok((tape, vec![data]))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        let d = self.case.head_dim.as_usize();
        Ok(judge(&floats(outputs[0]), &self.want, d, self.case.tolerance()))
    }

    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        let (left, right) = (floats(left[0]), floats(right[0]));
        Ok(judge_pair(&left, &right, &self.want, self.case.tolerance()))
    }
}
