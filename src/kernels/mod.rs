//! The kernels: contract, plan and launch of each. `ALL` is the one list that tests, command
//! line and documentation iterate.
//!
//! Problem, plan and launch are three things: a `Problem` is a shape, its `plan` chooses
//! constants for a device (a pure function), and `launch` checks one call's parameters and says
//! which bytes it touches.

pub mod dequantize_kv;
mod encoder;
pub mod flash_attn_decode_tq;
pub mod flash_attn_mat_tile;
pub mod flash_attn_mat_tq;
pub mod flash_attn_tile;
pub mod flash_attn_vec;
pub mod flash_attn_vec_reduce;
pub mod flash_attn_vec_tq;
pub mod fwht;
pub mod quantize_k_and_v;
pub mod quantize_kv;
mod row_groups;
mod rows;
pub mod store_kv;

use crate::codec::{Bits, Codec, HeadDim, Rotation, codebook, signs};
use crate::contract::{Constant, Contract, constant};

#[cfg(feature = "export")]
pub(crate) use encoder::MOST_WORKGROUPS;

/// Contracts of the kernels that every device runs.
pub const ALL: &[&Contract] = &[
    &fwht::CONTRACT,
    &quantize_kv::CONTRACT,
    &quantize_k_and_v::CONTRACT,
    &dequantize_kv::CONTRACT,
    &flash_attn_vec_tq::CONTRACT,
    &flash_attn_vec::CONTRACT,
    &flash_attn_vec_reduce::CONTRACT,
    &flash_attn_tile::CONTRACT,
    &store_kv::CONTRACT,
];

/// Contracts of the kernels that need what not every WebGPU device has: cooperative matrices, or
/// workgroups that can be ordered. They run on wgpu's native backends, and are neither exported nor in
/// the browser's suite.
pub const NATIVE: &[&Contract] = &[
    &flash_attn_mat_tq::CONTRACT,
    &flash_attn_decode_tq::CONTRACT,
    &flash_attn_mat_tile::CONTRACT,
];

/// How long a context a plan of decode attention over packed K and V is for. Either computes the same
/// at any length; they differ in what is fast.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Context {
    /// Under [`Self::LONG`] visible positions: what counts is how soon a workgroup is done.
    Short,
    /// From there on: what counts is what a position costs.
    #[default]
    Long,
}

impl Context {
    /// Fewest visible positions of a long context.
    pub const LONG: u32 = 4096;

    /// The one of `visible` positions.
    pub const fn of(visible: u32) -> Self {
        if visible < Self::LONG { Self::Short } else { Self::Long }
    }
}

/// Ties a kernel's buffers to its contract, so that one kernel's buffers cannot be bound to
/// another's pipeline.
pub trait KernelSpec {
    /// The kernel's contract.
    const CONTRACT: &'static Contract;
    /// The kernel's bindings as named fields.
    #[cfg(feature = "wgpu")]
    type Buffers<'a>: Into<Vec<wgpu::BufferBinding<'a>>>;
}

/// Declares a kernel's marker type and its named buffers, in binding order.
macro_rules! kernel {
    ($(#[$doc:meta])* $marker:ident { $($(#[$field_doc:meta])* $field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $marker;

        impl super::KernelSpec for $marker {
            const CONTRACT: &'static crate::contract::Contract = &CONTRACT;
            #[cfg(feature = "wgpu")]
            type Buffers<'a> = Buffers<'a>;
        }

        /// The kernel's bindings, each a buffer with offset and size.
        #[cfg(feature = "wgpu")]
        #[derive(Debug, Clone)]
        pub struct Buffers<'a> {
            $($(#[$field_doc])* pub $field: wgpu::BufferBinding<'a>,)*
        }

        #[cfg(feature = "wgpu")]
        impl<'a> From<Buffers<'a>> for Vec<wgpu::BufferBinding<'a>> {
            fn from(b: Buffers<'a>) -> Self {
                vec![$(b.$field),*]
            }
        }

        #[cfg(test)]
        mod buffer_order {
            #[test]
            fn fields_are_in_binding_order() {
                let names: Vec<_> = super::CONTRACT.bindings.iter().map(|b| b.name).collect();
                assert_eq!(names, [$(stringify!($field)),*]);
            }
        }
    };
}
pub(crate) use kernel;

/// Constants of every kernel that knows a head dim.
fn head_dim_constants(head_dim: HeadDim) -> Vec<Constant> {
    vec![
        constant("HEAD_DIM", head_dim.get()),
        constant("INV_SQRT_HEAD_DIM", (1.0 / f64::from(head_dim.get()).sqrt()) as f32),
    ]
}

/// Constants of the rotation: signs, and where they are applied.
fn rotation_constants(head_dim: HeadDim, before: bool, after: bool) -> Vec<Constant> {
    vec![
        constant("SIGN_BEFORE", before),
        constant("SIGN_AFTER", after),
        constant("SIGN_WORDS", signs::words(head_dim.as_usize())),
    ]
}

/// Constants of rows in one width.
fn codec_constants(codec: &Codec) -> Vec<Constant> {
    let mut constants = vec![constant("BITS", codec.bits.get())];
    constants.extend(codebook_constants(codec.head_dim, &[codec.bits]));
    constants
}

/// Constants of `shared/codebook`: the codebooks of these widths, one after the other; for no
/// width a single level, since a shader has no empty array.
fn codebook_constants(head_dim: HeadDim, widths: &[Bits]) -> Vec<Constant> {
    let mut levels: Vec<f32> = widths.iter().flat_map(|&b| codebook::levels(b).to_vec()).collect();
    levels.resize(levels.len().max(1), 0.0);
    vec![
        constant("NORMS_PER_POS", head_dim.norms_per_pos()),
        constant("CODEBOOK_LEN", levels.len() as u32),
        constant("CODEBOOK", levels),
    ]
}

/// Whether the rotation multiplies by signs at all.
fn has_signs(rotation: Rotation) -> bool {
    rotation == Rotation::Srht
}
