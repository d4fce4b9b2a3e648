//! wgtq's kernels on a GPU: K and V are quantised into the cache there, and stay there.

use std::time::Duration;

use candle_core::{Device, Tensor};
use wgtq::codec::{Codec, Direction, row};
use wgtq::contract::Language::Wgsl;
use wgtq::contract::Launch;
use wgtq::driver::DriverError;
use wgtq::gpu::device::{self, Selection};
use wgtq::gpu::{Kernel, Options};
use wgtq::kernels::{flash_attn_vec_tq, fwht, quantize_kv};
use wgtq::params::{FlashAttnVecTqParams, FwhtParams, MASK_CAUSAL, QuantizeKvParams};
use wgtq::wgpu;

use super::oracle::stored_bytes;
use super::{Attention, BitPair, Shape};
use crate::error::{ModelError, Result};

/// One side of a layer's cache.
#[derive(Debug)]
struct Side {
    packed: wgpu::Buffer,
    norms: wgpu::Buffer,
}

#[derive(Debug)]
struct Layer {
    k: Side,
    v: Side,
    len: u32,
}

/// Pipelines, one of each.
#[derive(Debug)]
struct Kernels {
    quantize: Kernel<quantize_kv::QuantizeKv>,
    rotate: Kernel<fwht::Fwht>,
    unrotate: Kernel<fwht::Fwht>,
    attend: Kernel<flash_attn_vec_tq::FlashAttnVecTq>,
}

/// A packed cache on a GPU.
#[derive(Debug)]
pub struct Gpu {
    shape: Shape,
    codec: Codec,
    capacity: u32,
    gpu: device::Gpu,
    kernels: Kernels,
    layers: Vec<Layer>,
}

impl Gpu {
    /// An empty cache for `capacity` tokens on the adapter that `selection` allows.
    pub fn open(shape: Shape, bits: BitPair, capacity: u32, selection: &Selection) -> Result<Self> {
        if bits.k != bits.v {
            return Err(ModelError::Argument {
                flag: "--bits",
                need: "the same width for K and V on a GPU".to_owned(),
                found: bits.to_string(),
            });
        }
        let [codec, _] = bits.codecs(shape.head_dim);
        let gpu = device::Gpu::open(selection)?;
        let kernels = gpu.scoped(|| Kernels::new(&gpu, shape, codec))??;
        let slots = u64::from(shape.num_kv_heads) * u64::from(capacity);
        let storage = |label, bytes| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: slots * bytes,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        };
        let packed = row::row_bytes(codec.head_dim, codec.bits);
        let side = || Side {
            packed: storage("packed", packed),
            norms: storage("norms", stored_bytes(&codec) - packed),
        };
        let layer = || Layer { k: side(), v: side(), len: 0 };
        let layers = gpu.scoped(|| (0..shape.layers).map(|_| layer()).collect())?;
        Ok(Self { shape, codec, capacity, kernels, layers, gpu })
    }
}

impl Kernels {
    fn new(gpu: &device::Gpu, shape: Shape, codec: Codec) -> Result<Self> {
        let (device, caps, options) = (&gpu.device, &gpu.caps, &Options::default());
        let rotation = |direction| rotation(codec, direction).plan(caps, Wgsl);
        let quantize = quantize_kv::Problem { codec }.plan(caps, Wgsl)?;
        let attend = attention(shape, codec).plan(caps, Wgsl)?;
        Ok(Self {
            quantize: Kernel::new(device, &quantize, options)?,
            rotate: Kernel::new(device, &rotation(Direction::Forward)?, options)?,
            unrotate: Kernel::new(device, &rotation(Direction::Inverse)?, options)?,
            attend: Kernel::new(device, &attend, options)?,
        })
    }
}

fn rotation(codec: Codec, direction: Direction) -> fwht::Problem {
    fwht::Problem { head_dim: codec.head_dim, rotation: codec.rotation, direction }
}

