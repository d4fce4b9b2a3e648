//! The MSL that naga makes of a WGSL kernel, with the options that wgpu uses on Metal: what an
//! Apple GPU would be given.

use naga::back::msl;
use naga::proc::BoundsCheckPolicy;

use crate::contract::Plan;
use crate::driver::one_line;
use crate::error::{Error, Result};
use crate::source::parse_wgsl;

/// A kernel in naga's MSL with what a host must bind beside the contract's buffers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NagaMsl {
    /// The text.
    pub text: String,
    /// Name of the kernel function.
    pub entry: String,
    /// Buffer index of the table of sizes: the first after the contract's bindings.
    pub sizes_index: u32,
    /// Bindings whose byte sizes fill that table, in order.
    pub sized: Vec<u32>,
    /// Bytes of each threadgroup argument, in order.
    pub threadgroup: Vec<u32>,
}

/// Translates the plan's WGSL as wgpu does: bounds restricted, loops bounded, threadgroup memory
/// not zeroed.
pub fn translate(plan: &Plan) -> Result<NagaMsl> {
    let (module, info) = parse_wgsl(plan)?;
    let reject = |message: String| Error::Shader { kernel: plan.contract.stem, message };
    let policy = BoundsCheckPolicy::Restrict;
    let sizes_index = plan.contract.bindings.len() as u32;
    let mut resources =
        msl::EntryPointResources { sizes_buffer: Some(sizes_index as u8), ..Default::default() };
    for (binding, b) in (0u32..).zip(plan.contract.bindings) {
        let target = msl::BindTarget {
            buffer: Some(binding as u8),
            mutable: b.access == crate::contract::Access::ReadWrite,
            ..Default::default()
        };
        resources.resources.insert(naga::ResourceBinding { group: 0, binding }, target);
    }
    let options = msl::Options {
        lang_version: (3, 0),
        per_entry_point_map: [("main".to_owned(), resources)].into(),
        bounds_check_policies: naga::proc::BoundsCheckPolicies {
            index: policy,
            buffer: policy,
            image_load: policy,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: true,
        fake_missing_bindings: false,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((naga::ShaderStage::Compute, "main".to_owned())),
        ..Default::default()
    };
    let (text, translation) = msl::write_string(&module, &info, &options, &pipeline)
        .map_err(|e| reject(one_line(&e.to_string())))?;
    let entry = match translation.entry_point_names.into_iter().next() {
        Some(Ok(name)) => name,
        other => return Err(reject(format!("naga names no entry point: {other:?}"))),
    };

    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).map_err(|e| reject(e.to_string()))?;
    let (mut sized, mut threadgroup) = (Vec::new(), Vec::new());
    for (handle, variable) in module.global_variables.iter() {
        let dynamic = matches!(
            module.types[variable.ty].inner,
            naga::TypeInner::Array { size: naga::ArraySize::Dynamic, .. }
        );
        match &variable.binding {
            Some(binding) if dynamic => sized.push(binding.binding),
            _ => {}
        }
        let used = !info.get_entry_point(0)[handle].is_empty();
        if variable.space == naga::AddressSpace::WorkGroup && used {
            threadgroup.push(layouter[variable.ty].size.next_multiple_of(16));
        }
    }
    Ok(NagaMsl { text, entry, sizes_index, sized, threadgroup })
}
