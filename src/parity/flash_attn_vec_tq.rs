//! Cases of `flash_attn_vec_tq`.

use super::attention::{Reference, attention_tolerance};
use super::{CaseResult, PackedCache, Prepared};
use crate::codec::{Bits, Codec, HeadDim, Ring, Rotation};
use crate::contract::{Caps, Language, Launch, Plan};
use crate::driver::DriverError;
use crate::kernels::Context;
use crate::kernels::flash_attn_vec_tq::Problem;
use crate::legs::{BufferId, Tape};
use crate::oracle::dequantize_kv::PackedRows;
use crate::oracle::flash_attn_vec_tq::{flash_attn_vec_tq, weighing_less};
use crate::oracle::max_abs_score;
use crate::params::{FlashAttnVecParams, FlashAttnVecTqParams};
use crate::rng::Gaussian;

/// An attention shape and its data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// Width of a K code.
    pub k_bits: Bits,
    /// V's codec; K differs in its width only.
    pub codec: Codec,
    /// Query heads.
    pub num_heads: u32,
    /// KV heads.
    pub num_kv_heads: u32,
    /// Positions stored.
    pub kv_seq_len: u32,
    /// Slots a KV head.
    pub kv_capacity: u32,
    /// Slot of the oldest position.
    pub ring_start: u32,
    /// 0 none, 1 causal, 2 sliding.
    pub mask_type: u32,
    /// Window of mask 2.
    pub sliding_window: u32,
    /// Softcap; 0 is off.
    pub softcap: f32,
    /// Splits.
    pub nwg: u32,
    /// What the plan is for.
    pub context: Context,
    /// Weight under which rows of V are left out; 0 is off.
    pub weight_floor: f32,
    /// Standard deviation of the scores before the softcap.
    pub score_sigma: f32,
    /// Seed of the data.
    pub seed: u64,
}

impl Case {
    /// Parameters of the case.
    pub fn params(&self) -> FlashAttnVecTqParams {
        let d = self.codec.head_dim.get();
        FlashAttnVecTqParams {
            n_heads: self.num_heads,
            n_kv_heads: self.num_kv_heads,
            head_dim: d,
            kv_seq_len: self.kv_seq_len,
            kv_capacity: self.kv_capacity,
            // q and k are N(0, 1): their product has standard deviation sqrt(D).
            scale: self.score_sigma / (d as f32).sqrt(),
            mask_type: self.mask_type,
            sliding_window: self.sliding_window,
            softcap: self.softcap,
            nwg: self.nwg,
            ring_start: self.ring_start,
            scale_factor_d512: self.codec.scale_factor_d512,
        }
    }

    /// The shape in few characters, unique among [`shapes`].
    pub fn name(&self) -> String {
        let mut name = format!(
            "d{} k{}v{} heads{}/{} n{}/{} at {}",
            self.codec.head_dim.get(),
            self.k_bits,
            self.codec.bits,
            self.num_heads,
            self.num_kv_heads,
            self.kv_seq_len,
            self.kv_capacity,
            self.ring_start
        );
        if self.mask_type == 2 {
            name += &format!(" window{}", self.sliding_window);
        }
        if self.softcap > 0.0 {
            name += &format!(" softcap{}", self.softcap);
        }
        if self.nwg > 1 {
            name += &format!(" splits{}", self.nwg);
        }
        if self.context == Context::Short {
            name += " short";
        }
        if self.weight_floor > 0.0 {
            name += &format!(" floor{}", self.weight_floor);
        }
        if self.score_sigma != 1.0 {
            name += &format!(" sigma{}", self.score_sigma);
        }
        name
    }

    fn k_codec(&self) -> Codec {
        Codec { bits: self.k_bits, ..self.codec }
    }

    fn rows<'a>(&self, codec: Codec, cache: &'a PackedCache) -> PackedRows<'a> {
        PackedRows { codec, capacity: self.kv_capacity, packed: &cache.packed, norms: &cache.norms }
    }
}

