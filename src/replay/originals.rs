//! The known limits of original kernels in a replayed step.

use super::Variation;
use super::manifest::Input;
use crate::codec::Direction;
use crate::driver::DriverError;
use crate::oracle::fwht::{rotate, rotate_rows};
use crate::params::FlashAttnVecParams;
use crate::parity::originals::attention::Attention;
use crate::parity::originals::{Limit, judge_output};
use crate::parity::{Outcome, fwht, judge};

/// A step as a leg got it.
pub(super) struct Step<'a> {
    pub input: &'a Input,
    pub k_norms: &'a [f32],
    pub v_norms: &'a [f32],
    pub variation: Variation,
}

impl Step<'_> {
    fn rotation_tolerance(&self) -> f64 {
        let Input { head_dim, codec, params, .. } = self.input;
        let (head_dim, rotation) = (*head_dim, codec.rotation);
        let direction = Direction::Forward;
        fwht::Case { head_dim, rotation, direction, rows: params.n_heads, seed: 0 }.tolerance()
    }

    /// The limits that hold for the step, and `output` against the oracle with these applied.
    ///
    /// `q` is the query as the attention kernel got it: a rotated one is taken as it is, so that
    /// both sides round the same values to half, but only if the rotation itself is right.
    pub fn limited(
        &self,
        output: &[f32],
        q: &[f32],
    ) -> Result<Option<(Vec<Limit>, Outcome)>, DriverError> {
        let (input, codec) = (self.input, self.input.codec);
        let d = input.head_dim.as_usize();
        let params = FlashAttnVecParams::from(input.params);
        let k = input.k.rows(params.kv_capacity, self.k_norms);
        let v = input.v.rows(params.kv_capacity, self.v_norms);
        match self.variation {
            Variation::A => {
                let want = rotate_rows(codec.rotation, Direction::Forward, d, &input.q);
                if !judge(q, &want, d, self.rotation_tolerance()).pass() {
                    return Ok(None);
                }
                let attention = Attention {
                    params: &params,
                    packed: true,
                    q,
                    k: Box::new(move |h, s, o: &mut [f64]| k.decode_rotated(h, s, o)),
                    v: Box::new(move |h, s, o: &mut [f64]| v.decode_rotated(h, s, o)),
                };
                let unrotate = |row: &mut [f64]| rotate(codec.rotation, Direction::Inverse, row);
                judge_output(&attention, unrotate, output).map(Some)
            }
            // The negative control has no reference to come close to.
            Variation::B => Ok(None),
            Variation::C => {
                let (ring, n) = (input.ring()?, params.kv_seq_len);
                let params = FlashAttnVecParams { kv_capacity: n, ring_start: 0, ..params };
                let attention = Attention {
                    params: &params,
                    packed: false,
                    q,
                    k: Box::new(move |h, i, o: &mut [f64]| k.decode(h, ring.slot(i), o)),
                    v: Box::new(move |h, i, o: &mut [f64]| v.decode(h, ring.slot(i), o)),
                };
                judge_output(&attention, |_| (), output).map(Some)
            }
        }
    }
}
