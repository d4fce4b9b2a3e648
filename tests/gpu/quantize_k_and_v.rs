use wgtq::parity::quantize_k_and_v::cases;

use crate::support::check_each;

#[test]
fn k_and_v_equal_the_oracle_each_in_its_width_and_neighbours_keep_their_bytes() {
    check_each(&cases());
}
