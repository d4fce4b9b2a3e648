//! How fast the device reads, and copies, memory, and starts a dispatch: what kernels are held
//! against.

use super::Plan;
use super::array::Array;
use super::clock::Clock;
use super::samples::Samples;
use crate::driver::DriverError;
use crate::gpu::device::Gpu;
use crate::legs::submit::gpu_error;

/// Bytes of each buffer on a GPU: many times a last-level cache.
const BYTES: u64 = 512 << 20;
/// The same on software.
const SOFTWARE_BYTES: u64 = 4 << 20;
/// Threads of a workgroup; small copies need more workgroups than large ones.
const THREADS: [u32; 2] = [256, 64];
/// Vectors of 16 bytes that a thread reads.
const PER_THREAD: u32 = 16;
/// Bytes that the largest workgroup reads.
const GROUP_BYTES: u64 = 16 * THREADS[0] as u64 * PER_THREAD as u64;
/// Bytes at the end of a copy that are compared.
const END: u64 = 4096;
/// Most parts of the buffers that calls go round. Where they are small a cache may hold all of them.
const MOST_WINDOWS: u64 = 256;

/// Every thread reads PER_THREAD vectors, neighbours side by side, and writes the first WRITTEN of them;
/// of the others only their exclusive or, if that is a value it never is.
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
        if (i < WRITTEN) { copied[id.x + i * stride] = x; }
    }
    if (WRITTEN < PER_THREAD && all.x == 0x9e3779b9u) { copied[id.x] = all; }
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

/// The threads of a copy.
#[derive(Debug, Clone, Copy)]
struct Threads {
    /// Those of a workgroup.
    group: u32,
    /// Vectors that each reads.
    each: u32,
    /// How many of them it writes.
    written: u32,
}

impl Threads {
    const fn all(written: u32) -> Self {
        Self { group: THREADS[0], each: PER_THREAD, written }
    }
}

/// Two buffers, and dispatches that copy from one to the other.
#[derive(Debug)]
pub(super) struct Copier<'a> {
    gpu: &'a Gpu,
    clock: &'a Clock,
    plan: &'a Plan,
    buffers: [Array; 2],
    bytes: u64,
}

impl Bandwidth {
    /// The median of several passes; an error if what was timed as a copy is none.
    pub fn measure(copier: &Copier<'_>) -> Result<Self, DriverError> {
        let (bytes, wake_up) = (copier.bytes, copier.plan.wake_up_ms);
        let gb_s = |moved: u64, us: f64| moved as f64 / us / 1e3;
        let copy_us = copier.time(bytes, Threads::all(PER_THREAD), 1, wake_up)?;
        copier.check()?;
        Ok(Self {
            copy_gb_s: gb_s(2 * bytes, copy_us),
            read_gb_s: gb_s(bytes, copier.time(bytes, Threads::all(0), 1, wake_up)?),
            dispatch_us: copier.time(
                GROUP_BYTES,
                Threads { each: 0, ..Threads::all(0) },
                100,
                wake_up,
            )?,
        })
    }
}

impl<'a> Copier<'a> {
    pub fn new(gpu: &'a Gpu, clock: &'a Clock, plan: &'a Plan) -> Result<Self, DriverError> {
        let software = gpu.report.device_type == "cpu";
        let most = gpu.report.max_storage_binding.min(gpu.device.limits().max_buffer_size);
        let bytes =
            (if software { SOFTWARE_BYTES } else { BYTES }).min(most) / GROUP_BYTES * GROUP_BYTES;
        let buffers = [Array::new(gpu, bytes, 1)?, Array::new(gpu, bytes, 1)?];
        for (i, word) in (0..bytes / (1 << 20)).zip(1u32..) {
            // Zeros can be faster than data.
            let block = [word.wrapping_mul(0x9e37_79b9), word].repeat(1 << 17);
            gpu.queue.write_buffer(&buffers[0].buffer, i << 20, bytemuck::cast_slice(&block));
        }
        Ok(Self { gpu, clock, plan, buffers, bytes })
    }

    /// An error unless the second buffer ends as the first does, no two of whose mebibytes are alike.
    fn check(&self) -> Result<(), DriverError> {
        let last = [self.bytes / END - 1];
        let [from, to] = self.buffers.each_ref().map(|array| array.pieces(self.gpu, END, &last));
        if from? == to? {
            return Ok(());
        }
        Err(gpu_error("the copy that kernels are held against did not copy the end of its buffer"))
    }

