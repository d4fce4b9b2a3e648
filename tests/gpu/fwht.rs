use wgtq::parity::fwht::cases;

use crate::support::check;

#[test]
fn every_head_dim_rotation_and_direction_equals_the_oracle() {
    cases().iter().for_each(check);
}
