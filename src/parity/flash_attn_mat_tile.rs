//! Cases of `flash_attn_mat_tile`: those of `flash_attn_tile`, in f16 arithmetic.

use super::attention::{F16_ROUNDOFF, attention_tolerance};
use super::flash_attn_tile::{Case as Shape, Data as ShapeData, cases as shapes};
use super::{CaseResult, Prepared};
use crate::contract::{Caps, Language};
use crate::driver::DriverError;
use crate::kernels::flash_attn_mat_tile::Problem;
use crate::legs::{BufferId, Tape};

/// NRMSE bound where the largest absolute score is `max_score`.
///
/// q, K, V and the weights are rounded to f16 once; sums are f32. A coordinate of q or K is off by up
/// to 2^-11 of its size. The errors of the D products add up as the products do, as independent
/// values: a score is off by 2^-11 of a typical score for each of the two, which the largest exceeds.
/// `exp` turns it into a relative error of the weight; the weight and V add 2^-11 each. A weight
/// under 2^-14 of the largest loses more of itself, but never more than 2^-25 of that. What f32 loses
/// comes on top.
pub fn tolerance(max_score: f64) -> f64 {
    2.0 * F16_ROUNDOFF * (1.0 + max_score) + attention_tolerance(max_score)
}

/// A shape of `flash_attn_tile`.
#[derive(Debug, Clone, PartialEq)]
pub struct Case(pub Shape);

/// The cases of the kernel.
pub fn cases() -> Vec<Case> {
    shapes().into_iter().map(Case).collect()
}

impl super::Case for Case {
    fn kernel(&self) -> &'static str {
        "flash_attn_mat_tile"
    }

    fn id(&self) -> String {
        self.0.name()
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        let mut data = self.0.data()?;
        data.reference.tolerance = tolerance(data.max_score);
        Ok(Box::new(Data(data)))
    }
}

struct Data(ShapeData);

impl Prepared for Data {
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError> {
        let problem = Problem(self.0.case.problem());
        let (params, records, table) = self.0.call();
        let launch = problem.launch(params, records, table, (caps, language))?;
        Ok(self.0.step(problem.plan(caps, language)?, launch))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        self.0.judge(outputs)
    }

    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        self.0.judge_pair(left, right)
    }
}
