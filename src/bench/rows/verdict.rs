//! Sampled rows against the oracle.

use crate::codec::Codec;
use crate::kernels::fwht;
use crate::oracle::fwht::rotate_rows;
use crate::oracle::quantize_kv::{Encoded, encode};
use crate::parity::{self, Outcome, judge};

/// Rows `before` and after a rotation in place.
pub(super) fn rotated(problem: &fwht::Problem, before: &[f32], after: &[u8]) -> Outcome {
    let fwht::Problem { head_dim, rotation, direction } = *problem;
    let want = rotate_rows(rotation, direction, head_dim.as_usize(), before);
    let case = parity::fwht::Case { head_dim, rotation, direction, rows: 1, seed: 0 };
    let after: Vec<f32> = bytemuck::pod_collect_to_vec(after);
    judge(&after, &want, head_dim.as_usize(), case.tolerance())
}

/// Rows `before`, and what was stored for each.
pub(super) fn quantized(codec: Codec, before: &[f32], packed: &[u8], norms: &[u8]) -> Outcome {
    let want: Vec<Option<Encoded>> =
        before.chunks_exact(codec.head_dim.as_usize()).map(|x| Some(encode(&codec, x))).collect();
    let case = parity::quantize_kv::Case {
        codec,
        num_kv_heads: 1,
        num_tokens: want.len() as u32,
        capacity: want.len() as u32,
        write_pos: 0,
        sliding: false,
        amplitude: 1.0,
        seed: 0,
    };
    let norms: Vec<f32> = bytemuck::pod_collect_to_vec(norms);
    case.judge(&want, packed, &norms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Bits, Direction, HeadDim, Rotation, row};
    use crate::rng::Gaussian;

    const D: usize = 128;

    #[test]
    fn rotated_rows_pass_and_rows_left_as_they_were_or_swapped_do_not() {
        let [_, head_dim, ..] = HeadDim::ALL;
        let (rotation, direction) = (Rotation::Srht, Direction::Forward);
        let problem = fwht::Problem { head_dim, rotation, direction };
        let before = Gaussian::new(1).normals(3 * D);
        let right: Vec<f32> =
            rotate_rows(rotation, direction, D, &before).iter().map(|&x| x as f32).collect();
        let pass = |after: &[f32]| rotated(&problem, &before, bytemuck::cast_slice(after)).pass();
        assert!(pass(&right));
        assert!(!pass(&before));
        assert!(!pass(&[&right[D..2 * D], &right[..D], &right[2 * D..]].concat()));
        assert!(!pass(&[&right[..2 * D], &[0.0; D]].concat()));
    }

    #[test]
    fn stored_rows_pass_and_a_code_a_norm_or_an_unwritten_last_row_does_not() {
        let codec = Codec::new(HeadDim::ALL[1], Bits::B4, Rotation::Plain);
        let before = Gaussian::new(2).normals(3 * D);
        let (mut packed, mut norms) = (vec![0; 3 * D / 2], Vec::new());
        for (x, bytes) in before.chunks_exact(D).zip(packed.chunks_exact_mut(D / 2)) {
            let encoded = encode(&codec, x);
            row::pack(codec.bits, &encoded.codes, bytes);
            norms.push(encoded.norms[0] as f32);
        }
        let pass = |packed: &[u8], norms: &[f32]| {
            quantized(codec, &before, packed, bytemuck::cast_slice(norms)).pass()
        };
        assert!(pass(&packed, &norms));
        let flipped = [&[packed[0] ^ 2], &packed[1..]].concat();
        assert!(!pass(&flipped, &norms));
        assert!(!pass(&packed, &[norms[0], norms[0], norms[2]]));
        assert!(!pass(&[&packed[..D], &[0; D / 2]].concat(), &norms));
    }
}
