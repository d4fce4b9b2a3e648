//! A cache on a device with an engine's buffers round it, and its judges.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use half::f16;
use wgtq::cache::snapshot::{LayerHeader, LayerRows};
use wgtq::cache::{Config, Io, KvCache, LayerConfig, LayerIo, Output, Snapshot, Storage};
use wgtq::codec::{Codec, HeadDim, KeyFormat, Rotation};
use wgtq::gpu::device::{Gpu, Selection};
use wgtq::kernels::flash_attn_vec::KvType;
use wgtq::oracle::dequantize_kv::PackedRows;
use wgtq::oracle::flash_attn_vec::{DenseRows, attend_rows};
use wgtq::oracle::quantize_kv::encode;
use wgtq::params::{FlashAttnVecTqParams, MASK_CAUSAL, MASK_SLIDING};
use wgtq::parity::{self, ATTENTION_NRMSE, judge};
use wgtq::rng::Gaussian;
use wgtq::wgpu;

/// Whether the run was told to do without a GPU.
pub fn without_gpu() -> bool {
    std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none")
}

pub fn gpu(selection: &Selection) -> Gpu {
    let gpu = Gpu::open(selection).expect("a GPU, or WGTQ_GPU=none to leave these tests out");
    eprintln!("adapter: {}", gpu.report.line());
    gpu
}

/// Two query heads over one KV head of 64 coordinates, everything kept and seen.
pub fn layer(format: &str, capacity: u32) -> LayerConfig {
    LayerConfig {
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: HeadDim::ALL[0],
        format: format.parse().unwrap(),
        rotation: Rotation::Srht,
        norm_correction: false,
        capacity,
        storage: Storage::Linear,
        sliding_window: 0,
        scale: 0.125,
        softcap: 0.0,
    }
}

/// A ring with a window.
pub fn ring(format: &str, capacity: u32, sliding_window: u32) -> LayerConfig {
    LayerConfig { storage: Storage::Ring, sliding_window, ..layer(format, capacity) }
}

/// q, k and v of one token in each layer.
pub type Token = Vec<[Vec<f32>; 3]>;

/// Token number `n` of a text: the same data however it is cut into steps.
pub fn token(config: &Config, text: u64, n: u64) -> Token {
    let of_layer = |(index, layer): (usize, &LayerConfig)| {
        let mut random = Gaussian::new(text << 40 | n << 8 | index as u64);
        let d = layer.head_dim.as_usize();
        [layer.num_heads, layer.num_kv_heads, layer.num_kv_heads]
            .map(|heads| random.normals(heads as usize * d))
    };
    config.layers.iter().enumerate().map(of_layer).collect()
}

pub fn text(config: &Config, text: u64, tokens: std::ops::Range<u64>) -> Vec<Token> {
    tokens.map(|n| token(config, text, n)).collect()
}

/// An engine's buffers for one layer, bound.
pub struct Engine {
    buffers: [wgpu::Buffer; 4],
    pub io: LayerIo,
}

pub struct Rig {
    pub gpu: Gpu,
    pub cache: KvCache,
    pub engine: Vec<Engine>,
}

impl Rig {
    pub fn new(config: &Config) -> Self {
        Self::on(gpu(&Selection::default()), config)
    }

    pub fn on(gpu: Gpu, config: &Config) -> Self {
        let cache = KvCache::new(&gpu.device, &gpu.caps, config).unwrap();
        let engine = engine(&gpu, &cache);
        Self { gpu, cache, engine }
    }

