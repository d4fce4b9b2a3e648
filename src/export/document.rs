//! The contract of an exported kernel, as it is written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::variant::Variant;
use super::{Target, formula, hlsl};
use crate::contract::{Access, Binding, Caps, Contract, Plan, Scalar, Value};

/// Version of the contract's format.
pub const SCHEMA: &str = "wgtq-kernel-contract/1";

/// Everything that an engine needs in order to use an exported kernel.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct KernelContract {
    /// Version of this format.
    pub schema: String,
    /// Program and version that wrote it.
    pub generator: String,
    /// Name of the kernel.
    pub kernel: String,
    /// One line on what it computes.
    pub summary: String,
    /// What distinguishes the variant: head_dim, bits (attention: k_bits, v_bits), ratio, rotation ..
    pub variant: BTreeMap<String, String>,
    /// What it was exported as.
    pub target: Target,
    /// The file with the code, beside this one.
    pub file: String,
    /// SHA-256 of that file.
    pub sha256: String,
    /// Compiler profile (HLSL).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Name of the entry point.
    pub entry_point: String,
    /// Threads of a workgroup.
    pub workgroup_size: [u32; 3],
    /// Bindings, in order.
    pub bindings: Vec<BindingFacts>,
    /// Contents of the uniform bindings.
    pub blocks: Vec<Block>,
    /// Workgroups of a dispatch.
    pub grid: Grid,
    /// What the device must allow.
    pub limits: Limits,
    /// What the device must offer, by the target's names.
    pub features: Vec<String>,
    /// Threads that follow each other in a workgroup and are sure to share a subgroup, at least;
    /// null where the code uses no subgroup operations.
    pub min_subgroup_size: Option<u32>,
    /// The constants that this text was generated with.
    pub constants: BTreeMap<String, ConstantValue>,
    /// How the expressions are to be read.
    pub expressions: String,
}

/// One buffer. In WebGPU and Vulkan it is `index` of group or set `group`; in Metal it is
/// `[[buffer(index)]]`; in Direct3D `register` of space 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct BindingFacts {
    /// Bind group or descriptor set.
    pub group: u32,
    /// Binding or buffer index.
    pub index: u32,
    /// Register (HLSL).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub register: Option<String>,
    /// The variable's name in the source.
    pub name: String,
    /// uniform, read or read-write.
    pub access: &'static str,
    /// Type of an element: f32, f16, u32, or a block of `blocks`.
    pub element: String,
    /// Element type and index order, innermost last.
    pub layout: String,
    /// Bytes that a dispatch needs.
    pub bytes: Expression,
}

/// A number, in words and as an expression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Expression {
    /// In words.
    pub words: String,
    /// To be evaluated.
    pub expression: String,
}

/// Contents of a uniform binding; scalars are little-endian.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Block {
    /// The binding that it belongs to, by index; in HLSL, the number of its `b` register.
    pub index: u32,
    /// The binding's name.
    pub name: String,
    /// Bytes of the block.
    pub bytes: u32,
    /// Fields, in order.
    pub fields: Vec<BlockField>,
}

/// A field of a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct BlockField {
    /// Its name.
    pub name: String,
    /// u32 or f32.
    #[serde(rename = "type")]
    pub scalar: &'static str,
    /// Where it starts, in bytes.
    pub offset: u32,
    /// What it means, and its range.
    pub meaning: String,
    /// The value that it must have, where this variant leaves no choice; an expression.
    pub must_be: Option<String>,
}

/// Workgroups of a dispatch. `let` is evaluated in order, then x, y and z.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Grid {
    /// In words.
    pub words: String,
    /// Names that the rest may use.
    #[serde(rename = "let")]
    pub bindings: Vec<Named>,
    /// Workgroups in x.
    pub x: String,
    /// Workgroups in y.
    pub y: String,
    /// Workgroups in z.
    pub z: String,
}

/// A name for the value of an expression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Named {
    /// The name.
    pub name: String,
    /// Its value.
    pub expression: String,
}

/// What the device must allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Limits {
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Threads of a workgroup.
    pub invocations_per_workgroup: u32,
    /// Storage buffers of a stage.
    pub storage_buffers: u32,
    /// Uniform buffers of a stage.
    pub uniform_buffers: u32,
}

/// Value of a constant.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ConstantValue {
    /// Boolean.
    Bool(bool),
    /// Unsigned integer.
    U32(u32),
    /// Float.
    F32(f32),
    /// Float table.
    F32s(Vec<f32>),
    /// Word table.
    U32s(Vec<u32>),
}

impl From<&Value> for ConstantValue {
    fn from(value: &Value) -> Self {
        match value {
            Value::Bool(b) => Self::Bool(*b),
            Value::U32(u) => Self::U32(*u),
            Value::F32(x) => Self::F32(*x),
            Value::F32s(xs) => Self::F32s(xs.clone()),
            Value::U32s(us) => Self::U32s(us.clone()),
        }
    }
}

