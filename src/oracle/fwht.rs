//! `y = FWHT(x) / sqrt(D)` in natural (Sylvester) order, with optional signs before or after.

use crate::codec::{Direction, Rotation};

/// Transforms one row in place: stages h = 1, 2, 4 .. D/2, `(a, b) -> (a + b, a - b)`.
pub fn fwht(row: &mut [f64]) {
    let mut h = 1;
    while h < row.len() {
        for start in (0..row.len()).step_by(2 * h) {
            for i in start..start + h {
                (row[i], row[i + h]) = (row[i] + row[i + h], row[i] - row[i + h]);
            }
        }
        h *= 2;
    }
    let norm = (row.len() as f64).sqrt();
    row.iter_mut().for_each(|x| *x /= norm);
}

/// Rotates one row into or out of the basis that codes are stored in.
pub fn rotate(rotation: Rotation, direction: Direction, row: &mut [f64]) {
    let signs = |row: &mut [f64]| {
        for (c, x) in row.iter_mut().enumerate() {
            *x *= f64::from(rotation.sign(c));
        }
    };
    if direction == Direction::Forward {
        signs(row);
    }
    fwht(row);
    if direction == Direction::Inverse {
        signs(row);
    }
}

/// Rotates every row of `data` `[rows, head_dim]`.
pub fn rotate_rows(
    rotation: Rotation,
    direction: Direction,
    head_dim: usize,
    data: &[f32],
) -> Vec<f64> {
    let mut out: Vec<f64> = data.iter().map(|&x| f64::from(x)).collect();
    for row in out.chunks_exact_mut(head_dim) {
        rotate(rotation, direction, row);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entry (i, j) of the Hadamard matrix is the parity of the common bits of i and j.
    #[test]
    fn transform_is_the_sylvester_matrix() {
        let n = 64;
        for j in [0, 1, 5, 33, 63] {
            let mut row = vec![0.0; n];
            row[j] = 8.0;
            fwht(&mut row);
            for (i, &x) in row.iter().enumerate() {
                let want = if (i & j).count_ones() % 2 == 0 { 1.0 } else { -1.0 };
                assert_eq!(x, want, "H[{i}][{j}]");
            }
        }
    }

    #[test]
    fn inverse_undoes_forward() {
        for rotation in [Rotation::Plain, Rotation::Srht] {
            let x: Vec<f64> = (0..256).map(|i| f64::from(i * 37 % 101) - 50.0).collect();
            let mut y = x.clone();
            rotate(rotation, Direction::Forward, &mut y);
            rotate(rotation, Direction::Inverse, &mut y);
            assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-12));
        }
    }
}
