//! The comparators are tested too: each must reject something that is known to be wrong.

use wgtq::codec::{Bits, Codec, HeadDim, Rotation, codebook};
use wgtq::contract::Contract;
use wgtq::gpu::device::{Gpu, Selection};
use wgtq::kernels::Context;
use wgtq::legs::{LegName, WgpuLeg};
use wgtq::oracle::quantize_kv::{quantize_kv, stored_norms};
use wgtq::params::QuantizeKvParams;
use wgtq::parity::quantize_kv::{CORRECTED_NORM_ULPS, Case};
use wgtq::parity::{self, ATTENTION_NRMSE, Case as _, judge};
use wgtq::rng::Gaussian;

fn reference() -> (Vec<f32>, Vec<f64>) {
    let x = Gaussian::new(1).normals(256);
    let want = x.iter().map(|&x| f64::from(x)).collect();
    (x, want)
}

#[test]
fn attention_judge_accepts_the_reference_itself() {
    let (x, want) = reference();
    assert!(judge(&x, &want, 64, ATTENTION_NRMSE).pass());
}

#[test]
fn attention_judge_rejects_a_swapped_pair_a_zeroed_row_and_a_small_shift() {
    let (x, want) = reference();
    type Breakage = fn(&mut Vec<f32>);
    let broken: [(&str, Breakage); 4] = [
        ("swapped pair", |x| x.swap(3, 4)),
        ("zeroed row", |x| x[64..128].fill(0.0)),
        ("row taken from its neighbour", |x| x.copy_within(0..64, 64)),
        ("shift of a thousandth", |x| x[0] += 1e-3),
    ];
    for (name, breakage) in broken {
        let mut x = x.clone();
        breakage(&mut x);
        assert!(!judge(&x, &want, 64, ATTENTION_NRMSE).pass(), "{name}");
    }
}

#[test]
fn attention_judge_rejects_nan_infinity_and_zeros_for_anything_else() {
    let (x, want) = reference();
    for value in [f32::NAN, f32::INFINITY] {
        let mut x = x.clone();
        x[200] = value;
        assert!(!judge(&x, &want, 64, ATTENTION_NRMSE).pass(), "{value}");
    }
    assert!(!judge(&[1e-30; 4], &[0.0; 4], 4, ATTENTION_NRMSE).pass());
    assert!(judge(&[0.0; 4], &[0.0; 4], 4, ATTENTION_NRMSE).pass());
    assert!(!judge(&[1.0; 3], &[1.0; 4], 4, ATTENTION_NRMSE).pass());
}

/// Three tokens of two KV heads in slots 1 to 3 of 5, as the oracle writes them.
struct Written {
    case: Case,
    src: Vec<f32>,
    packed: Vec<u8>,
    norms: Vec<f32>,
}

impl Written {
    fn new(codec: Codec) -> Self {
        let case = Case {
            codec,
            num_kv_heads: 2,
            num_tokens: 3,
            capacity: 5,
            write_pos: 1,
            sliding: false,
            amplitude: 1.0,
            seed: 4,
        };
        let src = Gaussian::new(case.seed).normals(3 * 2 * 128);
        let (mut packed, mut norms) = (vec![0xa5; 10 * 64], vec![-1.0; 10]);
        let params = QuantizeKvParams {
            head_dim: 128,
            num_kv_heads: 2,
            write_pos: 1,
            cache_capacity: 5,
            is_sliding: 0,
            scale_factor_d512: 1.0,
            rms_probe_enabled: 0,
            num_tokens: 3,
        };
        quantize_kv(&codec, &params, &src, &mut packed, &mut norms).expect("valid parameters");
        Self { case, src, packed, norms }
    }
}

