use wgtq::codec::HeadDim;
use wgtq::parity::flash_attn_vec_reduce::Case;

use crate::support::check;

#[test]
fn any_number_of_splits_merges_as_the_oracle_does() {
    for head_dim in HeadDim::ALL {
        for (nrows, nwg) in [(1, 1), (3, 2), (9, 33), (2, 256)] {
            for empty_every in [0, 1, 3] {
                check(&Case { head_dim, nrows, nwg, empty_every, seed: nwg.into() }, Case::run);
            }
        }
    }
}
