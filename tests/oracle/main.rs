//! The oracles against independent numbers and against each other.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]

mod codec;

use std::path::PathBuf;

use wgtq::codec::{Bits, Codec, Direction, HeadDim, Ring, Rotation, row};
use wgtq::oracle::dequantize_kv::PackedRows;
use wgtq::oracle::flash_attn_vec::{DenseRows, flash_attn_vec};
use wgtq::oracle::flash_attn_vec_reduce::flash_attn_vec_reduce;
use wgtq::oracle::flash_attn_vec_tq::{dequantizing_attention, flash_attn_vec_tq};
use wgtq::oracle::fwht::rotate_rows;
use wgtq::oracle::quantize_kv::{encode, quantize_kv};
use wgtq::params::*;

fn data(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(name: &str) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&data(name))
}

/// A stream of N(0, 1) samples: Box-Muller on a linear congruence.
fn normals(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut pair = || {
        let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
        let (sin, cos) = (2.0 * std::f64::consts::PI * uniform()).sin_cos();
        [(radius * cos) as f32, (radius * sin) as f32]
    };
    let mut out: Vec<f32> = (0..count.div_ceil(2)).flat_map(|_| pair()).collect();
    out.truncate(count);
    out
}

fn nrmse(a: &[f64], b: &[f64]) -> f64 {
    let error: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    (error / b.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

const SMOLLM2: FlashAttnVecTqParams = FlashAttnVecTqParams {
    n_heads: 9,
    n_kv_heads: 3,
    head_dim: 64,
    kv_seq_len: 400,
    kv_capacity: 416,
    scale: 0.125,
    mask_type: MASK_CAUSAL,
    sliding_window: 0,
    softcap: 0.0,
    nwg: 1,
    ring_start: 0,
    scale_factor_d512: 1.0,
};

/// Real captures of SmolLM2 in tests/data: name, positions, slots, slot of the oldest.
const CAPTURES: [(&str, u32, u32, u32); 6] = [
    ("smollm2-l02-n96", 96, 112, 40),
    ("smollm2-l15-n96", 96, 112, 40),
    ("smollm2-l28-n96", 96, 112, 40),
    ("smollm2-l02-n400", 400, 416, 0),
    ("smollm2-l15-n400", 400, 416, 0),
    ("smollm2-l28-n400", 400, 416, 0),
];

/// `expected_dequant.f64.bin` was computed by an independent program, tests/data/expected.py, in f64
/// throughout, as the oracle is: they may part by the rounding of sums of 64 and of 400 terms.
#[test]
fn dequantizing_oracle_reproduces_the_independent_program_on_real_captures() {
    let codec = Codec::new(HeadDim::ALL[0], Bits::B4, Rotation::Plain);
    for (layer, kv_seq_len, capacity, ring_start) in CAPTURES {
        let p = FlashAttnVecTqParams { kv_seq_len, kv_capacity: capacity, ring_start, ..SMOLLM2 };
        let file = |name: &str| format!("{layer}/{name}");
        let (k, kn) = (data(&file("k_packed.u8.bin")), floats(&file("k_norms.f32.bin")));
        let (v, vn) = (data(&file("v_packed.u8.bin")), floats(&file("v_norms.f32.bin")));
        let side = |packed, norms| PackedRows { codec, capacity, packed, norms };
        let q = floats(&file("q.f32.bin"));
        let got = dequantizing_attention(&p, &q, side(&k, &kn), side(&v, &vn)).unwrap();
        let want: Vec<f64> = bytemuck::pod_collect_to_vec(&data(&file("expected_dequant.f64.bin")));
        assert!(nrmse(&got, &want) < 1e-13, "{layer}: {:e}", nrmse(&got, &want));
    }
}

/// What README says of the captures: attention's weights are relative to a first tile, and no score of a
/// head is so far above another (32) that positions would have to be gone through again.
#[test]
fn scores_of_a_captured_head_lie_within_22_of_each_other() {
    let mut widest = 0.0_f64;
    for (layer, kv_seq_len, _, _) in CAPTURES {
        let q = floats(&format!("{layer}/q.f32.bin"));
        let k = floats(&format!("{layer}/k_full.f32.bin"));
        for (head, q) in q.chunks_exact(64).enumerate() {
            let rows = k.chunks_exact(64).skip(head / 3 * kv_seq_len as usize);
            let dot = |row: &[f32]| -> f64 {
                row.iter().zip(q).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum()
            };
            let scores = rows.take(kv_seq_len as usize).map(|row| 0.125 * dot(row));
            let span = |(low, high): (f64, f64), s: f64| (low.min(s), high.max(s));
            let (low, high) = scores.fold((f64::INFINITY, f64::NEG_INFINITY), span);
            widest = widest.max(high - low);
        }
    }
    assert!((21.0..22.0).contains(&widest), "{widest}");
}

/// Encoding the unquantised rows must give the captured codes and norms, which
/// tests/data/expected.py has checked as well.
#[test]
fn encoder_reproduces_the_captured_codes() {
    for (layer, n, capacity, ring_start) in CAPTURES {
        let ring = Ring::new(capacity, ring_start, n).unwrap();
        for side in ["k", "v"] {
            let rows = floats(&format!("{layer}/{side}_full.f32.bin"));
            let packed = data(&format!("{layer}/{side}_packed.u8.bin"));
            let norms = floats(&format!("{layer}/{side}_norms.f32.bin"));
            for (head, rows) in rows.chunks_exact(n as usize * 64).enumerate() {
                for (i, x) in (0..n).zip(rows.chunks_exact(64)) {
                    let slot = head * capacity as usize + ring.slot(i) as usize;
                    let (codes, norm) = (&packed[slot * 32..][..32], norms[slot]);
                    encodes_to(x, codes, norm, &format!("{layer} {side} head {head} token {i}"));
                }
            }
        }
    }
}

fn encodes_to(x: &[f32], packed: &[u8], norm: f32, what: &str) {
    let codec = Codec::new(HeadDim::ALL[0], Bits::B4, Rotation::Plain);
    let encoded = encode(&codec, x);
    let mut bytes = [0; 32];
    row::pack(codec.bits, &encoded.codes, &mut bytes);
    assert_eq!(bytes, packed, "{what}");
    let ulps = wgtq::metrics::ulp_distance(encoded.norms[0] as f32, norm);
    assert!(ulps <= 1, "{what}: norm off by {ulps} ulp");
}

/// `<H s q, H s k> = <q, k>`: attending in the rotated basis and un-rotating is the same thing.
#[test]
fn rotated_attention_un_rotates_to_the_dequantising_one() {
    for head_dim in HeadDim::ALL {
        for rotation in [Rotation::Plain, Rotation::Srht] {
            let codec = Codec::new(head_dim, Bits::B4, rotation);
            let (p, k, v, q) = random_case(codec);
            let side = |s: &'static str| {
                let (packed, norms) = if s == "k" { &k } else { &v };
                PackedRows { codec, capacity: p.kv_capacity, packed, norms }
            };
            let want = dequantizing_attention(&p, &q, side("k"), side("v")).unwrap();
            let rotated = rotate_rows(rotation, Direction::Forward, head_dim.as_usize(), &q);
            let rotated: Vec<f32> = rotated.iter().map(|&x| x as f32).collect();
            let out = flash_attn_vec_tq(&p, &rotated, side("k"), side("v")).unwrap();
            let out: Vec<f32> = out.iter().map(|&x| x as f32).collect();
            let got = rotate_rows(rotation, Direction::Inverse, head_dim.as_usize(), &out);
            // q and the output were rounded to f32 on the way.
            assert!(nrmse(&got, &want) < 1e-6, "{codec:?}: {:e}", nrmse(&got, &want));
        }
    }
}

type Side = (Vec<u8>, Vec<f32>);

fn random_case(codec: Codec) -> (FlashAttnVecTqParams, Side, Side, Vec<f32>) {
    let d = codec.head_dim.get();
    let p = FlashAttnVecTqParams {
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: d,
        kv_seq_len: 20,
        kv_capacity: 24,
        scale: 1.0 / (d as f32).sqrt(),
        ring_start: 13,
        ..SMOLLM2
    };
    let side = |seed| {
        let rows = 2 * 24;
        let mut packed = vec![0; rows * row::row_bytes(codec.head_dim, codec.bits) as usize];
        let mut norms = vec![0.0; rows * codec.head_dim.norms_per_pos() as usize];
        let params = QuantizeKvParams {
            head_dim: d,
            num_kv_heads: 2,
            write_pos: 13,
            cache_capacity: 24,
            is_sliding: 1,
            scale_factor_d512: 1.0,
            rms_probe_enabled: 0,
            num_tokens: 20,
        };
        let src = normals(seed, 20 * 2 * d as usize);
        quantize_kv(&codec, &params, &src, &mut packed, &mut norms).unwrap();
        (packed, norms)
    };
    (p, side(1), side(2), normals(3, 4 * d as usize))
}

#[test]
fn splits_merge_to_the_unsplit_result() {
    let codec = Codec::new(HeadDim::ALL[1], Bits::B4, Rotation::Plain);
    let (p, k, v, q) = random_case(codec);
    let side = |s: &'static str| {
        let (packed, norms) = if s == "k" { &k } else { &v };
        PackedRows { codec, capacity: 24, packed, norms }
    };
    let want = flash_attn_vec_tq(&p, &q, side("k"), side("v")).unwrap();
    for nwg in [2, 7, 32] {
        let split = FlashAttnVecTqParams { nwg, ..p };
        let partials = flash_attn_vec_tq(&split, &q, side("k"), side("v")).unwrap();
        let partials: Vec<f32> = partials.iter().map(|&x| x as f32).collect();
        let reduce = FlashAttnVecReduceParams { nrows: 4, nwg };
        let got = flash_attn_vec_reduce(&reduce, 128, &partials).unwrap();
        assert!(nrmse(&got, &want) < 1e-6, "nwg {nwg}: {:e}", nrmse(&got, &want));
    }
}

