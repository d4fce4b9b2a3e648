use proptest::prelude::*;
use wgtq::codec::{Codec, HeadDim, Rotation};
use wgtq::parity::flash_attn_decode_tq::{Case, cases};
use wgtq::parity::flash_attn_vec_tq::base;

use crate::flash_attn_vec_tq::any_case;
use crate::support::{check, check_each, output_planned_for};

#[test]
fn every_edge_and_ratio_equals_the_oracle() {
    check_each(&cases());
}

/// A lane that cannot add up its row group must show in the merge of the splits too.
#[test]
fn a_plan_for_wider_subgroups_than_there_are_ends_in_nan() {
    for nwg in [1, 2] {
        let shape = wgtq::parity::flash_attn_vec_tq::Case { nwg, ..base(HeadDim::ALL[2]) };
        for rotated in [false, true] {
            let case = Case { shape, rotated, after: None };
            let Some(output) = output_planned_for(&case, 64) else { return };
            assert!(output.iter().all(|x| x.is_nan()), "{:?}", &output[..8]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn any_shape_equals_the_oracle(
        shape in any_case(),
        rotated: bool,
        signs: bool,
        after in 1u32..9,
    ) {
        let rotation = if signs { Rotation::Srht } else { Rotation::Plain };
        let shape = wgtq::parity::flash_attn_vec_tq::Case {
            codec: Codec { rotation, ..shape.codec },
            ..shape
        };
        check(&Case { shape, rotated, after: Some(after) });
    }
}
