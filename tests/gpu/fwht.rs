use wgtq::codec::{Direction, HeadDim, Rotation};
use wgtq::parity::fwht::Case;

use crate::support::check;

#[test]
fn every_head_dim_rotation_and_direction_equals_the_oracle() {
    for head_dim in HeadDim::ALL {
        for rotation in [Rotation::Plain, Rotation::Srht] {
            for direction in [Direction::Forward, Direction::Inverse] {
                for rows in [1, 3, 16, 17] {
                    let case = Case { head_dim, rotation, direction, rows, seed: rows.into() };
                    check(&case, Case::run);
                }
            }
        }
    }
}
