//! Cases of `store_kv`.

use half::f16;

use super::{Bin, CaseResult, Outcome, Prepared};
use crate::codec::HeadDim;
use crate::contract::{Caps, Language};
use crate::driver::DriverError;
use crate::kernels::flash_attn_vec::KvType;
use crate::kernels::store_kv::Problem;
use crate::legs::{BufferId, Tape};
use crate::params::QuantizeKvParams;
use crate::rng::Gaussian;

/// Rows to store.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// Coordinates of a head vector.
    pub head_dim: HeadDim,
    /// Element type of the stored rows.
    pub kv_type: KvType,
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
    /// Factor on the N(0, 1) data.
    pub amplitude: f32,
    /// Seed of the data.
    pub seed: u64,
}

/// Every head dim in both types; rings that wrap, also more than once; values that are tiny and
/// large halves.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kv_type in [KvType::F32, KvType::F16] {
        let case = |head_dim| Case {
            head_dim,
            kv_type,
            num_kv_heads: 3,
            num_tokens: 5,
            capacity: 9,
            write_pos: 2,
            sliding: false,
            amplitude: 1.0,
            seed: 8,
        };
        cases.extend(HeadDim::ALL.map(case));
        let ring = Case { sliding: true, ..case(HeadDim::ALL[1]) };
        for (num_tokens, write_pos) in [(1, 8), (5, 7), (9, 4), (20, 3)] {
            cases.push(Case { num_tokens, write_pos, ..ring });
        }
        cases.extend([1e-3, 1e3].map(|amplitude| Case { amplitude, ..ring }));
    }
    cases
}

/// What a cache is full of before the kernel runs.
const BYTE_BEFORE: u8 = 0xa5;

impl Case {
    pub(super) fn params(&self) -> QuantizeKvParams {
        QuantizeKvParams {
            head_dim: self.head_dim.get(),
            num_kv_heads: self.num_kv_heads,
            write_pos: self.write_pos,
            cache_capacity: self.capacity,
            is_sliding: self.sliding.into(),
            scale_factor_d512: 1.0,
            rms_probe_enabled: 0,
            num_tokens: self.num_tokens,
        }
    }

    /// What each coordinate `[nkv, cap, D]` must hold after `src` has been written, if anything.
    pub fn want(&self, src: &[f32]) -> Vec<Option<f32>> {
        let (params, d) = (self.params(), self.head_dim.as_usize());
        let (heads, cap) = (self.num_kv_heads as usize, self.capacity as usize);
        let mut want = vec![None; heads * cap * d];
        for (i, x) in src.chunks_exact(d).enumerate() {
            let Some(slot) = params.slot((i / heads) as u32) else { continue };
            let at = (i % heads * cap + slot as usize) * d;
            want[at..at + d].iter_mut().zip(x).for_each(|(want, &x)| *want = Some(x));
        }
        want
    }

    /// Compares a written cache with the rows. f32 keeps every bit; f16 is one of the two halves
    /// next to the value, since WGSL leaves the direction of rounding open. The error is the number
    /// of violations.
    pub fn judge(&self, want: &[Option<f32>], rows: &[u8]) -> Outcome {
        let bytes = self.kv_type.bytes() as usize;
        let mut violations = Vec::new();
        let mut kept = 0;
        for (i, (want, got)) in want.iter().zip(rows.chunks_exact(bytes)).enumerate() {
            let right = match (want, self.kv_type) {
                (None, _) => got.iter().all(|&b| b == BYTE_BEFORE),
                (Some(x), KvType::F32) => got == x.to_le_bytes(),
                (Some(x), KvType::F16) => is_next_to(f16::from_le_bytes([got[0], got[1]]), *x),
            };
            if right {
                kept += 1;
            } else {
                violations.push(format!("value {i}: bytes {got:02x?}, want {want:?}"));
            }
        }
        let bin = |label: &str, count| Bin { label: label.to_owned(), count };
        let histogram = vec![bin("right", kept), bin("wrong", violations.len() as u64)];
        Outcome::violations(&violations, "values", histogram)
    }
}

