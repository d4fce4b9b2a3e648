//! Original Metal kernels, judged: where one differs from the contract by a known limit, by that
//! limit and by nothing else.
//!
//! An output within the contract's tolerance passes. Another is compared with a second reference:
//! the same oracle with the limits applied that hold for the case at hand. Within the tolerance of
//! that, it is an expected difference, with the limits by name; else a mismatch.

pub mod attention;
mod reduce;

use bytemuck::{pod_collect_to_vec, pod_read_unaligned};
use serde::Serialize;

use self::attention::{Attention, KvRows};
use super::{CaseResult, Outcome, quantize_kv};
use crate::codec::{Bits, Codec, HeadDim, Rotation};
use crate::contract::{Plan, Value};
use crate::driver::DriverError;
use crate::legs::{Leg, MslHostLeg, Witness, Witnessed};
use crate::oracle::dequantize_kv::PackedRows;
use crate::oracle::flash_attn_vec::DenseRows;
use crate::params::{FlashAttnVecParams, FlashAttnVecTqParams, QuantizeKvParams};

/// A known way in which the published kernels differ from the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Q is rounded to half.
    HalfQ,
    /// The softcap of the parameter block is not applied.
    SoftcapIgnored,
    /// Only slots 0 to n - 1 are visited: of a partly filled ring that starts later, the positions
    /// in other slots are lost.
    PositionsLost,
    /// Slots below n that hold no position are read and masked by an addition, so that a NaN in
    /// one reaches the output.
    ReadsUnusedSlots,
    /// The dense kernel takes slots for positions.
    RingStartIgnored,
    /// The dense kernel reads rows from n to the next multiple of 32 and masks them by an addition.
    ReadsPastKvSeqLen,
    /// Hidden positions have 65504 subtracted from their score: weight is left where all visible
    /// scores are lower still.
    FiniteMask,
    /// The encoder multiplies by the SRHT signs, whatever the rotation.
    SignsAlwaysOn,
    /// The merge lets the maximum of a split that saw nothing take part.
    EmptySplitMax,
}

impl Limit {
    /// The name as reports have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HalfQ => "half_q",
            Self::SoftcapIgnored => "softcap_ignored",
            Self::PositionsLost => "positions_lost",
            Self::ReadsUnusedSlots => "reads_unused_slots",
            Self::RingStartIgnored => "ring_start_ignored",
            Self::ReadsPastKvSeqLen => "reads_past_kv_seq_len",
            Self::FiniteMask => "finite_mask",
            Self::SignsAlwaysOn => "signs_always_on",
            Self::EmptySplitMax => "empty_split_max",
        }
    }
}

/// Names of limits, for one line of text.
pub fn names(limits: &[Limit]) -> String {
    limits.iter().map(|l| l.as_str()).collect::<Vec<_>>().join(", ")
}

/// How an original did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As the contract has it.
    Pass,
    /// As its known limits have it.
    ExpectedDifference,
    /// Neither.
    Mismatch,
}

/// The verdict on one case.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The verdict.
    pub status: Status,
    /// Against the contract's oracle.
    pub contract: Outcome,
    /// Against the oracle with the limits applied; none where the contract was met.
    pub limited: Option<Outcome>,
    /// The limits that hold for this case.
    pub limits: Vec<Limit>,
}

/// Runs a case on `leg`, which must run originals, and judges it with its limits.
///
/// # Errors
///
/// Those of the leg: [`DriverError::Unpublished`] where no original exists, an
/// [`DriverError::Original`] that does not fit, an access out of bounds.
pub fn run(
    case: impl FnOnce(&mut dyn Leg) -> CaseResult,
    leg: &mut MslHostLeg,
) -> Result<Judged, DriverError> {
    let mut witness = Witness::new(leg);
    let contract = case(&mut witness)?;
    let Some(played) = witness.played else {
        return Err(DriverError::Argument {
            flag: "leg",
            need: "one that runs originals, and a case of one kernel".to_owned(),
            found: "another".to_owned(),
        });
    };
    judge(&played, contract, &limits(&played)?)
}

/// Judges what was played, given the comparison with the contract's oracle and the limits that may
/// excuse a difference from it.
pub fn judge(
    played: &Witnessed,
    contract: Outcome,
    limits: &[Limit],
) -> Result<Judged, DriverError> {
    let limited = if contract.pass() { None } else { limited_outcome(played, limits)? };
    let status = match &limited {
        _ if contract.pass() => Status::Pass,
        Some(limited) if !limits.is_empty() && limited.pass() => Status::ExpectedDifference,
        _ => Status::Mismatch,
    };
    Ok(Judged { status, contract, limited, limits: limits.to_vec() })
}

/// The limits that hold for what was played.
pub fn limits(played: &Witnessed) -> Result<Vec<Limit>, DriverError> {
    Ok(match played.plan.contract.stem {
        "quantize_kv" => {
            let plain = !sign_before(&played.plan);
            let unasked = plain && played.published.always_signs();
            if unasked { vec![Limit::SignsAlwaysOn] } else { Vec::new() }
        }
        "flash_attn_vec_tq" | "flash_attn_vec" => {
            let (q, rows) = (floats(&played.before[0]), Inputs::of(played)?);
            let attention = rows.attention(&q);
            let mut limits = attention.limits()?;
            if attention.attend(&limits)?.mask_matters {
                limits.push(Limit::FiniteMask);
            }
            limits
        }
        "flash_attn_vec_reduce" => {
            let [nrows, nwg] = [0, 3].map(|i| pod_read_unaligned(played.uniform(i)));
            let partials = floats(&played.before[0]);
            let shape = reduce::Shape { nrows, nwg, head_dim: head_dim(&played.plan)?.get() };
            let matters = shape.empty_split_leads(&partials);
            if matters { vec![Limit::EmptySplitMax] } else { Vec::new() }
        }
        _ => Vec::new(),
    })
}

