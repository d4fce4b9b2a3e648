//! What the kernels that encode rows have in common: tables, rows of a workgroup, sizes of a call.

use super::{codebook_constants, has_signs, head_dim_constants, rotate_bytes, rotation_constants};
use crate::codec::{Bits, Codec, HeadDim, ZERO_NORM, codebook, row};
use crate::contract::{Caps, Constant, Language, constant, grid};
use crate::error::{Error, Result};
use crate::params::QuantizeKvParams;

/// Threads of a workgroup.
pub(super) const THREADS: u32 = 128;

/// An encoder of rows in these widths; the codec says the rest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoder<'a> {
    pub codec: &'a Codec,
    pub widths: &'a [Bits],
}

impl Encoder<'_> {
    fn rows_per_workgroup(&self, language: Language) -> u32 {
        match language {
            // Eight coordinates a thread.
            Language::Wgsl => THREADS / (self.codec.head_dim.get() / 8),
            // One simdgroup a row.
            Language::Msl => THREADS / 32,
        }
    }

    /// Entries of the largest table.
    fn table_len(&self) -> u32 {
        self.widths.iter().map(|b| b.levels() as u32).max().unwrap_or(1)
    }

    /// All but the widths themselves.
    pub fn constants(&self, language: Language) -> Vec<Constant> {
        let Codec { head_dim, rotation, norm_correction, .. } = *self.codec;
        let mut constants = head_dim_constants(head_dim);
        constants.push(constant("SQRT_HEAD_DIM", f64::from(head_dim.get()).sqrt() as f32));
        constants.push(constant("ZERO_NORM", ZERO_NORM));
        constants.extend(codebook_constants(head_dim, self.widths));
        let trees: Vec<f32> = self.widths.iter().flat_map(|&b| boundary_tree(b)).collect();
        constants.push(constant("BOUNDARY_TREES", trees));
        constants.push(constant("TABLE_LEN", self.table_len()));
        constants.extend(rotation_constants(head_dim, has_signs(rotation), false));
        constants.push(constant("NORM_CORRECTION", norm_correction));
        constants.push(constant("ROWS_PER_WORKGROUP", self.rows_per_workgroup(language)));
        constants.push(constant("WORKGROUP_SIZE", THREADS));
        constants
    }

    /// What sets a pipeline's label apart, after its widths.
    pub fn label(&self) -> String {
        let corrected = if self.codec.norm_correction { "_corrected" } else { "" };
        format!("{}{corrected}", self.codec.rotation.name())
    }

    /// Bytes of workgroup memory.
    pub fn workgroup_bytes(&self, language: Language) -> u32 {
        let (head_dim, rows) = (self.codec.head_dim, self.rows_per_workgroup(language));
        match language {
            Language::Wgsl => {
                let fours = rows * head_dim.get() / 4;
                rotate_bytes(head_dim, rows) + 4 * (self.table_len() + THREADS + fours)
            }
            Language::Msl => rows * head_dim.get(),
        }
    }

    /// Checks a call, and says what it touches and dispatches.
    pub fn call(
        &self,
        kernel: &'static str,
        params: &QuantizeKvParams,
        caps: &Caps,
        language: Language,
    ) -> Result<Call> {
        let head_dim = params.check()?;
        if head_dim != self.codec.head_dim {
            return Err(Error::param(
                "head_dim",
                format!("the plan's {}", self.codec.head_dim),
                head_dim,
            ));
        }
        if params.num_tokens == 0 {
            return Err(Error::param("num_tokens", "at least 1", 0));
        }
        let rows = u64::from(params.num_tokens) * u64::from(params.num_kv_heads);
        let slots = u64::from(params.num_kv_heads) * u64::from(params.cache_capacity);
        let workgroups = rows.div_ceil(self.rows_per_workgroup(language).into());
        let grid = grid(kernel, workgroups, caps)?;
        Ok(Call { head_dim, rows, slots, grid })
    }
}

/// A checked call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    head_dim: HeadDim,
    rows: u64,
    slots: u64,
    /// Workgroups over the rows.
    pub grid: [u32; 3],
}

impl Call {
    /// Bytes of the f32 rows.
    pub fn source_bytes(&self) -> u64 {
        self.rows * u64::from(self.head_dim.get()) * 4
    }

    /// Bytes of the packed rows of a cache.
    pub fn packed_bytes(&self, bits: Bits) -> u64 {
        self.slots * row::row_bytes(self.head_dim, bits)
    }

    /// Bytes of their norms.
    pub fn norms_bytes(&self) -> u64 {
        self.slots * u64::from(self.head_dim.norms_per_pos()) * 4
    }
}

/// The boundaries between the codes of `bits` bits as a binary tree, level by level: node 1 is the
/// middle one, below node k are 2 k and 2 k + 1; entry 0 is no node.
fn boundary_tree(bits: Bits) -> Vec<f32> {
    let sorted = codebook::boundaries(bits);
    let mut tree = vec![0.0];
    for level in 0..bits.get() {
        let step = 1 << (bits.get() - level);
        tree.extend(sorted.iter().skip(step / 2 - 1).step_by(step));
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Down the tree as the kernels go.
    fn descend(tree: &[f32], bits: Bits, z: f32) -> usize {
        let mut node = 1;
        for _ in 0..bits.get() {
            node = 2 * node + usize::from(z > tree[node]);
        }
        node - (1 << bits.get())
    }

    #[test]
    fn the_way_down_the_tree_ends_at_the_nearest_centroid() {
        for bits in Bits::ALL {
            let tree = boundary_tree(bits);
            assert_eq!(tree.len(), 1 << bits.get(), "{bits}");
            let inside = codebook::levels(bits).iter().copied();
            let ties = codebook::boundaries(bits).iter().copied();
            for z in inside.chain(ties).chain([-100.0, 100.0, 0.0]) {
                let want = usize::from(codebook::nearest(bits, z.into()));
                assert_eq!(descend(&tree, bits, z), want, "{bits} bits, {z}");
            }
        }
    }
}