/// A shape in the middle of everything; others vary one thing at a time from it.
pub fn base(head_dim: HeadDim) -> Case {
    Case {
        k_bits: Bits::B4,
        codec: Codec::new(head_dim, Bits::B4, Rotation::Plain),
        num_heads: 4,
        num_kv_heads: 2,
        kv_seq_len: 100,
        kv_capacity: 128,
        ring_start: 90,
        mask_type: 1,
        sliding_window: 0,
        softcap: 0.0,
        nwg: 1,
        context: Context::Long,
        weight_floor: 0.0,
        score_sigma: 1.0,
        seed: 11,
    }
}

/// Every edge that the contract names, at each head dim; and, at one head dim, every kind of
/// ratio of query heads to KV heads.
pub fn shapes() -> Vec<Case> {
    let mut shapes = Vec::new();
    for head_dim in HeadDim::ALL {
        shapes.extend(rings(head_dim));
        let base = base(head_dim);
        let window = |sliding_window| Case { mask_type: 2, sliding_window, nwg: 2, ..base };
        shapes.extend([0, 1, 99, 100, 105].map(window));
        shapes.extend([0.0, 2.0, 30.0, 1000.0].map(|softcap| Case {
            softcap,
            score_sigma: 4.0,
            ..base
        }));
        shapes.extend([2, 16, 256].map(|nwg| Case { nwg, ..base }));
        shapes.push(Case { score_sigma: 16.0, nwg: 4, ..base });
        // Scores more than 88 apart: their weights overflow unless they are relative to the largest.
        shapes.push(Case { score_sigma: 40.0, kv_seq_len: 1000, kv_capacity: 1024, ..base });
        shapes.push(Case { kv_seq_len: 0, ..base });
    }
    let ratio = |g: u32| Case { num_heads: 2 * g, ..base(HeadDim::ALL[1]) };
    shapes.extend([1, 3, 7, 8, 11].map(ratio));
    shapes.extend([1, 3, 8].map(|g| Case { context: Context::Short, ..ratio(g) }));
    shapes
}

/// Lengths around a chunk and capacities around a length, from slots at both ends of the ring.
fn rings(head_dim: HeadDim) -> Vec<Case> {
    let mut rings = Vec::new();
    for (n, cap) in [(1, 1), (1, 7), (31, 31), (32, 40), (33, 40), (1000, 1000), (1000, 1024)] {
        let starts = if n < 1000 { vec![0, 1, cap / 2, cap - 1] } else { vec![0, cap / 2 + 1] };
        for start in starts {
            let ring = Case {
                kv_seq_len: n,
                kv_capacity: cap,
                ring_start: start % cap,
                nwg: if start % 2 == 0 { 1 } else { 3 },
                ..base(head_dim)
            };
            if !rings.contains(&ring) {
                rings.push(ring);
            }
        }
    }
    rings
}

/// The cases of the kernel: every shape at 4 bits; at each head dim every width, K and V alike, in
/// plans for short and for long contexts; and, at one head dim, every pair of widths.
pub fn cases() -> Vec<Case> {
    let with = |head_dim, k_bits, bits| {
        let base = base(head_dim);
        Case { k_bits, codec: Codec { bits, ..base.codec }, nwg: 3, ..base }
    };
    let mut cases = shapes();
    let floor = |head_dim| Case { weight_floor: 1e-6, score_sigma: 8.0, nwg: 2, ..base(head_dim) };
    cases.extend(HeadDim::ALL.map(floor));
    for head_dim in HeadDim::ALL {
        cases.extend(Bits::ALL.map(|bits| with(head_dim, bits, bits)));
        let short = |bits| Case { context: Context::Short, ..with(head_dim, bits, bits) };
        cases.extend(Bits::ALL.map(short));
    }
    for k_bits in Bits::ALL {
        let others = Bits::ALL.into_iter().filter(|&bits| bits != k_bits);
        cases.extend(others.map(|bits| with(HeadDim::ALL[0], k_bits, bits)));
    }
    cases
}

impl super::Case for Case {
    fn kernel(&self) -> &'static str {
        "flash_attn_vec_tq"
    }

    fn id(&self) -> String {
        self.name()
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        Ok(Box::new(self.data()?))
    }
}