/// The comparison with the limited oracle; none for kernels without limits.
fn limited_outcome(played: &Witnessed, limits: &[Limit]) -> Result<Option<Outcome>, DriverError> {
    let after = |binding: usize| floats(&played.after[binding]);
    Ok(match played.plan.contract.stem {
        "quantize_kv" if limits.contains(&Limit::SignsAlwaysOn) => Some(signed(played)?),
        "flash_attn_vec_tq" | "flash_attn_vec" => {
            let (q, inputs) = (floats(&played.before[0]), Inputs::of(played)?);
            let limited = inputs.attention(&q).attend(limits)?;
            let dst = after(played.after.len() - 1);
            Some(limited.judge_dst(&inputs.params, &dst)?)
        }
        "flash_attn_vec_reduce" if limits.contains(&Limit::EmptySplitMax) => {
            let [nrows, nwg] = [0, 3].map(|i| pod_read_unaligned(played.uniform(i)));
            let shape = reduce::Shape { nrows, nwg, head_dim: head_dim(&played.plan)?.get() };
            Some(shape.judge(&floats(&played.before[0]), &after(1)))
        }
        _ => None,
    })
}

/// The encoder's outcome had the rotation been the one with signs.
fn signed(played: &Witnessed) -> Result<Outcome, DriverError> {
    let p: QuantizeKvParams = pod_read_unaligned(played.uniform(3));
    let mut codec = Codec::new(head_dim(&played.plan)?, Bits::B4, Rotation::Srht);
    codec.scale_factor_d512 = p.scale_factor_d512;
    let case = quantize_kv::Case {
        codec,
        num_kv_heads: p.num_kv_heads,
        num_tokens: p.num_tokens,
        capacity: p.cache_capacity,
        write_pos: p.write_pos,
        sliding: p.is_sliding == 1,
        amplitude: 1.0,
        seed: 0,
    };
    let want = case.want(&floats(&played.before[0]));
    Ok(case.judge(&want, &played.after[1], &floats(&played.after[2])))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    pod_collect_to_vec(bytes)
}

fn head_dim(plan: &Plan) -> Result<HeadDim, DriverError> {
    let found = plan.constants.iter().find(|c| c.name == "HEAD_DIM").map(|c| &c.value);
    Ok(HeadDim::new(if let Some(Value::U32(d)) = found { *d } else { 0 })?)
}

fn sign_before(plan: &Plan) -> bool {
    plan.constants.iter().any(|c| c.name == "SIGN_BEFORE" && c.value == Value::Bool(true))
}

/// K and V of an attention kernel, decoded from what it was given.
struct Inputs {
    params: FlashAttnVecParams,
    k: Side,
    v: Side,
    codec: Codec,
}

enum Side {
    Packed(Vec<u8>, Vec<f32>),
    F32(Vec<f32>),
    F16(Vec<half::f16>),
}

impl Inputs {
    fn of(played: &Witnessed) -> Result<Self, DriverError> {
        let mut codec = Codec::new(head_dim(&played.plan)?, Bits::B4, Rotation::Plain);
        let packed = played.plan.contract.stem == "flash_attn_vec_tq";
        let params = if packed {
            let p: FlashAttnVecTqParams = pod_read_unaligned(played.uniform(0));
            codec.scale_factor_d512 = p.scale_factor_d512;
            p.into()
        } else {
            pod_read_unaligned(played.uniform(0))
        };
        let side = |i: usize| match (packed, played.published.kv_bytes) {
            (true, _) => Side::Packed(played.before[i].clone(), floats(&played.before[i + 1])),
            (_, 2) => Side::F16(pod_collect_to_vec(&played.before[i])),
            _ => Side::F32(floats(&played.before[i])),
        };
        Ok(Self { params, k: side(1), v: side(if packed { 3 } else { 2 }), codec })
    }

    fn attention<'a>(&'a self, q: &'a [f32]) -> Attention<'a> {
        let packed = matches!(self.k, Side::Packed(..));
        Attention { params: &self.params, packed, q, k: self.rows(&self.k), v: self.rows(&self.v) }
    }

    fn rows<'a>(&'a self, side: &'a Side) -> KvRows<'a> {
        let capacity = self.params.kv_capacity;
        let dense = move |rows: DenseRows<'a>| -> KvRows<'a> {
            Box::new(move |head, slot, out: &mut [f64]| rows.read(capacity, head, slot, out))
        };
        match side {
            Side::Packed(packed, norms) => {
                let rows = PackedRows { codec: self.codec, capacity, packed, norms };
                Box::new(move |head, slot, out: &mut [f64]| rows.decode_rotated(head, slot, out))
            }
            Side::F32(x) => dense(DenseRows::F32(x)),
            Side::F16(x) => dense(DenseRows::F16(x)),
        }
    }
}

/// The limits of an attention that is part of a longer computation, and the outcome of `output`
/// `[nh, D]` against it, each row of the reference changed by `transform`.
pub fn judge_output(
    attention: &Attention<'_>,
    transform: impl Fn(&mut [f64]),
    output: &[f32],
) -> Result<(Vec<Limit>, Outcome), DriverError> {
    let mut limits = attention.limits()?;
    let mut limited = attention.attend(&limits)?;
    if limited.mask_matters {
        limits.push(Limit::FiniteMask);
    }
    let d = attention.params.head_dim as usize;
    limited.output.chunks_exact_mut(d).for_each(transform);
    let outcome = limited.judge_rows(output, d);
    Ok((limits, outcome))
}
