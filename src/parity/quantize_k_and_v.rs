//! Cases of `quantize_k_and_v`: those of `quantize_kv` for K and for V at once, each judged as there.

use super::quantize_kv::{self, Side};
use super::{Bin, CaseResult, Outcome, Prepared, floats};
use crate::codec::{Bits, Codec, HeadDim, Rotation};
use crate::contract::{Caps, Language};
use crate::driver::DriverError;
use crate::kernels::quantize_k_and_v::Problem;
use crate::legs::{BufferId, Tape};

/// Rows to encode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// Width of a K code.
    pub k_bits: Bits,
    /// V; K has the same shape, and data of its own.
    pub v: quantize_kv::Case,
}

/// Every head dim and rotation with widths apart and alike, both ways round; rings that wrap, also
/// more than once; rows of zeros; a scale factor; norm correction; more rows than a grid takes at a time.
pub fn cases() -> Vec<Case> {
    let case = |head_dim, rotation, [k_bits, bits]: [Bits; 2]| Case {
        k_bits,
        v: quantize_kv::Case {
            codec: Codec::new(head_dim, bits, rotation),
            num_kv_heads: 3,
            num_tokens: 5,
            capacity: 9,
            write_pos: 2,
            sliding: false,
            amplitude: 1.0,
            seed: 7,
        },
    };
    let apart = [Bits::B8, Bits::B4];
    let mut cases = Vec::new();
    for head_dim in HeadDim::ALL {
        cases.push(case(head_dim, Rotation::Plain, apart));
        cases.push(case(head_dim, Rotation::Srht, [Bits::B3, Bits::B8]));
    }
    let [_, d128, _, d512] = HeadDim::ALL;
    for widths in
        [[Bits::B4, Bits::B4], [Bits::B8, Bits::B8], [Bits::B5, Bits::B2], [Bits::B4, Bits::B8]]
    {
        cases.push(case(d128, Rotation::Srht, widths));
    }
    let of = |base: Case, v: quantize_kv::Case| Case { v, ..base };
    let ring = case(d128, Rotation::Plain, apart);
    for (num_tokens, write_pos) in [(1, 8), (5, 7), (20, 3)] {
        let v = quantize_kv::Case { num_tokens, write_pos, sliding: true, ..ring.v };
        cases.push(of(ring, v));
    }
    let long = case(d512, Rotation::Plain, [Bits::B6, Bits::B3]);
    cases.push(of(long, quantize_kv::Case { amplitude: 0.0, ..long.v }));
    let scaled = Codec { scale_factor_d512: 0.75, ..long.v.codec };
    cases.push(of(long, quantize_kv::Case { codec: scaled, ..long.v }));
    for base in [ring, case(d128, Rotation::Srht, [Bits::B2, Bits::B6]), long] {
        let codec = Codec { norm_correction: true, ..base.v.codec };
        cases.push(of(base, quantize_kv::Case { codec, ..base.v }));
    }
    cases.push(of(ring, quantize_kv::Case { num_tokens: 3000, capacity: 3010, ..ring.v }));
    cases
}

impl Case {
    /// K's part.
    pub fn k(&self) -> quantize_kv::Case {
        let codec = Codec { bits: self.k_bits, ..self.v.codec };
        quantize_kv::Case { codec, seed: self.v.seed + 1, ..self.v }
    }
}

/// The outcomes of K and V as one.
fn both(k: Outcome, v: Outcome) -> Outcome {
    let named = |side: &str, outcome: &Outcome| -> Vec<Bin> {
        let bin = |b: &Bin| Bin { label: format!("{side} {}", b.label), count: b.count };
        outcome.histogram.iter().map(bin).collect()
    };
    let detail =
        if k.pass() && !v.pass() { format!("V: {}", v.detail) } else { format!("K: {}", k.detail) };
    Outcome {
        error: k.error + v.error,
        detail,
        histogram: [named("K", &k), named("V", &v)].concat(),
        ..k
    }
}

impl super::Case for Case {
    fn kernel(&self) -> &'static str {
        "quantize_k_and_v"
    }

    fn id(&self) -> String {
        let v = super::Case::id(&self.v);
        let bits = self.v.codec.bits;
        v.replacen(&format!(" b{bits} "), &format!(" k{}v{bits} ", self.k_bits), 1)
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        Ok(Box::new(Data { case: *self, k: Side::new(self.k()), v: Side::new(self.v) }))
    }
}

struct Data {
    case: Case,
    k: Side,
    v: Side,
}

impl Prepared for Data {
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError> {
        let problem = Problem { k_bits: self.case.k_bits, codec: self.case.v.codec };
        let mut tape = Tape::default();
        let k = tape.input("k", bytemuck::cast_slice(&self.k.src));
        let v = tape.input("v", bytemuck::cast_slice(&self.v.src));
        let outputs = vec![
            tape.in_out("k_packed", &self.k.packed_before),
            tape.in_out("k_norms", bytemuck::cast_slice(&self.k.norms_before)),
            tape.in_out("v_packed", &self.v.packed_before),
            tape.in_out("v_norms", bytemuck::cast_slice(&self.v.norms_before)),
        ];
        let launch = problem.launch(&self.case.v.params(), caps, language)?;
        tape.step(problem.plan(caps, language)?, launch, &[&[k, v], &outputs[..]].concat());
        Ok((tape, outputs))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        let k = self.k.judge(outputs[0], &floats(outputs[1]));
        Ok(both(k, self.v.judge(outputs[2], &floats(outputs[3]))))
    }

    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        let pair = |side: &Side, at: usize| {
            let [one, other] = [left, right].map(|outputs| floats(outputs[at + 1]));
            side.judge_pair((left[at], &*one), (right[at], &*other))
        };
        Ok(both(pair(&self.k, 0), pair(&self.v, 2)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_on_either_side_fails_both_and_is_named() {
        let of = |violations: &[&str]| {
            let violations: Vec<String> = violations.iter().map(|&v| v.to_owned()).collect();
            Outcome::violations(&violations, "codes and norms", Vec::new())
        };
        assert!(both(of(&[]), of(&[])).pass());
        for (k, v, named) in [
            (&["a"][..], &[][..], "K: a"),
            (&[][..], &["b"][..], "V: b"),
            (&["a"][..], &["b"][..], "K: a"),
        ] {
            let outcome = both(of(k), of(v));
            assert!(!outcome.pass() && outcome.detail == named, "{outcome:?}");
            assert_eq!(outcome.error, (k.len() + v.len()) as f64);
        }
    }
}