impl Case {
    /// The data: q, and packed K and V.
    pub(super) fn inputs(&self) -> Result<Inputs, DriverError> {
        let ring = Ring::new(self.kv_capacity, self.ring_start, self.kv_seq_len)?;
        let d = self.codec.head_dim.as_usize();
        let mut rng = Gaussian::new(self.seed);
        let values = self.num_kv_heads as usize * self.kv_seq_len as usize * d;
        let encode = |codec, rows: &[f32], seed| {
            PackedCache::encode(&codec, ring, self.num_kv_heads, rows, seed)
        };
        let k = encode(self.k_codec(), &rng.normals(values), self.seed);
        let v = encode(self.codec, &rng.normals(values), self.seed + 1);
        let q = rng.normals(self.num_heads as usize * d);
        Ok(Inputs { case: *self, q, k, v })
    }

    /// Inputs and reference.
    pub(super) fn data(&self) -> Result<Data, DriverError> {
        let params = self.params();
        let shape = FlashAttnVecParams::from(params);
        let inputs = self.inputs()?;
        let (k_rows, v_rows) = inputs.rows();
        let q = &inputs.q;
        let one = FlashAttnVecTqParams { nwg: 1, ..params };
        let want = flash_attn_vec_tq(&one, q, k_rows, v_rows)?;
        let largest = max_abs_score(&shape, q, &|h, s, o| k_rows.decode_rotated(h, s, o))?;
        let mut tolerance = attention_tolerance(largest);
        if self.weight_floor > 0.0 {
            let floor = f64::from(self.weight_floor);
            let most = weighing_less(&one, floor, q, k_rows, v_rows)?;
            tolerance += nrmse_of(&most, &want);
        }
        let reference = Reference { shape, want, tolerance };
        Ok(Data { case: *self, inputs, reference, max_score: largest })
    }
}

/// NRMSE of an output that is off by `error` in each coordinate.
pub(crate) fn nrmse_of(error: &[f64], want: &[f64]) -> f64 {
    let square = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
    (square(error) / square(want)).sqrt()
}

/// The data of a case.
pub(super) struct Inputs {
    case: Case,
    pub q: Vec<f32>,
    k: PackedCache,
    v: PackedCache,
}

impl Inputs {
    /// K and V.
    pub fn rows(&self) -> (PackedRows<'_>, PackedRows<'_>) {
        let Self { case, k, v, .. } = self;
        (case.rows(case.k_codec(), k), case.rows(case.codec, v))
    }

    /// The largest absolute score where q is in the natural basis.
    pub fn max_score_natural(&self) -> crate::Result<f64> {
        let shape = FlashAttnVecParams::from(self.case.params());
        let k = self.rows().0;
        max_abs_score(&shape, &self.q, &|h, s, o| k.decode(h, s, o))
    }

    /// The buffers that attention reads, in binding order.
    pub fn buffers<'a>(&'a self, tape: &mut Tape<'a>) -> [BufferId; 5] {
        [
            tape.input("q", bytemuck::cast_slice(&self.q)),
            tape.input("k_packed", &self.k.packed),
            tape.input("k_norms", bytemuck::cast_slice(&self.k.norms)),
            tape.input("v_packed", &self.v.packed),
            tape.input("v_norms", bytemuck::cast_slice(&self.v.norms)),
        ]
    }
}

/// Inputs and reference of a case.
pub(super) struct Data {
    pub case: Case,
    pub inputs: Inputs,
    pub reference: Reference,
    pub max_score: f64,
}

impl Data {
    /// One dispatch over the case's buffers, and its output.
    pub fn step(&self, plan: Plan, launch: Launch) -> (Tape<'_>, Vec<BufferId>) {
        let mut tape = Tape::default();
        let inputs = self.inputs.buffers(&mut tape);
        let dst = tape.output("dst", self.reference.shape.dst_floats() * 4);
        tape.step(plan, launch, &[&inputs[..], &[dst]].concat());
        (tape, vec![dst])
    }
}

impl Prepared for Data {
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError> {
        let problem = Problem {
            k_bits: self.case.k_bits,
            codec: self.case.codec,
            num_heads: self.case.num_heads,
            num_kv_heads: self.case.num_kv_heads,
        };
        let launch = problem.launch(&self.case.params(), caps, language)?;
        let plan = problem.plan_for(self.case.context, self.case.weight_floor, caps, language)?;
        Ok(self.step(plan, launch))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        self.reference.judge(outputs)
    }

    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        self.reference.judge_pair(left, right)
    }
}
