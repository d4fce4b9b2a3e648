//! wgpu: pipelines from a contract, and for the drivers a device with read-back.

#[cfg(feature = "driver")]
pub mod device;
mod kernel;
#[cfg(any(feature = "driver", feature = "web"))]
pub(crate) mod probe;
#[cfg(feature = "suite")]
mod report;

pub use kernel::{Bound, Checks, Kernel, Options, PassthroughCode, RawBound, RawKernel};
#[cfg(feature = "suite")]
pub use report::AdapterReport;

use crate::contract::Caps;

/// Features that [`Caps::matrices`] stands for.
pub(crate) const MATRICES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
    .union(wgpu::Features::SHADER_F16)
    .union(wgpu::Features::SUBGROUP_BARRIER);

impl Caps {
    /// What `device` allows, with the features it was opened with:
    /// [`storage_fence`](Self::storage_fence) needs `MEMORY_DECORATION_COHERENT`.
    ///
    /// The subgroup size is the smallest that the adapter reports, since a shader may run at
    /// any of the range. Metal reports 4 although Apple GPUs run 32: pass a measured width with
    /// [`Caps::with_subgroup_size`] to use it.
    ///
    /// wgpu does not say of a device which cooperative matrices it has: where the feature is on, 16x16
    /// is taken for granted on Vulkan and 8x8 on Metal. Ask `Adapter::cooperative_matrix_properties`
    /// first.
    pub fn of(device: &wgpu::Device) -> Self {
        let (limits, info) = (device.limits(), device.adapter_info());
        let subgroups = device.features().contains(wgpu::Features::SUBGROUP);
        Self {
            storage_fence: storage_fence(info.backend, device.features()),
            subgroup_size: subgroups.then_some(info.subgroup_min_size),
            matrices: matrices(info.backend).filter(|_| device.features().contains(MATRICES)),
            multiprocessors: Self::MULTIPROCESSORS,
            max_workgroup_storage: limits.max_compute_workgroup_storage_size,
            max_workgroup_threads: limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x),
            max_workgroups_per_dim: limits.max_compute_workgroups_per_dimension,
        }
    }

    /// The same, with a subgroup width that the caller knows; none turns subgroups off.
    pub const fn with_subgroup_size(self, subgroup_size: Option<u32>) -> Self {
        Self { subgroup_size, ..self }
    }

    /// The same, with the number of multiprocessors that the caller knows: the GPU cores of an Apple
    /// chip, say. Numbers of splits follow it; pipelines do not.
    pub const fn with_multiprocessors(self, multiprocessors: u32) -> Self {
        Self { multiprocessors, ..self }
    }
}

/// Rows and columns of the matrices that kernels here use on a backend.
pub(crate) const fn matrices(backend: wgpu::Backend) -> Option<u32> {
    match backend {
        wgpu::Backend::Vulkan => Some(16),
        wgpu::Backend::Metal => Some(8),
        _ => None,
    }
}

/// Whether [`Caps::storage_fence`] holds. Of what wgpu runs on, Metal's barrier orders a threadgroup
/// only, and a browser promises no more than WGSL does.
fn storage_fence(backend: wgpu::Backend, features: wgpu::Features) -> bool {
    matches!(backend, wgpu::Backend::Vulkan | wgpu::Backend::Dx12 | wgpu::Backend::Gl)
        && features.contains(wgpu::Features::MEMORY_DECORATION_COHERENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workgroups_are_ordered_on_some_backends_with_coherent_storage() {
        let coherent = wgpu::Features::MEMORY_DECORATION_COHERENT;
        assert!(storage_fence(wgpu::Backend::Vulkan, coherent | wgpu::Features::SUBGROUP));
        assert!(!storage_fence(wgpu::Backend::Vulkan, wgpu::Features::SUBGROUP));
        assert!(!storage_fence(wgpu::Backend::Metal, coherent));
        assert!(!storage_fence(wgpu::Backend::BrowserWebGpu, coherent));
    }
}
