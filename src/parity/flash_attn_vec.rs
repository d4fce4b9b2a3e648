//! Cases of `flash_attn_vec`.

use super::attention::{Reference, attention_tolerance};
use super::flash_attn_vec_tq::{Case as Shape, shapes};
use super::{CaseResult, Prepared};
use crate::codec::Ring;
use crate::contract::{Caps, Language};
use crate::driver::DriverError;
use crate::kernels::flash_attn_vec::{KvType, Problem};
use crate::legs::{BufferId, Tape};
use crate::oracle::flash_attn_vec::{DenseRows, flash_attn_vec};
use crate::oracle::max_abs_score;
use crate::params::FlashAttnVecParams;
use crate::rng::Gaussian;

/// An attention shape over dense K and V.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// The shape; its codec gives only the head dim.
    pub shape: Shape,
    /// Element type of K and V.
    pub kv_type: KvType,
}

/// Dense rows in either type.
enum Dense {
    F32(Vec<f32>),
    F16(Vec<half::f16>),
}

impl Dense {
    /// `[nkv, cap, D]` with NaN in every slot that holds no position.
    fn scatter(kv_type: KvType, ring: Ring, head_dim: usize, rows: &[f32], heads: u32) -> Self {
        let cap = ring.capacity() as usize;
        let mut all = vec![f32::NAN; heads as usize * cap * head_dim];
        for (i, x) in rows.chunks_exact(head_dim).enumerate() {
            let (head, position) = (i / ring.len() as usize, i % ring.len() as usize);
            let at = (head * cap + ring.slot(position as u32) as usize) * head_dim;
            all[at..at + head_dim].copy_from_slice(x);
        }
        match kv_type {
            KvType::F32 => Self::F32(all),
            KvType::F16 => Self::F16(all.iter().map(|&x| half::f16::from_f32(x)).collect()),
        }
    }

    fn rows(&self) -> DenseRows<'_> {
        match self {
            Self::F32(x) => DenseRows::F32(x),
            Self::F16(x) => DenseRows::F16(x),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(x) => bytemuck::cast_slice(x),
            Self::F16(x) => bytemuck::cast_slice(x),
        }
    }
}

/// Every shape of the packed kernel, in both element types.
pub fn cases() -> Vec<Case> {
    let both = |shape| [KvType::F32, KvType::F16].map(|kv_type| Case { shape, kv_type });
    shapes().into_iter().flat_map(both).collect()
}

impl super::Case for Case {
    fn kernel(&self) -> &'static str {
        "flash_attn_vec"
    }

    fn id(&self) -> String {
        let kv_type = match self.kv_type {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
        };
        format!("{kv_type} {}", self.shape.name())
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        let s = &self.shape;
        let shape = FlashAttnVecParams::from(s.params());
        let ring = Ring::new(s.kv_capacity, s.ring_start, s.kv_seq_len)?;
        let d = s.codec.head_dim.as_usize();
        let mut rng = Gaussian::new(s.seed);
        let values = s.num_kv_heads as usize * s.kv_seq_len as usize * d;
        let k = Dense::scatter(self.kv_type, ring, d, &rng.normals(values), s.num_kv_heads);
        let v = Dense::scatter(self.kv_type, ring, d, &rng.normals(values), s.num_kv_heads);
        let q = rng.normals(s.num_heads as usize * d);

        let one = FlashAttnVecParams { nwg: 1, ..shape };
        let want = flash_attn_vec(&one, &q, k.rows(), v.rows())?;
        let k_row = |h: u32, slot: u32, o: &mut [f64]| k.rows().read(s.kv_capacity, h, slot, o);
        let largest = max_abs_score(&shape, &q, &k_row)?;
        let reference = Reference { shape, want, tolerance: attention_tolerance(largest) };
        Ok(Box::new(Data { case: *self, q, k, v, reference }))
    }
}

struct Data {
    case: Case,
    q: Vec<f32>,
    k: Dense,
    v: Dense,
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
            head_dim: shape.codec.head_dim,
            kv_type: self.case.kv_type,
            num_heads: shape.num_heads,
            num_kv_heads: shape.num_kv_heads,
        };
        let mut tape = Tape::default();
        let q = tape.input("q", bytemuck::cast_slice(&self.q));
        let k = tape.input("k", self.k.bytes());
        let v = tape.input("v", self.v.bytes());
        let dst = tape.output("dst", self.reference.shape.dst_floats() * 4);
        let launch = problem.launch(&self.reference.shape, caps, language)?;
        tape.step(problem.plan(caps, language)?, launch, &[q, k, v, dst]);
        Ok((tape, vec![dst]))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        self.reference.judge(outputs)
    }

    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        self.reference.judge_pair(left, right)
    }
}
