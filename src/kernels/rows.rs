//! How kernels that rotate spread rows over workgroups.

use crate::codec::{Bits, HeadDim};
use crate::contract::{Constant, Language, constant};

/// Coordinates of a WGSL workgroup: with 4096 the rotation takes 12 % longer.
const COORDINATES: u32 = 1024;
/// The same of one that encodes, and its threads: with half or twice as many it takes longer.
const ENCODED_COORDINATES: u32 = 2048;
const ENCODED_THREADS: u32 = 128;
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
    pads: Pads,
}

/// Floats that WGSL's `shared/rotate` leaves free in the memory that rows go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pads {
    /// After the coordinates that a thread holds side by side.
    thread: u32,
    /// In a row in all, for each of its threads.
    row: u32,
}

/// As little as keeps strided access on different banks.
const NARROW: Pads = Pads { thread: 1, row: 1 };
/// Coordinates side by side start at a multiple of four, so that drivers read them as vectors, and rows
/// of a subgroup on different banks.
const ALIGNED: Pads = Pads { thread: 4, row: 5 };

impl Rows {
    pub fn new(head_dim: HeadDim, language: Language) -> Self {
        match language {
            Language::Wgsl => {
                // A thread needs as many coordinates as a row has threads, or more.
                let row_threads = if head_dim.get() < 256 { 8 } else { 16 };
                Self {
                    head_dim,
                    row_threads,
                    per_workgroup: COORDINATES / head_dim.get(),
                    pads: NARROW,
                }
            }
            Language::Msl => {
                Self { head_dim, row_threads: 32, per_workgroup: SIMDGROUPS, pads: NARROW }
            }
        }
    }

    /// Rows that are encoded, whose threads hold whole words of codes of each of `widths`.
    pub fn encoded(head_dim: HeadDim, language: Language, widths: &[Bits]) -> Self {
        let rows = Self::new(head_dim, language);
        if language == Language::Msl {
            return rows;
        }
        let mut row_threads = rows.row_threads;
        while !widths.iter().all(|b| (head_dim.get() / row_threads * b.get()).is_multiple_of(32)) {
            row_threads /= 2;
        }
        let per_workgroup =
            (ENCODED_THREADS / row_threads).min(ENCODED_COORDINATES / head_dim.get());
        Self { head_dim, row_threads, per_workgroup, pads: ALIGNED }
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

    /// Bytes of workgroup memory that WGSL's `shared/rotate` exchanges rows through.
    pub const fn exchange_bytes(&self) -> u32 {
        4 * self.per_workgroup * (self.head_dim.get() + self.pads.row * self.row_threads)
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
            constant("THREAD_PAD", self.pads.thread),
            constant("ROW_PAD", self.pads.row),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each_width(check: impl Fn(HeadDim, &[Bits], Rows)) {
        for head_dim in HeadDim::ALL {
            for k in Bits::ALL {
                for v in Bits::ALL {
                    check(head_dim, &[k, v], Rows::encoded(head_dim, Language::Wgsl, &[k, v]));
                }
            }
        }
    }

    /// What two passes over a row, and signs by words of 32, take for granted in the WGSL.
    #[test]
    fn a_thread_has_as_many_coordinates_as_a_row_has_threads() {
        let check = |head_dim: HeadDim, rows: Rows| {
            assert!(rows.row_threads.pow(2) <= head_dim.get(), "{head_dim}");
            assert_eq!(32 % rows.row_threads, 0, "{head_dim}");
            assert!(rows.threads() <= 256, "{head_dim}");
        };
        for head_dim in HeadDim::ALL {
            check(head_dim, Rows::new(head_dim, Language::Wgsl));
        }
        each_width(|head_dim, _, rows| check(head_dim, rows));
    }

    /// What the encoders write a row's words by.
    #[test]
    fn a_thread_that_encodes_has_whole_words_of_one_block() {
        each_width(|head_dim, widths, rows| {
            let coords = head_dim.get() / rows.row_threads;
            assert!(widths.iter().all(|b| coords * b.get() % 32 == 0), "{head_dim} {widths:?}");
            assert!(coords <= head_dim.get() / head_dim.norms_per_pos(), "{head_dim}");
            assert!(rows.per_workgroup > 0, "{head_dim}");
        });
    }
}