    /// Puts a step's tokens where `engine` has its q, k and v.
    pub fn upload(&self, engine: &[Engine], tokens: &[Token]) {
        for (index, layer) in engine.iter().enumerate() {
            for (part, buffer) in layer.buffers[..3].iter().enumerate() {
                let rows: Vec<f32> =
                    tokens.iter().flat_map(|token| token[index][part].clone()).collect();
                self.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&rows));
            }
        }
    }

    /// Records one step of every layer.
    pub fn record(
        cache: &mut KvCache,
        queue: &wgpu::Queue,
        encoder: &mut wgpu::CommandEncoder,
        engine: &[Engine],
        tokens: u32,
    ) {
        cache.begin_step(queue, tokens).unwrap();
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for layer in engine {
            cache.append(&mut pass, &layer.io).unwrap();
            cache.attend(&mut pass, &layer.io).unwrap();
        }
        drop(pass);
        cache.end_step().unwrap();
    }

    /// What each layer's `out` holds, as far as `tokens` tokens fill it.
    pub fn outputs(&self, engine: &[Engine], tokens: usize) -> Vec<Vec<f32>> {
        let of_layer = |(index, layer): (usize, &Engine)| {
            let bytes = read(&self.gpu, &layer.buffers[3]);
            let mut rows: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
            rows.truncate(out_bytes(&self.cache, index) as usize / 4 * tokens);
            rows
        };
        engine.iter().enumerate().map(of_layer).collect()
    }

    /// What the q of a layer holds.
    pub fn q(&self, layer: usize) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&read(&self.gpu, &self.engine[layer].buffers[0]))
    }

    /// One step in a submit of its own; the output of each layer.
    pub fn step(&mut self, tokens: &[Token]) -> Vec<Vec<f32>> {
        self.upload(&self.engine, tokens);
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let count = tokens.len() as u32;
        Self::record(&mut self.cache, &self.gpu.queue, &mut encoder, &self.engine, count);
        self.gpu.queue.submit([encoder.finish()]);
        self.cache.submitted().unwrap();
        self.outputs(&self.engine, tokens.len())
    }

    /// The same one token at a time; the outputs of each layer one after the other.
    pub fn steps(&mut self, tokens: &[Token]) -> Vec<Vec<f32>> {
        let mut all = vec![Vec::new(); self.engine.len()];
        for token in tokens.chunks(1) {
            for (all, out) in all.iter_mut().zip(self.step(token)) {
                all.extend(out);
            }
        }
        all
    }

    /// A portable snapshot.
    pub fn snapshot(&self) -> Vec<u8> {
        let size = self.cache.snapshot_bytes().unwrap().max(4);
        let buffer = readback(&self.gpu, size);
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let header = self.cache.snapshot(&mut encoder, &buffer).unwrap();
        self.gpu.queue.submit([encoder.finish()]);
        header.encode(&map(&self.gpu, &buffer)).unwrap()
    }

    /// Rows and norms of everything stored against the oracle's, for a cache that has seen `text`;
    /// then the output of the step that ended with it, against the oracle over the stored rows.
    pub fn judge(&self, text: &[Token], outputs: &[Vec<f32>]) -> Result<(), String> {
        self.judge_rows(text)?;
        self.judge_outputs(text, outputs)
    }

    /// How far the decoded K and V of each layer, which have seen `text`, are at most from the length
    /// that they had, as a part of it.
    pub fn length_errors(&self, text: &[Token]) -> Vec<[f64; 2]> {
        let bytes = self.snapshot();
        let snapshot = Snapshot::parse(&bytes).unwrap();
        let layers = snapshot.header.layers.iter().zip(snapshot.layers()).enumerate();
        let of_layer = |(index, (header, rows)): (usize, (&LayerHeader, LayerRows<'_>))| {
            let [k, v] = sides(header, rows);
            [(1, k), (2, v)].map(|(part, side)| side.length_error(text, index, part))
        };
        layers.map(of_layer).collect()
    }

    pub fn judge_rows(&self, text: &[Token]) -> Result<(), String> {
        let bytes = self.snapshot();
        let snapshot = Snapshot::parse(&bytes).unwrap();
        let layers = snapshot.header.layers.iter().zip(snapshot.layers());
        for (index, (header, rows)) in layers.enumerate() {
            let capacity = self.cache.config().layers[index].capacity;
            let stored = (text.len() as u32).min(capacity);
            if header.stored != stored {
                return Err(format!("layer {index}: {} stored, want {stored}", header.stored));
            }
            let kept = &text[text.len() - stored as usize..];
            for (part, rows) in [1, 2].into_iter().zip(sides(header, rows)) {
                judge_side(kept, (index, part), header, rows)?;
            }
        }
        Ok(())
    }

    pub fn judge_outputs(&self, text: &[Token], outputs: &[Vec<f32>]) -> Result<(), String> {
        let bytes = self.snapshot();
        let snapshot = Snapshot::parse(&bytes).unwrap();
        let layers = snapshot.header.layers.iter().zip(snapshot.layers());
        for (index, (header, rows)) in layers.enumerate() {
            let config = &self.cache.config().layers[index];
            let row = config.num_heads as usize * config.head_dim.as_usize();
            let tokens = outputs[index].len() / row;
            for (back, got) in outputs[index].chunks_exact(row).rev().enumerate() {
                let q = &text[text.len() - 1 - back][index][0];
                let params = attention(config, header.stored, back as u32);
                let [k, v] = sides(header, rows);
                let [k, v] =
                    [k, v].map(|side| move |h: u32, s: u32, o: &mut [f64]| side.read(h, s, o));
                let want = attend_rows(&params.into(), q, &k, &v).unwrap();
                let outcome = judge(got, &want, config.head_dim.as_usize(), ATTENTION_NRMSE);
                if !outcome.pass() {
                    let token = tokens - 1 - back;
                    return Err(format!("layer {index}, token {token}: {}", outcome.detail));
                }
            }
        }
        Ok(())
    }
}

