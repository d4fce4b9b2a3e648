use wgtq::codec::{Bits, Codec, HeadDim, Rotation};
use wgtq::parity::dequantize_kv::Case;

use crate::support::check;

#[test]
fn every_head_dim_ring_and_layout_equals_the_oracle() {
    for head_dim in HeadDim::ALL {
        for (num_tokens, capacity, read_pos) in [(1, 1, 0), (4, 9, 7), (9, 9, 3)] {
            for head_major in [false, true] {
                let codec = Codec {
                    scale_factor_d512: 0.75,
                    ..Codec::new(head_dim, Bits::B4, Rotation::Plain)
                };
                let num_kv_heads = 3;
                let case = Case {
                    codec,
                    num_kv_heads,
                    num_tokens,
                    capacity,
                    read_pos,
                    head_major,
                    seed: 5,
                };
                check(&case, Case::run);
            }
        }
    }
}
