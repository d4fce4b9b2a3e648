use wgtq::parity::flash_attn_mat_tq::cases;

use crate::support::check_where_matrices_are;

#[test]
fn every_edge_and_ratio_equals_the_oracle() {
    check_where_matrices_are(&cases());
}
