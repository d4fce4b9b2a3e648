//! Which positions a kernel visits: a difference between two runs that lose the same positions
//! cannot show it.
//!
//! All K norms are 0, so every visited slot gets the same weight. A block of D positions is marked
//! at a time: position i has the largest centroid at coordinate i, and in a second run its negative.
//! Half the difference of the two outputs at coordinate i, in the rotated basis, is the weight of
//! position i, whatever else was visited.

use super::point::ring;
use super::{Shape, Step};
use crate::codec::{Bits, Codec, codebook, row};
use crate::driver::DriverError;
use crate::legs::{Leg, PackedBuffers, Recorder, Tape};

/// What the probe saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Visited {
    /// Positions that got weight, of those that should be visible.
    pub positions: u32,
    /// Sum of all weights: 1 when nothing but those positions was visited.
    pub weight: f64,
}

/// Codes of a marked coordinate in the two runs: the largest and the smallest.
const fn marks(bits: Bits) -> [u8; 2] {
    [(bits.levels() - 1) as u8, 0]
}

/// Code of every other coordinate.
const fn rest(bits: Bits) -> u8 {
    (bits.levels() / 2 - 1) as u8
}

/// Counts the positions that the attention kernel of `leg` visits at `step`, by the first head.
pub fn positions_visited(
    leg: &mut dyn Leg,
    shape: &Shape,
    step: &Step,
) -> Result<Visited, DriverError> {
    let (codec, d) = (shape.v_codec(), shape.head_dim.get());
    let marks = marks(codec.bits);
    let mark = f64::from(codebook::levels(codec.bits)[usize::from(marks[0])]);
    let visible = match step.sliding_window {
        0 => step.kv_seq_len,
        window => step.kv_seq_len.min(window),
    };
    let first = step.kv_seq_len - visible;
    let mut seen = Visited { positions: 0, weight: 0.0 };
    for block in (first..step.kv_seq_len).step_by(d as usize) {
        let high = pass(leg, shape, step, &codec, block, marks[0])?;
        let low = pass(leg, shape, step, &codec, block, marks[1])?;
        for c in 0..d.min(step.kv_seq_len - block) as usize {
            let weight = (f64::from(high[c]) - f64::from(low[c])) / (2.0 * mark);
            seen.weight += weight;
            seen.positions += u32::from(weight > 0.5 / f64::from(visible));
        }
    }
    Ok(seen)
}

/// One pass with positions `block .. block + D` marked by `mark`; the rotated output of the first
/// head.
fn pass(
    leg: &mut dyn Leg,
    shape: &Shape,
    step: &Step,
    codec: &Codec,
    block: u32,
    mark: u8,
) -> Result<Vec<f32>, DriverError> {
    let ring = ring(shape, step)?;
    let d = codec.head_dim.as_usize();
    let bytes = row::row_bytes(codec.head_dim, codec.bits) as usize;
    let slots = shape.num_kv_heads as usize * shape.kv_capacity as usize;
    let k_bits = shape.k_codec().bits;
    let k_packed = vec![0u8; slots * row::row_bytes(codec.head_dim, k_bits) as usize];
    let mut plain = vec![0; bytes];
    row::pack(codec.bits, &vec![rest(codec.bits); d], &mut plain);
    let mut v_packed = plain.repeat(slots);
    for i in block..step.kv_seq_len.min(block + codec.head_dim.get()) {
        let mut codes = vec![rest(codec.bits); d];
        codes[(i - block) as usize] = mark;
        for head in 0..shape.num_kv_heads as usize {
            let at = (head * shape.kv_capacity as usize + ring.slot(i) as usize) * bytes;
            row::pack(codec.bits, &codes, &mut v_packed[at..at + bytes]);
        }
    }
    // A norm that decodes a code to its centroid.
    let npp = codec.head_dim.norms_per_pos() as usize;
    let unit = (1.0 / codec.decode_scale(1.0)) as f32;
    let v_norms = vec![unit; slots * npp];
    let k_norms = vec![0.0f32; slots * npp];
    let q = vec![0.0f32; shape.num_heads as usize * d];

    let mut tape = Tape::default();
    let k = PackedBuffers {
        bits: k_bits,
        packed: tape.input("k_packed", k_packed),
        norms: tape.input("k_norms", bytemuck::cast_slice(&k_norms)),
    };
    let v = PackedBuffers {
        bits: codec.bits,
        packed: tape.input("v_packed", &*v_packed),
        norms: tape.input("v_norms", bytemuck::cast_slice(&v_norms)),
    };
    let out = tape.output("out", q.len() as u64 * 4);
    let q = tape.input("q", bytemuck::cast_slice::<f32, u8>(&q));
    Recorder::new(&mut tape, leg, *codec).attend_packed(&shape.params(step), q, [k, v], out)?;
    let out = leg.run(&tape)?.floats(out);
    Ok(out[..d].to_vec())
}
