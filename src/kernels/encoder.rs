//! What the kernels that encode rows have in common: tables, rows of a workgroup, sizes of a call.

use super::rows::Rows;
use super::{codebook_constants, has_signs, head_dim_constants, rotation_constants};
use crate::codec::codebook::{boundaries, guess};
use crate::codec::{Bits, Codec, HeadDim, ZERO_NORM, row};
use crate::contract::{Caps, Constant, Language, constant, grid};
use crate::error::{Error, Result};
use crate::params::QuantizeKvParams;

/// Most workgroups of WGSL, which go round where rows are more: four on each of 132 multiprocessors.
/// More than a device holds at a time would take a second turn as long as the first.
pub(crate) const MOST_WORKGROUPS: u64 = 528;

/// An encoder of rows in these widths; the codec says the rest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoder<'a> {
    pub codec: &'a Codec,
    pub widths: &'a [Bits],
}

impl Encoder<'_> {
    fn rows(&self, language: Language) -> Rows {
        Rows::encoded(self.codec.head_dim, language, self.widths)
    }

    /// Threads of a workgroup.
    pub fn threads(&self, language: Language) -> u32 {
        self.rows(language).threads()
    }

    /// The widest codes.
    fn most_bits(&self) -> Bits {
        self.widths.iter().copied().max().unwrap_or(self.codec.bits)
    }

    /// Entries of the largest table.
    fn table_len(&self) -> u32 {
        let levels = self.most_bits().levels() as u32;
        if self.codec.norm_correction { 2 * levels } else { levels }
    }

    /// All but the widths themselves.
    pub fn constants(&self, language: Language) -> Vec<Constant> {
        let Codec { head_dim, rotation, norm_correction, .. } = *self.codec;
        let mut constants = head_dim_constants(head_dim);
        constants.push(constant("SQRT_HEAD_DIM", f64::from(head_dim.get()).sqrt() as f32));
        constants.push(constant("ZERO_NORM", ZERO_NORM));
        constants.extend(codebook_constants(head_dim, self.widths));
        // An entry that is never read makes them as many as levels: both tables then start alike.
        let upto = |&b: &Bits| boundaries(b).iter().copied().chain([0.0]);
        let tables: Vec<f32> = self.widths.iter().flat_map(upto).collect();
        constants.push(constant("BOUNDARIES", tables));
        constants.push(constant("TABLE_LEN", self.table_len()));
        constants.push(constant("MOST_BITS", self.most_bits().get()));
        constants.extend(rotation_constants(head_dim, has_signs(rotation), false));
        constants.push(constant("NORM_CORRECTION", norm_correction));
        constants.extend(self.rows(language).constants());
        constants
    }

    /// How a kernel guesses codes of this width.
    pub fn guess(name: &'static str, bits: Bits) -> Constant {
        constant(name, guess(bits).to_vec())
    }

    /// What sets a pipeline's label apart, after its widths.
    pub fn label(&self) -> String {
        let corrected = if self.codec.norm_correction { "_corrected" } else { "" };
        format!("{}{corrected}", self.codec.rotation.name())
    }

    /// Bytes of workgroup memory.
    pub fn workgroup_bytes(&self, language: Language) -> u32 {
        let (head_dim, rows) = (self.codec.head_dim, self.rows(language));
        match language {
            Language::Wgsl => {
                let squares = head_dim.norms_per_pos() * rows.threads();
                rows.exchange_bytes() + 4 * (self.table_len() + squares)
            }
            Language::Msl => rows.per_workgroup * head_dim.get(),
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
        let most = match language {
            Language::Wgsl => MOST_WORKGROUPS.min(caps.max_workgroups_per_dim.into()),
            Language::Msl => u64::MAX,
        };
        let workgroups = rows.div_ceil(self.rows(language).per_workgroup.into()).min(most);
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