    /// Microseconds in which so many bytes are read and so many written, to a sixteenth of what is
    /// read, in the faster workgroups, each call waiting for the one before; none where the buffers
    /// are too small. Calls go round parts of the buffers, so that no cache holds what the next one
    /// reads, unless the plan is hot.
    pub fn copied_us(&self, read: u64, written: u64) -> Result<Option<f64>, DriverError> {
        let window = read.next_multiple_of(GROUP_BYTES);
        if window > self.bytes {
            return Ok(None);
        }
        let part = (u64::from(PER_THREAD) * written + read / 2) / read;
        let mut least = f64::INFINITY;
        for group in THREADS {
            let threads = Threads { group, ..Threads::all(part as u32) };
            let mut pass = self.passes(window, threads)?;
            let first = pass(1)?;
            let us = Samples::take(first, self.plan.warm_up_ms, self.plan.samples, pass)?.at(0.5);
            least = us.min(least);
        }
        Ok(Some(least))
    }

    /// Median microseconds of a dispatch over `window` bytes, in passes of `calls`, after so many
    /// milliseconds of them.
    fn time(
        &self,
        window: u64,
        threads: Threads,
        calls: u64,
        warm_up_ms: f64,
    ) -> Result<f64, DriverError> {
        let mut pass = self.passes(window, threads)?;
        let mut warm = 0.0;
        while warm < warm_up_ms * 1e3 {
            warm += pass(calls)?.max(1.0);
        }
        let mut us =
            (0..self.plan.samples).map(|_| pass(calls)).collect::<Result<Vec<f64>, _>>()?;
        us.sort_by(f64::total_cmp);
        Ok(us[us.len() / 2] / calls as f64)
    }

    /// What times a pass of so many dispatches over `window` bytes each.
    fn passes(
        &self,
        window: u64,
        threads: Threads,
    ) -> Result<impl FnMut(u64) -> Result<f64, DriverError>, DriverError> {
        let pipeline = pipeline(self.gpu, threads)?;
        let most = if self.plan.hot { 1 } else { MOST_WINDOWS };
        let groups = (0..(self.bytes / window).min(most))
            .map(|i| bind_group(self.gpu, &pipeline, self.window(i * window, window)))
            .collect::<Result<Vec<_>, _>>()?;
        let workgroups = window / (16 * u64::from(PER_THREAD * threads.group));
        let workgroups = u32::try_from(workgroups).map_err(gpu_error)?;
        let mut at = 0;
        Ok(move |calls: u64| {
            self.clock.time(self.gpu, |pass| {
                pass.set_pipeline(&pipeline);
                for _ in 0..calls {
                    pass.set_bind_group(0, &groups[at % groups.len()], &[]);
                    pass.dispatch_workgroups(workgroups, 1, 1);
                    at += 1;
                }
                Ok(())
            })
        })
    }

    fn window(&self, offset: u64, size: u64) -> [wgpu::BufferBinding<'_>; 2] {
        let size = wgpu::BufferSize::new(size);
        self.buffers.each_ref().map(|array| wgpu::BufferBinding {
            buffer: &array.buffer,
            offset,
            size,
        })
    }
}

fn pipeline(gpu: &Gpu, threads: Threads) -> Result<wgpu::ComputePipeline, DriverError> {
    let constants = [
        format!("const THREADS = {}u;", threads.group),
        format!("const PER_THREAD = {}u;", threads.each),
        format!("const WRITTEN = {}u;", threads.written),
    ];
    let text = constants.join("\n") + TEXT;
    gpu.scoped(|| {
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("copy"),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("copy"),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        })
    })
}

fn bind_group(
    gpu: &Gpu,
    pipeline: &wgpu::ComputePipeline,
    [from, to]: [wgpu::BufferBinding<'_>; 2],
) -> Result<wgpu::BindGroup, DriverError> {
    gpu.scoped(|| {
        gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("copy"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(from) },
                wgpu::BindGroupEntry { binding: 1, resource: wgpu::BindingResource::Buffer(to) },
            ],
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::device::Selection;

    #[test]
    fn a_copy_is_checked_and_one_that_leaves_out_its_last_part_is_an_error() {
        if std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none") {
            return;
        }
        let gpu = Gpu::open(&Selection::default()).expect("a GPU, or WGTQ_GPU=none");
        let clock = Clock::new(&gpu).expect("timestamps");
        let plan = Plan {
            query_tokens: vec![1],
            subjects: vec![],
            presets: vec![],
            lengths: vec![],
            tokens: vec![],
            formats: vec![],
            arithmetic: crate::bench::Arithmetic::F32,
            dispatches: crate::bench::Dispatches::Two,
            weight_floor: 0.0,
            legs: vec![],
            splits: vec![],
            hot: false,
            warm_up_ms: 0.0,
            wake_up_ms: 0.0,
            samples: 1,
            seed: 0,
        };
        let copier = Copier::new(&gpu, &clock, &plan).unwrap();
        copier.time(copier.bytes, Threads::all(PER_THREAD - 1), 1, 0.0).unwrap();
        assert!(copier.check().is_err());
        copier.time(copier.bytes, Threads::all(PER_THREAD), 1, 0.0).unwrap();
        copier.check().unwrap();
    }
}
