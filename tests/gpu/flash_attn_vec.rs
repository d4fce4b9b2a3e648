use proptest::prelude::*;
use wgtq::kernels::flash_attn_vec::KvType;
use wgtq::parity::flash_attn_vec::{Case, cases};

use crate::flash_attn_vec_tq::any_case;
use crate::support::{check, check_each};

#[test]
fn every_edge_and_ratio_in_both_types_equals_the_oracle() {
    check_each(&cases());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_shape_equals_the_oracle(shape in any_case(), half in any::<bool>()) {
        let kv_type = if half { KvType::F16 } else { KvType::F32 };
        check(&Case { shape, kv_type });
    }
}
