//! Cases of `flash_attn_decode_tq`: those of `flash_attn_vec_tq`, with both rotations or with none.

use super::attention::{Reference, attention_tolerance};
use super::flash_attn_vec_tq::{self, Case as Shape, base, shapes};
use super::{CaseResult, Prepared, fwht};
use crate::codec::{Bits, Codec, Direction, HeadDim, Rotation};
use crate::contract::{Caps, Language};
use crate::driver::DriverError;
use crate::kernels::Context;
use crate::kernels::flash_attn_decode_tq::Problem;
use crate::legs::{BufferId, Tape};
use crate::oracle::flash_attn_decode_tq::flash_attn_decode_tq;
use crate::params::{FlashAttnVecParams, FlashAttnVecTqParams};

/// NRMSE bound where the largest absolute score is `max_score`.
///
/// Each rotation is off by at most `fwht`'s bound, relative to the row. That of q: the errors of a
/// score's D products add up as the products do, as independent values, so a score is off by the
/// bound times a typical score, which the largest exceeds; `exp` turns it into a relative error of
/// the weight. That of the output comes once on top, and so does all of attention itself.
pub fn tolerance(head_dim: HeadDim, max_score: f64) -> f64 {
    let row = fwht::Case {
        head_dim,
        rotation: Rotation::Srht,
        direction: Direction::Forward,
        rows: 1,
        seed: 0,
    };
    row.tolerance() * (1.0 + max_score) + attention_tolerance(max_score)
}

/// A shape of `flash_attn_vec_tq`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// Shape, data and rotation.
    pub shape: Shape,
    /// Whether q arrives rotated and the output stays so.
    pub rotated: bool,
    /// Splits of a call before it, on the same scratch: what that one leaves must do.
    pub after: Option<u32>,
}

/// Every shape with both rotations; at one head dim every width, since the loop over positions is that
/// of `flash_attn_vec_tq`; numbers of splits around what a thread merges at a time, each also after
/// a call of another number. In the rotated basis, which is the same but for both ends, less of each.
pub fn cases() -> Vec<Case> {
    let with = |rotation: Rotation, shape: Shape| Case {
        shape: Shape { codec: Codec { rotation, ..shape.codec }, ..shape },
        rotated: false,
        after: None,
    };
    let mut cases = Vec::new();
    for rotation in [Rotation::Plain, Rotation::Srht] {
        cases.extend(shapes().into_iter().map(|shape| with(rotation, shape)));
    }
    let of_width = |bits| {
        let base = base(HeadDim::ALL[1]);
        let codec = Codec { bits, ..base.codec };
        with(Rotation::Srht, Shape { k_bits: bits, codec, nwg: 2, ..base })
    };
    cases.extend(Bits::ALL.map(of_width));
    for head_dim in HeadDim::ALL {
        let base = base(head_dim);
        for nwg in [16, 17, 33] {
            let of = |nwg| with(Rotation::Srht, Shape { nwg, kv_seq_len: 120, ..base });
            cases.push(of(nwg));
            cases.push(Case { after: Some(nwg / 2), ..of(nwg) });
        }
        let once = with(Rotation::Srht, base);
        cases.push(Case { after: Some(3), ..once });
        for (nwg, after) in [(1, Some(2)), (3, None), (33, Some(9))] {
            let shape = Shape { nwg, kv_seq_len: 120, ..base };
            cases.push(Case { rotated: true, after, ..with(Rotation::Srht, shape) });
            let short = Shape { context: Context::Short, ..shape };
            cases.push(Case { rotated: true, after, ..with(Rotation::Plain, short) });
        }
    }
    let ratio = |g: u32| Shape { num_heads: 2 * g, nwg: 3, ..base(HeadDim::ALL[1]) };
    for shape in [1, 3, 8, 11].map(ratio) {
        cases.push(Case { rotated: true, ..with(Rotation::Srht, shape) });
    }
    cases
}

impl super::Case for Case {
    fn kernel(&self) -> &'static str {
        "flash_attn_decode_tq"
    }

    fn id(&self) -> String {
        let mut id = format!("{} {}", self.shape.name(), self.shape.codec.rotation.name());
        if self.rotated {
            id += " rotated";
        }
        if let Some(nwg) = self.after {
            id += &format!(" after splits{nwg}");
        }
        id
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        let whole = Shape { nwg: 1, ..self.shape };
        if self.rotated {
            let flash_attn_vec_tq::Data { inputs, reference, .. } = whole.data()?;
            return Ok(Box::new(Data { case: *self, data: inputs, reference }));
        }
        let data = self.shape.inputs()?;
        let params = whole.params();
        let (k, v) = data.rows();
        let want = flash_attn_decode_tq(&params, &data.q, k, v)?;
        let tolerance = tolerance(self.shape.codec.head_dim, data.max_score_natural()?);
        let shape = FlashAttnVecParams::from(params);
        Ok(Box::new(Data { case: *self, data, reference: Reference { shape, want, tolerance } }))
    }
}

struct Data {
    case: Case,
    data: flash_attn_vec_tq::Inputs,
    reference: Reference,
}

impl Prepared for Data {
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError> {
        let shape = &self.case.shape;
        let problem = Problem {
            k_bits: shape.k_bits,
            codec: shape.codec,
            num_heads: shape.num_heads,
            num_kv_heads: shape.num_kv_heads,
            rotated: self.case.rotated,
        };
        let calls = [self.case.after, Some(shape.nwg)];
        let most = calls.iter().flatten().copied().max().unwrap_or_default();
        let bytes = problem.scratch_bytes(most, caps, language)?;
        let mut tape = Tape::default();
        let inputs = self.data.buffers(&mut tape);
        let scratch = tape.in_out("scratch", vec![0; bytes as usize]);
        let mut output = None;
        for nwg in calls.into_iter().flatten() {
            let dst = tape.output("dst", self.reference.shape.dst_floats() * 4);
            let params = FlashAttnVecTqParams { nwg, ..shape.params() };
            let launch = problem.launch(&params, caps, language)?;
            let buffers = [&inputs[..], &[dst, scratch]].concat();
            let plan = problem.plan_for(shape.context, caps, language)?;
            tape.step(plan, launch, &buffers);
            output = Some(dst);
        }
        Ok((tape, output.into_iter().collect()))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        self.reference.judge(outputs)
    }

    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        self.reference.judge_pair(left, right)
    }
}
