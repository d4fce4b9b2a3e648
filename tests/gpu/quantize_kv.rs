use proptest::prelude::*;
use wgtq::codec::{Bits, Codec, HeadDim, Rotation};
use wgtq::parity::quantize_kv::{Case, cases};

use crate::support::check;

#[test]
fn codes_and_norms_equal_the_oracle_and_neighbours_keep_their_bytes() {
    cases().iter().for_each(check);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn random_rings(
        d in 0usize..4, heads in 1u32..5, tokens in 1u32..20, extra in 0u32..20,
        pos in 0u32..20, srht in any::<bool>(), bits in prop::sample::select(&Bits::ALL),
        norm_correction in any::<bool>(), seed in any::<u64>(),
    ) {
        let capacity = 1 + extra;
        let rotation = if srht { Rotation::Srht } else { Rotation::Plain };
        check(&Case {
            codec: Codec { norm_correction, ..Codec::new(HeadDim::ALL[d], bits, rotation) },
            num_kv_heads: heads, num_tokens: tokens, capacity, write_pos: pos % capacity,
            sliding: true, amplitude: 1.0, seed,
        });
    }
}