fn attention(shape: Shape, codec: Codec) -> flash_attn_vec_tq::Problem {
    let Shape { num_heads, num_kv_heads, .. } = shape;
    flash_attn_vec_tq::Problem { k_bits: codec.bits, codec, num_heads, num_kv_heads }
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
        let count = tokens as u32;
        let used = self.layers[layer].len;
        if count > self.capacity - used {
            return Err(ModelError::Argument {
                flag: "cache",
                need: format!("room for {used} + {count} tokens"),
                found: self.capacity.to_string(),
            });
        }
        let read_back = self.gpu.scoped(|| self.submit(layer, count, [q, k, v]))??;
        self.layers[layer].len += count;
        Ok(Tensor::from_vec(self.read(&read_back)?, (tokens, heads * d), &Device::Cpu)?)
    }

    fn bytes_per_token(&self) -> u64 {
        self.shape.bytes_per_token([stored_bytes(&self.codec); 2])
    }
}

impl Gpu {
    /// Records and submits one layer's step; returns the buffer that its output is copied to.
    fn submit(&self, layer: usize, tokens: u32, rows: [&Tensor; 3]) -> Result<wgpu::Buffer> {
        use wgpu::BufferUsages as Usage;
        let [q, k, v] = rows.map(|rows| -> Result<wgpu::Buffer> {
            let values = rows.flatten_all()?.to_vec1::<f32>()?;
            self.upload(bytemuck::cast_slice(&values), Usage::STORAGE)
        });
        let (q, k, v) = (q?, k?, v?);
        let buffer = |usage| {
            self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: q.size(),
                usage,
                mapped_at_creation: false,
            })
        };
        let out = buffer(Usage::STORAGE | Usage::COPY_SRC);
        let read_back = buffer(Usage::MAP_READ | Usage::COPY_DST);

        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        {
            let pass = &mut encoder.begin_compute_pass(&Default::default());
            let cache = &self.layers[layer];
            self.quantize(pass, tokens, cache.len, &k, &cache.k)?;
            self.quantize(pass, tokens, cache.len, &v, &cache.v)?;
            self.rotate(pass, tokens, Direction::Forward, &q)?;
            for token in 0..tokens {
                self.attend(pass, token, cache, &q, &out)?;
            }
            self.rotate(pass, tokens, Direction::Inverse, &out)?;
        }
        encoder.copy_buffer_to_buffer(&out, 0, &read_back, 0, out.size());
        self.gpu.queue.submit([encoder.finish()]);
        Ok(read_back)
    }

    /// Encodes `tokens` rows of every KV head into the slots from `start`.
    fn quantize(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        tokens: u32,
        start: u32,
        src: &wgpu::Buffer,
        side: &Side,
    ) -> Result<()> {
        let params = QuantizeKvParams {
            head_dim: self.shape.head_dim.get(),
            num_kv_heads: self.shape.num_kv_heads,
            write_pos: start,
            cache_capacity: self.capacity,
            is_sliding: 0,
            scale_factor_d512: 1.0,
            rms_probe_enabled: 0,
            num_tokens: tokens,
        };
        let problem = quantize_kv::Problem { codec: self.codec };
        let launch = problem.launch(&params, &self.gpu.caps, Wgsl)?;
        let kernel = &self.kernels.quantize;
        let bound = kernel.bind(
            &self.gpu.device,
            quantize_kv::Buffers {
                src: src.as_entire_buffer_binding(),
                packed: side.packed.as_entire_buffer_binding(),
                norms: side.norms.as_entire_buffer_binding(),
                params: self.uniform(&launch, 3)?.as_entire_buffer_binding(),
            },
        )?;
        Ok(kernel.record(pass, &bound, &launch)?)
    }

    /// Rotates the rows of `tokens` tokens in place.
    fn rotate(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        tokens: u32,
        direction: Direction,
        data: &wgpu::Buffer,
    ) -> Result<()> {
        let rows = tokens * self.shape.num_heads;
        let params = FwhtParams { head_dim: self.shape.head_dim.get(), num_heads: rows };
        let problem = rotation(self.codec, direction);
        let launch = problem.launch(&params, &self.gpu.caps, Wgsl)?;
        let kernel = match direction {
            Direction::Forward => &self.kernels.rotate,
            Direction::Inverse => &self.kernels.unrotate,
        };
        let bound = kernel.bind(
            &self.gpu.device,
            fwht::Buffers {
                data: data.as_entire_buffer_binding(),
                params: self.uniform(&launch, 1)?.as_entire_buffer_binding(),
            },
        )?;
        Ok(kernel.record(pass, &bound, &launch)?)
    }

    /// Attends with the rotated q of one of the step's tokens, which sees the rows up to its own.
    fn attend(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        token: u32,
        cache: &Layer,
        q: &wgpu::Buffer,
        out: &wgpu::Buffer,
    ) -> Result<()> {
        let params = FlashAttnVecTqParams {
            n_heads: self.shape.num_heads,
            n_kv_heads: self.shape.num_kv_heads,
            head_dim: self.shape.head_dim.get(),
            kv_seq_len: cache.len + token + 1,
            kv_capacity: self.capacity,
            scale: self.shape.scale(),
            mask_type: MASK_CAUSAL,
            sliding_window: 0,
            softcap: 0.0,
            nwg: 1,
            ring_start: 0,
            scale_factor_d512: 1.0,
        };
        let problem = attention(self.shape, self.codec);
        let launch = problem.launch(&params, &self.gpu.caps, Wgsl)?;
        // Rows of one token: a multiple of 256 bytes, which is as much alignment as a device may ask.
        let row = u64::from(self.shape.num_heads) * u64::from(self.shape.head_dim.get()) * 4;
        let of_token = |buffer| wgpu::BufferBinding {
            buffer,
            offset: u64::from(token) * row,
            size: wgpu::BufferSize::new(row),
        };
        let kernel = &self.kernels.attend;
        let bound = kernel.bind(
            &self.gpu.device,
            flash_attn_vec_tq::Buffers {
                params: self.uniform(&launch, 0)?.as_entire_buffer_binding(),
                q: of_token(q),
                k_packed: cache.k.packed.as_entire_buffer_binding(),
                k_norms: cache.k.norms.as_entire_buffer_binding(),
                v_packed: cache.v.packed.as_entire_buffer_binding(),
                v_norms: cache.v.norms.as_entire_buffer_binding(),
                dst: of_token(out),
            },
        )?;
        Ok(kernel.record(pass, &bound, &launch)?)
    }

    fn uniform(&self, launch: &Launch, binding: u32) -> Result<wgpu::Buffer> {
        self.upload(launch.uniform(binding), wgpu::BufferUsages::UNIFORM)
    }

    fn upload(&self, bytes: &[u8], usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let buffer = self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes.len() as u64,
            usage,
            mapped_at_creation: true,
        });
        buffer.get_mapped_range_mut(..).map_err(gpu_error)?.copy_from_slice(bytes);
        buffer.unmap();
        Ok(buffer)
    }

    fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<f32>> {
        let (send, receive) = std::sync::mpsc::channel();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = send.send(result);
        });
        let poll = wgpu::PollType::Wait {
            submission_index: None,
            timeout: Some(Duration::from_secs(600)),
        };
        self.gpu.device.poll(poll).map_err(gpu_error)?;
        receive.recv().map_err(gpu_error)?.map_err(gpu_error)?;
        let values = bytemuck::pod_collect_to_vec(&buffer.get_mapped_range(..).map_err(gpu_error)?);
        buffer.unmap();
        Ok(values)
    }
}

fn gpu_error(error: impl std::fmt::Display) -> DriverError {
    DriverError::Gpu { message: error.to_string() }
}
