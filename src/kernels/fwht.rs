//! `fwht`: rotation of query and output rows, in place.

use bytemuck::bytes_of;

use super::rows::Rows;
use super::{has_signs, head_dim_constants, kernel, rotation_constants};
use crate::codec::{Direction, HeadDim, Rotation};
use crate::contract::Scalar::U32;
use crate::contract::{Access, Binding, Caps, Constant, Contract, Language, Launch, Plan, grid};
use crate::error::{Error, Result};
use crate::params::FwhtParams;

/// Bindings, parameters and text.
pub const CONTRACT: Contract = Contract {
    stem: "fwht",
    summary: "fast Walsh-Hadamard rotation of rows, in place",
    bindings: &[
        Binding { name: "data", access: Access::ReadWrite, layout: "f32 [row][coord]" },
        Binding { name: "params", access: Access::Uniform, layout: "FwhtParams" },
    ],
    params: &[("head_dim", U32), ("num_heads", U32)],
    published_params: 2,
    wgsl: include_str!("../../wgsl/fwht.wgsl"),
    msl: include_str!("../../msl/fwht.metal"),
};

kernel! {
    /// Marker of the `fwht` kernel.
    Fwht {
        /// f32 `[rows, D]`, read and written.
        data,
        /// [`FwhtParams`].
        params,
    }
}

/// A rotation and its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Coordinates of a row.
    pub head_dim: HeadDim,
    /// Plain or SRHT.
    pub rotation: Rotation,
    /// Into the rotated basis or back.
    pub direction: Direction,
}

impl Problem {
    /// Chooses the constants.
    pub fn plan(&self, caps: &Caps, language: Language) -> Result<Plan> {
        let signs = has_signs(self.rotation);
        let (before, after) = (
            signs && self.direction == Direction::Forward,
            signs && self.direction == Direction::Inverse,
        );
        let rows = Rows::new(self.head_dim, language);
        let mut constants: Vec<Constant> = head_dim_constants(self.head_dim);
        constants.extend(rotation_constants(self.head_dim, before, after));
        constants.extend(rows.constants());
        let signs = match (before, after) {
            (true, _) => "sign_before",
            (_, true) => "sign_after",
            _ => "plain",
        };
        let plan = Plan {
            contract: &CONTRACT,
            language,
            label: format!("fwht_d{}_{signs}", self.head_dim),
            constants,
            pieces: vec!["rotate"],
            workgroup_size: rows.threads(),
            workgroup_bytes: match language {
                Language::Wgsl => rows.exchange_bytes(),
                Language::Msl => 0,
            },
            subgroups: language == Language::Msl,
            matrices: false,
            storage_fence: false,
        };
        plan.check(caps)?;
        Ok(plan)
    }

    /// One dispatch over `params.num_heads` rows.
    pub fn launch(&self, params: &FwhtParams, caps: &Caps, language: Language) -> Result<Launch> {
        if params.head_dim != self.head_dim.get() {
            return Err(Error::param(
                "head_dim",
                format!("the plan's {}", self.head_dim),
                params.head_dim,
            ));
        }
        if params.num_heads == 0 {
            return Err(Error::param("num_heads", "at least 1", 0));
        }
        let rows = u64::from(params.num_heads);
        let workgroups = rows.div_ceil(Rows::new(self.head_dim, language).per_workgroup.into());
        Ok(Launch {
            contract: &CONTRACT,
            grid: grid("fwht", workgroups, caps)?,
            needed: vec![rows * u64::from(params.head_dim) * 4, size_of::<FwhtParams>() as u64],
            uniforms: vec![(1, bytes_of(params).to_vec())],
        })
    }
}
