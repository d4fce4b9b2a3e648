use wgtq::parity::flash_attn_mat_tile::cases;

use crate::support::check_where_matrices_are;

#[test]
fn every_edge_format_and_batch_equals_the_oracle() {
    check_where_matrices_are(&cases());
}