/// The rows of K or V, positions oldest first.
#[derive(Clone)]
pub struct Side {
    format: KeyFormat,
    /// Of rows that are codes.
    codec: Codec,
    stored: u32,
    rows: Vec<u8>,
    norms: Vec<f32>,
}

impl Side {
    fn packed(&self) -> PackedRows<'_> {
        let (codec, capacity) = (self.codec, self.stored);
        PackedRows { codec, capacity, packed: &self.rows, norms: &self.norms }
    }

    /// A row as attention over it sees it, in the basis of the model.
    fn read(&self, head: u32, slot: u32, out: &mut [f64]) {
        match self.format {
            KeyFormat::Tq(_) => self.packed().decode(head, slot, out),
            KeyFormat::F32 => {
                let rows: Vec<f32> = bytemuck::pod_collect_to_vec(&self.rows);
                DenseRows::F32(&rows).read(self.stored, head, slot, out);
            }
            KeyFormat::F16 => {
                let rows: Vec<u16> = bytemuck::pod_collect_to_vec(&self.rows);
                let rows: Vec<f16> = rows.into_iter().map(f16::from_bits).collect();
                DenseRows::F16(&rows).read(self.stored, head, slot, out);
            }
        }
    }

    fn length_error(&self, text: &[Token], layer: usize, part: usize) -> f64 {
        let d = self.codec.head_dim.as_usize();
        let length = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut most = 0.0f64;
        for (slot, token) in text.iter().enumerate() {
            for (head, row) in token[layer][part].chunks_exact(d).enumerate() {
                let row: Vec<f64> = row.iter().map(|&x| x.into()).collect();
                let mut decoded = vec![0.0; d];
                self.read(head as u32, slot as u32, &mut decoded);
                most = most.max((length(&decoded) / length(&row) - 1.0).abs());
            }
        }
        most
    }
}

fn sides(header: &LayerHeader, rows: LayerRows<'_>) -> [Side; 2] {
    let norm_correction = header.norm_correction;
    let side = |format, rows: &[u8], norms: &[u8]| {
        let bits = if let KeyFormat::Tq(bits) = format { bits } else { header.v_bits };
        let codec = Codec::new(header.head_dim, bits, header.rotation);
        Side {
            format,
            codec: Codec { norm_correction, ..codec },
            stored: header.stored,
            rows: rows.to_vec(),
            norms: bytemuck::pod_collect_to_vec(norms),
        }
    };
    [
        side(header.k, rows.k, rows.k_norms),
        side(KeyFormat::Tq(header.v_bits), rows.v_packed, rows.v_norms),
    ]
}

