//! Equal copies of an array on the device. Calls go round them, so that no cache of the device
//! holds what the next call reads.

use super::Plan;
use super::clock::read;
use crate::driver::DriverError;
use crate::gpu::device::Gpu;

/// Bytes that all copies together should have: several times the largest last-level cache.
const COLD_BYTES: u64 = 256 << 20;
/// Most copies.
const MOST_COPIES: u64 = 64;

/// Copies for arrays of `bytes` in all, the longest of them of `longest`.
pub(super) fn copies(gpu: &Gpu, plan: &Plan, bytes: u64, longest: u64) -> u64 {
    let most = gpu.device.limits().max_buffer_size;
    let wanted = if plan.hot { 1 } else { COLD_BYTES / bytes + 2 };
    wanted.min(MOST_COPIES).min(most / (longest + 256)).max(1)
}

/// An array in equal copies, each at an offset that a binding may have.
#[derive(Debug)]
pub(super) struct Array {
    pub buffer: wgpu::Buffer,
    bytes: u64,
    stride: u64,
    copies: u64,
}

impl Array {
    /// Zeros.
    pub fn new(gpu: &Gpu, bytes: u64, copies: u64) -> Result<Self, DriverError> {
        let alignment = u64::from(gpu.device.limits().min_storage_buffer_offset_alignment);
        let stride = bytes.next_multiple_of(alignment);
        let buffer = gpu.scoped(|| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("array"),
                size: stride * copies,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_DST
                    | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        })?;
        Ok(Self { buffer, bytes, stride, copies })
    }

    /// `contents` in every copy, again and again until the copy is full.
    pub fn filled(
        gpu: &Gpu,
        bytes: u64,
        contents: &[u8],
        copies: u64,
    ) -> Result<Self, DriverError> {
        let array = Self::new(gpu, bytes, copies)?;
        for copy in 0..copies {
            for at in (0..bytes).step_by(contents.len()) {
                let part = &contents[..contents.len().min((bytes - at) as usize)];
                let to = copy * array.stride + at;
                gpu.scoped(|| gpu.queue.write_buffer(&array.buffer, to, part))?;
                // What was written takes staging memory until it is submitted.
                gpu.queue.submit([]);
            }
        }
        Ok(array)
    }

    /// Copy `i` as a binding, and round again.
    pub fn copy(&self, i: u64) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: i % self.copies * self.stride,
            size: wgpu::BufferSize::new(self.bytes),
        }
    }

    /// The pieces of `bytes` bytes of the first copy, one after the other; `at` counts pieces.
    pub fn pieces(&self, gpu: &Gpu, bytes: u64, at: &[u64]) -> Result<Vec<u8>, DriverError> {
        let to = gpu.scoped(|| {
            let to = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("pieces"),
                size: bytes * at.len() as u64,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let mut encoder =
                gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for (i, at) in (0..).zip(at) {
                encoder.copy_buffer_to_buffer(&self.buffer, at * bytes, &to, i * bytes, bytes);
            }
            gpu.queue.submit([encoder.finish()]);
            to
        })?;
        read(gpu, &to)
    }
}
