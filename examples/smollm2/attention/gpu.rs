//! wgtq's cache on a GPU: K and V are quantised into it there, and stay there.

use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use wgtq::cache::{Config, Io, KvCache, LayerConfig, LayerIo, Storage};
use wgtq::codec::{KvFormat, Rotation};
use wgtq::driver::DriverError;
use wgtq::gpu::device::{self, Selection};
use wgtq::wgpu;

use super::{Attention, Coding, Shape};
use crate::error::Result;

/// A packed cache on a GPU. The rest of the model is on the CPU, so that every layer is a submit
/// of its own; all layers share one set of buffers.
#[derive(Debug)]
pub struct Gpu {
    gpu: device::Gpu,
    cache: KvCache,
    layers: Vec<LayerIo>,
    buffers: Buffers,
    bytes_per_token: u64,
}

#[derive(Debug)]
struct Buffers {
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    out: wgpu::Buffer,
    read_back: wgpu::Buffer,
}

impl Gpu {
    /// An empty cache for `capacity` tokens, in one step or many, on the adapter that `selection`
    /// allows.
    pub fn open(
        shape: Shape,
        coding: Coding,
        capacity: u32,
        selection: &Selection,
    ) -> Result<Self> {
        let Coding { bits, norm_correction } = coding;
        let layer = LayerConfig {
            num_heads: shape.num_heads,
            num_kv_heads: shape.num_kv_heads,
            head_dim: shape.head_dim,
            format: KvFormat { k: bits.k, v: bits.v },
            rotation: Rotation::Plain,
            norm_correction,
            capacity,
            storage: Storage::Linear,
            sliding_window: 0,
            scale: shape.scale(),
            softcap: 0.0,
        };
        let config = Config::new(vec![layer; shape.layers], capacity);
        let gpu = device::Gpu::open(selection)?;
        let cache = gpu.scoped(|| KvCache::new(&gpu.device, &gpu.caps, &config))??;
        let buffers = gpu.scoped(|| Buffers::new(&gpu.device, shape, capacity))?;
        let layers = (0..shape.layers).map(|layer| cache.bind(&gpu.device, layer, buffers.io()));
        let layers = gpu.scoped(|| layers.collect::<wgtq::Result<_>>())??;
        let bytes_per_token = cache.bytes().per_token;
        Ok(Self { gpu, cache, layers, buffers, bytes_per_token })
    }

    /// Everything stored, in its portable form.
    #[cfg(test)]
    pub fn snapshot(&self) -> Result<Vec<u8>> {
        let readback = self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: self.cache.snapshot_bytes()?,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let header = self.cache.snapshot(&mut encoder, &readback)?;
        self.gpu.queue.submit([encoder.finish()]);
        Ok(header.encode(&self.mapped(&readback, readback.size())?)?)
    }

    fn upload(&self, buffer: &wgpu::Buffer, rows: &Tensor) -> Result<()> {
        let values = rows.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        self.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&values));
        Ok(())
    }

    /// The first bytes of a buffer, once what was submitted has filled it.
    fn mapped(&self, buffer: &wgpu::Buffer, bytes: u64) -> Result<Vec<u8>> {
        let (send, receive) = std::sync::mpsc::channel();
        buffer.map_async(wgpu::MapMode::Read, ..bytes, move |result| {
            let _ = send.send(result);
        });
        let poll = wgpu::PollType::Wait {
            submission_index: None,
            timeout: Some(Duration::from_secs(600)),
        };
        self.gpu.device.poll(poll).map_err(gpu_error)?;
        receive.recv().map_err(gpu_error)?.map_err(gpu_error)?;
        let mapped = buffer.get_mapped_range(..bytes).map_err(gpu_error)?.to_vec();
        buffer.unmap();
        Ok(mapped)
    }
}

impl Buffers {
    fn new(device: &wgpu::Device, shape: Shape, tokens: u32) -> Self {
        use wgpu::BufferUsages as Usage;
        let buffer = |heads: u32, usage| {
            let row = u64::from(heads) * u64::from(shape.head_dim.get()) * 4;
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: u64::from(tokens) * row,
                usage,
                mapped_at_creation: false,
            })
        };
        let input = |heads| buffer(heads, Usage::STORAGE | Usage::COPY_DST);
        Self {
            q: input(shape.num_heads),
            k: input(shape.num_kv_heads),
            v: input(shape.num_kv_heads),
            out: buffer(shape.num_heads, Usage::STORAGE | Usage::COPY_SRC),
            read_back: buffer(shape.num_heads, Usage::MAP_READ | Usage::COPY_DST),
        }
    }

    fn io(&self) -> Io<'_> {
        Io {
            q: self.q.as_entire_buffer_binding(),
            k: self.k.as_entire_buffer_binding(),
            v: self.v.as_entire_buffer_binding(),
            out: self.out.as_entire_buffer_binding(),
        }
    }
}

impl Attention for Gpu {
    fn append_and_attend(
        &mut self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor> {
        let (tokens, heads, d) = q.dims3()?;
        if layer == 0 {
            self.cache.begin_step(&self.gpu.queue, tokens as u32)?;
        }
        for (buffer, rows) in [(&self.buffers.q, q), (&self.buffers.k, k), (&self.buffers.v, v)] {
            self.upload(buffer, rows)?;
        }
        let out_bytes = (tokens * heads * d * 4) as u64;
        let Self { gpu, cache, layers, buffers, .. } = self;
        gpu.scoped(|| submit(gpu, cache, &layers[layer], buffers, out_bytes))??;
        if layer + 1 == self.layers.len() {
            self.cache.end_step()?;
            self.cache.submitted()?;
        }
        let out = self.mapped(&self.buffers.read_back, out_bytes)?;
        let out: Vec<f32> = bytemuck::pod_collect_to_vec(&out);
        Ok(Tensor::from_vec(out, (tokens, heads * d), &Device::Cpu)?.to_dtype(q.dtype())?)
    }

    fn bytes_per_token(&self) -> u64 {
        self.bytes_per_token
    }
}

/// Records and submits one layer of a step; its output is copied for reading.
fn submit(
    gpu: &device::Gpu,
    cache: &mut KvCache,
    layer: &LayerIo,
    Buffers { out, read_back, .. }: &Buffers,
    out_bytes: u64,
) -> Result<()> {
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    {
        let pass = &mut encoder.begin_compute_pass(&Default::default());
        cache.append(pass, layer)?;
        cache.attend(pass, layer)?;
    }
    encoder.copy_buffer_to_buffer(out, 0, read_back, 0, out_bytes);
    gpu.queue.submit([encoder.finish()]);
    Ok(())
}

fn gpu_error(error: impl std::fmt::Display) -> DriverError {
    DriverError::Gpu { message: error.to_string() }
}
