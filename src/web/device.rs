//! The visitor's GPU. Nothing here blocks: in a browser every answer is a promise.

use futures_channel::oneshot;

use crate::contract::Caps;
use crate::driver::DriverError;
use crate::gpu::{AdapterReport, probe};
use crate::legs::submit::gpu_error;

/// A device with its queue.
pub(super) struct WebGpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub caps: Caps,
    pub report: AdapterReport,
}

impl WebGpu {
    /// Opens the browser's adapter. `subgroups` tries for subgroup operations: wgpu has no name
    /// for the browser's feature, so whoever made `navigator.gpu` available must ask for it.
    pub async fn open(subgroups: bool) -> Result<Self, DriverError> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::BROWSER_WEBGPU;
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        let instance = wgpu::Instance::new(descriptor);
        let adapter = instance.request_adapter(&options).await.map_err(gpu_error)?;
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("wgtq"),
                required_features: adapter.features() & wgpu::Features::TIMESTAMP_QUERY,
                required_limits: adapter.limits(),
                ..Default::default()
            })
            .await
            .map_err(gpu_error)?;
        let report = AdapterReport::of(&adapter);
        let mut gpu = Self { caps: Caps::of(&device), report, device, queue };
        if subgroups {
            gpu.use_subgroups().await?;
        }
        Ok(gpu)
    }

    /// Measures the subgroup width. A browser that refuses the probe's text has no subgroups.
    async fn use_subgroups(&mut self) -> Result<(), DriverError> {
        let mut lanes = Vec::new();
        for size in probe::WORKGROUP_SIZES {
            let text = format!("enable subgroups;\n{}", probe::text(size));
            let submit = || probe::submit(&self.device, &self.queue, &text, size);
            let Ok(copy) = self.scoped(submit).await else { return Ok(()) };
            lanes.push(bytemuck::pod_collect_to_vec(&self.read(&copy).await?));
        }
        let mut lanes = lanes.into_iter();
        let width = probe::subgroup_size(|_, _| Ok(lanes.next().unwrap_or_default()))?;
        self.caps = self.caps.with_subgroup_size(width);
        self.report.measured_subgroup_size = width;
        let info = self.device.adapter_info();
        self.report.subgroup_size = Some((info.subgroup_min_size, info.subgroup_max_size));
        Ok(())
    }

    /// Runs `f`; a GPU error inside becomes a value.
    pub async fn scoped<T>(&self, f: impl FnOnce() -> T) -> Result<T, DriverError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let value = f();
        let found = [validation.pop(), internal.pop(), memory.pop()];
        let mut first = None;
        for error in found {
            first = first.or(error.await);
        }
        match first {
            Some(error) => Err(gpu_error(error)),
            None => Ok(value),
        }
    }

    /// The contents of a read-back buffer, once the GPU has written it.
    pub async fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>, DriverError> {
        let (send, receive) = oneshot::channel();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = send.send(result);
        });
        receive.await.map_err(gpu_error)?.map_err(gpu_error)?;
        let bytes = buffer.get_mapped_range(..).map_err(gpu_error)?.to_vec();
        buffer.unmap();
        Ok(bytes)
    }
}
