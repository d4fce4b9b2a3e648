use wgtq::parity::store_kv::cases;

use crate::support::check_each;

#[test]
fn rows_are_stored_as_they_are_and_neighbours_keep_their_bytes() {
    check_each(&cases());
}