#[test]
fn quantize_judge_rejects_one_flipped_code_one_norm_and_a_touched_neighbour() {
    let codec = Codec::new(HeadDim::ALL[1], Bits::B4, Rotation::Plain);
    let Written { case, src, packed, norms } = Written::new(codec);
    let want = case.want(&src);
    assert!(case.judge(&want, &packed, &norms).pass());

    let (packed_good, norms_good) = (packed.clone(), norms.clone());
    let reject = |name: &str, at: usize, norm: Option<f32>| {
        let (mut packed, mut norms) = (packed.clone(), norms.clone());
        match norm {
            Some(norm) => norms[at] = norm,
            None => packed[at] ^= 0x10,
        }
        assert!(!case.judge(&want, &packed, &norms).pass(), "{name}");
        let good = (&*packed_good, &*norms_good);
        assert!(!case.judge_pair(&want, good, (&packed, &norms)).pass(), "{name}, as a pair");
    };
    reject("code of a written row", 64 + 7, None);
    reject("byte of the row before", 63, None);
    reject("byte of the row after", 4 * 64, None);
    reject("norm 5 ulp off", 1, Some(f32::from_bits(norms[1].to_bits() + 5)));
    reject("NaN norm", 1, Some(f32::NAN));
    reject("norm of an untouched row", 0, Some(1.0));
}

/// A corrected norm depends on the codes: beside a code that is excused, only the norm that belongs
/// to that code is right.
#[test]
fn quantize_judge_takes_a_corrected_norm_by_the_codes_it_lies_beside() {
    let plain = Codec::new(HeadDim::ALL[1], Bits::B4, Rotation::Plain);
    let codec = Codec { norm_correction: true, ..plain };
    let Written { case, src, packed, norms } = Written::new(codec);
    let mut want = case.want(&src);
    let with_norm = |norm: f64| [&norms[..1], &[norm as f32], &norms[2..]].concat();
    assert!(case.judge(&want, &packed, &norms).pass());
    let row = want[1].as_mut().unwrap();
    let ulps_off = f32::from_bits(norms[1].to_bits() + CORRECTED_NORM_ULPS + 1);
    let block_norm = row.block_norms[0];

    // Row 1 as it is when its first coordinate lies on the boundary above its code, and is rounded up.
    row.z[0] = f64::from(codebook::boundaries(codec.bits)[usize::from(row.codes[0])]);
    let codes = [&[row.codes[0] + 1], &row.codes[1..]].concat();
    let norm = stored_norms(&codec, &row.block_norms, &codes)[0];
    let (mut excused, excused_norms) = (packed.clone(), with_norm(norm));
    excused[64] += 1;

    let good = [(&packed, &norms), (&excused, &excused_norms)];
    for (packed, norms) in good {
        assert!(case.judge(&want, packed, norms).pass());
        for (other, other_norms) in good {
            assert!(case.judge_pair(&want, (packed, norms), (other, other_norms)).pass());
        }
    }
    for (name, packed, norm) in [
        ("norm without correction", &packed, block_norm),
        ("norm 12 ulp off", &packed, f64::from(ulps_off)),
        ("norm of the other codes", &packed, norm),
        ("norm of the oracle's codes beside others", &excused, f64::from(norms[1])),
        ("NaN norm", &excused, f64::NAN),
    ] {
        let norms = with_norm(norm);
        assert!(!case.judge(&want, packed, &norms).pass(), "{name}");
        for (other, other_norms) in good {
            let pair = case.judge_pair(&want, (packed, &norms), (other, other_norms));
            assert!(!pair.pass(), "{name}, as a pair");
        }
    }
}

