//! How kernels that rotate spread rows over workgroups.

use crate::codec::HeadDim;
use crate::contract::{Constant, Language, constant};

/// Coordinates of a WGSL workgroup: with 2048, 8-bit encoding takes 5 % longer, with 4096 the rotation 12 %.
const COORDINATES: u32 = 1024;
/// Rows of an MSL threadgroup, a simdgroup each.
const SIMDGROUPS: u32 = 4;

/// Rows of one workgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    head_dim: HeadDim,
    /// Threads of a row.
    row_threads: u32,
    /// Rows of a workgroup.
    pub per_workgroup: u32,
}

impl Rows {
    pub fn new(head_dim: HeadDim, language: Language) -> Self {
        match language {
            Language::Wgsl => {
                // A thread needs as many coordinates as a row has threads, or more.
                let row_threads = if head_dim.get() < 256 { 8 } else { 16 };
                Self { head_dim, row_threads, per_workgroup: COORDINATES / head_dim.get() }
            }
            Language::Msl => Self { head_dim, row_threads: 32, per_workgroup: SIMDGROUPS },
        }
    }

    /// Up to `most` rows at a time in a workgroup of `threads`, with powers of two for both.
    pub fn of(head_dim: HeadDim, language: Language, most: u32, threads: u32) -> Self {
        let rows = Self::new(head_dim, language);
        Self { per_workgroup: most.min(threads / rows.row_threads), ..rows }
    }

    /// Threads of a workgroup.
    pub const fn threads(&self) -> u32 {
        self.row_threads * self.per_workgroup
    }

    /// Length of a row of `values` with a pad for each of its threads.
    pub const fn padded(&self, values: u32) -> u32 {
        values + self.row_threads
    }

    /// Bytes of workgroup memory that WGSL's `shared/rotate` exchanges rows through.
    pub const fn exchange_bytes(&self) -> u32 {
        4 * self.per_workgroup * self.padded(self.head_dim.get())
    }

    pub fn constants(&self) -> Vec<Constant> {
        let mut constants = self.row_constants();
        constants.push(constant("WORKGROUP_SIZE", self.threads()));
        constants
    }

    /// The same for a workgroup of another size.
    pub fn row_constants(&self) -> Vec<Constant> {
        vec![
            constant("ROW_THREADS", self.row_threads),
            constant("ROWS_PER_WORKGROUP", self.per_workgroup),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What two passes over a row, and signs by words of 32, take for granted in the WGSL.
    #[test]
    fn a_thread_has_as_many_coordinates_as_a_row_has_threads() {
        for head_dim in HeadDim::ALL {
            let rows = Rows::new(head_dim, Language::Wgsl);
            assert!(rows.row_threads.pow(2) <= head_dim.get(), "{head_dim}");
            assert_eq!(32 % rows.row_threads, 0, "{head_dim}");
            assert!(rows.threads() <= 256, "{head_dim}");
        }
    }
}
