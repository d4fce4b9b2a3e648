use wgtq::parity::flash_attn_tile::cases;

use crate::support::check;

#[test]
fn every_edge_format_and_batch_equals_the_oracle() {
    cases().iter().for_each(check);
}