/// One token of each kernel changed: every one of these must be seen.
const MUTATIONS: &[(&str, &str, &str)] = &[
    ("fwht", "t), INV_SQRT_HEAD_DIM", "t), 1.0001 * INV_SQRT_HEAD_DIM"),
    ("fwht", "pass_near(get_near(local_row, t))", "pass_near(get_wide(local_row, t))"),
    ("fwht", "ROW_THREADS] = x[m]", "ROW_THREADS] = x[m ^ 1u]"),
    ("quantize_kv", "own_words(codes, BITS)", "own_words(codes, BITS - 1u)"),
    ("quantize_kv", "encode_scale(norm,", "encode_scale(2.0 * norm,"),
    ("quantize_kv", "params.num_tokens - at.token", "params.num_tokens - at.token + 1u"),
    ("quantize_kv", "corrected_norm(norm, decoded,", "corrected_norm(norm, squares[tid],"),
    ("quantize_kv", "block) / f32(EPT)", "block) / f32(ROW_THREADS)"),
    ("quantize_kv", "+ w] = words[w]", "+ w] = words[0u]"),
    ("quantize_kv", "load(at.row + step.row, rows, t)", "load(at.row, rows, t)"),
    ("quantize_kv", "turn * step.row < rows", "turn * step.row < rows - step.row"),
    ("quantize_kv", "at = next_row(at, step, params.num_kv_heads);", "at.row += step.row;"),
    ("quantize_k_and_v", "fill_table(tid, V_BASE,", "fill_table(tid, 0u,"),
    ("quantize_k_and_v", "scale, K_GUESS", "scale, V_GUESS"),
    ("quantize_k_and_v", "workgroup.z == 0u", "workgroup.z == 1u || true"),
    ("quantize_k_and_v", "= v[first", "= k[first"),
    ("quantize_k_and_v", "own_words(codes, K_BITS)", "own_words(codes, V_BITS)"),
    ("quantize_k_and_v", "v_norms[stored", "k_norms[stored"),
    ("quantize_k_and_v", "load(is_k, at.row + step.row,", "load(is_k, at.row,"),
    ("store_kv", "pack2x16float(x.zw)", "pack2x16float(x.xy)"),
    ("store_kv", "params.num_tokens - token >", "params.num_tokens - token + 1u >"),
    ("dequantize_kv", "bit % 32u + 4u * BITS, BITS)", "bit % 32u + 3u * BITS, BITS)"),
    ("flash_attn_vec_tq", "query[h * VECS + i] = q[", "query[h * VECS] = q["),
    ("flash_attn_vec_tq", "min(position, end - 1u)", "min(position, end)"),
    ("flash_attn_vec_tq", "base + TILE, end, kv_head)", "base, end, kv_head)"),
    ("flash_attn_vec_tq", "turn == 0u && base == begin", "turn == 0u && base != begin"),
    ("flash_attn_vec_tq", "again = some_rise(in, &running);", ""),
    ("flash_attn_vec_tq", "set_top(in, highest, &running);", ""),
    ("flash_attn_vec_tq", "running = nothing_seen(start);", ""),
    (
        "flash_attn_vec_tq",
        "&running);\n                next = tile_at(tid, begin, end, kv_head);",
        "&running);",
    ),
    (
        "flash_attn_vec_tq",
        "min(begin + span, params.kv_seq_len)",
        "min(begin + span, params.kv_seq_len - 1u)",
    ),
    ("flash_attn_vec", "sum[h] *= rescale", "sum[h] /= rescale"),
    ("flash_attn_vec", "params.ring_start, params.kv_capacity);", "0u, params.kv_capacity);"),
    ("flash_attn_vec_reduce", "total / sum", "total * sum"),
    ("flash_attn_vec_reduce", "sum == 0.0)", "sum != 0.0)"),
    ("flash_attn_tile", "sum[r] *= rescale", "sum[r] /= rescale"),
    ("flash_attn_tile", "min(base + tid, end - 1u)", "min(base + tid, end)"),
    ("flash_attn_tile", "slot % params.page_size;", "slot;"),
    ("flash_attn_tile", "sequence.position + i / GQA)", "sequence.position + i)"),
    ("flash_attn_tile", "octet / NORM_OCTETS], params.scale", "0u], params.scale"),
    ("flash_attn_tile", "params.split_base + split;", "split;"),
];

/// Two sequences in pages, a window and splits, and rows with two norms.
fn tile() -> parity::flash_attn_tile::Case {
    use parity::flash_attn_tile::{Case, base, sequence};
    Case {
        sequences: vec![sequence(9, 50, 64, 40), sequence(3, 20, 40, 30)],
        page_size: Some(16),
        mask_type: 2,
        sliding_window: 40,
        score_sigma: 2.0,
        nwg: 3,
        split_base: 1,
        splits: 2,
        ..base(HeadDim::ALL[3])
    }
}

/// A ring that wraps, most of whose tokens are overwritten, and more rows than a grid takes at a time.
fn ring(codec: Codec) -> Case {
    Case {
        codec,
        num_kv_heads: 3,
        num_tokens: 3003,
        capacity: 4,
        write_pos: 3,
        sliding: true,
        amplitude: 1.0,
        seed: 2,
    }
}

