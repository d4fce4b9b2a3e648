//! Cases of `quantize_kv`.

use super::{Bin, CaseResult, Outcome, Prepared, floats};
use crate::codec::{Bits, Codec, HeadDim, Rotation, codebook, row};
use crate::contract::{Caps, Language};
use crate::driver::DriverError;
use crate::kernels::quantize_kv::Problem;
use crate::legs::{BufferId, Tape};
use crate::metrics::ulp_distance;
use crate::oracle::quantize_kv::{Encoded, encode, stored_norms};
use crate::params::QuantizeKvParams;
use crate::rng::Gaussian;

/// A code may differ from the oracle's only if the coordinate is this close to a boundary of
/// the codebook's scale: eleven f32 stages of values up to 4 are off by under 3e-6.
pub const BOUNDARY_MARGIN: f64 = 1e-5;
/// Units in the last place that a norm may differ: a sum of up to 256 squares in two levels,
/// halved by the square root, and the square root and 1 / sqrt(D) themselves.
pub const NORM_ULPS: u32 = 4;
/// The same of a norm with correction: the quotient of two such norms, and a division that WGSL
/// allows 2.5 units.
pub const CORRECTED_NORM_ULPS: u32 = 2 * NORM_ULPS + 3;

/// Rows to encode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// The cache's codec.
    pub codec: Codec,
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
    /// Factor on the N(0, 1) data; 0 makes zero rows.
    pub amplitude: f32,
    /// Seed of the data.
    pub seed: u64,
}

/// Every head dim and rotation; rings that wrap, also more than once; rows of zeros, and of tiny
/// and large values; a scale factor; norm correction; more rows than a grid takes at a time.
pub fn cases() -> Vec<Case> {
    let case = |head_dim, rotation| Case {
        codec: Codec::new(head_dim, Bits::B4, rotation),
        num_kv_heads: 3,
        num_tokens: 5,
        capacity: 9,
        write_pos: 2,
        sliding: false,
        amplitude: 1.0,
        seed: 7,
    };
    let mut cases = Vec::new();
    for head_dim in HeadDim::ALL {
        cases.extend([Rotation::Plain, Rotation::Srht].map(|rotation| case(head_dim, rotation)));
    }
    for (num_tokens, write_pos) in [(1, 8), (5, 7), (9, 4), (20, 3)] {
        let ring = case(HeadDim::ALL[1], Rotation::Plain);
        cases.push(Case { num_tokens, write_pos, sliding: true, ..ring });
    }
    for head_dim in [HeadDim::ALL[2], HeadDim::ALL[3]] {
        let row = case(head_dim, Rotation::Srht);
        cases.extend([0.0, 1e-14, 1e-6, 1e6].map(|amplitude| Case { amplitude, ..row }));
    }
    for head_dim in HeadDim::ALL {
        cases.extend(Bits::ALL.into_iter().filter(|&bits| bits != Bits::B4).map(|bits| {
            let case = case(head_dim, Rotation::Srht);
            Case { codec: Codec { bits, ..case.codec }, ..case }
        }));
    }
    let mut scaled = case(HeadDim::ALL[3], Rotation::Plain);
    scaled.codec.scale_factor_d512 = 0.75;
    cases.push(scaled);
    let corrected =
        |case: Case| Case { codec: Codec { norm_correction: true, ..case.codec }, ..case };
    for head_dim in HeadDim::ALL {
        cases.extend([Bits::B2, Bits::B4, Bits::B8].map(|bits| {
            let case = case(head_dim, Rotation::Srht);
            corrected(Case { codec: Codec { bits, ..case.codec }, ..case })
        }));
    }
    cases.push(corrected(scaled));
    cases.push(corrected(Case { amplitude: 0.0, ..scaled }));
    let long = case(HeadDim::ALL[0], Rotation::Plain);
    cases.push(Case { num_tokens: 3000, capacity: 3010, ..long });
    let codec = Codec { bits: Bits::B3, ..long.codec };
    let ring = Case { codec, write_pos: 1999, sliding: true, ..long };
    cases.push(corrected(Case { num_tokens: 6000, capacity: 2001, ..ring }));
    cases
}

impl Case {
    pub(super) fn params(&self) -> QuantizeKvParams {
        QuantizeKvParams {
            head_dim: self.codec.head_dim.get(),
            num_kv_heads: self.num_kv_heads,
            write_pos: self.write_pos,
            cache_capacity: self.capacity,
            is_sliding: self.sliding.into(),
            scale_factor_d512: self.codec.scale_factor_d512,
            rms_probe_enabled: 0,
            num_tokens: self.num_tokens,
        }
    }

