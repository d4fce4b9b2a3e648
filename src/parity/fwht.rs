//! Cases of `fwht`.

use super::{CaseResult, ROUNDOFF, judge};
use crate::codec::{Direction, HeadDim, Rotation};
use crate::kernels::fwht::Problem;
use crate::legs::{Leg, Tape};
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

impl Case {
    /// Each of the log2(D) stages and the final product round once: in the 2-norm the relative
    /// errors add up to at most (log2(D) + 1) roundoffs; one more for 1 / sqrt(D) itself.
    pub fn tolerance(&self) -> f64 {
        (f64::from(self.head_dim.get()).log2() + 2.0) * ROUNDOFF
    }

    /// Runs the kernel on `leg` and compares.
    pub fn run(&self, leg: &mut dyn Leg) -> CaseResult {
        let d = self.head_dim.as_usize();
        let x = Gaussian::new(self.seed).normals(self.rows as usize * d);
        let want = rotate_rows(self.rotation, self.direction, d, &x);

        let (caps, language) = (leg.caps(), leg.name().language());
        let problem =
            Problem { head_dim: self.head_dim, rotation: self.rotation, direction: self.direction };
        let params = FwhtParams { head_dim: self.head_dim.get(), num_heads: self.rows };
        let mut tape = Tape::default();
        let data = tape.in_out("data", bytemuck::cast_slice(&x));
        let launch = problem.launch(&params, &caps, language)?;
        tape.step(problem.plan(&caps, language)?, launch, &[data]);
        let got = leg.run(&tape)?.floats(data);
        Ok(judge(&got, &want, d, self.tolerance()))
    }
}
