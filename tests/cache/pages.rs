//! A paged cache of several sequences, as an engine with a page allocator of its own makes it out of
//! the kernels: rows go into a page as into a cache of `page_size` slots, by the offsets of the page,
//! and one dispatch attends over all sequences.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use bytemuck::{bytes_of, cast_slice, pod_collect_to_vec};
use wgtq::codec::{Bits, Codec, HeadDim, KeyFormat, Rotation, row};
use wgtq::contract::Language;
use wgtq::gpu::device::{Gpu, Selection};
use wgtq::gpu::{Kernel, Options};
use wgtq::kernels::flash_attn_tile::{self, FlashAttnTile};
use wgtq::kernels::quantize_k_and_v::{self, QuantizeKAndV};
use wgtq::oracle::dequantize_kv::PackedRows;
use wgtq::oracle::flash_attn_tile::{Inputs, Pages, flash_attn_tile as oracle};
use wgtq::params::{FlashAttnTileParams, MASK_CAUSAL, QuantizeKvParams, TileSequence};
use wgtq::parity::{ATTENTION_NRMSE, Outcome, judge};
use wgtq::rng::Gaussian;
use wgtq::wgpu;

use crate::rig::{gpu, read, without_gpu};

const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const D: u32 = 64;
const PAGES: u32 = 6;
const PAGE_SIZE: u32 = 32;
/// Two sequences of 70 and 40 positions, in pages that are in no order; page 1 is nobody's.
const TABLE: [u32; 5] = [4, 0, 5, 3, 2];
const LENGTHS: [u32; 2] = [70, 40];
const KV_ROW: u32 = KV_HEADS * D * 4;

fn sequences() -> [TileSequence; 2] {
    let of = |first_token, query_tokens, length: u32, first_block| TileSequence {
        first_token,
        query_tokens,
        position: length - query_tokens,
        kv_seq_len: length,
        ring_start: 0,
        kv_capacity: length,
        first_block,
    };
    [of(0, 3, LENGTHS[0], 0), of(3, 1, LENGTHS[1], 3)]
}

fn codecs() -> [Codec; 2] {
    [Bits::B8, Bits::B4].map(|bits| Codec::new(HeadDim::ALL[0], bits, Rotation::Plain))
}

/// Bytes of K rows, K norms, V rows and V norms of one page.
fn page_bytes() -> [u64; 4] {
    let rows = u64::from(KV_HEADS * PAGE_SIZE);
    let [k, v] = codecs().map(|codec| rows * row::row_bytes(codec.head_dim, codec.bits));
    [k, rows * 4, v, rows * 4]
}

/// The rows of the sequences, one after the other, and the queries, rotated already.
struct Data {
    k: Vec<f32>,
    v: Vec<f32>,
    q: Vec<f32>,
}

fn data() -> Data {
    let mut random = Gaussian::new(17);
    let mut rows = |tokens: u32, heads: u32| random.normals((tokens * heads * D) as usize);
    let tokens = LENGTHS.iter().sum();
    Data { k: rows(tokens, KV_HEADS), v: rows(tokens, KV_HEADS), q: rows(4, HEADS) }
}

/// A part of a page to fill: the first of its rows in the data, and its parameters.
fn parts() -> Vec<(u32, u32, QuantizeKvParams)> {
    let mut parts = Vec::new();
    let (mut first_row, mut blocks) = (0, TABLE.iter());
    for length in LENGTHS {
        for first in (0..length).step_by(PAGE_SIZE as usize) {
            let num_tokens = PAGE_SIZE.min(length - first);
            let params = QuantizeKvParams {
                head_dim: D,
                num_kv_heads: KV_HEADS,
                write_pos: 0,
                cache_capacity: PAGE_SIZE,
                is_sliding: 0,
                scale_factor_d512: 1.0,
                rms_probe_enabled: 0,
                num_tokens,
            };
            parts.push((*blocks.next().unwrap(), first_row + first, params));
        }
        first_row += length;
    }
    parts
}

fn params() -> FlashAttnTileParams {
    FlashAttnTileParams {
        n_heads: HEADS,
        n_kv_heads: KV_HEADS,
        head_dim: D,
        num_tokens: 4,
        num_sequences: 2,
        max_query_tokens: 3,
        page_size: PAGE_SIZE,
        num_pages: PAGES,
        num_blocks: TABLE.len() as u32,
        scale: 0.125,
        mask_type: MASK_CAUSAL,
        sliding_window: 0,
        softcap: 0.0,
        nwg: 1,
        split_base: 0,
        splits: 1,
        scale_factor_d512: 1.0,
    }
}

