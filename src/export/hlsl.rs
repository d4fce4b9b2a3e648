//! The WGSL as HLSL, by naga. naga validates the module it is made from; `tests/ci/hlsl.sh`
//! compiles every export with Microsoft's compiler.

use naga::back::hlsl;

use crate::contract::{Access, Binding, Plan};
use crate::driver::one_line;
use crate::error::{Error, Result};
use crate::source::parse_wgsl;

/// Compiler profile that the text is written for.
pub(super) const PROFILE: &str = "cs_6_0";

/// The constant buffer that a dispatch's grid is read from, since HLSL has no built-in for it.
pub(super) const GRID_BLOCK: &str = "_NagaConstants";

/// Register of a binding: `b` for uniforms, `t` for what is read, `u` for what is written.
pub(super) fn register(index: u32, binding: &Binding) -> String {
    match binding.access {
        Access::Uniform => format!("b{index}"),
        Access::Read => format!("t{index}"),
        Access::ReadWrite => format!("u{index}"),
    }
}

/// Register of [`GRID_BLOCK`]: the first after the contract's bindings.
pub(super) fn grid_register(plan: &Plan) -> u32 {
    plan.contract.bindings.len() as u32
}

/// HLSL of a plan's WGSL, without bounds checks, as hand-written shaders are.
pub(super) fn compile(plan: &Plan) -> Result<String> {
    let (module, info) = parse_wgsl(plan)?;
    let reject = |message: String| Error::Shader { kernel: plan.contract.stem, message };
    let target = |register| hlsl::BindTarget { register, ..Default::default() };
    let bindings = (0u32..plan.contract.bindings.len() as u32)
        .map(|binding| (naga::ResourceBinding { group: 0, binding }, target(binding)));
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_0,
        binding_map: bindings.collect(),
        fake_missing_bindings: false,
        special_constants_binding: Some(target(grid_register(plan))),
        zero_initialize_workgroup_memory: false,
        restrict_indexing: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let pipeline = hlsl::PipelineOptions {
        entry_point: Some((naga::ShaderStage::Compute, "main".to_owned())),
    };
    let mut text = String::new();
    let reflection = hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(&module, &info, None)
        .map_err(|e| reject(one_line(&e.to_string())))?;
    match reflection.entry_point_names.as_slice() {
        [Ok(name)] if name == "main" => Ok(text),
        other => Err(reject(format!("naga names the entry points {other:?}, need main"))),
    }
}
