//! One decode step on a leg: K and V encoded by `quantize_kv`, attention by the leg, references
//! in f64.

use super::inputs::StepData;
use super::{Shape, Step};
use crate::codec::{Codec, Direction, Ring, row};
use crate::driver::DriverError;
use crate::legs::{Leg, PackedBuffers, Recorder, Tape};
use crate::metrics::compare;
use crate::oracle::dequantize_kv::PackedRows;
use crate::oracle::flash_attn_vec::attend_rows;
use crate::oracle::flash_attn_vec_tq::dequantizing_attention;
use crate::oracle::scores;
use crate::params::{FlashAttnVecParams, QuantizeKvParams};

/// What does not depend on the leg: attention on the unquantised values.
#[derive(Debug, Clone)]
pub struct Reference {
    /// Output `[nh, D]`.
    pub output: Vec<f64>,
    /// Scores of each head over the visible positions, oldest first.
    pub scores: Vec<Vec<f64>>,
}

/// What one leg gave.
#[derive(Debug, Clone)]
pub struct Measured {
    /// NRMSE against the unquantised reference: what the codec costs.
    pub floor_nrmse: f64,
    /// NRMSE against the dequantising oracle on the leg's own cache: rounding only.
    pub dequant_nrmse: f64,
    /// Largest absolute difference from the dequantising oracle.
    pub max_abs_diff: f64,
    /// Ring start in the parameter block that the kernel got.
    pub ring_start_passed: u32,
    /// One entry a query head.
    pub heads: Vec<HeadMeasured>,
}

/// Why one head's error is what it is.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadMeasured {
    /// `|d| / |ref|` of this head's row.
    pub nrmse: f64,
    /// Position (0 = oldest visible) with the largest score, unquantised.
    pub top_reference: usize,
    /// The same from the decoded K.
    pub top_quantised: usize,
    /// Softmax weight of the unquantised top position.
    pub top_weight: f64,
}

impl HeadMeasured {
    /// Whether quantisation changed which position wins.
    pub const fn flipped(&self) -> bool {
        self.top_reference != self.top_quantised
    }
}

/// Attention on the unquantised values, in f64.
pub fn reference(shape: &Shape, step: &Step, data: &StepData) -> Result<Reference, DriverError> {
    let params = chronological(shape, step);
    let (n, d) = (step.kv_seq_len as usize, shape.head_dim.as_usize());
    let row = |all: &[f32], h: u32, i: u32, out: &mut [f64]| {
        let row = &all[(h as usize * n + i as usize) * d..][..d];
        out.iter_mut().zip(row).for_each(|(o, &x)| *o = f64::from(x));
    };
    let k_row = |h: u32, i: u32, out: &mut [f64]| row(&data.k, h, i, out);
    let output = attend_rows(&params, &data.q, &k_row, &|h, i, o| row(&data.v, h, i, o))?;
    Ok(Reference { output, scores: scores(&params, &data.q, &k_row)? })
}

/// The step over rows in order of age instead of slots.
fn chronological(shape: &Shape, step: &Step) -> FlashAttnVecParams {
    FlashAttnVecParams {
        kv_capacity: step.kv_seq_len,
        ring_start: 0,
        ..FlashAttnVecParams::from(shape.params(step))
    }
}