/// A case of each kernel that its mutations must fail; `true` if the case passes.
fn passes(stem: &str, leg: &mut WgpuLeg) -> bool {
    let codec = Codec::new(HeadDim::ALL[1], Bits::B4, Rotation::Srht);
    let attention = parity::flash_attn_vec_tq::Case {
        context: Context::Long,
        k_bits: Bits::B4,
        codec,
        num_heads: 4,
        num_kv_heads: 2,
        kv_seq_len: 37,
        kv_capacity: 40,
        ring_start: 9,
        mask_type: 1,
        sliding_window: 0,
        softcap: 0.0,
        nwg: 1,
        weight_floor: 0.0,
        score_sigma: 2.0,
        seed: 6,
    };
    // With scores far above those of the first tile; many heads, some of which have their largest there.
    let peaked = parity::flash_attn_vec_tq::Case {
        num_heads: 48,
        num_kv_heads: 24,
        kv_seq_len: 300,
        kv_capacity: 320,
        score_sigma: 40.0,
        ..attention
    };
    let outcome = match stem {
        "fwht" => parity::fwht::Case {
            head_dim: HeadDim::ALL[1],
            rotation: Rotation::Srht,
            direction: wgtq::codec::Direction::Forward,
            rows: 3,
            seed: 1,
        }
        .run(leg),
        "quantize_kv" => ring(Codec { norm_correction: true, ..codec }).run(leg),
        "quantize_k_and_v" => parity::quantize_k_and_v::Case {
            k_bits: Bits::B8,
            v: ring(Codec { norm_correction: true, ..codec }),
        }
        .run(leg),
        "store_kv" => parity::store_kv::Case {
            head_dim: HeadDim::ALL[1],
            kv_type: wgtq::kernels::flash_attn_vec::KvType::F16,
            num_kv_heads: 2,
            num_tokens: 7,
            capacity: 4,
            write_pos: 3,
            sliding: true,
            amplitude: 1.0,
            seed: 2,
        }
        .run(leg),
        "dequantize_kv" => parity::dequantize_kv::Case {
            codec,
            num_kv_heads: 2,
            num_tokens: 3,
            capacity: 4,
            read_pos: 2,
            head_major: false,
            seed: 3,
        }
        .run(leg),
        "flash_attn_vec_tq" => attention
            .run(leg)
            .and_then(|outcome| if outcome.pass() { peaked.run(leg) } else { Ok(outcome) }),
        "flash_attn_vec" => parity::flash_attn_vec::Case {
            shape: attention,
            kv_type: wgtq::kernels::flash_attn_vec::KvType::F32,
        }
        .run(leg),
        "flash_attn_vec_reduce" => parity::flash_attn_vec_reduce::Case {
            head_dim: HeadDim::ALL[1],
            nrows: 3,
            nwg: 5,
            empty_every: 2,
            seed: 5,
        }
        .run(leg),
        "flash_attn_tile" => tile().run(leg),
        other => panic!("no case for {other}"),
    };
    // A kernel that writes past its end or leaves a value unwritten is caught as an error.
    outcome.is_ok_and(|o| o.pass())
}

