use proptest::prelude::*;
use wgtq::codec::{Bits, Codec, HeadDim, Rotation};
use wgtq::parity::quantize_kv::Case;

use crate::support::check;

fn case(head_dim: HeadDim, rotation: Rotation) -> Case {
    Case {
        codec: Codec::new(head_dim, Bits::B4, rotation),
        num_kv_heads: 3,
        num_tokens: 5,
        capacity: 9,
        write_pos: 2,
        sliding: false,
        amplitude: 1.0,
        seed: 7,
    }
}

#[test]
fn codes_and_norms_equal_the_oracle_and_neighbours_keep_their_bytes() {
    for head_dim in HeadDim::ALL {
        for rotation in [Rotation::Plain, Rotation::Srht] {
            check(&case(head_dim, rotation), Case::run);
        }
    }
}

#[test]
fn sliding_runs_wrap_and_the_newest_token_of_a_slot_wins() {
    for (num_tokens, write_pos) in [(1, 8), (5, 7), (9, 4), (20, 3)] {
        let case =
            Case { num_tokens, write_pos, sliding: true, ..case(HeadDim::ALL[1], Rotation::Plain) };
        check(&case, Case::run);
    }
}

#[test]
fn zero_tiny_and_large_rows_are_encoded_as_defined() {
    for head_dim in [HeadDim::ALL[2], HeadDim::ALL[3]] {
        for amplitude in [0.0, 1e-14, 1e-6, 1e6] {
            check(&Case { amplitude, ..case(head_dim, Rotation::Srht) }, Case::run);
        }
    }
}

#[test]
fn a_scale_factor_at_512_is_applied() {
    let mut case = case(HeadDim::ALL[3], Rotation::Plain);
    case.codec.scale_factor_d512 = 0.75;
    check(&case, Case::run);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn random_rings(
        d in 0usize..4, heads in 1u32..5, tokens in 1u32..20, extra in 0u32..20,
        pos in 0u32..20, srht in any::<bool>(), seed in any::<u64>(),
    ) {
        let capacity = 1 + extra;
        let rotation = if srht { Rotation::Srht } else { Rotation::Plain };
        check(&Case {
            codec: Codec::new(HeadDim::ALL[d], Bits::B4, rotation),
            num_kv_heads: heads, num_tokens: tokens, capacity, write_pos: pos % capacity,
            sliding: true, amplitude: 1.0, seed,
        }, Case::run);
    }
}