    /// The token that each row `[nkv, cap]` of the cache holds, as a row of the source.
    fn written(&self) -> Vec<Option<usize>> {
        let params = self.params();
        let mut written = vec![None; self.num_kv_heads as usize * self.capacity as usize];
        for t in 0..self.num_tokens {
            for head in 0..self.num_kv_heads {
                if let Some(slot) = params.slot(t) {
                    let source = t as usize * self.num_kv_heads as usize + head as usize;
                    written[head as usize * self.capacity as usize + slot as usize] = Some(source);
                }
            }
        }
        written
    }

    fn row_bytes(&self) -> usize {
        row::row_bytes(self.codec.head_dim, self.codec.bits) as usize
    }

    fn norms_per_pos(&self) -> usize {
        self.codec.head_dim.norms_per_pos() as usize
    }

    /// What each row `[nkv, cap]` must hold after `src` has been written.
    pub fn want(&self, src: &[f32]) -> Vec<Option<Encoded>> {
        let d = self.codec.head_dim.as_usize();
        let row = |source: usize| encode(&self.codec, &src[source * d..(source + 1) * d]);
        self.written().into_iter().map(|source| source.map(row)).collect()
    }

    /// Compares a written cache with the oracle: codes, norms, and that every slot that no token
    /// maps to still holds what it held. A corrected norm depends on the codes: it is compared with
    /// what the oracle stores beside the codes that were written. The error is the number of
    /// violations.
    pub fn judge(&self, want: &[Option<Encoded>], packed: &[u8], norms: &[f32]) -> Outcome {
        let mut tally = Tally::new(self.norm_ulps());
        for (at, want) in want.iter().enumerate() {
            let (codes, row_norms) = self.row(at, packed, norms);
            let Some(want) = want else {
                tally.untouched(at, codes, row_norms);
                continue;
            };
            for (c, &code) in want.codes.iter().enumerate() {
                let got = row::code(self.codec.bits, codes, c);
                tally.code((at, c), got, code, self.boundary_distance(want, c));
            }
            let want = self.norms_beside(codes, want);
            for (block, (&got, want)) in row_norms.iter().zip(want).enumerate() {
                tally.norm((at, block), got, want as f32);
            }
        }
        tally.outcome()
    }

    /// Compares two written caches with each other, by the same rules: a code may differ by one
    /// next to a boundary, a norm by the same ulps once it is brought to the other's codes.
    pub fn judge_pair(
        &self,
        want: &[Option<Encoded>],
        left: (&[u8], &[f32]),
        right: (&[u8], &[f32]),
    ) -> Outcome {
        let mut tally = Tally::new(self.norm_ulps());
        for (at, want) in want.iter().enumerate() {
            let (codes, row_norms) = self.row(at, left.0, left.1);
            let (other_codes, other_norms) = self.row(at, right.0, right.1);
            let Some(want) = want else {
                tally.untouched(at, codes, row_norms);
                tally.untouched(at, other_codes, other_norms);
                continue;
            };
            for c in 0..want.codes.len() {
                let code = |row| row::code(self.codec.bits, row, c);
                let distance = self.boundary_distance(want, c);
                tally.code((at, c), code(codes), code(other_codes), distance);
            }
            let beside = [codes, other_codes].map(|row| self.norms_beside(row, want));
            for (block, (&got, &other)) in row_norms.iter().zip(other_norms).enumerate() {
                let [here, there] = [beside[0][block], beside[1][block]];
                let want = if here == there { other } else { other * (here / there) as f32 };
                tally.norm((at, block), got, want);
            }
        }
        tally.outcome()
    }

    const fn norm_ulps(&self) -> u32 {
        if self.codec.norm_correction { CORRECTED_NORM_ULPS } else { NORM_ULPS }
    }

    /// The norms that belong beside a packed row of codes.
    fn norms_beside(&self, packed: &[u8], want: &Encoded) -> Vec<f64> {
        let codes: Vec<u8> = row::unpack(self.codec.bits, packed).collect();
        stored_norms(&self.codec, &want.block_norms, &codes)
    }

    fn row<'a>(&self, at: usize, packed: &'a [u8], norms: &'a [f32]) -> (&'a [u8], &'a [f32]) {
        let (bytes, npp) = (self.row_bytes(), self.norms_per_pos());
        (&packed[at * bytes..(at + 1) * bytes], &norms[at * npp..(at + 1) * npp])
    }

    fn boundary_distance(&self, want: &Encoded, coordinate: usize) -> f64 {
        codebook::boundary_distance(self.codec.bits, want.z[coordinate])
    }
}

/// What a cache is full of before the kernel runs.
const BYTE_BEFORE: u8 = 0xa5;
const NORM_BEFORE: f32 = -1.0;

/// Counts what is equal, excused and wrong. Places are (row, coordinate or block).
struct Tally {
    violations: Vec<String>,
    equal: u64,
    next_to_boundary: u64,
    wrong: u64,
    /// Norms by their distance, up to the bound, and those beyond it.
    ulps: Vec<u64>,
}

