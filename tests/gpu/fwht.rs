use wgtq::parity::fwht::cases;

use crate::support::check_each;

#[test]
fn every_head_dim_rotation_and_direction_equals_the_oracle() {
    check_each(&cases());
}
