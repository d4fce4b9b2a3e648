use wgtq::parity::dequantize_kv::cases;

use crate::support::check_each;

#[test]
fn every_head_dim_ring_and_layout_equals_the_oracle() {
    check_each(&cases());
}