impl Tally {
    fn new(norm_ulps: u32) -> Self {
        let ulps = vec![0; norm_ulps as usize + 2];
        Self { violations: Vec::new(), equal: 0, next_to_boundary: 0, wrong: 0, ulps }
    }

    fn code(&mut self, (row, c): (usize, usize), got: u8, want: u8, distance: f64) {
        if got == want {
            self.equal += 1;
        } else if got.abs_diff(want) == 1 && distance < BOUNDARY_MARGIN {
            self.next_to_boundary += 1;
        } else {
            self.wrong += 1;
            self.violations.push(format!(
                "row {row} coordinate {c}: code {got}, want {want}, {distance:.1e} from a boundary"
            ));
        }
    }

    fn norm(&mut self, (row, block): (usize, usize), got: f32, want: f32) {
        let ulps = if got.is_finite() { ulp_distance(got, want) } else { u32::MAX };
        let beyond = self.ulps.len() - 1;
        self.ulps[beyond.min(ulps as usize)] += 1;
        if ulps as usize >= beyond {
            self.violations
                .push(format!("row {row} norm {block}: {got:e}, want {want:e} ({ulps} ulp)"));
        }
    }

    fn untouched(&mut self, row: usize, codes: &[u8], norms: &[f32]) {
        if codes.iter().any(|&b| b != BYTE_BEFORE) || norms.iter().any(|&n| n != NORM_BEFORE) {
            self.violations.push(format!("row {row}: no token maps to it, yet it changed"));
        }
    }

    fn outcome(self) -> Outcome {
        let bin = |label: &str, count| Bin { label: label.to_owned(), count };
        let mut histogram = vec![
            bin("codes equal", self.equal),
            bin("codes next to a boundary", self.next_to_boundary),
            bin("codes wrong", self.wrong),
        ];
        for (ulps, &count) in self.ulps.iter().enumerate() {
            let more = if ulps + 1 == self.ulps.len() { "more" } else { &ulps.to_string() };
            histogram.push(bin(&format!("norms off by {more} ulp"), count));
        }
        histogram.retain(|b| b.count > 0);
        Outcome::violations(&self.violations, "codes and norms", histogram)
    }
}

impl super::Case for Case {
    fn kernel(&self) -> &'static str {
        "quantize_kv"
    }

    fn id(&self) -> String {
        let mut id = format!(
            "d{} b{} {} kv{} t{} into {} at {}",
            self.codec.head_dim.get(),
            self.codec.bits,
            self.codec.rotation.name(),
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
        if self.codec.scale_factor_d512 != 1.0 {
            id += &format!(" sf{}", self.codec.scale_factor_d512);
        }
        if self.codec.norm_correction {
            id += " corrected";
        }
        id
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        Ok(Box::new(Side::new(*self)))
    }
}

/// K or V: its rows, what they must become, and what its cache holds before.
pub(super) struct Side {
    case: Case,
    pub src: Vec<f32>,
    want: Vec<Option<Encoded>>,
    pub packed_before: Vec<u8>,
    pub norms_before: Vec<f32>,
}

impl Side {
    pub fn new(case: Case) -> Self {
        let rows = case.num_tokens as usize * case.num_kv_heads as usize;
        let mut src = Gaussian::new(case.seed).normals(rows * case.codec.head_dim.as_usize());
        src.iter_mut().for_each(|x| *x *= case.amplitude);
        let slots = case.num_kv_heads as usize * case.capacity as usize;
        Self {
            case,
            want: case.want(&src),
            src,
            packed_before: vec![BYTE_BEFORE; slots * case.row_bytes()],
            norms_before: vec![NORM_BEFORE; slots * case.norms_per_pos()],
        }
    }

    pub fn judge(&self, packed: &[u8], norms: &[f32]) -> Outcome {
        self.case.judge(&self.want, packed, norms)
    }

    pub fn judge_pair(&self, left: (&[u8], &[f32]), right: (&[u8], &[f32])) -> Outcome {
        self.case.judge_pair(&self.want, left, right)
    }
}

impl Prepared for Side {
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError> {
        let problem = Problem { codec: self.case.codec };
        let mut tape = Tape::default();
        let input = tape.input("src", bytemuck::cast_slice(&self.src));
        let packed = tape.in_out("packed", &self.packed_before);
        let norms = tape.in_out("norms", bytemuck::cast_slice(&self.norms_before));
        let launch = problem.launch(&self.case.params(), caps, language)?;
        tape.step(problem.plan(caps, language)?, launch, &[input, packed, norms]);
        Ok((tape, vec![packed, norms]))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        Ok(self.judge(outputs[0], &floats(outputs[1])))
    }

    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        let (left_norms, right_norms) = (floats(left[1]), floats(right[1]));
        Ok(self.judge_pair((left[0], &*left_norms), (right[0], &*right_norms)))
    }
}