/// Of the kernels that not every device runs; `tests/msl.rs` breaks their MSL.
const NATIVE: &[(&str, &str, &str)] = &[
    ("flash_attn_mat_tq", "min(position, end - 1u)", "min(position, end)"),
    ("flash_attn_mat_tq", "params.ring_start, params.kv_capacity);", "0u, params.kv_capacity);"),
    ("flash_attn_mat_tq", "let at = own * WEIGHTS + (p", "let at = (p"),
    ("flash_attn_mat_tq", "norms_at(base + TILE + weighed_first", "norms_at(base + weighed_first"),
    ("flash_attn_mat_tq", "exp(scores[b] - top[o])", "exp(scores[0] - top[o])"),
    ("flash_attn_mat_tq", "i * ROW_LANES * FOUR, decoded[i]);", "i * FOUR, decoded[i]);"),
    ("flash_attn_mat_tile", "slot % params.page_size;", "slot;"),
    (
        "flash_attn_mat_tile",
        "sequence.position + own_query / GQA)",
        "sequence.position + own_query)",
    ),
    ("flash_attn_mat_tile", "params.split_base + split;", "split;"),
    ("flash_attn_mat_tile", "r * NORMS_PER_POS / ROW_SUBGROUPS * FOURS", "0u"),
    (
        "flash_attn_mat_tile",
        "(group * NORMS_PER_POS + n) * WEIGHTS",
        "group * NORMS_PER_POS * WEIGHTS",
    ),
    ("flash_attn_mat_tile", "(i / BLOCK * TURN_ROW + row_subgroup", "(row_subgroup"),
    ("flash_attn_mat_tile", "base + BLOCK - located);", "base - located);"),
    ("flash_attn_mat_tile", "n * FOURS + (base - located) / 4u + four]));", "n * FOURS + four]));"),
    ("flash_attn_mat_tile", "sum *= factor;", ""),
    ("flash_attn_mat_tile", "get_sums(at) * factors[group", "get_sums(at) / factors[group"),
    ("flash_attn_mat_tile", "* factors[group * GROUP_QUERIES + j", "* factors[j"),
    (
        "flash_attn_mat_tile",
        "scores[f] = s;",
        "scores[f] = select(s, vec4(0.0), s == vec4(HIDDEN));",
    ),
    ("flash_attn_decode_tq", "params.ring_start, params.kv_capacity);", "0u, params.kv_capacity);"),
    ("flash_attn_decode_tq", "base + TILE, end, kv_head)", "base, end, kv_head)"),
    ("flash_attn_decode_tq", "again = some_rise(in, &running);", ""),
    ("flash_attn_decode_tq", "t)), INV_SQRT_HEAD_DIM", "t)), 1.0001 * INV_SQRT_HEAD_DIM"),
    ("flash_attn_decode_tq", "if (SIGN_AFTER)", "if (false)"),
    ("flash_attn_decode_tq", "pass_wide(get_wide(row, t))", "get_wide(row, t)"),
    ("flash_attn_decode_tq", "params.nwg - 1u) {", "params.nwg) {"),
    ("flash_attn_decode_tq", "atomicStore(&scratch.arrived[workgroup.x], 0u);", ""),
    (
        "flash_attn_decode_tq",
        "partials_at(first_head + h, split)",
        "partials_at(first_head + h, 0u)",
    ),
    ("flash_attn_decode_tq", ".xy, w + j < params.nwg)", ".xy, w + j + 1u < params.nwg)"),
    ("flash_attn_decode_tq", "w += SPLITS_AT_ONCE", "w += 2u * SPLITS_AT_ONCE"),
    ("flash_attn_decode_tq", "acc *= factor;", ""),
    ("flash_attn_decode_tq", "sum += weight * pairs[j].x", "sum += pairs[j].x"),
    (
        "flash_attn_decode_tq",
        "parts[j] = scratch.partials[at + f]",
        "parts[j] = scratch.partials[at]",
    ),
    ("flash_attn_decode_tq", "query[h * VECS + i] = q[", "query[h * VECS] = q["),
    ("flash_attn_decode_tq", "dst[first_head * HEAD_VECS + x] =", "dst[x] ="),
    (
        "flash_attn_decode_tq",
        "store_wide(local_row, t, head + local_row);",
        "store_wide(local_row, t, first_head);",
    ),
];

/// How the feature is named that kernels on matrices need.
const MATRICES: &str = "EXPERIMENTAL_COOPERATIVE_MATRIX";

/// Cases of a native kernel, one of which each of its mutations must fail; and what the device lacks
/// that refuses them.
fn native(stem: &str) -> (Vec<Box<dyn parity::Case>>, &'static str) {
    use parity::flash_attn_vec_tq::{Case as Shape, base};
    match stem {
        "flash_attn_mat_tq" => {
            let shape = Shape { nwg: 2, ring_start: 60, ..base(HeadDim::ALL[3]) };
            (vec![Box::new(parity::flash_attn_mat_tq::Case(shape))], MATRICES)
        }
        "flash_attn_mat_tile" => {
            use parity::flash_attn_tile::{Case as Shape, base, sequence};
            // More queries than lie beside each other on their way into matrices, and scores far above
            // those of the first block.
            let many =
                Shape { sequences: vec![sequence(37, 150, 200, 90)], ..base(HeadDim::ALL[0]) };
            let peaked = Shape { score_sigma: 16.0, ..many.clone() };
            let cases = [tile(), many, peaked].map(parity::flash_attn_mat_tile::Case);
            let boxed = |case| Box::new(case) as Box<dyn parity::Case>;
            (cases.map(boxed).into(), MATRICES)
        }
        "flash_attn_decode_tq" => {
            let base = base(HeadDim::ALL[3]);
            let codec = Codec { rotation: Rotation::Srht, ..base.codec };
            let shape = Shape { codec, score_sigma: 4.0, ..base };
            let peaked = Shape { kv_seq_len: 1000, kv_capacity: 1024, score_sigma: 40.0, ..shape };
            let of = |shape, after| -> Box<dyn parity::Case> {
                Box::new(parity::flash_attn_decode_tq::Case { shape, rotated: false, after })
            };
            let rotated = parity::flash_attn_decode_tq::Case {
                shape: Shape { nwg: 3, ..shape },
                rotated: true,
                after: Some(2),
            };
            let with = |nwg| Shape { nwg, ..shape };
            let cases = vec![
                of(with(1), None),
                of(with(3), Some(3)),
                of(with(33), None),
                of(peaked, None),
                Box::new(rotated),
            ];
            (cases, "storage barrier")
        }
        other => panic!("no case for {other}"),
    }
}