/// Encodes, attends and compares on `leg`.
pub fn measure(
    leg: &mut dyn Leg,
    shape: &Shape,
    step: &Step,
    data: &StepData,
    reference: &Reference,
) -> Result<Measured, DriverError> {
    let d = shape.head_dim.as_usize();
    let params = shape.params(step);
    let mut tape = Tape::default();
    let cache = encode(&mut tape, leg, shape, step, data)?;
    let q = tape.in_out("q", bytemuck::cast_slice::<f32, u8>(&data.q));
    let out = tape.output("out", data.q.len() as u64 * 4);
    let mut recorder = Recorder::new(&mut tape, leg, shape.v_codec());
    recorder.rotate(q, Direction::Forward, shape.num_heads)?;
    let passed = recorder.attend_packed(&params, q, cache, out)?;
    recorder.rotate(out, Direction::Inverse, shape.num_heads)?;
    let run = leg.run(&tape)?;

    let output = run.floats(out);
    let side = |side: PackedBuffers| (run.bytes(side.packed).to_vec(), run.floats(side.norms));
    let [k, v] = cache.map(side);
    let capacity = shape.kv_capacity;
    let k_rows = PackedRows { codec: shape.k_codec(), capacity, packed: &k.0, norms: &k.1 };
    let v_rows = PackedRows { codec: shape.v_codec(), capacity, packed: &v.0, norms: &v.1 };
    let dequant = dequantizing_attention(&params, &data.q, k_rows, v_rows)?;
    let shape_params = FlashAttnVecParams::from(params);
    let quantised = scores(&shape_params, &data.q, &|h, s, o| k_rows.decode(h, s, o))?;

    let failed = |e: crate::metrics::MetricError| DriverError::Output {
        kernel: "flash_attn_vec_tq",
        buffer: "out",
        message: e.to_string(),
    };
    let floor = compare(&output, &reference.output, d).map_err(failed)?;
    let rounding = compare(&output, &dequant, d).map_err(failed)?;
    let heads = output
        .chunks_exact(d)
        .zip(reference.output.chunks_exact(d))
        .zip(reference.scores.iter().zip(&quantised))
        .map(|((got, want), (scores, quantised))| HeadMeasured {
            nrmse: compare(got, want, d).map_or(f64::NAN, |c| c.nrmse),
            top_reference: argmax(scores),
            top_quantised: argmax(quantised),
            top_weight: top_weight(scores),
        })
        .collect();
    Ok(Measured {
        floor_nrmse: floor.nrmse,
        dequant_nrmse: rounding.nrmse,
        max_abs_diff: rounding.max_abs,
        ring_start_passed: passed.ring_start,
        heads,
    })
}

fn argmax(scores: &[f64]) -> usize {
    (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
}

fn top_weight(scores: &[f64]) -> f64 {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    1.0 / scores.iter().map(|s| (s - top).exp()).sum::<f64>()
}

/// Writes K and V into their slots by the `quantize_kv` kernel. Slots that hold no position keep
/// what they start with: codes of 0xa5 and NaN norms.
fn encode<'t>(
    tape: &mut Tape<'t>,
    leg: &dyn Leg,
    shape: &Shape,
    step: &Step,
    data: &'t StepData,
) -> Result<[PackedBuffers; 2], DriverError> {
    let params = QuantizeKvParams {
        head_dim: shape.head_dim.get(),
        num_kv_heads: shape.num_kv_heads,
        write_pos: step.ring_start,
        cache_capacity: shape.kv_capacity,
        is_sliding: 1,
        scale_factor_d512: 1.0,
        rms_probe_enabled: 0,
        num_tokens: step.kv_seq_len,
    };
    let slots = shape.num_kv_heads as usize * shape.kv_capacity as usize;
    let npp = shape.head_dim.norms_per_pos() as usize;
    let mut side = |codec: Codec, rows: &[f32], [src, packed, norms]: [&'static str; 3]| {
        let row = row::row_bytes(shape.head_dim, codec.bits) as usize;
        let src = tape.input(src, token_major(shape, step, rows));
        let side = PackedBuffers {
            bits: codec.bits,
            packed: tape.in_out(packed, vec![0xa5u8; slots * row]),
            norms: tape.in_out(norms, f32::NAN.to_le_bytes().repeat(slots * npp)),
        };
        Recorder::new(tape, leg, codec).quantize(&params, src, side).map(|()| side)
    };
    let k = side(shape.k_codec(), &data.k, ["k", "k_packed", "k_norms"])?;
    let v = side(shape.v_codec(), &data.v, ["v", "v_packed", "v_norms"])?;
    Ok([k, v])
}

/// `[nkv, n, D]` to the kernel's `[n, nkv, D]`, as bytes.
fn token_major(shape: &Shape, step: &Step, rows: &[f32]) -> Vec<u8> {
    let (heads, n) = (shape.num_kv_heads as usize, step.kv_seq_len as usize);
    let d = shape.head_dim.as_usize();
    let mut out = Vec::with_capacity(rows.len() * 4);
    for t in 0..n {
        for h in 0..heads {
            out.extend_from_slice(bytemuck::cast_slice(&rows[(h * n + t) * d..][..d]));
        }
    }
    out
}

/// The ring of a step.
pub(super) fn ring(shape: &Shape, step: &Step) -> Result<Ring, DriverError> {
    Ok(Ring::new(shape.kv_capacity, step.ring_start, step.kv_seq_len)?)
}
