//! Subgroup width, measured: wgpu's Metal backend reports 4..64 although Apple GPUs run 32.

use crate::driver::DriverError;

/// Every thread writes its subgroup's width and its own lane.
const TEXT: &str = "
@group(0) @binding(0) var<storage, read_write> out: array<vec2<u32>>;
@compute @workgroup_size(SIZE) fn main(
    @builtin(local_invocation_index) tid: u32,
    @builtin(subgroup_size) width: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    out[tid] = vec2(width, lane);
}
";

/// Workgroup sizes that the kernels use; a driver may choose a width for each.
pub(crate) const WORKGROUP_SIZES: [u32; 3] = [32, 64, 128];

/// The probe for a workgroup of `size` threads.
pub(crate) fn text(size: u32) -> String {
    TEXT.replace("SIZE", &size.to_string())
}

/// The smallest width seen; none where threads that follow each other in the workgroup do not
/// follow each other in the subgroup, which the kernels' shuffles rely on.
///
/// `run` runs a text, with one workgroup of the given size, and returns what it wrote.
pub(crate) fn subgroup_size(
    mut run: impl FnMut(&str, u32) -> Result<Vec<[u32; 2]>, DriverError>,
) -> Result<Option<u32>, DriverError> {
    let mut smallest = None;
    for size in WORKGROUP_SIZES {
        let lanes = run(&text(size), size)?;
        let width = lanes.iter().map(|[width, _]| *width).min().unwrap_or(0);
        let ordered = (0u32..).zip(&lanes).all(|(tid, [w, lane])| *w == width && *lane == tid % w);
        if width == 0 || !ordered {
            return Ok(None);
        }
        smallest = Some(smallest.map_or(width, |s: u32| s.min(width)));
    }
    Ok(smallest)
}

/// The width on a wgpu device.
#[cfg(feature = "driver")]
pub(super) fn on_device(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
) -> Result<Option<u32>, DriverError> {
    use crate::driver::one_line;

    let fail = |e: &dyn std::fmt::Display| DriverError::Gpu { message: one_line(&e.to_string()) };
    subgroup_size(|text, size| {
        let copy = submit(device, queue, text, size);
        copy.map_async(wgpu::MapMode::Read, .., |_| ());
        device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| fail(&e))?;
        let bytes = copy.get_mapped_range(..).map_err(|e| fail(&e))?.to_vec();
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    })
}

/// Submits the probe's `text` in one workgroup of `size` threads; returns the buffer that will
/// hold width and lane of each.
pub(crate) fn submit(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    text: &str,
    size: u32,
) -> wgpu::Buffer {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("subgroup probe"),
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("subgroup probe"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let buffer = |usage| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("subgroup probe"),
            size: u64::from(size) * 8,
            usage,
            mapped_at_creation: false,
        })
    };
    let out = buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let copy = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: out.as_entire_binding() }],
    });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }
    encoder.copy_buffer_to_buffer(&out, 0, &copy, 0, out.size());
    queue.submit([encoder.finish()]);
    copy
}
