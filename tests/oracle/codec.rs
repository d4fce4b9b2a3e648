//! The codec at every width: rows, errors against theory, norm correction.

use proptest::prelude::*;
use rayon::prelude::*;
use wgtq::codec::{Bits, Codec, Direction, HeadDim, KvCodec, KvFormat, Rotation, codebook, row};
use wgtq::oracle::dequantize_kv::PackedRows;
use wgtq::oracle::flash_attn_vec::{DenseRows, flash_attn_vec};
use wgtq::oracle::flash_attn_vec_tq::dequantizing_attention;
use wgtq::oracle::fwht::rotate;
use wgtq::oracle::quantize_kv::encode;
use wgtq::params::FlashAttnVecTqParams;

use super::{SMOLLM2, normals, nrmse};

/// Written by an independent program: the bit stream of `(5 c^2 + 77 c + 1) mod 256` at 8 bits and of
/// `(c^2 + 3 c + 1) mod 2^b` else, c = 0 .. 31.
const FROZEN_ROWS: [(Bits, &str); 6] = [
    (Bits::B2, "f5f5f5f5f5f5f5f5"),
    (Bits::B3, "e9d6fce9d6fce9d6fce9d6fc"),
    (Bits::B4, "513b9d77d9b315ff513b9d77d9b315ff"),
    (Bits::B5, "a1acd9d33db98d5de37bb1eed1f2b9a9cf55c2ff"),
    (Bits::B6, "41b14c5d7a1f593b6c75f43e71b58f4d7e5e493faf65f87d"),
    (Bits::B8, "0153af1585ff8311a94bf7ad6d370be9d1c3bfc5d5ef134179bb075dbd279b19"),
];

#[test]
fn rows_are_the_frozen_bit_streams() {
    for (bits, want) in FROZEN_ROWS {
        let formula =
            |c: u32| if bits == Bits::B8 { 5 * c * c + 77 * c + 1 } else { c * c + 3 * c + 1 };
        let codes: Vec<u8> = (0..32).map(|c| (formula(c) % (1 << bits.get())) as u8).collect();
        let mut packed = vec![0xff; 4 * bits.get() as usize];
        row::pack(bits, &codes, &mut packed);
        let hex: String = packed.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, want, "{bits} bits");
    }
}