/// A buffer for whatever a kernel or a test does with it.
fn buffer(gpu: &Gpu, size: u64) -> wgpu::Buffer {
    gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::UNIFORM
            | wgpu::BufferUsages::COPY_DST
            | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    })
}

fn filled(gpu: &Gpu, bytes: &[u8]) -> wgpu::Buffer {
    let buffer = buffer(gpu, bytes.len() as u64);
    gpu.queue.write_buffer(&buffer, 0, bytes);
    buffer
}

/// The first bytes of a buffer; a recording moves them.
fn first(buffer: &wgpu::Buffer, bytes: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer, offset: 0, size: wgpu::BufferSize::new(bytes) }
}

/// Records the rows into their pages: every binding starts where the part or the page does.
fn write(gpu: &Gpu, pages: &[wgpu::Buffer; 4], data: &Data, pass: &mut wgpu::ComputePass<'_>) {
    let [k_codec, codec] = codecs();
    let problem = quantize_k_and_v::Problem { k_bits: k_codec.bits, codec };
    let options = Options { dynamic: &[0, 1, 2, 3, 4, 5, 6], ..Options::default() };
    let plan = problem.plan(&gpu.caps, Language::Wgsl).unwrap();
    let kernel: Kernel<QuantizeKAndV> = Kernel::new(&gpu.device, &plan, &options).unwrap();

    let slot = gpu.device.limits().min_uniform_buffer_offset_alignment as usize;
    let mut blocks = vec![0; parts().len() * slot];
    for (block, (_, _, params)) in blocks.chunks_exact_mut(slot).zip(parts()) {
        block[..size_of_val(&params)].copy_from_slice(bytes_of(&params));
    }
    let blocks = filled(gpu, &blocks);
    let [k, v] = [&data.k, &data.v].map(|rows| filled(gpu, cast_slice(rows)));

    for (index, (page, first_row, params)) in parts().into_iter().enumerate() {
        let rows = u64::from(params.num_tokens * KV_ROW);
        let [k_bytes, k_norm_bytes, v_bytes, v_norm_bytes] = page_bytes();
        let buffers = quantize_k_and_v::Buffers {
            params: first(&blocks, size_of_val(&params) as u64),
            k: first(&k, rows),
            v: first(&v, rows),
            k_packed: first(&pages[0], k_bytes),
            k_norms: first(&pages[1], k_norm_bytes),
            v_packed: first(&pages[2], v_bytes),
            v_norms: first(&pages[3], v_norm_bytes),
        };
        let bound = kernel.bind(&gpu.device, buffers).unwrap();
        let launch = problem.launch(&params, &gpu.caps, Language::Wgsl).unwrap();
        let [a, b, c, d] = page_bytes().map(|bytes| page * bytes as u32);
        let row = first_row * KV_ROW;
        let offsets = [(index * slot) as u32, row, row, a, b, c, d];
        kernel.record_at(pass, &bound, &launch, &offsets).unwrap();
    }
}

/// Records the attention of both sequences, and returns its output.
fn attend(
    gpu: &Gpu,
    pages: &[wgpu::Buffer; 4],
    q: &[f32],
    pass: &mut wgpu::ComputePass<'_>,
) -> wgpu::Buffer {
    let [k, v] = codecs().map(|codec| KeyFormat::Tq(codec.bits));
    let head_dim = HeadDim::ALL[0];
    let (num_heads, num_kv_heads) = (HEADS, KV_HEADS);
    let problem = flash_attn_tile::Problem { head_dim, k, v, num_heads, num_kv_heads };
    let plan = problem.plan(&gpu.caps, Language::Wgsl).unwrap();
    let options = Options::default();
    let kernel: Kernel<FlashAttnTile> = Kernel::new(&gpu.device, &plan, &options).unwrap();

    let out = buffer(gpu, u64::from(4 * HEADS * D) * 4);
    let [block, records, table, q] =
        [bytes_of(&params()), cast_slice(&sequences()), cast_slice(&TABLE), cast_slice(q)]
            .map(|bytes| filled(gpu, bytes));
    let all = wgpu::Buffer::as_entire_buffer_binding;
    let buffers = flash_attn_tile::Buffers {
        params: all(&block),
        q: all(&q),
        sequences: all(&records),
        block_table: all(&table),
        k: all(&pages[0]),
        k_norms: all(&pages[1]),
        v: all(&pages[2]),
        v_norms: all(&pages[3]),
        dst: all(&out),
    };
    let bound = kernel.bind(&gpu.device, buffers).unwrap();
    let launch = problem.launch(&params(), &sequences(), &TABLE, &gpu.caps).unwrap();
    kernel.record(pass, &bound, &launch).unwrap();
    out
}

