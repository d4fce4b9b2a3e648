//! What a leg is: pipelines, and the buffers beside the data.

use crate::contract::Plan;
use crate::driver::DriverError;
use crate::gpu::device::Gpu;
use crate::gpu::{Checks, Options, PassthroughCode, RawKernel};
use crate::legs::{LegName, spirv};

/// A pipeline as `leg` makes it.
pub(super) fn pipeline(gpu: &Gpu, leg: LegName, plan: &Plan) -> Result<RawKernel, DriverError> {
    let checks = if leg == LegName::Wgsl { Checks::Checked } else { Checks::Trusted };
    let options = Options { checks, ..Options::default() };
    let device = &gpu.device;
    if leg == LegName::WgslSpirv {
        let code = PassthroughCode::SpirV(spirv::compile(plan)?);
        return Ok(gpu.scoped(|| RawKernel::passthrough(device, plan, code, &options))??);
    }
    Ok(gpu.scoped(|| RawKernel::new(device, plan, &options))??)
}

/// A parameter block.
pub(super) fn uniform(gpu: &Gpu, contents: &[u8]) -> Result<wgpu::Buffer, DriverError> {
    filled(gpu, contents, wgpu::BufferUsages::UNIFORM)
}

/// A buffer with `contents`.
pub(super) fn filled(
    gpu: &Gpu,
    contents: &[u8],
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer, DriverError> {
    gpu.scoped(|| {
        let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("bench"),
            size: contents.len() as u64,
            usage: usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        gpu.queue.write_buffer(&buffer, 0, contents);
        buffer
    })
}
