use wgtq::parity::flash_attn_vec_reduce::cases;

use crate::support::check;

#[test]
fn any_number_of_splits_merges_as_the_oracle_does() {
    cases().iter().for_each(check);
}
