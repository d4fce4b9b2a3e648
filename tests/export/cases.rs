//! One dispatch of each kernel: fields, inputs, and the oracle's judgement of what comes out.

use wgtq::codec::{Bits, Codec, Direction, HeadDim, KeyFormat, Ring, Rotation, row};
use wgtq::export::Variant;
use wgtq::kernels::flash_attn_vec::KvType;
use wgtq::kernels::{
    dequantize_kv, flash_attn_tile, flash_attn_vec, flash_attn_vec_reduce, flash_attn_vec_tq, fwht,
    quantize_k_and_v, quantize_kv, store_kv,
};
use wgtq::oracle;
use wgtq::oracle::dequantize_kv::PackedRows;
use wgtq::oracle::flash_attn_tile::{Inputs, Pages};
use wgtq::oracle::flash_attn_vec::DenseRows;
use wgtq::params::*;
use wgtq::parity::{self, ATTENTION_NRMSE, Outcome, PackedCache, judge};
use wgtq::rng::Gaussian;

use crate::client::{Buffers, Fields, Number};

/// A dispatch with its judge.
pub struct Case {
    pub variant: Variant,
    pub fields: Fields<'static>,
    pub inputs: Buffers,
    pub judge: Box<dyn Fn(&Buffers) -> Outcome>,
}

pub const D: u32 = 128;
const KV_HEADS: u32 = 2;
const HEADS: u32 = 6;
const CAPACITY: u32 = 48;
const LENGTH: u32 = 41;
const START: u32 = 19;

fn head_dim() -> HeadDim {
    HeadDim::new(D).unwrap()
}

/// K and V apart, as an engine has them: K at 6 bits, V at 3.
fn codecs() -> [Codec; 2] {
    [Bits::B6, Bits::B3]
        .map(|bits| Codec { norm_correction: true, ..Codec::new(head_dim(), bits, Rotation::Srht) })
}

fn row_bytes(codec: &Codec) -> usize {
    row::row_bytes(codec.head_dim, codec.bits) as usize
}

fn bytes<T: bytemuck::NoUninit>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

fn floats(buffers: &Buffers, name: &str) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&buffers[name])
}

