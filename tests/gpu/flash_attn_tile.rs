use wgtq::codec::{Bits, Codec, HeadDim, KeyFormat, Ring, Rotation};
use wgtq::contract::{Caps, Language};
use wgtq::driver::DriverError;
use wgtq::kernels::{flash_attn_tile, flash_attn_vec_reduce, flash_attn_vec_tq};
use wgtq::legs::{BufferId, Tape};
use wgtq::oracle::dequantize_kv::PackedRows;
use wgtq::oracle::flash_attn_vec::{DenseRows, attend_rows};
use wgtq::params::*;
use wgtq::parity::flash_attn_tile::cases;
use wgtq::parity::{ATTENTION_NRMSE, Case, CaseResult, PackedCache, Prepared, judge, judge_pair};
use wgtq::rng::Gaussian;

use crate::support::{check, check_each};

#[test]
fn every_edge_format_and_batch_equals_the_oracle() {
    check_each(&cases());
}

const HEADS: u32 = 6;
const KV_HEADS: u32 = 2;

/// A packed ring of one sequence with the queries of the tokens that come after or end it.
#[derive(Debug, Clone)]
struct Packed {
    k_codec: Codec,
    v_codec: Codec,
    ring: Ring,
    tokens: u32,
    mask_type: u32,
    sliding_window: u32,
}

struct Cache {
    q: Vec<f32>,
    k: PackedCache,
    v: PackedCache,
}

impl Packed {
    fn new(head_dim: HeadDim, tokens: u32, mask_type: u32) -> Self {
        let codec = |bits| Codec::new(head_dim, bits, Rotation::Plain);
        Self {
            k_codec: codec(Bits::B8),
            v_codec: codec(Bits::B4),
            ring: Ring::new(64, 40, 45).expect("a ring"),
            tokens,
            mask_type,
            sliding_window: 17,
        }
    }

    fn d(&self) -> usize {
        self.v_codec.head_dim.as_usize()
    }

    fn cache(&self) -> Cache {
        let mut rng = Gaussian::new(31);
        let mut rows = || rng.normals((KV_HEADS * self.ring.len()) as usize * self.d());
        let k = PackedCache::encode(&self.k_codec, self.ring, KV_HEADS, &rows(), 1);
        let v = PackedCache::encode(&self.v_codec, self.ring, KV_HEADS, &rows(), 2);
        Cache { q: rng.normals((self.tokens * HEADS) as usize * self.d()), k, v }
    }

    fn problem(&self, k: KeyFormat, v: KeyFormat) -> flash_attn_tile::Problem {
        let head_dim = self.v_codec.head_dim;
        flash_attn_tile::Problem { head_dim, k, v, num_heads: HEADS, num_kv_heads: KV_HEADS }
    }

    /// The sequence as one page of the ring's slots, with its first query token at `position`.
    fn record(&self, ring: Ring, position: u32) -> TileSequence {
        TileSequence {
            first_token: 0,
            query_tokens: self.tokens,
            position,
            kv_seq_len: ring.len(),
            ring_start: ring.start(),
            kv_capacity: ring.capacity(),
            first_block: 0,
        }
    }

    /// One dispatch over the page of `record`, into slots `split_base` and on of `nwg`.
    fn params(
        &self,
        record: &TileSequence,
        nwg: u32,
        split_base: u32,
        splits: u32,
    ) -> FlashAttnTileParams {
        FlashAttnTileParams {
            n_heads: HEADS,
            n_kv_heads: KV_HEADS,
            head_dim: self.d() as u32,
            num_tokens: self.tokens,
            num_sequences: 1,
            max_query_tokens: self.tokens,
            page_size: record.kv_capacity,
            num_pages: 1,
            num_blocks: 1,
            scale: 1.0 / (self.d() as f32).sqrt(),
            mask_type: self.mask_type,
            sliding_window: self.sliding_window,
            softcap: 0.0,
            nwg,
            split_base,
            splits,
            scale_factor_d512: 1.0,
        }
    }

    /// Attention of one token at the end of `n` positions from `ring_start`.
    fn one_token(&self, n: u32) -> FlashAttnVecTqParams {
        FlashAttnVecTqParams {
            n_heads: HEADS,
            n_kv_heads: KV_HEADS,
            head_dim: self.d() as u32,
            kv_seq_len: n,
            kv_capacity: self.ring.capacity(),
            scale: 1.0 / (self.d() as f32).sqrt(),
            mask_type: self.mask_type,
            sliding_window: self.sliding_window,
            softcap: 0.0,
            nwg: 1,
            ring_start: self.ring.start(),
            scale_factor_d512: 1.0,
        }
    }
}