/// Writes down the contract of `code`.
pub(super) fn describe(
    variant: &Variant,
    plan: &Plan,
    target: Target,
    caps: &Caps,
    code: &[u8],
    sha256: String,
) -> KernelContract {
    let contract = plan.contract;
    let bindings = bindings(variant, contract, target);
    let mut blocks: Vec<Block> = (0u32..)
        .zip(contract.bindings)
        .filter(|(_, b)| b.access == Access::Uniform)
        .map(|(index, b)| block(variant, contract, index, b.name))
        .collect();
    if target == Target::Hlsl {
        blocks.push(grid_block(hlsl::grid_register(plan)));
    }
    let uniform_buffers = blocks.len() as u32;
    KernelContract {
        schema: SCHEMA.to_owned(),
        generator: concat!("wgtq ", env!("CARGO_PKG_VERSION")).to_owned(),
        kernel: contract.stem.to_owned(),
        summary: contract.summary.to_owned(),
        variant: variant.facts().into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        target,
        file: format!("{}.{}", plan.label, target.extension()),
        sha256,
        profile: (target == Target::Hlsl).then(|| hlsl::PROFILE.to_owned()),
        entry_point: plan.language.entry(contract).to_owned(),
        workgroup_size: [plan.workgroup_size, 1, 1],
        limits: Limits {
            workgroup_bytes: plan.workgroup_bytes,
            invocations_per_workgroup: plan.workgroup_size,
            storage_buffers: contract.bindings.len() as u32
                - bindings.iter().filter(|b| b.access == "uniform").count() as u32,
            uniform_buffers,
        },
        bindings,
        blocks,
        grid: formula::grid(variant, plan),
        features: features(plan, target, code),
        min_subgroup_size: formula::subgroup(plan, caps.subgroup_size),
        constants: plan
            .constants
            .iter()
            .map(|c| (c.name.to_owned(), ConstantValue::from(&c.value)))
            .collect(),
        expressions: formula::SYNTAX.to_owned(),
    }
}

fn bindings(variant: &Variant, contract: &Contract, target: Target) -> Vec<BindingFacts> {
    let facts = |((index, b), bytes): ((u32, &Binding), Expression)| BindingFacts {
        group: 0,
        index,
        register: (target == Target::Hlsl).then(|| hlsl::register(index, b)),
        name: b.name.to_owned(),
        access: match b.access {
            Access::Uniform => "uniform",
            Access::Read => "read",
            Access::ReadWrite => "read-write",
        },
        element: element(variant, b).to_owned(),
        layout: b.layout.to_owned(),
        bytes,
    };
    (0u32..).zip(contract.bindings).zip(formula::sizes(variant, contract)).map(facts).collect()
}

/// The element type: the first word of the layout, less the choice that this variant has made.
fn element(variant: &Variant, binding: &Binding) -> &'static str {
    match variant {
        Variant::FlashAttnVec(p) if binding.layout.starts_with("f32 or f16") => p.kv_type.name(),
        _ => binding.layout.split(' ').next().unwrap_or(binding.layout),
    }
}

fn block(variant: &Variant, contract: &Contract, index: u32, name: &str) -> Block {
    let lone = [(name, Scalar::U32)];
    let fields: &[(&str, Scalar)] =
        if contract.params.is_empty() { &lone } else { contract.params };
    let field = |(i, &(name, scalar)): (u32, &(&str, Scalar))| BlockField {
        name: name.to_owned(),
        scalar: match scalar {
            Scalar::U32 => "u32",
            Scalar::F32 => "f32",
        },
        offset: 4 * i,
        meaning: formula::meaning(name).to_owned(),
        must_be: formula::fixed(variant, name),
    };
    Block {
        index,
        name: name.to_owned(),
        bytes: 4 * fields.len() as u32,
        fields: (0u32..).zip(fields).map(field).collect(),
    }
}

/// The grid as a constant buffer, which HLSL needs in place of a built-in.
fn grid_block(index: u32) -> Block {
    let field = |(i, axis): (u32, &str)| BlockField {
        name: format!("grid_{axis}"),
        scalar: "u32",
        offset: 4 * i,
        meaning: format!("workgroups in {axis}, as dispatched"),
        must_be: Some(format!("grid.{axis}")),
    };
    Block {
        index,
        name: hlsl::GRID_BLOCK.to_owned(),
        bytes: 12,
        fields: (0u32..).zip(["x", "y", "z"]).map(field).collect(),
    }
}

fn features(plan: &Plan, target: Target, code: &[u8]) -> Vec<String> {
    let subgroups = |name: &str| plan.subgroups.then(|| name.to_owned());
    match target {
        Target::WgslNative => subgroups("wgpu: SUBGROUP").into_iter().collect(),
        Target::WgslBrowser => subgroups("subgroups").into_iter().collect(),
        Target::Msl => subgroups("simdgroups of 32 threads").into_iter().collect(),
        Target::Hlsl => subgroups("WaveOps").into_iter().collect(),
        Target::Spirv => spirv_capabilities(code),
    }
}

/// What the `OpCapability` instructions of a module name.
fn spirv_capabilities(code: &[u8]) -> Vec<String> {
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(code);
    let (mut at, mut found) = (5, Vec::new());
    // Capabilities come first in a module; each is one instruction of two words.
    while let [instruction, capability] = words.get(at..at + 2).unwrap_or_default() {
        if *instruction != 2 << 16 | 17 {
            break;
        }
        found.push(match capability {
            1 => "Shader".to_owned(),
            61 => "GroupNonUniform".to_owned(),
            62 => "GroupNonUniformVote".to_owned(),
            63 => "GroupNonUniformArithmetic".to_owned(),
            64 => "GroupNonUniformBallot".to_owned(),
            65 => "GroupNonUniformShuffle".to_owned(),
            66 => "GroupNonUniformShuffleRelative".to_owned(),
            other => format!("capability {other}"),
        });
        at += 2;
    }
    found
}
