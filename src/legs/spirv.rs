//! The WGSL as SPIR-V, by naga, for pass-through modules: so that the code that loads native
//! shaders also runs where there is no Metal.

use crate::contract::Plan;
use crate::error::{Error, Result};
use crate::source::parse_wgsl;

/// SPIR-V words of a plan's WGSL. No bounds checks, as in hand-written shaders.
pub(crate) fn compile(plan: &Plan) -> Result<Vec<u32>> {
    use naga::back::spv;

    let (module, info) = parse_wgsl(plan)?;
    let reject = |message: String| Error::Shader { kernel: plan.contract.stem, message };
    let options = spv::Options {
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..Default::default()
    };
    let entry = spv::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: "main".to_owned(),
    };
    spv::write_vec(&module, &info, &options, Some(&entry)).map_err(|e| reject(e.to_string()))
}
