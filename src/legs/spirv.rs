//! The WGSL as SPIR-V, by naga, for pass-through modules: so that the code that loads native
//! shaders also runs where there is no Metal.

use crate::contract::Plan;
use crate::error::{Error, Result};
use crate::gpu::device::one_line;
use crate::source::{Target, assemble};

/// SPIR-V words of a plan's WGSL. No bounds checks, as in hand-written shaders.
pub(super) fn compile(plan: &Plan) -> Result<Vec<u32>> {
    use naga::back::spv;
    use naga::valid::{Capabilities, SubgroupOperationSet, ValidationFlags, Validator};

    let source = assemble(plan, Target::WgslNative);
    let reject = |message: String| Error::Shader { kernel: plan.contract.stem, message };
    let module = naga::front::wgsl::parse_str(&source.text).map_err(|e| {
        let line = e.location(&source.text).map_or(1, |l| l.line_number);
        let (file, line) = source.locate(line);
        reject(format!("{file}:{line}: {}", e.message()))
    })?;
    let capabilities = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|e| reject(one_line(&e.emit_to_string(&source.text))))?;
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