/// Whether no half lies between `half` and `x`.
fn is_next_to(half: f16, x: f32) -> bool {
    let nearest = f16::from_f32(x);
    if half == nearest {
        return true;
    }
    // The other neighbour, where x is no half: one step from the nearest one, across x.
    let step = if (nearest.to_f32() < x) == (x > 0.0) { 1i32 } else { -1 };
    nearest.to_f32() != x && i32::from(half.to_bits()) == i32::from(nearest.to_bits()) + step
}

impl super::Case for Case {
    fn kernel(&self) -> &'static str {
        "store_kv"
    }

    fn id(&self) -> String {
        let mut id = format!(
            "{} d{} kv{} t{} into {} at {}",
            self.kv_type.name(),
            self.head_dim,
            self.num_kv_heads,
            self.num_tokens,
            self.capacity,
            self.write_pos
        );
        if self.sliding {
            id += " sliding";
        }
        if self.amplitude != 1.0 {
            id += &format!(" x{:e}", self.amplitude);
        }
        id
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        let rows = self.num_tokens as usize * self.num_kv_heads as usize;
        let mut src = Gaussian::new(self.seed).normals(rows * self.head_dim.as_usize());
        src.iter_mut().for_each(|x| *x *= self.amplitude);
        let want = self.want(&src);
        let before = vec![BYTE_BEFORE; want.len() * self.kv_type.bytes() as usize];
        Ok(Box::new(Data { case: *self, src, want, before }))
    }
}

struct Data {
    case: Case,
    src: Vec<f32>,
    want: Vec<Option<f32>>,
    before: Vec<u8>,
}

impl Prepared for Data {
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError> {
        let problem = Problem { head_dim: self.case.head_dim, kv_type: self.case.kv_type };
        let mut tape = Tape::default();
        let src = tape.input("src", bytemuck::cast_slice(&self.src));
        let rows = tape.in_out("rows", &self.before);
        let launch = problem.launch(&self.case.params(), caps)?;
        tape.step(problem.plan(caps, language)?, launch, &[src, rows]);
        Ok((tape, vec![rows]))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        Ok(self.case.judge(&self.want, outputs[0]))
    }

    /// Two caches that are both right hold equal or neighbouring halves.
    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        let one = self.judge(left)?;
        if one.pass() { self.judge(right) } else { Ok(one) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_halves_around_a_value_are_right() {
        let half = |bits: u16| f16::from_bits(bits);
        let one = f16::ONE.to_bits();
        for sign in [1.0f32, -1.0] {
            let flip = if sign < 0.0 { 0x8000 } else { 0 };
            let right = |bits: u16, x: f32| is_next_to(half(bits | flip), sign * x);
            // Just above 1, nearest 1; just below the next half, nearest that.
            for x in [1.0 + 1e-5, 1.0 + 9.6e-4] {
                assert!(right(one, x) && right(one + 1, x), "{x}");
                assert!(!right(one - 1, x) && !right(one + 2, x), "{x}");
            }
            assert!(right(one, 1.0) && !right(one + 1, 1.0) && !right(one - 1, 1.0));
        }
        assert!(!is_next_to(f16::NEG_ONE, 1.0));
        assert!(is_next_to(f16::ZERO, 1e-9) && is_next_to(f16::ZERO, -1e-9));
        assert!(!is_next_to(f16::NAN, 1.0));
    }

    #[test]
    fn the_judge_sees_a_changed_value_and_a_touched_slot() {
        let case = cases()[0];
        let src = Gaussian::new(case.seed).normals(3 * 5 * 64);
        let want = case.want(&src);
        let of = |want: &Option<f32>| want.map_or([BYTE_BEFORE; 4], f32::to_le_bytes);
        let good: Vec<u8> = want.iter().flat_map(of).collect();
        assert!(case.judge(&want, &good).pass());
        for at in [0, 4 * 64 * 2 + 1, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(!case.judge(&want, &bad).pass(), "byte {at}");
        }
    }
}
