//! A device of our own, for the drivers: choosing an adapter and asking for what it has.

use crate::contract::Caps;
use crate::driver::{DriverError, one_line};

pub use super::report::AdapterReport;

/// Which adapter to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only this backend.
    pub backend: Option<Backend>,
    /// Only adapters whose name contains this, case ignored.
    pub adapter: Option<String>,
}

/// A wgpu backend by its usual name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Backend {
    /// Vulkan.
    Vulkan,
    /// Metal.
    Metal,
    /// Direct3D 12.
    Dx12,
    /// OpenGL.
    Gl,
}

impl Backend {
    fn flags(self) -> wgpu::Backends {
        match self {
            Self::Vulkan => wgpu::Backends::VULKAN,
            Self::Metal => wgpu::Backends::METAL,
            Self::Dx12 => wgpu::Backends::DX12,
            Self::Gl => wgpu::Backends::GL,
        }
    }
}

/// A device with its queue.
#[derive(Debug)]
pub struct Gpu {
    /// The device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    /// What it is.
    pub report: AdapterReport,
    /// What plans may use.
    pub caps: Caps,
}

fn adapters(backends: wgpu::Backends) -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    let instance = wgpu::Instance::new(descriptor);
    let mut found: Vec<wgpu::Adapter> = pollster::block_on(instance.enumerate_adapters(backends));
    found.sort_by_key(|a| rank(&a.get_info()));
    found
}

/// Adapters to choose from. OpenGL is asked only when it is named or nothing else is there: its
/// start-up is slow and talks to the window system.
fn candidates(backend: Option<Backend>) -> Vec<wgpu::Adapter> {
    match backend {
        Some(backend) => adapters(backend.flags()),
        None => match adapters(wgpu::Backends::all() - wgpu::Backends::GL) {
            none if none.is_empty() => adapters(wgpu::Backends::GL),
            found => found,
        },
    }
}

/// Best first: real GPUs before software, first-class backends before OpenGL.
fn rank(info: &wgpu::AdapterInfo) -> (bool, u8) {
    let device = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    (info.backend == wgpu::Backend::Gl, device)
}

/// Every adapter of this machine, best first.
pub fn list(backend: Option<Backend>) -> Vec<AdapterReport> {
    let backends = backend.map_or(wgpu::Backends::all(), Backend::flags);
    adapters(backends).iter().map(AdapterReport::of).collect()
}

/// Every adapter of this machine, best first, with its measured subgroup width, or why it does not
/// open.
pub fn probe(backend: Option<Backend>) -> Vec<(AdapterReport, Option<DriverError>)> {
    let backends = backend.map_or(wgpu::Backends::all(), Backend::flags);
    let open = |adapter: &wgpu::Adapter| match Gpu::on(adapter) {
        Ok(gpu) => (gpu.report, None),
        Err(error) => (AdapterReport::of(adapter), Some(error)),
    };
    adapters(backends).iter().map(open).collect()
}

/// Whether the adapter multiplies matrices of f16 into f32 in the size that kernels use on its backend,
/// with all that goes with them.
fn has_matrices(adapter: &wgpu::Adapter) -> bool {
    use wgpu::CooperativeScalarType::{F16, F32};
    let Some(side) = super::matrices(adapter.get_info().backend) else { return false };
    adapter.features().contains(super::MATRICES)
        && adapter.cooperative_matrix_properties().iter().any(|p| {
            [p.m_size, p.n_size, p.k_size] == [side; 3] && (p.ab_type, p.cr_type) == (F16, F32)
        })
}

/// Whether `WGTQ_GPU=none` leaves out what needs a GPU.
pub fn turned_off() -> bool {
    std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none")
}

impl Gpu {
    /// Opens the best adapter that `selection` allows, with the features and limits it has.
    pub fn open(selection: &Selection) -> Result<Self, DriverError> {
        if turned_off() {
            let message = "WGTQ_GPU=none is set, and this needs a GPU".to_owned();
            return Err(DriverError::Gpu { message });
        }
        let all = candidates(selection.backend);
        let wanted = selection.adapter.as_deref().unwrap_or("").to_lowercase();
        let matching =
            all.iter().find(|a| a.get_info().name.to_lowercase().contains(wanted.as_str()));
        let Some(adapter) = matching else {
            let names: Vec<String> = all.iter().map(|a| a.get_info().name).collect();
            if names.is_empty() {
                return Err(DriverError::NoAdapter);
            }
            return Err(DriverError::Argument {
                flag: "--adapter",
                need: format!("a name containing {wanted:?}"),
                found: names.join(", "),
            });
        };
        Self::on(adapter)
    }

    /// Opens `adapter` and measures its subgroup width.
    fn on(adapter: &wgpu::Adapter) -> Result<Self, DriverError> {
        let matrices =
            if has_matrices(adapter) { super::MATRICES } else { wgpu::Features::empty() };
        let features = adapter.features()
            & (wgpu::Features::SUBGROUP
                | wgpu::Features::SHADER_F16
                | wgpu::Features::TIMESTAMP_QUERY
                | wgpu::Features::PASSTHROUGH_SHADERS
                | wgpu::Features::MEMORY_DECORATION_COHERENT
                | matrices);
        // SAFETY: asks wgpu for features that it may still have faults in; of those only
        // cooperative matrices are requested.
        let experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("wgtq"),
            required_features: features,
            required_limits: adapter.limits(),
            experimental_features,
            ..Default::default()
        }))
        .map_err(|e| DriverError::Gpu { message: e.to_string() })?;
        let mut gpu =
            Self { caps: Caps::of(&device), report: AdapterReport::of(adapter), device, queue };
        if gpu.caps.subgroup_size.is_some() {
            let width = gpu.scoped(|| super::probe::on_device(&gpu.device, &gpu.queue))??;
            gpu.caps = gpu.caps.with_subgroup_size(width);
            gpu.report.measured_subgroup_size = width;
        }
        Ok(gpu)
    }

    /// Runs `f`; a wgpu error inside becomes a value instead of a panic.
    pub fn scoped<T>(&self, f: impl FnOnce() -> T) -> Result<T, DriverError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let value = f();
        for scope in [validation, internal, memory] {
            if let Some(error) = pollster::block_on(scope.pop()) {
                return Err(DriverError::Gpu { message: one_line(&error.to_string()) });
            }
        }
        Ok(value)
    }
}
