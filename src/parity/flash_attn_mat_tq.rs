//! Cases of `flash_attn_mat_tq`: those of `flash_attn_vec_tq`, in f16 arithmetic.

use super::attention::{F16_ROUNDOFF, Reference, attention_tolerance};
use super::flash_attn_vec_tq::{Case as Shape, cases as shapes};
use super::{CaseResult, Prepared};
use crate::contract::{Caps, Language};
use crate::driver::DriverError;
use crate::kernels::flash_attn_mat_tq::Problem;
use crate::legs::{BufferId, Tape};

/// NRMSE bound where the largest absolute score is `max_score`.
///
/// K and V are rounded to f16 once, as they are decoded; q and the weights are carried in two
/// halves, and sums are f32. A coordinate of K is so off by up to 2^-11 of its size. The errors of the
/// D products add up as the products do, as independent values: a score is off by 2^-11 of a
/// typical score, which the largest exceeds. `exp` turns it into a relative error of the weight, and V
/// adds one of its own. What f32 loses comes on top.
pub fn tolerance(max_score: f64) -> f64 {
    F16_ROUNDOFF * (1.0 + max_score) + attention_tolerance(max_score)
}

/// A shape of `flash_attn_vec_tq`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case(pub Shape);

/// The cases of the kernel, which leaves no row out.
pub fn cases() -> Vec<Case> {
    shapes().into_iter().filter(|shape| shape.weight_floor == 0.0).map(Case).collect()
}

impl super::Case for Case {
    fn kernel(&self) -> &'static str {
        "flash_attn_mat_tq"
    }

    fn id(&self) -> String {
        self.0.name()
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        let mut data = self.0.data()?;
        data.reference = Reference { tolerance: tolerance(data.max_score), ..data.reference };
        Ok(Box::new(Data(data)))
    }
}

struct Data(super::flash_attn_vec_tq::Data);

impl Prepared for Data {
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError> {
        let case = &self.0.case;
        let problem = Problem {
            k_bits: case.k_bits,
            codec: case.codec,
            num_heads: case.num_heads,
            num_kv_heads: case.num_kv_heads,
        };
        let launch = problem.launch(&case.params(), caps, language)?;
        Ok(self.0.step(problem.plan(caps, language)?, launch))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        self.0.reference.judge(outputs)
    }

    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        self.0.reference.judge_pair(left, right)
    }
}
