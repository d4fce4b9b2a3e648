//! The reference: an unquantised cache on the CPU.

use candle_core::Tensor;

use super::dense::{Store, attend};
use super::{Attention, Shape};
use crate::error::Result;

/// K and V as they come.
#[derive(Debug)]
pub struct Exact {
    shape: Shape,
    store: Store,
}

impl Exact {
    /// An empty cache.
    pub fn new(shape: Shape) -> Self {
        Self { store: Store::new(&shape), shape }
    }
}

impl Attention for Exact {
    fn append_and_attend(
        &mut self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor> {
        attend(&self.shape, q, &self.store.append(layer, k, v)?)
    }

    fn bytes_per_token(&self) -> u64 {
        let row = u64::from(self.shape.head_dim.get()) * 4;
        self.shape.bytes_per_token([row, row])
    }
}
