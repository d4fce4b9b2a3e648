use proptest::prelude::*;
use wgtq::kernels::flash_attn_vec::KvType;
use wgtq::parity::flash_attn_vec::Case;

use crate::flash_attn_vec_tq::{any_case, edges, ratios};
use crate::support::check;

#[test]
fn every_edge_equals_the_oracle_in_f32() {
    edges(|shape| check(&Case { shape, kv_type: KvType::F32 }, Case::run));
}

#[test]
fn every_edge_equals_the_oracle_in_f16() {
    edges(|shape| check(&Case { shape, kv_type: KvType::F16 }, Case::run));
}

#[test]
fn any_integer_ratio_of_heads_equals_the_oracle() {
    ratios(|shape| check(&Case { shape, kv_type: KvType::F32 }, Case::run));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_shape_equals_the_oracle(shape in any_case(), half in any::<bool>()) {
        let kv_type = if half { KvType::F16 } else { KvType::F32 };
        check(&Case { shape, kv_type }, Case::run);
    }
}
