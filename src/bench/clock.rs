//! The GPU's own clock: timestamps around a compute pass.

use crate::driver::DriverError;
use crate::gpu::device::Gpu;
use crate::legs::submit::gpu_error;

/// Two timestamps and where they are read.
#[derive(Debug)]
pub(super) struct Clock {
    stamps: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    read: wgpu::Buffer,
}

impl Clock {
    /// Needs a device with timestamps.
    pub fn new(gpu: &Gpu) -> Result<Self, DriverError> {
        if !gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(gpu_error("this adapter has no timestamps (TIMESTAMP_QUERY)"));
        }
        let buffer = |usage| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: 16,
                usage,
                mapped_at_creation: false,
            })
        };
        Ok(Self {
            stamps: gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            read: buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST),
        })
    }

    /// Microseconds of one pass with what `record` puts in.
    pub fn time(
        &self,
        gpu: &Gpu,
        record: impl FnOnce(&mut wgpu::ComputePass<'_>) -> Result<(), DriverError>,
    ) -> Result<f64, DriverError> {
        let recorded = gpu.scoped(|| {
            let mut encoder =
                gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &self.stamps,
                        beginning_of_pass_write_index: Some(0),
                        end_of_pass_write_index: Some(1),
                    }),
                });
                record(&mut pass)?;
            }
            encoder.resolve_query_set(&self.stamps, 0..2, &self.resolved, 0);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.read, 0, 16);
            gpu.queue.submit([encoder.finish()]);
            Ok(())
        })?;
        recorded.and_then(|()| self.elapsed(gpu))
    }

    fn elapsed(&self, gpu: &Gpu) -> Result<f64, DriverError> {
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&read(gpu, &self.read)?);
        let elapsed = ticks[1].checked_sub(ticks[0]).ok_or_else(|| {
            gpu_error("the timestamp after the pass is before the one in front of it")
        })?;
        Ok(elapsed as f64 * f64::from(gpu.queue.get_timestamp_period()) / 1e3)
    }
}

/// The bytes of a mappable buffer, once all work on it is done.
pub(super) fn read(gpu: &Gpu, buffer: &wgpu::Buffer) -> Result<Vec<u8>, DriverError> {
    let (send, receive) = std::sync::mpsc::channel();
    buffer.map_async(wgpu::MapMode::Read, .., move |result| {
        let _ = send.send(result);
    });
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).map_err(gpu_error)?;
    receive.recv().map_err(gpu_error)?.map_err(gpu_error)?;
    let bytes = buffer.get_mapped_range(..).map_err(gpu_error)?.to_vec();
    buffer.unmap();
    Ok(bytes)
}
