//! What a report says of an adapter.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What decides which variant of a kernel runs, and what a report says of its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdapterReport {
    /// Adapter name.
    pub name: String,
    /// Backend.
    pub backend: String,
    /// discrete, integrated, virtual, cpu or other.
    pub device_type: String,
    /// Driver and version.
    pub driver: String,
    /// Smallest and largest subgroup reported; none without subgroup operations.
    pub subgroup_size: Option<(u32, u32)>,
    /// Subgroup width that a probe measured and plans use; null before the device is opened, and
    /// where subgroups cannot be used.
    pub measured_subgroup_size: Option<u32>,
    /// Whether shaders may use f16.
    pub shader_f16: bool,
    /// Whether GPU timestamps exist.
    pub timestamps: bool,
    /// Whether wgpu passes native shader code through.
    pub passthrough: bool,
    /// Bytes of workgroup memory.
    pub max_workgroup_storage: u32,
    /// Threads of a workgroup.
    pub max_workgroup_threads: u32,
    /// Bytes of one storage binding.
    pub max_storage_binding: u64,
}

impl AdapterReport {
    /// What `adapter` says of itself.
    #[cfg(any(feature = "driver", feature = "web"))]
    pub(crate) fn of(adapter: &wgpu::Adapter) -> Self {
        let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
        let has = |f: wgpu::Features| features.contains(f);
        let device_type = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "cpu",
            wgpu::DeviceType::Other => "other",
        };
        Self {
            name: info.name,
            backend: info.backend.to_string(),
            device_type: device_type.to_owned(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            subgroup_size: has(wgpu::Features::SUBGROUP)
                .then_some((info.subgroup_min_size, info.subgroup_max_size)),
            measured_subgroup_size: None,
            shader_f16: has(wgpu::Features::SHADER_F16),
            timestamps: has(wgpu::Features::TIMESTAMP_QUERY),
            passthrough: has(wgpu::Features::PASSTHROUGH_SHADERS),
            max_workgroup_storage: limits.max_compute_workgroup_storage_size,
            max_workgroup_threads: limits.max_compute_invocations_per_workgroup,
            max_storage_binding: limits.max_storage_buffer_binding_size,
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        format!("{} ({}, {}, {})", self.name, self.backend, self.device_type, self.driver)
    }
}
