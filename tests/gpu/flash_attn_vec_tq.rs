use proptest::prelude::*;
use wgtq::codec::{Bits, Codec, HeadDim, Rotation};
use wgtq::kernels::Context;
use wgtq::parity::flash_attn_vec_tq::{Case, base, cases};

use crate::support::{check, check_each, outcome, output_planned_for};

#[test]
fn every_edge_and_ratio_equals_the_oracle() {
    check_each(&cases());
}

/// Subgroups that are narrower than a plan was told must show: a sum over half of the lanes could
/// pass for a result.
#[test]
fn a_plan_for_wider_subgroups_than_there_are_ends_in_nan() {
    let case = base(HeadDim::ALL[2]);
    let Some(output) = output_planned_for(&case, 64) else { return };
    assert!(output.iter().all(|x| x.is_nan()), "{:?}", &output[..8]);
}

/// A floor that leaves out most rows of V must show, within what the oracle says that they weigh.
#[test]
fn rows_under_the_floor_are_left_out() {
    let most = Case { weight_floor: 0.9, ..base(HeadDim::ALL[1]) };
    let Some(outcome) = outcome(&most) else { return };
    assert!(outcome.pass(), "{}", outcome.detail);
    assert!(outcome.error > 0.1, "nothing was left out: {:.2e}", outcome.error);
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
            k_bits: Bits::B4,
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
            context: if seed % 2 == 0 { Context::Short } else { Context::Long },
            weight_floor: 0.0,
            score_sigma: sigma,
            seed: seed >> 1,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn any_shape_equals_the_oracle(case in any_case()) {
        check(&case);
    }
}