/// The pages `[K, K norms, V, V norms]` and the output.
fn run(gpu: &Gpu, data: &Data) -> ([Vec<u8>; 4], Vec<f32>) {
    let pages = page_bytes().map(|bytes| buffer(gpu, bytes * u64::from(PAGES)));
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    write(gpu, &pages, data, &mut pass);
    let out = attend(gpu, &pages, &data.q, &mut pass);
    drop(pass);
    gpu.queue.submit([encoder.finish()]);
    (pages.map(|page| read(gpu, &page)), pod_collect_to_vec(&read(gpu, &out)))
}

/// The output over the stored pages, as `table` names them.
fn judged(pages: &[Vec<u8>; 4], table: &[u32], data: &Data, out: &[f32]) -> Outcome {
    let norms: [Vec<f32>; 2] = [1, 3].map(|part| pod_collect_to_vec(&pages[part]));
    let [k, v] = codecs();
    let side = |codec, packed, norms| {
        Pages::Packed(PackedRows { codec, capacity: PAGE_SIZE, packed, norms })
    };
    let inputs = Inputs {
        sequences: &sequences(),
        block_table: table,
        q: &data.q,
        k: side(k, &pages[0], &norms[0]),
        v: side(v, &pages[2], &norms[1]),
    };
    let want = oracle(&params(), &inputs).unwrap();
    judge(out, &want, D as usize, ATTENTION_NRMSE)
}

/// Relative squared error of K's stored rows, or of V's.
fn row_error(codec: Codec, [packed, norms]: [&[u8]; 2], given: &[f32]) -> f64 {
    let norms: Vec<f32> = pod_collect_to_vec(norms);
    let rows = PackedRows { codec, capacity: PAGE_SIZE, packed, norms: &norms };
    let (mut error, mut power) = (0.0, 0.0);
    for (page, first_row, params) in parts() {
        for row in 0..params.num_tokens * KV_HEADS {
            let (slot, head) = (row / KV_HEADS, row % KV_HEADS);
            let mut decoded = [0.0; D as usize];
            rows.decode(page * KV_HEADS + head, slot, &mut decoded);
            let given = &given[((first_row * KV_HEADS + row) * D) as usize..];
            for (got, &want) in decoded.iter().zip(given) {
                error += (got - f64::from(want)).powi(2);
                power += f64::from(want).powi(2);
            }
        }
    }
    error / power
}

#[test]
fn sequences_in_pages_are_written_page_by_page_and_attended_at_once() {
    if without_gpu() {
        return;
    }
    let (gpu, data) = (gpu(&Selection::default()), data());
    let (pages, out) = run(&gpu, &data);
    let outcome = judged(&pages, &TABLE, &data, &out);
    assert!(outcome.pass(), "{}", outcome.detail);
    // What the codec costs; a row of another place would be off by twice its own power.
    let sides = [([&*pages[0], &pages[1]], &data.k), ([&*pages[2], &pages[3]], &data.v)];
    for (codec, (stored, given)) in codecs().into_iter().zip(sides) {
        let error = row_error(codec, stored, given);
        assert!((error / codec.expected_mse() - 1.0).abs() < 0.1, "{codec:?}: {error:e}");
    }
    // Nobody's page keeps its zeros.
    assert!(pages[0][page_bytes()[0] as usize..][..64].iter().all(|&byte| byte == 0));
    // A last page that changes places with a full one is seen, in either sequence.
    assert!(!judged(&pages, &[5, 0, 4, 3, 2], &data, &out).pass());
    assert!(!judged(&pages, &[4, 0, 5, 2, 3], &data, &out).pass());
}
