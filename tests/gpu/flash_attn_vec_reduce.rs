use wgtq::parity::flash_attn_vec_reduce::cases;

use crate::support::check_each;

#[test]
fn any_number_of_splits_merges_as_the_oracle_does() {
    check_each(&cases());
}
