//! Cases of `flash_attn_vec`.

use super::flash_attn_vec_tq::{Case as Shape, judge_attention};
use super::{CaseResult, attention_tolerance};
use crate::codec::Ring;
use crate::kernels::flash_attn_vec::{KvType, Problem};
use crate::legs::{Leg, Tape};
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

impl Case {
    /// Runs the kernel on `leg` and compares.
    pub fn run(&self, leg: &mut dyn Leg) -> CaseResult {
        let s = &self.shape;
        let params = FlashAttnVecParams::from(s.params());
        let ring = Ring::new(s.kv_capacity, s.ring_start, s.kv_seq_len)?;
        let head_dim = s.codec.head_dim;
        let d = head_dim.as_usize();
        let mut rng = Gaussian::new(s.seed);
        let values = s.num_kv_heads as usize * s.kv_seq_len as usize * d;
        let k = Dense::scatter(self.kv_type, ring, d, &rng.normals(values), s.num_kv_heads);
        let v = Dense::scatter(self.kv_type, ring, d, &rng.normals(values), s.num_kv_heads);
        let q = rng.normals(s.num_heads as usize * d);

        let one = FlashAttnVecParams { nwg: 1, ..params };
        let want = flash_attn_vec(&one, &q, k.rows(), v.rows())?;
        let k_row = |h: u32, slot: u32, o: &mut [f64]| k.rows().read(s.kv_capacity, h, slot, o);
        let largest = max_abs_score(&params, &q, &k_row)?;

        let (caps, language) = (leg.caps(), leg.name().language());
        let problem = Problem {
            head_dim,
            kv_type: self.kv_type,
            num_heads: s.num_heads,
            num_kv_heads: s.num_kv_heads,
        };
        let mut tape = Tape::default();
        let inputs = [
            tape.input("q", bytemuck::cast_slice(&q)),
            tape.input("k", k.bytes()),
            tape.input("v", v.bytes()),
        ];
        let dst = tape.output("dst", params.dst_floats() * 4);
        let launch = problem.launch(&params, &caps, language)?;
        let buffers: Vec<_> = inputs.into_iter().chain([dst]).collect();
        tape.step(problem.plan(&caps, language)?, launch, &buffers);
        let got = leg.run(&tape)?.floats(dst);
        judge_attention(&params, &got, &want, attention_tolerance(largest))
    }
}
