//! A tape on a wgpu device: its buffers, its dispatches, and copies of what it wrote. Waiting for
//! the device is the caller's, since a thread may block and a browser may not.

use super::tape::{BufferId, Tape};
use crate::contract::Access;
use crate::driver::{DriverError, one_line};
use crate::gpu::{RawBound, RawKernel};

/// The buffers of a tape.
#[derive(Debug)]
pub(crate) struct Uploaded {
    buffers: Vec<wgpu::Buffer>,
    uniforms: wgpu::Buffer,
    /// Where each uniform block starts, in the order of steps and bindings.
    starts: Vec<u64>,
}

impl Uploaded {
    /// Makes the buffers of `tape`, with their contents.
    pub fn new(device: &wgpu::Device, tape: &Tape<'_>) -> Result<Self, DriverError> {
        let buffers = buffers(device, tape)?;
        let (uniforms, starts) = uniforms(device, tape)?;
        Ok(Self { buffers, uniforms, starts })
    }

    /// Frees the memory now; a browser's garbage collector does not see its size.
    #[cfg(feature = "web")]
    pub fn destroy(&self) {
        self.buffers.iter().chain([&self.uniforms]).for_each(wgpu::Buffer::destroy);
    }

    /// Binds the buffers of every step to its kernel; one kernel a step.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        tape: &Tape<'_>,
        kernels: &[&RawKernel],
    ) -> Result<Vec<RawBound>, DriverError> {
        let mut starts = self.starts.iter();
        let mut bound = Vec::with_capacity(tape.steps.len());
        for (step, kernel) in tape.steps.iter().zip(kernels) {
            let mut storage = step.buffers.iter();
            let bindings: Vec<wgpu::BufferBinding<'_>> = (0u32..)
                .zip(step.plan.contract.bindings)
                .filter_map(|(index, binding)| {
                    if binding.access == Access::Uniform {
                        let size = step.launch.uniform(index).len() as u64;
                        Some(wgpu::BufferBinding {
                            buffer: &self.uniforms,
                            offset: *starts.next()?,
                            size: wgpu::BufferSize::new(size),
                        })
                    } else {
                        Some(self.buffers[storage.next()?.index()].as_entire_buffer_binding())
                    }
                })
                .collect();
            bound.push(kernel.bind(device, bindings)?);
        }
        Ok(bound)
    }

    /// Records copies of everything that is read back.
    pub fn read_back(
        &self,
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        tape: &Tape<'_>,
    ) -> Vec<(BufferId, wgpu::Buffer)> {
        let mut staged = Vec::new();
        for id in BufferId::all(tape).filter(|id| tape.slots[id.index()].read_back) {
            let source = &self.buffers[id.index()];
            let copy = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("read-back"),
                size: source.size(),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            encoder.copy_buffer_to_buffer(source, 0, &copy, 0, source.size());
            staged.push((id, copy));
        }
        staged
    }
}

/// Records every step of `tape`, in order.
pub(crate) fn record(
    pass: &mut wgpu::ComputePass<'_>,
    tape: &Tape<'_>,
    kernels: &[&RawKernel],
    bound: &[RawBound],
) -> Result<(), DriverError> {
    for ((step, kernel), bound) in tape.steps.iter().zip(kernels).zip(bound) {
        kernel.record(pass, bound, &step.launch)?;
    }
    Ok(())
}

/// Uploads, dispatches in one pass and submits; what comes back is still on its way.
pub(crate) fn submit(
    (device, queue): (&wgpu::Device, &wgpu::Queue),
    tape: &Tape<'_>,
    kernels: &[&RawKernel],
    uploaded: &Uploaded,
) -> Result<Vec<(BufferId, wgpu::Buffer)>, DriverError> {
    let bound = uploaded.bind(device, tape, kernels)?;
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        record(&mut pass, tape, kernels, &bound)?;
    }
    let staged = uploaded.read_back(device, &mut encoder, tape);
    queue.submit([encoder.finish()]);
    Ok(staged)
}

fn buffers(device: &wgpu::Device, tape: &Tape<'_>) -> Result<Vec<wgpu::Buffer>, DriverError> {
    let most = device.limits().max_buffer_size;
    tape.slots
        .iter()
        .map(|slot| {
            let size = slot.bound_bytes().next_multiple_of(4).max(4);
            if size > most {
                return Err(DriverError::Gpu {
                    message: format!(
                        "buffer `{}`: need {size} bytes, the device allows {most}",
                        slot.label
                    ),
                });
            }
            let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(slot.label),
                size,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: true,
            });
            let mut view = buffer.get_mapped_range_mut(..).map_err(gpu_error)?;
            slot.fill(|at, part| view.slice(at..at + part.len()).copy_from_slice(part));
            drop(view);
            buffer.unmap();
            Ok(buffer)
        })
        .collect()
}

/// One buffer with the uniform blocks of every step, and where each starts.
fn uniforms(
    device: &wgpu::Device,
    tape: &Tape<'_>,
) -> Result<(wgpu::Buffer, Vec<u64>), DriverError> {
    let alignment =
        usize::try_from(device.limits().min_uniform_buffer_offset_alignment).unwrap_or(256);
    let (mut bytes, mut starts) = (Vec::new(), Vec::new());
    for step in &tape.steps {
        for (_, block) in &step.launch.uniforms {
            bytes.resize(bytes.len().next_multiple_of(alignment), 0u8);
            starts.push(bytes.len() as u64);
            bytes.extend_from_slice(block);
        }
    }
    bytes.resize(bytes.len().next_multiple_of(4).max(4), 0);
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("uniforms"),
        size: bytes.len() as u64,
        usage: wgpu::BufferUsages::UNIFORM,
        mapped_at_creation: true,
    });
    buffer.get_mapped_range_mut(..).map_err(gpu_error)?.copy_from_slice(&bytes);
    buffer.unmap();
    Ok((buffer, starts))
}

/// Checks guards and poison of the bytes that came back for `id`.
pub(crate) fn accept(
    tape: &Tape<'_>,
    id: BufferId,
    mut bytes: Vec<u8>,
) -> Result<(BufferId, Vec<u8>), DriverError> {
    bytes.truncate(tape.slots[id.index()].bound_bytes() as usize);
    Ok((id, tape.accept(id, bytes)?))
}

/// An error of wgpu.
pub(crate) fn gpu_error(error: impl std::fmt::Display) -> DriverError {
    DriverError::Gpu { message: one_line(&error.to_string()) }
}