fn named<const N: usize>(buffers: [(&str, Vec<u8>); N]) -> Buffers {
    buffers.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

fn integers<const N: usize>(fields: [(&'static str, u32); N]) -> Fields<'static> {
    fields.into_iter().map(|(name, value)| (name, Number::U32(value))).collect()
}

/// A case of every kernel.
pub fn all() -> Vec<Case> {
    let [k, v] = codecs();
    let cases = [rotation(), encode(k), decode(v), attend_packed(), attend_dense(), reduce()];
    cases
        .into_iter()
        .chain([encode(v), decode(k), encode_both(), store(), attend_tiles()])
        .collect()
}

fn rotation() -> Case {
    let rows = 21;
    let x = Gaussian::new(1).normals((rows * D) as usize);
    let (rotation, direction) = (Rotation::Srht, Direction::Inverse);
    let want = oracle::fwht::rotate_rows(rotation, direction, D as usize, &x);
    Case {
        variant: Variant::Fwht(fwht::Problem { head_dim: head_dim(), rotation, direction }),
        fields: integers([("head_dim", D), ("num_heads", rows)]),
        inputs: named([("data", bytes(&x))]),
        judge: Box::new(move |out| {
            judge(&floats(out, "data"), &want, D as usize, 9.0 * parity::ROUNDOFF)
        }),
    }
}

fn encoded(codec: Codec, seed: u64) -> (parity::quantize_kv::Case, Vec<f32>) {
    let case = parity::quantize_kv::Case {
        codec,
        num_kv_heads: KV_HEADS,
        num_tokens: 13,
        capacity: CAPACITY,
        write_pos: 40,
        sliding: true,
        amplitude: 1.0,
        seed,
    };
    (case, Gaussian::new(seed).normals((case.num_tokens * KV_HEADS * D) as usize))
}

fn encoder_fields(case: &parity::quantize_kv::Case) -> Fields<'static> {
    let mut fields = integers([
        ("head_dim", D),
        ("num_kv_heads", KV_HEADS),
        ("write_pos", case.write_pos),
        ("cache_capacity", CAPACITY),
        ("is_sliding", 1),
        ("rms_probe_enabled", 0),
        ("num_tokens", case.num_tokens),
    ]);
    fields.insert("scale_factor_d512", Number::F32(1.0));
    fields
}

const SLOTS: usize = (KV_HEADS * CAPACITY) as usize;

fn encode(codec: Codec) -> Case {
    let (case, x) = encoded(codec, 2);
    let want = case.want(&x);
    Case {
        variant: Variant::QuantizeKv(quantize_kv::Problem { codec }),
        fields: encoder_fields(&case),
        inputs: named([
            ("src", bytes(&x)),
            ("packed", vec![0xa5; SLOTS * row_bytes(&codec)]),
            ("norms", bytes(&vec![-1f32; SLOTS])),
        ]),
        judge: Box::new(move |out| case.judge(&want, &out["packed"], &floats(out, "norms"))),
    }
}

fn encode_both() -> Case {
    let [k_codec, v_codec] = codecs();
    let [(k, k_rows), (v, v_rows)] = [encoded(k_codec, 11), encoded(v_codec, 12)];
    let [k_want, v_want] = [k.want(&k_rows), v.want(&v_rows)];
    let problem = quantize_k_and_v::Problem { k_bits: k_codec.bits, codec: v_codec };
    Case {
        variant: Variant::QuantizeKAndV(problem),
        fields: encoder_fields(&v),
        inputs: named([
            ("k", bytes(&k_rows)),
            ("v", bytes(&v_rows)),
            ("k_packed", vec![0xa5; SLOTS * row_bytes(&k_codec)]),
            ("k_norms", bytes(&vec![-1f32; SLOTS])),
            ("v_packed", vec![0xa5; SLOTS * row_bytes(&v_codec)]),
            ("v_norms", bytes(&vec![-1f32; SLOTS])),
        ]),
        judge: Box::new(move |out| {
            let k = k.judge(&k_want, &out["k_packed"], &floats(out, "k_norms"));
            let v = v.judge(&v_want, &out["v_packed"], &floats(out, "v_norms"));
            if k.pass() { v } else { k }
        }),
    }
}

fn store() -> Case {
    let (encoder, x) = encoded(codecs()[0], 13);
    let case = parity::store_kv::Case {
        head_dim: head_dim(),
        kv_type: KvType::F16,
        num_kv_heads: KV_HEADS,
        num_tokens: encoder.num_tokens,
        capacity: CAPACITY,
        write_pos: encoder.write_pos,
        sliding: true,
        amplitude: 1.0,
        seed: 13,
    };
    let want = case.want(&x);
    Case {
        variant: Variant::StoreKv(store_kv::Problem {
            head_dim: case.head_dim,
            kv_type: case.kv_type,
        }),
        fields: encoder_fields(&encoder),
        inputs: named([("src", bytes(&x)), ("rows", vec![0xa5; SLOTS * D as usize * 2])]),
        judge: Box::new(move |out| case.judge(&want, &out["rows"])),
    }
}

fn cache(codec: &Codec, seed: u64) -> PackedCache {
    let rows = Gaussian::new(seed).normals((KV_HEADS * LENGTH * D) as usize);
    let ring = Ring::new(CAPACITY, START, LENGTH).unwrap();
    PackedCache::encode(codec, ring, KV_HEADS, &rows, seed)
}

fn decode(codec: Codec) -> Case {
    let cache = cache(&codec, 3);
    let params = DequantizeKvParams {
        head_dim: D,
        num_kv_heads: KV_HEADS,
        read_pos: START,
        cache_capacity: CAPACITY,
        norms_per_pos: 1,
        scale_factor_d512: 1.0,
        num_tokens: LENGTH,
        dst_token_stride: KV_HEADS * D,
        dst_head_stride: D,
    };
    let want =
        oracle::dequantize_kv::dequantize_kv(&codec, &params, &cache.packed, &cache.norms).unwrap();
    let mut fields = integers([
        ("head_dim", D),
        ("num_kv_heads", KV_HEADS),
        ("read_pos", START),
        ("cache_capacity", CAPACITY),
        ("norms_per_pos", 1),
        ("num_tokens", LENGTH),
        ("dst_token_stride", KV_HEADS * D),
        ("dst_head_stride", D),
    ]);
    fields.insert("scale_factor_d512", Number::F32(1.0));
    Case {
        variant: Variant::DequantizeKv(dequantize_kv::Problem { codec }),
        fields,
        inputs: named([("packed", cache.packed), ("norms", bytes(&cache.norms))]),
        judge: Box::new(move |out| {
            judge(&floats(out, "dst"), &want, D as usize, 6.0 * parity::ROUNDOFF)
        }),
    }
}

fn attention() -> (FlashAttnVecTqParams, Fields<'static>) {
    let params = FlashAttnVecTqParams {
        n_heads: HEADS,
        n_kv_heads: KV_HEADS,
        head_dim: D,
        kv_seq_len: LENGTH,
        kv_capacity: CAPACITY,
        scale: 0.09,
        mask_type: MASK_SLIDING,
        sliding_window: 33,
        softcap: 30.0,
        nwg: 1,
        ring_start: START,
        scale_factor_d512: 1.0,
    };
    let mut fields = integers([
        ("n_heads", HEADS),
        ("n_kv_heads", KV_HEADS),
        ("head_dim", D),
        ("kv_seq_len", LENGTH),
        ("kv_capacity", CAPACITY),
        ("mask_type", MASK_SLIDING),
        ("sliding_window", 33),
        ("nwg", 1),
        ("ring_start", START),
    ]);
    fields.insert("scale", Number::F32(params.scale));
    fields.insert("softcap", Number::F32(params.softcap));
    fields.insert("scale_factor_d512", Number::F32(1.0));
    (params, fields)
}

fn attend_packed() -> Case {
    let (params, fields) = attention();
    let [k_codec, v_codec] = codecs();
    let (k, v) = (cache(&k_codec, 4), cache(&v_codec, 5));
    let q = Gaussian::new(6).normals((HEADS * D) as usize);
    let (k_rows, v_rows) = (rows_of(k_codec, &k), rows_of(v_codec, &v));
    let want = oracle::flash_attn_vec_tq::flash_attn_vec_tq(&params, &q, k_rows, v_rows).unwrap();
    Case {
        variant: Variant::FlashAttnVecTq(flash_attn_vec_tq::Problem {
            k_bits: k_codec.bits,
            codec: v_codec,
            num_heads: HEADS / KV_HEADS,
            num_kv_heads: 1,
        }),
        fields,
        inputs: named([
            ("q", bytes(&q)),
            ("k_packed", k.packed),
            ("k_norms", bytes(&k.norms)),
            ("v_packed", v.packed),
            ("v_norms", bytes(&v.norms)),
        ]),
        judge: Box::new(move |out| judge(&floats(out, "dst"), &want, D as usize, ATTENTION_NRMSE)),
    }
}

fn rows_of(codec: Codec, cache: &PackedCache) -> PackedRows<'_> {
    PackedRows { codec, capacity: CAPACITY, packed: &cache.packed, norms: &cache.norms }
}

fn attend_dense() -> Case {
    let (params, mut fields) = attention();
    fields.remove("scale_factor_d512");
    let mut rng = Gaussian::new(7);
    let mut dense = || -> Vec<half::f16> {
        let values = rng.normals((KV_HEADS * CAPACITY * D) as usize);
        values.iter().map(|&x| half::f16::from_f32(x)).collect()
    };
    let (k, v) = (dense(), dense());
    let q = rng.normals((HEADS * D) as usize);
    let want = oracle::flash_attn_vec::flash_attn_vec(
        &params.into(),
        &q,
        DenseRows::F16(&k),
        DenseRows::F16(&v),
    )
    .unwrap();
    Case {
        variant: Variant::FlashAttnVec(flash_attn_vec::Problem {
            head_dim: head_dim(),
            kv_type: KvType::F16,
            num_heads: HEADS / KV_HEADS,
            num_kv_heads: 1,
        }),
        fields,
        inputs: named([("q", bytes(&q)), ("k", bytes(&k)), ("v", bytes(&v))]),
        judge: Box::new(move |out| judge(&floats(out, "dst"), &want, D as usize, ATTENTION_NRMSE)),
    }
}

fn reduce() -> Case {
    let params = FlashAttnVecReduceParams { nrows: 5, nwg: 7 };
    let values = partials_floats(params.nrows, D, params.nwg) as usize;
    let mut partials = Gaussian::new(8).normals(values);
    // The sums of the splits are positive; the rest may be anything.
    let sums = (params.nrows * D * params.nwg) as usize;
    partials[sums..].iter_mut().step_by(2).for_each(|s| *s = s.abs() + 1.0);
    let want = oracle::flash_attn_vec_reduce::flash_attn_vec_reduce(&params, D, &partials).unwrap();
    Case {
        variant: Variant::FlashAttnVecReduce(flash_attn_vec_reduce::Problem {
            head_dim: head_dim(),
        }),
        fields: integers([("nrows", params.nrows), ("nwg", params.nwg)]),
        inputs: named([("partials", bytes(&partials))]),
        judge: Box::new(move |out| judge(&floats(out, "dst"), &want, D as usize, ATTENTION_NRMSE)),
    }
}

/// Slots of a page.
const PAGE: u32 = 16;
/// Pages, of which the blocks of two sequences take five.
const PAGES: u32 = 7;

/// The records and the block table of two sequences with `num_tokens` query tokens, four of them
/// the second's.
pub fn batch(num_tokens: u32) -> ([TileSequence; 2], [u32; 5]) {
    let first = TileSequence {
        first_token: 0,
        query_tokens: num_tokens - 4,
        position: LENGTH - 9,
        kv_seq_len: LENGTH,
        ring_start: START,
        kv_capacity: CAPACITY,
        first_block: 0,
    };
    let second = TileSequence {
        first_token: first.query_tokens,
        query_tokens: 4,
        position: 16,
        kv_seq_len: 20,
        ring_start: 5,
        kv_capacity: 20,
        first_block: 3,
    };
    ([first, second], [4, 0, 6, 2, 5])
}

fn attend_tiles() -> Case {
    let params = FlashAttnTileParams {
        n_heads: HEADS,
        n_kv_heads: KV_HEADS,
        head_dim: D,
        num_tokens: 13,
        num_sequences: 2,
        max_query_tokens: 9,
        page_size: PAGE,
        num_pages: PAGES,
        num_blocks: 5,
        scale: 0.09,
        mask_type: MASK_SLIDING,
        sliding_window: 33,
        softcap: 30.0,
        nwg: 1,
        split_base: 0,
        splits: 1,
        scale_factor_d512: 1.0,
    };
    let (sequences, block_table) = batch(params.num_tokens);
    let mut rng = Gaussian::new(9);
    // Every slot of every page holds something.
    let mut cache = |codec: &Codec| {
        let rows = (PAGES * KV_HEADS * PAGE) as usize;
        let mut cache = PackedCache::empty(codec, rows, 9);
        (0..rows).for_each(|at| cache.put(codec, at, &rng.normals(D as usize)));
        cache
    };
    let [k_codec, v_codec] = codecs();
    let (k, v) = (cache(&k_codec), cache(&v_codec));
    let q = rng.normals((params.num_tokens * HEADS * D) as usize);
    let pages = |rows| Pages::Packed(PackedRows { capacity: PAGE, ..rows });
    let inputs = Inputs {
        sequences: &sequences,
        block_table: &block_table,
        q: &q,
        k: pages(rows_of(k_codec, &k)),
        v: pages(rows_of(v_codec, &v)),
    };
    let want = oracle::flash_attn_tile::flash_attn_tile(&params, &inputs).unwrap();
    Case {
        variant: Variant::FlashAttnTile(flash_attn_tile::Problem {
            head_dim: head_dim(),
            k: KeyFormat::Tq(k_codec.bits),
            v: KeyFormat::Tq(v_codec.bits),
            num_heads: HEADS / KV_HEADS,
            num_kv_heads: 1,
        }),
        fields: tile_fields(&params),
        inputs: named([
            ("q", bytes(&q)),
            ("sequences", bytes(&sequences)),
            ("block_table", bytes(&block_table)),
            ("k", k.packed),
            ("k_norms", bytes(&k.norms)),
            ("v", v.packed),
            ("v_norms", bytes(&v.norms)),
        ]),
        judge: Box::new(move |out| judge(&floats(out, "dst"), &want, D as usize, ATTENTION_NRMSE)),
    }
}

fn tile_fields(p: &FlashAttnTileParams) -> Fields<'static> {
    let mut fields = integers([
        ("n_heads", p.n_heads),
        ("n_kv_heads", p.n_kv_heads),
        ("head_dim", p.head_dim),
        ("num_tokens", p.num_tokens),
        ("num_sequences", p.num_sequences),
        ("max_query_tokens", p.max_query_tokens),
        ("page_size", p.page_size),
        ("num_pages", p.num_pages),
        ("num_blocks", p.num_blocks),
        ("mask_type", p.mask_type),
        ("sliding_window", p.sliding_window),
        ("nwg", p.nwg),
        ("split_base", p.split_base),
        ("splits", p.splits),
    ]);
    fields.insert("scale", Number::F32(p.scale));
    fields.insert("softcap", Number::F32(p.softcap));
    fields.insert("scale_factor_d512", Number::F32(p.scale_factor_d512));
    fields
}