impl Cache {
    /// K and V with their norms, in binding order.
    fn inputs<'a>(&'a self, tape: &mut Tape<'a>) -> [BufferId; 4] {
        [
            tape.input("k", &*self.k.packed),
            tape.input("k_norms", bytemuck::cast_slice(&self.k.norms)),
            tape.input("v", &*self.v.packed),
            tape.input("v_norms", bytemuck::cast_slice(&self.v.norms)),
        ]
    }
}

/// Buffers of the records and the block table of one page.
fn one_page(tape: &mut Tape<'_>, record: &TileSequence) -> [BufferId; 2] {
    let sequences = tape.input("sequences", bytemuck::bytes_of(record).to_vec());
    [sequences, tape.input("block_table", bytemuck::bytes_of(&0u32).to_vec())]
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(bytes)
}

/// The newest tokens of a sequence in one dispatch, and one by one by the kernel of one token.
#[derive(Debug)]
struct OneByOne(Packed);

struct OneByOneData(Packed, Cache);

impl Case for OneByOne {
    fn kernel(&self) -> &'static str {
        "flash_attn_tile"
    }

    fn id(&self) -> String {
        "tokens at once and one by one".to_owned()
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        Ok(Box::new(OneByOneData(self.0.clone(), self.0.cache())))
    }
}

impl Prepared for OneByOneData {
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError> {
        let Self(shape, cache) = self;
        let first = shape.ring.len() - shape.tokens;
        let (mut tape, record) = (Tape::default(), shape.record(shape.ring, first));
        let kv = cache.inputs(&mut tape);

        let (k_bits, v_bits) = (shape.k_codec.bits, shape.v_codec.bits);
        let tile = shape.problem(KeyFormat::Tq(k_bits), KeyFormat::Tq(v_bits));
        let params = shape.params(&record, 1, 0, 1);
        let q = tape.input("q", bytemuck::cast_slice(&cache.q));
        let [sequences, table] = one_page(&mut tape, &record);
        let mut outputs = vec![tape.output("dst", params.dst_floats() * 4)];
        let launch = tile.launch(&params, &[record], &[0], caps)?;
        let buffers = [&[q, sequences, table], &kv[..], &outputs].concat();
        tape.step(tile.plan(caps, language)?, launch, &buffers);

        let codec = shape.v_codec;
        let (num_heads, num_kv_heads) = (HEADS, KV_HEADS);
        let vec = flash_attn_vec_tq::Problem { k_bits, codec, num_heads, num_kv_heads };
        for (t, q) in (0..).zip(cache.q.chunks_exact(HEADS as usize * shape.d())) {
            let params = shape.one_token(first + t + 1);
            let launch = vec.launch(&params, caps, language)?;
            let q = tape.input("q", bytemuck::cast_slice(q));
            let dst = tape.output("dst", launch.needed[6]);
            tape.step(vec.plan(caps, language)?, launch, &[&[q], &kv[..], &[dst]].concat());
            outputs.push(dst);
        }
        Ok((tape, outputs))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        let single = |bytes: &&[u8]| floats(bytes).into_iter().map(f64::from);
        let want: Vec<f64> = outputs[1..].iter().flat_map(single).collect();
        Ok(judge(&floats(outputs[0]), &want, self.0.d(), ATTENTION_NRMSE))
    }

    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        let right: Vec<f64> = floats(right[0]).into_iter().map(f64::from).collect();
        Ok(judge(&floats(left[0]), &right, self.0.d(), ATTENTION_NRMSE))
    }
}

#[test]
fn tokens_at_once_equal_tokens_one_by_one_to_rounding() {
    for head_dim in [HeadDim::ALL[0], HeadDim::ALL[3]] {
        for mask_type in [MASK_CAUSAL, MASK_SLIDING] {
            check(&OneByOne(Packed::new(head_dim, 21, mask_type)));
        }
    }
}

/// A chunk of a prompt: old rows are packed, the chunk's own are not yet, and both dispatches
/// write slots of one partials buffer.
#[derive(Debug)]
struct Chunk(Packed);

struct ChunkData {
    shape: Packed,
    old: Cache,
    k: Vec<f32>,
    v: Vec<half::f16>,
    want: Vec<f64>,
}

