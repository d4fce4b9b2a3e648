//! Kernels without Rust: shader text or SPIR-V, and beside it a contract as JSON that says
//! everything an engine needs in order to bind, fill and dispatch it.

mod document;
mod formula;
mod hlsl;
mod variant;

use sha2::{Digest, Sha256};

pub use document::{
    BindingFacts, Block, BlockField, ConstantValue, Expression, Grid, KernelContract, Limits,
    Named, SCHEMA,
};
pub use variant::{Choices, Variant};

use crate::contract::{Caps, Language, Plan};
use crate::error::Result;
use crate::legs::spirv;
use crate::source::{self, assemble};

/// What a kernel is exported as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, schemars::JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// WGSL for wgpu on a native backend
    WgslNative,
    /// WGSL for a browser or Dawn
    WgslBrowser,
    /// The native Metal twin
    Msl,
    /// SPIR-V 1.3 for Vulkan 1.1
    Spirv,
    /// HLSL of shader model 6.0 for Direct3D 12
    Hlsl,
}

impl Target {
    /// The language that kernels are planned for.
    pub const fn language(self) -> Language {
        match self {
            Self::Msl => Language::Msl,
            _ => Language::Wgsl,
        }
    }

    /// Extension of an exported file.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::WgslNative | Self::WgslBrowser => "wgsl",
            Self::Msl => "metal",
            Self::Spirv => "spv",
            Self::Hlsl => "hlsl",
        }
    }
}

/// A kernel's code with its contract.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// Text, or the bytes of SPIR-V words, little-endian.
    pub code: Vec<u8>,
    /// The contract.
    pub contract: KernelContract,
}

/// Exports one variant, planned for `caps`. Of these, the subgroup size decides which text it is;
/// the limits are what the plan must stay within.
pub fn export(variant: &Variant, target: Target, caps: &Caps) -> Result<Exported> {
    let plan = variant.plan(caps, target.language())?;
    let code = code(&plan, target)?;
    let sha256 = Sha256::digest(&code).iter().map(|b| format!("{b:02x}")).collect();
    let contract = document::describe(variant, &plan, target, caps, &code, sha256);
    Ok(Exported { code, contract })
}

fn code(plan: &Plan, target: Target) -> Result<Vec<u8>> {
    let text = |target| Ok(assemble(plan, target).text.into_bytes());
    match target {
        Target::WgslNative => text(source::Target::WgslNative),
        Target::WgslBrowser => text(source::Target::WgslBrowser),
        Target::Msl => text(source::Target::Msl),
        Target::Spirv => {
            Ok(spirv::compile(plan)?.iter().flat_map(|word| word.to_le_bytes()).collect())
        }
        Target::Hlsl => Ok(hlsl::compile(plan)?.into_bytes()),
    }
}