/// Dense attention written out as the textbook does, on a case small enough to see.
#[test]
fn dense_oracle_is_softmax_attention() {
    let d = 64;
    let p = FlashAttnVecParams {
        n_heads: 1,
        n_kv_heads: 1,
        kv_seq_len: 3,
        kv_capacity: 4,
        ring_start: 2,
        softcap: 5.0,
        ..SMOLLM2.into()
    };
    let (q, k, v) = (normals(1, d), normals(2, 4 * d), normals(3, 4 * d));
    let order = [2usize, 3, 0];
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let scores: Vec<f64> = order
        .iter()
        .map(|&s| 5.0 * (dot(&q, &k[s * d..(s + 1) * d]) * 0.125 / 5.0).tanh())
        .collect();
    let total: f64 = scores.iter().map(|s| s.exp()).sum();
    let want: Vec<f64> = (0..d)
        .map(|c| {
            order.iter().zip(&scores).map(|(&s, x)| x.exp() / total * f64::from(v[s * d + c])).sum()
        })
        .collect();
    let got = flash_attn_vec(&p, &q, DenseRows::F32(&k), DenseRows::F32(&v)).unwrap();
    assert!(nrmse(&got, &want) < 1e-14);
}

#[test]
fn a_head_with_nothing_visible_is_zeros() {
    let p = FlashAttnVecParams {
        n_heads: 1,
        n_kv_heads: 1,
        kv_seq_len: 0,
        kv_capacity: 1,
        ..SMOLLM2.into()
    };
    let row = vec![1.0; 64];
    let got = flash_attn_vec(&p, &row, DenseRows::F32(&row), DenseRows::F32(&row)).unwrap();
    assert_eq!(got, vec![0.0; 64]);
}

