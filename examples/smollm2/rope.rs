//! Rotary position embedding as the GGUF files of the llama family have it: neighbouring
//! coordinates (2i, 2i + 1) are one pair, turned by `position * base^(-2i / D)`.

use candle_core::{D, DType, Device, Tensor};

use crate::error::Result;

/// The angles of one model.
#[derive(Debug, Clone, Copy)]
pub struct Rope {
    /// `D`.
    pub head_dim: usize,
    /// Angle base, 100 000 here.
    pub base: f64,
}

impl Rope {
    /// Cosines and sines `[T, 1, D / 2, 1]` of the positions `first ..  first + tokens`.
    fn tables(&self, first: usize, tokens: usize, dtype: DType) -> Result<(Tensor, Tensor)> {
        let pairs = self.head_dim / 2;
        let angles: Vec<f64> = (first..first + tokens)
            .flat_map(|position| {
                (0..pairs).map(move |i| {
                    position as f64 * self.base.powf(-2.0 * i as f64 / self.head_dim as f64)
                })
            })
            .collect();
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f64> = angles.iter().copied().map(f).collect();
            Tensor::from_vec(values, (tokens, 1, pairs, 1), &Device::Cpu)?.to_dtype(dtype)
        };
        Ok((table(f64::cos)?, table(f64::sin)?))
    }

    /// Turns `x` `[T, heads, D]`, whose first token is at position `first`.
    pub fn apply(&self, x: &Tensor, first: usize) -> Result<Tensor> {
        let (tokens, heads, d) = x.dims3()?;
        let (cos, sin) = self.tables(first, tokens, x.dtype())?;
        let pairs = x.reshape((tokens, heads, d / 2, 2))?;
        let (a, b) = (pairs.narrow(D::Minus1, 0, 1)?, pairs.narrow(D::Minus1, 1, 1)?);
        let turned_a = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let turned_b = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
        Ok(Tensor::cat(&[turned_a, turned_b], D::Minus1)?.reshape((tokens, heads, d))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROPE: Rope = Rope { head_dim: 64, base: 100_000.0 };

    fn turned(row: &[f32], position: usize) -> Vec<f32> {
        let x = Tensor::from_slice(row, (1, 1, 64), &Device::Cpu).unwrap();
        ROPE.apply(&x, position).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn neighbouring_coordinates_turn_by_the_angle_of_their_pair() {
        let mut row = [0.0; 64];
        (row[0], row[10]) = (1.0, 2.0);
        let got = turned(&row, 3);
        let slow = 3.0 * 100_000f64.powf(-10.0 / 64.0);
        let want =
            [(0, 3f64.cos()), (1, 3f64.sin()), (10, 2.0 * slow.cos()), (11, 2.0 * slow.sin())];
        for (at, want) in want {
            assert!((f64::from(got[at]) - want).abs() < 1e-6, "{at}: {} want {want}", got[at]);
        }
        assert_eq!(got.iter().filter(|x| **x != 0.0).count(), 4);
    }

    /// What makes the embedding relative, and what a wrong sign or a wrong pairing breaks.
    #[test]
    fn scores_depend_on_the_distance_only() {
        let q: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin()).collect();
        let k: Vec<f32> = (0..64).map(|i| (i as f32 * 1.3).cos()).collect();
        let near = dot(&turned(&q, 9), &turned(&k, 4));
        let far = dot(&turned(&q, 709), &turned(&k, 704));
        let other = dot(&turned(&q, 9), &turned(&k, 5));
        assert!((near - far).abs() < 1e-3, "{near} {far}");
        assert!((near - other).abs() > 1e-2, "{near} {other}");
    }
}
