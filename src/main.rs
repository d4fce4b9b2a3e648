//! The `wgtq` program.
fn main() {}