#[test]
fn parameters_no_kernel_can_run_are_refused_by_field() {
    let check = |p: FlashAttnVecTqParams| p.check().unwrap_err().to_string();
    let cases: [(FlashAttnVecTqParams, &str); 12] = [
        (FlashAttnVecTqParams { head_dim: 100, ..SMOLLM2 }, "head_dim"),
        (FlashAttnVecTqParams { n_kv_heads: 0, ..SMOLLM2 }, "num_kv_heads"),
        (FlashAttnVecTqParams { n_heads: 10, ..SMOLLM2 }, "num_heads"),
        (FlashAttnVecTqParams { kv_seq_len: 417, ..SMOLLM2 }, "kv_seq_len"),
        (FlashAttnVecTqParams { ring_start: 416, ..SMOLLM2 }, "ring_start"),
        (FlashAttnVecTqParams { kv_capacity: 0, ..SMOLLM2 }, "kv_capacity"),
        (FlashAttnVecTqParams { kv_capacity: u32::MAX, ..SMOLLM2 }, "kv_capacity"),
        (FlashAttnVecTqParams { scale: f32::NAN, ..SMOLLM2 }, "scale"),
        (FlashAttnVecTqParams { scale: -1.0, ..SMOLLM2 }, "scale"),
        (FlashAttnVecTqParams { softcap: -1.0, ..SMOLLM2 }, "softcap"),
        (FlashAttnVecTqParams { mask_type: 3, ..SMOLLM2 }, "mask_type"),
        (FlashAttnVecTqParams { nwg: 0, ..SMOLLM2 }, "nwg"),
    ];
    for (params, field) in cases {
        assert!(check(params).starts_with(field), "{}", check(params));
    }
    assert!(Ring::new(4, 0, 4).is_ok());
}
