//! How fast the device reads, and copies, memory, and starts a dispatch: what attention is held
//! against.

use super::Plan;
use super::clock::Clock;
use crate::driver::DriverError;
use crate::gpu::device::Gpu;
use crate::legs::submit::gpu_error;

/// Bytes of each buffer on a GPU: many times a last-level cache.
const BYTES: u64 = 512 << 20;
/// The same on software.
const SOFTWARE_BYTES: u64 = 4 << 20;
/// Threads of a workgroup.
const THREADS: u32 = 256;
/// Vectors of 16 bytes that a thread reads.
const PER_THREAD: u32 = 16;

/// Every thread reads PER_THREAD vectors, neighbours side by side, and writes them, or only their
/// exclusive or if that is a value it never is.
const TEXT: &str = "
@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> copied: array<vec4<u32>>;
@compute @workgroup_size(THREADS) fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let stride = workgroups.x * THREADS;
    var all = vec4(0u);
    for (var i = 0u; i < PER_THREAD; i++) {
        let x = source[id.x + i * stride];
        all ^= x;
        if (COPY) { copied[id.x + i * stride] = x; }
    }
    if (!COPY && all.x == 0x9e3779b9u) { copied[id.x] = all; }
}
";

/// Gigabytes a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bandwidth {
    /// Read plus written.
    pub copy_gb_s: f64,
    /// Read only.
    pub read_gb_s: f64,
    /// Microseconds of a dispatch that does next to nothing after another.
    pub dispatch_us: f64,
}

impl Bandwidth {
    /// The median of several passes.
    pub fn measure(gpu: &Gpu, clock: &Clock, plan: &Plan) -> Result<Self, DriverError> {
        let software = gpu.report.device_type == "cpu";
        let most = gpu.report.max_storage_binding.min(gpu.device.limits().max_buffer_size);
        let step = u64::from(THREADS * PER_THREAD) * 16;
        let bytes = (if software { SOFTWARE_BYTES } else { BYTES }).min(most) / step * step;
        let [from, to] = ["copied from", "copied to"].map(|label| {
            gpu.scoped(|| {
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some(label),
                    size: bytes,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            })
        });
        let (from, to) = (from?, to?);
        for (i, word) in (0..bytes / (1 << 20)).zip(1u32..) {
            // Zeros can be faster than data.
            let block = [word.wrapping_mul(0x9e37_79b9), word].repeat(1 << 17);
            gpu.queue.write_buffer(&from, i << 20, bytemuck::cast_slice(&block));
        }
        let all = u32::try_from(bytes / step).map_err(gpu_error)?;
        // Median microseconds of `groups` workgroups, in a pass of `calls`.
        let time = |per_thread: u32, copy: bool, groups: u32, calls: u32| {
            let (pipeline, group) = prepare(gpu, [&from, &to], per_thread, copy)?;
            let pass = || {
                clock.time(gpu, |pass| {
                    for _ in 0..calls {
                        pass.set_pipeline(&pipeline);
                        pass.set_bind_group(0, &group, &[]);
                        pass.dispatch_workgroups(groups, 1, 1);
                    }
                    Ok(())
                })
            };
            let mut warm = 0.0;
            while warm < plan.wake_up_ms * 1e3 {
                warm += pass()?.max(1.0);
            }
            let mut us = (0..plan.samples).map(|_| pass()).collect::<Result<Vec<f64>, _>>()?;
            us.sort_by(f64::total_cmp);
            Ok::<f64, DriverError>(us[us.len() / 2] / f64::from(calls))
        };
        let gb_s = |moved: u64, us: f64| moved as f64 / us / 1e3;
        let measured = Self {
            copy_gb_s: gb_s(2 * bytes, time(PER_THREAD, true, all, 1)?),
            read_gb_s: gb_s(bytes, time(PER_THREAD, false, all, 1)?),
            dispatch_us: time(0, false, 1, 100)?,
        };
        from.destroy();
        to.destroy();
        Ok(measured)
    }
}

fn prepare(
    gpu: &Gpu,
    buffers: [&wgpu::Buffer; 2],
    per_thread: u32,
    copy: bool,
) -> Result<(wgpu::ComputePipeline, wgpu::BindGroup), DriverError> {
    let constants = [
        format!("const THREADS = {THREADS}u;"),
        format!("const PER_THREAD = {per_thread}u;"),
        format!("const COPY = {copy};"),
    ];
    let text = constants.join("\n") + TEXT;
    gpu.scoped(|| {
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("bandwidth"),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("bandwidth"),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let entries = [0u32, 1].map(|binding| wgpu::BindGroupEntry {
            binding,
            resource: buffers[binding as usize].as_entire_binding(),
        });
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("bandwidth"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        (pipeline, group)
    })
}