fn any_row() -> impl Strategy<Value = (Bits, HeadDim, Vec<u8>)> {
    let shape = (prop::sample::select(&Bits::ALL), prop::sample::select(&HeadDim::ALL));
    shape.prop_flat_map(|(bits, head_dim)| {
        let codes = prop::collection::vec(0..=(bits.levels() - 1) as u8, head_dim.as_usize());
        (Just(bits), Just(head_dim), codes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_read_back_what_was_packed((bits, head_dim, codes) in any_row()) {
        let mut packed = vec![0xff; row::row_bytes(head_dim, bits) as usize];
        row::pack(bits, &codes, &mut packed);
        prop_assert!(row::unpack(bits, &packed).eq(codes.iter().copied()));
        for (c, &code) in codes.iter().enumerate() {
            prop_assert_eq!(row::code(bits, &packed, c), code);
        }
    }

    /// The same codes from 32-bit words, the way a kernel reads them.
    #[test]
    fn word_places_find_every_code((bits, head_dim, codes) in any_row()) {
        let mut packed = vec![0; row::row_bytes(head_dim, bits) as usize];
        row::pack(bits, &codes, &mut packed);
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&packed);
        prop_assert_eq!(words.len() as u32, row::row_words(head_dim, bits));
        for (c, &code) in codes.iter().enumerate() {
            let place = row::word_place(bits, c as u32);
            let mut value = words[place.word as usize] >> place.shift;
            if place.straddles {
                value |= words[place.word as usize + 1] << (32 - place.shift);
            }
            prop_assert_eq!(value & ((1 << bits.get()) - 1), u32::from(code), "coordinate {}", c);
        }
    }
}

/// Vectors of the error measurements: their standard error is about 0.2 %.
const VECTORS: usize = 20_000;
/// How far a measured error may be from the expected one.
const MSE_TOLERANCE: f64 = 0.01;

fn close(found: f64, want: f64, tolerance: f64) -> bool {
    (found / want - 1.0).abs() < tolerance
}

/// Squared error and power of one vector, encoded, packed and decoded. `shift` is added to the
/// centroid of each code.
fn row_error(codec: &Codec, x: &[f32], shift: impl Fn(u8) -> f64) -> [f64; 2] {
    let encoded = encode(codec, x);
    let norms: Vec<f32> = encoded.norms.iter().map(|&n| n as f32).collect();
    let mut packed = vec![0; row::row_bytes(codec.head_dim, codec.bits) as usize];
    row::pack(codec.bits, &encoded.codes, &mut packed);
    let rows = PackedRows { codec: *codec, capacity: 1, packed: &packed, norms: &norms };
    let mut decoded = vec![0.0; x.len()];
    rows.decode_rotated(0, 0, &mut decoded);
    let block = codec.head_dim.norm_block() as usize;
    for (c, (y, &code)) in decoded.iter_mut().zip(&encoded.codes).enumerate() {
        *y += shift(code) * codec.decode_scale(f64::from(norms[c / block]));
    }
    rotate(codec.rotation, Direction::Inverse, &mut decoded);
    let error = decoded.iter().zip(x).map(|(a, &b)| (a - f64::from(b)).powi(2)).sum();
    [error, x.iter().map(|&x| f64::from(x).powi(2)).sum()]
}

/// Relative mean squared error over [`VECTORS`] iid Gaussian vectors.
fn relative_mse(codec: &Codec, shift: impl Fn(u8) -> f64 + Sync) -> f64 {
    const CHUNK: usize = 100;
    let d = codec.head_dim.as_usize();
    let chunk = |seed: usize| {
        let x = normals(seed as u64 + 1, CHUNK * d);
        x.chunks_exact(d).fold([0.0; 2], |sum, x| add(sum, row_error(codec, x, &shift)))
    };
    let [error, power] = (0..VECTORS / CHUNK).into_par_iter().map(chunk).reduce(|| [0.0; 2], add);
    error / power
}

fn add(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [a[0] + b[0], a[1] + b[1]]
}

/// Optima of codebooks made for each head dim, D = 64 .. 512; the one codebook is within 1 % of
/// them. At 6 and 8 bits only the limit for D without end is known independently; how near the one
/// codebook is to the optimum there, the codebook's own tests show.
fn optimum(bits: Bits, head_dim: HeadDim) -> Option<f64> {
    let column = HeadDim::ALL.iter().position(|d| *d == head_dim)?;
    Some(match bits {
        Bits::B2 => [0.1145, 0.1160, 0.1167, 0.1171][column],
        Bits::B3 => [0.0334, 0.0340, 0.0343, 0.0344][column],
        Bits::B4 => [0.009_13, 0.009_32, 0.009_41, 0.009_45][column],
        Bits::B5 => [0.002_40, 0.002_45, 0.002_48, 0.002_49][column],
        Bits::B6 | Bits::B8 => return None,
    })
}

#[test]
fn codec_error_is_the_theorys_at_every_width_and_head_dim() {
    for bits in Bits::ALL {
        for head_dim in HeadDim::ALL {
            let codec = Codec::new(head_dim, bits, Rotation::Srht);
            let found = relative_mse(&codec, |_| 0.0);
            let wants = [Some(codec.expected_mse()), optimum(bits, head_dim)];
            for want in wants.into_iter().flatten() {
                let good = close(found, want, MSE_TOLERANCE);
                assert!(good, "{bits} bits, D {head_dim}: {found:e}, want {want:e}");
            }
        }
    }
}

/// A table with one centroid twice, decoded from correct codes.
#[test]
fn the_error_bound_rejects_a_table_with_a_wrong_level() {
    for bits in Bits::ALL {
        let codec = Codec::new(HeadDim::ALL[1], bits, Rotation::Srht);
        let (table, middle) = (codebook::levels(bits), bits.levels() / 2);
        let wrong = f64::from(table[middle - 1]) - f64::from(table[middle]);
        let found =
            relative_mse(&codec, |code| if usize::from(code) == middle { wrong } else { 0.0 });
        let want = codec.expected_mse();
        assert!(!close(found, want, MSE_TOLERANCE), "{bits} bits: {found:e}, want {want:e}");
    }
}

#[test]
fn corrected_norms_make_every_decoded_block_as_long_as_it_was() {
    for bits in Bits::ALL {
        for head_dim in HeadDim::ALL {
            let plain =
                Codec { scale_factor_d512: 0.75, ..Codec::new(head_dim, bits, Rotation::Srht) };
            let codec = Codec { norm_correction: true, ..plain };
            let x = normals(5, head_dim.as_usize());
            let (encoded, uncorrected) = (encode(&codec, &x), encode(&plain, &x));
            assert_eq!(encoded.codes, uncorrected.codes);
            let block = head_dim.norm_block() as usize;
            for (b, codes) in encoded.codes.chunks_exact(block).enumerate() {
                let scale = codec.decode_scale(encoded.norms[b]);
                let table = codebook::levels(bits);
                let decoded: Vec<f64> =
                    codes.iter().map(|&c| f64::from(table[usize::from(c)]) * scale).collect();
                let (found, want) = (codec.norm_of(&decoded), uncorrected.norms[b]);
                assert!(close(found, want, 1e-12), "{bits} bits, D {head_dim}: {found} {want}");
            }
        }
    }
}

/// An independent program's figures at D = 128: it helps from 3 bits on and hurts at 2.
#[test]
fn norm_correction_has_the_error_it_has_elsewhere() {
    let known =
        [(Bits::B2, 0.1190), (Bits::B3, 0.0339), (Bits::B4, 0.009_18), (Bits::B5, 0.002_41)];
    for (bits, want) in known {
        let plain = Codec::new(HeadDim::ALL[1], bits, Rotation::Srht);
        let found = relative_mse(&Codec { norm_correction: true, ..plain }, |_| 0.0);
        assert!(close(found, want, MSE_TOLERANCE), "{bits} bits: {found:e}, want {want:e}");
    }
}

#[test]
fn a_zero_vector_stays_zero_with_corrected_norms() {
    let plain = Codec::new(HeadDim::ALL[3], Bits::B2, Rotation::Srht);
    let encoded = encode(&Codec { norm_correction: true, ..plain }, &[0.0; 512]);
    assert_eq!(encoded.norms, [0.0, 0.0]);
}

/// iid Gaussian K and V, and queries of length sqrt(D): scores have a standard deviation of 1.
const ATTENTION: FlashAttnVecTqParams = FlashAttnVecTqParams {
    n_heads: 32,
    n_kv_heads: 8,
    head_dim: 128,
    kv_seq_len: 4096,
    kv_capacity: 4096,
    scale: 0.088_388_346,
    ..SMOLLM2
};

struct AttentionData {
    q: Vec<f32>,
    /// `[nkv, n, D]`.
    k: Vec<f32>,
    v: Vec<f32>,
    output: Vec<f64>,
}

impl AttentionData {
    fn new() -> Self {
        let p = ATTENTION;
        let (d, rows) = (p.head_dim as usize, (p.n_kv_heads * p.kv_seq_len) as usize);
        let mut q = normals(1, p.n_heads as usize * d);
        for q in q.chunks_exact_mut(d) {
            let length = q.iter().map(|x| x * x).sum::<f32>().sqrt();
            q.iter_mut().for_each(|x| *x *= (d as f32).sqrt() / length);
        }
        let (k, v) = (normals(2, rows * d), normals(3, rows * d));
        let output = flash_attn_vec(&p.into(), &q, DenseRows::F32(&k), DenseRows::F32(&v)).unwrap();
        Self { q, k, v, output }
    }

    /// Error of the output with K and V encoded by `written` and decoded by `read`.
    fn error(&self, written: &KvCodec, read: &KvCodec) -> f64 {
        let key = |codec: &KvCodec| codec.key_codec().unwrap();
        let (k, v) = (encode_rows(key(written), &self.k), encode_rows(written.v, &self.v));
        let capacity = ATTENTION.kv_capacity;
        let k = PackedRows { codec: key(read), capacity, packed: &k.0, norms: &k.1 };
        let v = PackedRows { codec: read.v, capacity, packed: &v.0, norms: &v.1 };
        nrmse(&dequantizing_attention(&ATTENTION, &self.q, k, v).unwrap(), &self.output)
    }
}

fn encode_rows(codec: Codec, x: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let encoded: Vec<_> =
        x.par_chunks_exact(codec.head_dim.as_usize()).map(|x| encode(&codec, x)).collect();
    let bytes = row::row_bytes(codec.head_dim, codec.bits) as usize;
    let mut packed = vec![0; encoded.len() * bytes];
    for (row, encoded) in packed.chunks_exact_mut(bytes).zip(&encoded) {
        row::pack(codec.bits, &encoded.codes, row);
    }
    (packed, encoded.iter().flat_map(|e| &e.norms).map(|&n| n as f32).collect())
}

/// The closed form at a logit sigma of 1, `sqrt(e_K + e_V)`: first order in the errors.
fn closed_form(codec: &KvCodec) -> f64 {
    (codec.key_codec().unwrap().expected_mse() + codec.v.expected_mse()).sqrt()
}

fn kv_codec(format: &str, rotation: Rotation) -> KvCodec {
    format.parse::<KvFormat>().unwrap().codec(HeadDim::ALL[1], rotation)
}

/// How far a measured error of attention may be from the closed form.
const ATTENTION_TOLERANCE: f64 = 0.05;

#[test]
fn attention_error_is_the_closed_form() {
    let data = AttentionData::new();
    for format in ["k8v8", "k8v4", "k6v5", "k5v5", "k4v4", "k4v3", "k3v3", "k4v2"] {
        let codec = kv_codec(format, Rotation::Srht);
        let (found, want) = (data.error(&codec, &codec), closed_form(&codec));
        assert!(close(found, want, ATTENTION_TOLERANCE), "{format}: {found:.4}, want {want:.4}");
    }
}

#[test]
fn the_attention_bound_rejects_a_cache_read_with_another_rotation() {
    let data = AttentionData::new();
    let (srht, plain) = (kv_codec("k4v4", Rotation::Srht), kv_codec("k4v4", Rotation::Plain));
    let found = data.error(&srht, &plain);
    assert!(!close(found, closed_form(&srht), ATTENTION_TOLERANCE), "{found:.4}");
}