#[test]
fn every_native_kernel_has_a_mutation_and_every_mutation_is_caught() {
    if std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none") {
        return;
    }
    let gpu = Gpu::open(&Selection::default()).expect("a GPU, or WGTQ_GPU=none");
    let mut leg = WgpuLeg::on(LegName::Wgsl, gpu);
    for contract in wgtq::kernels::NATIVE {
        let (cases, lacks) = native(contract.stem);
        match cases[0].run(&mut leg) {
            Ok(_) => all_caught(contract, &cases, |text, case| {
                leg.replace_source(contract.stem, text);
                case.run(&mut leg)
            }),
            Err(error) => assert!(error.to_string().contains(lacks), "{error}"),
        }
    }
}

/// The same where every machine runs them: what naga makes of the WGSL for Metal, on the host.
#[cfg(feature = "msl-host")]
#[test]
fn every_mutation_of_matrices_is_caught_in_nagas_msl() {
    if std::env::var_os("WGTQ_CXX").is_some_and(|v| v == "none") {
        return;
    }
    let mut leg = wgtq::legs::MslHostLeg::open(LegName::WgslNagaMsl).expect("clang++ 19");
    for contract in wgtq::kernels::NATIVE {
        let (cases, lacks) = native(contract.stem);
        if lacks == MATRICES {
            all_caught(contract, &cases, |text, case| {
                leg.replace_source(contract.stem, text);
                case.run(&mut leg)
            });
        }
    }
}

/// Fails unless all cases pass with the kernel's own text, and with each of its mutations one does not.
fn all_caught(
    contract: &Contract,
    cases: &[Box<dyn parity::Case>],
    mut run: impl FnMut(&str, &dyn parity::Case) -> parity::CaseResult,
) {
    let mut passes =
        |text: &str| cases.iter().all(|case| run(text, case.as_ref()).is_ok_and(|o| o.pass()));
    assert!(passes(contract.wgsl), "{} fails before it is changed", contract.stem);
    let mutations: Vec<_> = NATIVE.iter().filter(|m| m.0 == contract.stem).collect();
    assert!(!mutations.is_empty(), "{} has none", contract.stem);
    for (stem, from, to) in mutations {
        assert!(contract.wgsl.contains(from), "{stem} does not contain {from:?}");
        let passed = passes(&contract.wgsl.replacen(from, to, 1));
        assert!(!passed, "{stem}: {from:?} -> {to:?} was not caught");
    }
}

#[test]
fn every_kernel_has_a_mutation_and_every_mutation_is_caught() {
    if std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none") {
        return;
    }
    for contract in wgtq::kernels::ALL {
        assert!(MUTATIONS.iter().any(|m| m.0 == contract.stem), "{} has none", contract.stem);
    }
    let gpu = Gpu::open(&Selection::default()).expect("a GPU, or WGTQ_GPU=none");
    let mut leg = WgpuLeg::on(LegName::Wgsl, gpu);
    for &(stem, from, to) in MUTATIONS {
        let contract = wgtq::kernels::ALL.iter().find(|c| c.stem == stem).unwrap();
        leg.replace_source(stem, contract.wgsl);
        assert!(passes(stem, &mut leg), "{stem} fails before it is changed");
        assert!(contract.wgsl.contains(from), "{stem} does not contain {from:?}");
        leg.replace_source(stem, &contract.wgsl.replacen(from, to, 1));
        assert!(!passes(stem, &mut leg), "{stem}: {from:?} -> {to:?} was not caught");
    }
}