fn judge_side(
    kept: &[Token],
    (layer, part): (usize, usize),
    header: &LayerHeader,
    side: Side,
) -> Result<(), String> {
    let d = header.head_dim.as_usize();
    let heads = 0..header.num_kv_heads as usize;
    let rows_of = |head: usize| kept.iter().map(move |token| &token[layer][part][head * d..][..d]);
    let want = heads.flat_map(rows_of);
    let outcome = match side.format {
        KeyFormat::Tq(_) => {
            let want: Vec<_> = want.map(|row| Some(encode(&side.codec, row))).collect();
            codes_case(header, side.codec).judge(&want, &side.rows, &side.norms)
        }
        dense => {
            let want: Vec<_> = want.flatten().copied().map(Some).collect();
            floats_case(header, dense).judge(&want, &side.rows)
        }
    };
    let side = ["", "K", "V"][part];
    if outcome.pass() { Ok(()) } else { Err(format!("layer {layer} {side}: {}", outcome.detail)) }
}

fn codes_case(header: &LayerHeader, codec: Codec) -> parity::quantize_kv::Case {
    parity::quantize_kv::Case {
        codec,
        num_kv_heads: header.num_kv_heads,
        num_tokens: header.stored,
        capacity: header.stored,
        write_pos: 0,
        sliding: false,
        amplitude: 1.0,
        seed: 0,
    }
}

fn floats_case(header: &LayerHeader, format: KeyFormat) -> parity::store_kv::Case {
    parity::store_kv::Case {
        head_dim: header.head_dim,
        kv_type: if format == KeyFormat::F16 { KvType::F16 } else { KvType::F32 },
        num_kv_heads: header.num_kv_heads,
        num_tokens: header.stored,
        capacity: header.stored,
        write_pos: 0,
        sliding: false,
        amplitude: 1.0,
        seed: 0,
    }
}

/// Attention of the query that is `back` tokens before the newest, over rows in order.
fn attention(layer: &LayerConfig, stored: u32, back: u32) -> FlashAttnVecTqParams {
    FlashAttnVecTqParams {
        n_heads: layer.num_heads,
        n_kv_heads: layer.num_kv_heads,
        head_dim: layer.head_dim.get(),
        kv_seq_len: stored - back,
        kv_capacity: stored,
        scale: layer.scale,
        mask_type: if layer.sliding_window > 0 { MASK_SLIDING } else { MASK_CAUSAL },
        sliding_window: layer.sliding_window,
        softcap: layer.softcap,
        nwg: 1,
        ring_start: 0,
        scale_factor_d512: 1.0,
    }
}

fn out_bytes(cache: &KvCache, layer: usize) -> u64 {
    let config = &cache.config().layers[layer];
    match cache.config().output {
        Output::Rows => u64::from(config.num_heads) * u64::from(config.head_dim.get()) * 4,
        Output::Partials => cache.partials(layer, 1).unwrap().bytes,
    }
}

/// Buffers for the largest step of every layer, bound.
pub fn engine(gpu: &Gpu, cache: &KvCache) -> Vec<Engine> {
    let most = u64::from(cache.config().max_step_tokens);
    let of_layer = |(index, layer): (usize, &LayerConfig)| {
        let row = |heads: u32| u64::from(heads) * u64::from(layer.head_dim.get()) * 4;
        let kv = row(layer.num_kv_heads);
        let buffers = [row(layer.num_heads), kv, kv, out_bytes(cache, index)].map(|bytes| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: bytes * most,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_DST
                    | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        });
        let [q, k, v, out] = &buffers;
        let io = Io {
            q: q.as_entire_buffer_binding(),
            k: k.as_entire_buffer_binding(),
            v: v.as_entire_buffer_binding(),
            out: out.as_entire_buffer_binding(),
        };
        let io = cache.bind(&gpu.device, index, io).unwrap();
        Engine { buffers, io }
    };
    cache.config().layers.iter().enumerate().map(of_layer).collect()
}

pub fn readback(gpu: &Gpu, size: u64) -> wgpu::Buffer {
    gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

pub fn read(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<u8> {
    let copy = readback(gpu, buffer.size());
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
    gpu.queue.submit([encoder.finish()]);
    map(gpu, &copy)
}

fn map(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<u8> {
    buffer.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    buffer.get_mapped_range(..).unwrap().to_vec()
}
