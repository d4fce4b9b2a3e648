use proptest::prelude::*;
use wgtq::codec::{Bits, Codec, HeadDim, Rotation};
use wgtq::parity::flash_attn_vec_tq::Case;

use crate::support::check;

/// A shape in the middle of everything; tests vary one thing at a time from it.
pub fn base(head_dim: HeadDim) -> Case {
    Case {
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
        score_sigma: 1.0,
        seed: 11,
    }
}

/// Every edge that the contract names, each on the kernel given by `run`.
pub fn edges(mut run: impl FnMut(Case)) {
    for head_dim in HeadDim::ALL {
        for (n, cap) in [(1, 1), (1, 7), (31, 31), (32, 40), (33, 40), (1000, 1000), (1000, 1024)] {
            let starts = if n < 1000 { vec![0, 1, cap / 2, cap - 1] } else { vec![0, cap / 2 + 1] };
            for ring_start in starts {
                let nwg = if ring_start % 2 == 0 { 1 } else { 3 };
                let (kv_seq_len, kv_capacity) = (n, cap);
                run(Case {
                    kv_seq_len,
                    kv_capacity,
                    ring_start: ring_start % cap,
                    nwg,
                    ..base(head_dim)
                });
            }
        }
        for window in [0, 1, 99, 100, 105] {
            run(Case { mask_type: 2, sliding_window: window, nwg: 2, ..base(head_dim) });
        }
        for softcap in [0.0, 2.0, 30.0, 1000.0] {
            run(Case { softcap, score_sigma: 4.0, ..base(head_dim) });
        }
        for nwg in [2, 16, 256] {
            run(Case { nwg, ..base(head_dim) });
        }
        run(Case { score_sigma: 16.0, nwg: 4, ..base(head_dim) });
        run(Case { kv_seq_len: 0, ..base(head_dim) });
    }
}

/// Query heads a KV head, at one head dim: each makes a pipeline of its own.
pub fn ratios(mut run: impl FnMut(Case)) {
    for g in [1, 3, 7, 8, 11] {
        run(Case { num_heads: 2 * g, ..base(HeadDim::ALL[1]) });
    }
}

#[test]
fn any_integer_ratio_of_heads_equals_the_oracle() {
    ratios(|case| check(&case, Case::run));
}

#[test]
fn every_edge_equals_the_oracle() {
    edges(|case| check(&case, Case::run));
}

/// Any shape that a caller may ask for, small enough to run in milliseconds.
pub fn any_case() -> impl Strategy<Value = Case> {
    // Few pairs of head dim and ratio, since each makes a pipeline; anything else is free.
    let pipeline = prop::sample::select(vec![(0, 3u32), (1, 7), (2, 2), (3, 2)]);
    let num_kv_heads = 1u32..4;
    let ring = (1u32..200).prop_flat_map(|cap| (Just(cap), 0..=cap, 0..cap));
    let mask = (0u32..3, 0u32..220);
    let softcap = prop_oneof![Just(0.0f32), Just(5.0), Just(30.0)];
    (pipeline, num_kv_heads, ring, mask, softcap, 1u32..9, 0.1f32..6.0, any::<u64>()).prop_map(
        |((d, g), nkv, (cap, n, start), (mask, window), softcap, nwg, sigma, seed)| Case {
            codec: Codec::new(HeadDim::ALL[d], Bits::B4, Rotation::Plain),
            num_heads: nkv * g,
            num_kv_heads: nkv,
            kv_seq_len: n,
            kv_capacity: cap,
            ring_start: start,
            mask_type: mask,
            sliding_window: window,
            softcap,
            nwg,
            score_sigma: sigma,
            seed: seed >> 1,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn any_shape_equals_the_oracle(case in any_case()) {
        check(&case, Case::run);
    }
}