impl Case for Chunk {
    fn kernel(&self) -> &'static str {
        "flash_attn_tile"
    }

    fn id(&self) -> String {
        "old packed and new dense rows".to_owned()
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>, DriverError> {
        let (shape, old) = (&self.0, self.0.cache());
        let mut rng = Gaussian::new(32);
        let values = (KV_HEADS * shape.tokens) as usize * shape.d();
        let k = rng.normals(values);
        let v: Vec<_> = rng.normals(values).into_iter().map(half::f16::from_f32).collect();
        let rows = |codec, cache: &PackedCache, new: DenseRows<'_>, head, i, out: &mut [f64]| {
            let PackedCache { packed, norms } = cache;
            match u32::checked_sub(i, shape.ring.len()) {
                Some(i) => new.read(shape.tokens, head, i, out),
                None => {
                    let old = PackedRows { codec, capacity: shape.ring.capacity(), packed, norms };
                    old.decode_rotated(head, shape.ring.slot(i), out);
                }
            }
        };
        let k_row = |h: u32, i: u32, o: &mut [f64]| {
            rows(shape.k_codec, &old.k, DenseRows::F32(&k), h, i, o)
        };
        let v_row = |h: u32, i: u32, o: &mut [f64]| {
            rows(shape.v_codec, &old.v, DenseRows::F16(&v), h, i, o)
        };
        let mut want = Vec::new();
        for (t, q) in (0..).zip(old.q.chunks_exact(HEADS as usize * shape.d())) {
            let kv_seq_len = shape.ring.len() + t + 1;
            let params = FlashAttnVecTqParams {
                kv_seq_len,
                kv_capacity: kv_seq_len,
                ring_start: 0,
                ..shape.one_token(0)
            };
            want.extend(attend_rows(&params.into(), q, &k_row, &v_row)?);
        }
        Ok(Box::new(ChunkData { shape: shape.clone(), old, k, v, want }))
    }
}

impl Prepared for ChunkData {
    fn tape(
        &self,
        caps: &Caps,
        language: Language,
    ) -> Result<(Tape<'_>, Vec<BufferId>), DriverError> {
        let (shape, mut tape, nwg) = (&self.shape, Tape::default(), 3);
        let q = tape.input("q", bytemuck::cast_slice(&self.old.q));
        let record = shape.record(shape.ring, shape.ring.len());
        let params = shape.params(&record, nwg, 0, 2);
        let partials = tape.scratch("partials", params.dst_floats() * 4);
        let formats = (KeyFormat::Tq(shape.k_codec.bits), KeyFormat::Tq(shape.v_codec.bits));
        let problem = shape.problem(formats.0, formats.1);
        let launch = problem.launch(&params, &[record], &[0], caps)?;
        let [sequences, table] = one_page(&mut tape, &record);
        let kv = self.old.inputs(&mut tape);
        let buffers = [&[q, sequences, table], &kv[..], &[partials]].concat();
        tape.step(problem.plan(caps, language)?, launch, &buffers);

        let record = shape.record(Ring::new(shape.tokens, 0, shape.tokens)?, 0);
        let params = shape.params(&record, nwg, 2, 1);
        let problem = shape.problem(KeyFormat::F32, KeyFormat::F16);
        let launch = problem.launch(&params, &[record], &[0], caps)?;
        let [sequences, table] = one_page(&mut tape, &record);
        let norms = tape.input("norms", vec![0xff; 4]);
        let k = tape.input("k", bytemuck::cast_slice(&self.k));
        let v = tape.input("v", bytemuck::cast_slice(&self.v));
        let buffers = [q, sequences, table, k, norms, v, norms, partials];
        tape.step(problem.plan(caps, language)?, launch, &buffers);

        let merge = flash_attn_vec_reduce::Problem { head_dim: shape.v_codec.head_dim };
        let rows = FlashAttnVecReduceParams { nrows: shape.tokens * HEADS, nwg };
        let launch = merge.launch(&rows, caps)?;
        let out = tape.output("out", (self.want.len() * 4) as u64);
        tape.step(merge.plan(caps, language)?, launch, &[partials, out]);
        Ok((tape, vec![out]))
    }

    fn judge(&self, outputs: &[&[u8]]) -> CaseResult {
        Ok(judge(&floats(outputs[0]), &self.want, self.shape.d(), ATTENTION_NRMSE))
    }

    fn judge_pair(&self, left: &[&[u8]], right: &[&[u8]]) -> CaseResult {
        let (left, right) = (floats(left[0]), floats(right[0]));
        Ok(judge_pair(&left, &right, &self.want, ATTENTION_NRMSE))
    }
}

#[test]
fn old_packed_and_new_dense_rows_merge_to_attention_over_both() {
    for head_dim in [HeadDim::ALL[0], HeadDim::ALL[2]] {
        for mask_type in [MASK_CAUSAL, MASK_SLIDING] {
            check(&Chunk(Packed::new(head_dim, 21, mask_type)));
        }
    }
}
