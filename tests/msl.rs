//! Metal without a Mac: the native MSL, and the MSL that naga makes of the WGSL, executed and
//! checked on this machine. The checker itself is fed with wrong kernels in `tests/corpus.rs`.
//!
//! Needs clang++ 19 or newer. `WGTQ_CXX=none` is the explicit way to leave these tests out.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]

use std::path::Path;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;
use wgtq::codec::{Bits, Codec, Direction, HeadDim, KeyFormat, Rotation};
use wgtq::contract::{Caps, Contract, Language};
use wgtq::kernels;
use wgtq::kernels::Context;
use wgtq::kernels::flash_attn_vec::KvType;
use wgtq::legs::{Leg as _, LegName, MslHostLeg, Tape};
use wgtq::msl::dispatch::{LaneOrder, Mode};
use wgtq::msl::findings::Finding;
use wgtq::params::{FlashAttnTileParams, TileSequence};
use wgtq::parity::{
    Case, dequantize_kv, flash_attn_decode_tq, flash_attn_mat_tile, flash_attn_mat_tq,
    flash_attn_tile, flash_attn_vec, flash_attn_vec_reduce, flash_attn_vec_tq, fwht,
    quantize_k_and_v, quantize_kv, store_kv,
};

/// How a case ends on a kernel whose MSL is changed at one place: whether it passes, and the findings.
fn changed(contract: &Contract, case: &impl Case, from: &str, to: &str) -> (bool, Vec<Finding>) {
    assert!(contract.msl.contains(from), "{from}");
    let mut leg = MslHostLeg::open(LegName::MslHost).unwrap();
    leg.mode = Mode::CheckStrict;
    leg.replace_source(contract.stem, &contract.msl.replacen(from, to, 1));
    let outcome = case.run(&mut leg);
    (outcome.is_ok_and(|o| o.pass()), leg.findings)
}

fn without_clang() -> bool {
    std::env::var_os("WGTQ_CXX").is_some_and(|v| v == "none")
}

/// Every way to run a leg: lanes ahead in two orders, and close together; all checked.
const WAYS: [(Mode, LaneOrder); 3] = [
    (Mode::CheckStrict, LaneOrder::Ascending),
    (Mode::CheckStrict, LaneOrder::Descending),
    (Mode::CheckLockstep, LaneOrder::Ascending),
];

/// What Metal gives a threadgroup on every Apple GPU, in bytes.
const THREADGROUP_LIMIT: u64 = 32 << 10;

/// Runs a case on both forms of MSL, in every way; the result must be within its tolerance and
/// the checker must find nothing.
fn check(cases: &[impl Case]) {
    check_on(&[LegName::MslHost, LegName::WgslNagaMsl], cases);
}

/// The same on these legs.
fn check_on(names: &[LegName], cases: &[impl Case]) {
    if without_clang() {
        return;
    }
    for &name in names {
        let mut leg = MslHostLeg::open(name).expect("clang++ 19, or WGTQ_CXX=none");
        for case in cases {
            for (mode, order) in WAYS {
                (leg.mode, leg.order) = (mode, order);
                let o = case.run(&mut leg).unwrap_or_else(|e| {
                    panic!("{} {mode:?} {order:?}: {e}\n{case:#?}", name.as_str())
                });
                assert!(
                    o.pass(),
                    "{} {mode:?} {order:?}: {:.3e} over {:.3e}: {}\n{case:#?}",
                    name.as_str(),
                    o.error,
                    o.tolerance,
                    o.detail
                );
                assert_eq!(leg.findings, [], "{} {mode:?} {order:?}\n{case:#?}", name.as_str());
            }
        }
        let bytes = leg.max_threadgroup_bytes;
        assert!(
            bytes < THREADGROUP_LIMIT,
            "{} uses {bytes} bytes of threadgroup memory",
            name.as_str()
        );
    }
}

#[test]
fn fwht_is_right_and_clean() {
    let cases: Vec<fwht::Case> = HeadDim::ALL
        .into_iter()
        .zip([Direction::Forward, Direction::Inverse, Direction::Forward, Direction::Inverse])
        .map(|(head_dim, direction)| fwht::Case {
            head_dim,
            rotation: Rotation::Srht,
            direction,
            rows: 5,
            seed: 1,
        })
        .collect();
    check(&cases);
}

#[test]
fn quantize_kv_is_right_and_clean() {
    let cases: Vec<quantize_kv::Case> = HeadDim::ALL
        .into_iter()
        .map(|head_dim| quantize_kv::Case {
            codec: Codec::new(head_dim, Bits::B4, Rotation::Srht),
            num_kv_heads: 3,
            num_tokens: 7,
            capacity: 5,
            write_pos: 3,
            sliding: true,
            amplitude: 1.0,
            seed: 2,
        })
        .collect();
    check(&cases);
}

#[test]
fn quantize_k_and_v_is_right_and_clean() {
    let every_third = |i: &usize| i.is_multiple_of(3);
    let cases = quantize_k_and_v::cases();
    let some: Vec<_> = (0..cases.len()).filter(every_third).map(|i| cases[i]).collect();
    check(&some);
}

#[test]
fn store_kv_is_right_and_clean() {
    let every_third = |i: &usize| i.is_multiple_of(3);
    let cases = store_kv::cases();
    let some: Vec<_> = (0..cases.len()).filter(every_third).map(|i| cases[i]).collect();
    check(&some);
}

#[test]
fn dequantize_kv_is_right_and_clean() {
    let cases: Vec<dequantize_kv::Case> = [HeadDim::ALL[0], HeadDim::ALL[3]]
        .into_iter()
        .map(|head_dim| dequantize_kv::Case {
            codec: Codec::new(head_dim, Bits::B4, Rotation::Plain),
            num_kv_heads: 3,
            num_tokens: 4,
            capacity: 9,
            read_pos: 7,
            head_major: true,
            seed: 3,
        })
        .collect();
    check(&cases);
}

fn attention(
    d: usize,
    ratio: u32,
    n: u32,
    cap: u32,
    start: u32,
    nwg: u32,
) -> flash_attn_vec_tq::Case {
    flash_attn_vec_tq::Case {
        context: Context::Long,
        k_bits: Bits::B4,
        codec: Codec::new(HeadDim::ALL[d], Bits::B4, Rotation::Plain),
        num_heads: 2 * ratio,
        num_kv_heads: 2,
        kv_seq_len: n,
        kv_capacity: cap,
        ring_start: start,
        mask_type: 2,
        sliding_window: if n > 40 { n - 9 } else { 0 },
        softcap: if nwg > 1 { 30.0 } else { 0.0 },
        nwg,
        weight_floor: 0.0,
        score_sigma: 2.0,
        seed: 4,
    }
}

/// Each head dim, and on one of them the edges of rings, windows and splits.
fn attention_cases() -> Vec<flash_attn_vec_tq::Case> {
    vec![
        attention(0, 3, 1, 7, 6, 1),
        attention(0, 3, 33, 40, 39, 3),
        attention(0, 3, 0, 4, 1, 1),
        attention(0, 3, 70, 70, 5, 2),
        attention(1, 7, 50, 64, 20, 1),
        attention(2, 2, 45, 45, 44, 4),
        attention(3, 1, 41, 64, 60, 2),
        peaked(),
    ]
}

/// Scores far above those of the first tile, in many heads.
fn peaked() -> flash_attn_vec_tq::Case {
    flash_attn_vec_tq::Case {
        num_kv_heads: 6,
        num_heads: 12,
        score_sigma: 60.0,
        ..attention(0, 2, 300, 320, 39, 1)
    }
}

#[test]
fn packed_attention_is_right_and_clean() {
    check(&attention_cases());
}

#[test]
fn packed_attention_on_matrices_is_right_and_clean() {
    let mut shapes = attention_cases();
    shapes.extend([
        attention(0, 11, 90, 100, 30, 1),
        flash_attn_vec_tq::Case { k_bits: Bits::B3, ..attention(1, 4, 60, 64, 60, 2) },
        flash_attn_vec_tq::Case { score_sigma: 16.0, ..attention(3, 8, 100, 128, 90, 1) },
    ]);
    let cases: Vec<_> = shapes.into_iter().map(flash_attn_mat_tq::Case).collect();
    check(&cases);
}

/// What devices with more workgroup memory than an Apple GPU are given: copies of the codebook, and
/// twice as many threads that share what is decoded.
#[test]
fn matrices_in_more_memory_are_right_and_clean() {
    if without_clang() {
        return;
    }
    let caps = Caps { max_workgroup_storage: 48 << 10, ..Caps::APPLE };
    let wide = |d: usize, nwg: u32| {
        let base = attention(d, 3, 90, 100, 30, nwg);
        let codec = Codec { bits: Bits::B8, ..base.codec };
        let shape = flash_attn_vec_tq::Case { k_bits: Bits::B8, codec, score_sigma: 16.0, ..base };
        Box::new(flash_attn_mat_tq::Case(shape)) as Box<dyn Case>
    };
    let tile = |d: usize| {
        let sequences = vec![flash_attn_tile::sequence(70, 300, 320, 90)];
        let shape = flash_attn_tile::Case { sequences, ..flash_attn_tile::base(HeadDim::ALL[d]) };
        Box::new(flash_attn_mat_tile::Case(shape)) as Box<dyn Case>
    };
    for case in [wide(2, 1), wide(3, 2), tile(0), tile(1), tile(2), tile(3)] {
        let mut leg = MslHostLeg::open(LegName::WgslNagaMsl).unwrap();
        leg.mode = Mode::CheckStrict;
        let prepared = case.prepare().unwrap();
        let (tape, outputs) = prepared.tape(&caps, Language::Wgsl).unwrap();
        let run = leg.run(&tape).unwrap();
        let outputs: Vec<&[u8]> = outputs.iter().map(|&id| run.bytes(id)).collect();
        let outcome = prepared.judge(&outputs).unwrap();
        assert!(outcome.pass(), "{:.3e} of {:.3e}\n{case:#?}", outcome.error, outcome.tolerance);
        assert!(leg.findings.is_empty(), "{:?}\n{case:#?}", leg.findings);
        assert!(leg.max_threadgroup_bytes > THREADGROUP_LIMIT, "{case:#?}");
    }
}

/// Splits that the last threadgroup merges, query heads that do not fill a group, and the next call on
/// the same scratch.
fn decode_cases() -> Vec<flash_attn_decode_tq::Case> {
    let of = |(i, shape): (usize, flash_attn_vec_tq::Case)| {
        let rotation = if i % 2 == 0 { Rotation::Srht } else { Rotation::Plain };
        let shape = flash_attn_vec_tq::Case { codec: Codec { rotation, ..shape.codec }, ..shape };
        let after = (i % 3 == 1).then_some(2);
        flash_attn_decode_tq::Case { shape, rotated: i % 5 == 2, after }
    };
    let mut shapes = attention_cases();
    shapes.extend([attention(1, 11, 50, 64, 20, 9), attention(0, 4, 100, 100, 3, 33)]);
    shapes.into_iter().enumerate().map(of).collect()
}

/// The native form alone: what naga makes of the WGSL has no fence of device scope, and must say so.
#[test]
fn decode_in_one_dispatch_is_right_and_clean() {
    let cases = decode_cases();
    check_on(&[LegName::MslHost], &cases);
    if !without_clang() {
        let mut leg = MslHostLeg::open(LegName::WgslNagaMsl).unwrap();
        let error = cases[0].run(&mut leg).unwrap_err().to_string();
        assert!(error.contains("a storage barrier that orders"), "{error}");
    }
}

/// Wrong values, a counter that is left, and barriers and fences between what threads and threadgroups
/// hand to each other.
#[test]
fn broken_decode_in_one_dispatch_is_caught() {
    if without_clang() {
        return;
    }
    let contract = &kernels::flash_attn_decode_tq::CONTRACT;
    let shape = attention(3, 3, 33, 40, 39, 3);
    let shape = flash_attn_vec_tq::Case {
        codec: Codec { rotation: Rotation::Srht, ..shape.codec },
        ..shape
    };
    let run_on = |rotated: bool, from: &str, to: &str| {
        let case = flash_attn_decode_tq::Case { shape, rotated, after: Some(3) };
        changed(contract, &case, from, to)
    };
    let run = |from: &str, to: &str| run_on(false, from, to);
    assert_eq!(run("uint lane", "uint lane"), (true, Vec::new()));
    for (from, to) in [
        ("params.ring_start", "0u"),
        ("if (SIGN_AFTER)", "if (false)"),
        ("params.nwg - 1u) {", "params.nwg) {"),
        ("atomic_store_explicit(&between.arrived[workgroup.x], 0u, memory_order_relaxed);", ""),
        ("partials_at(scratch, first_head + h, split)", "partials_at(scratch, first_head + h, 0u)"),
        ("pair.xy, w + j < scratch.nwg", "pair.xy, w + j + 1u < scratch.nwg"),
        ("sum += weight * pairs[j].x", "sum += pairs[j].x"),
        ("parts[j] = scratch.partials[at + f]", "parts[j] = scratch.partials[at]"),
    ] {
        let (passed, _) = run(from, to);
        assert!(!passed, "{from} -> {to}");
    }
    assert_eq!(run_on(true, "uint lane", "uint lane"), (true, Vec::new()));
    for (from, to) in [
        ("query[h * VECS + i] = q[", "query[h * VECS] = q["),
        ("dst[first_head * HEAD_VECS + x] =", "dst[x] ="),
    ] {
        let (passed, _) = run_on(true, from, to);
        assert!(!passed, "{from} -> {to}");
    }
    let flags = "threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);";
    let (_, findings) = run(flags, "threadgroup_barrier(mem_flags::mem_device);");
    assert!(findings.iter().any(|f| f.kind == "missing_fence"), "{findings:?}");
    let fence =
        "atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst, thread_scope_device);";
    for (from, to) in [
        (&*format!("{fence} // partials before"), "// partials before"),
        (&*format!("{fence} // the counter before"), "// the counter before"),
        ("threadgroup_barrier(mem_flags::mem_device);", ""),
        ("coherent(device) device float4 *scratch [[", "device float4 *scratch [["),
        (
            "threadgroup_barrier(mem_flags::mem_threadgroup);\n                if (local_row",
            "if (local_row",
        ),
    ] {
        let (_, findings) = run(from, to);
        assert!(findings.iter().any(|f| f.kind == "data_race"), "{from}: {findings:?}");
    }
}

/// Wrong values of tiles on matrices, and the barriers of threadgroup and simdgroup.
#[test]
fn broken_tiles_on_matrices_are_caught() {
    use flash_attn_tile::{Case, base, sequence};
    if without_clang() {
        return;
    }
    let contract = &kernels::flash_attn_mat_tile::CONTRACT;
    let base = Case {
        sequences: vec![sequence(3, 150, 160, 90)],
        page_size: Some(16),
        nwg: 2,
        splits: 2,
        ..base(HeadDim::ALL[3])
    };
    let case = flash_attn_mat_tile::Case(Case { score_sigma: 16.0, ..base });
    let run = |from: &str, to: &str| changed(contract, &case, from, to);
    for (from, to) in [
        ("slot % params.page_size;", "slot;"),
        ("sequence.ring_start", "0u"),
        ("sum *= factor", "sum /= factor"),
        ("r * NORMS_PER_POS / ROW_SUBGROUPS", "0u"),
        ("v_scales[n * WORKGROUP_SIZE + base - located", "v_scales[n * WORKGROUP_SIZE"),
        ("base + BLOCK - located, codes", "base - located, codes"),
        ("own * WEIGHTS + r * SIDE * WEIGHT_PITCH", "r * SIDE * WEIGHT_PITCH"),
        ("params.split_base + split", "split + 1u"),
    ] {
        let (passed, _) = run(from, to);
        assert!(!passed, "{from} -> {to}");
    }
    let stored = "SUM_PITCH);\n                }\n            }\n            threadgroup_barrier(mem_flags::mem_threadgroup);";
    let last = "            // All have read what the next K takes the place of.\n            threadgroup_barrier(mem_flags::mem_threadgroup);";
    for barrier in [stored, last] {
        let without = barrier.replace("threadgroup_barrier(mem_flags::mem_threadgroup);", "");
        let (_, findings) = run(barrier, &without);
        assert!(findings.iter().any(|f| f.kind == "data_race"), "{barrier}: {findings:?}");
    }
}

/// A wrong value, and each barrier between a simdgroup's own stores and loads.
#[test]
fn broken_matrices_are_caught() {
    if without_clang() {
        return;
    }
    let contract = &kernels::flash_attn_mat_tq::CONTRACT;
    let case = flash_attn_mat_tq::Case(attention(3, 3, 33, 40, 39, 1));
    let run = |from: &str, to: &str| changed(contract, &case, from, to);
    for (from, to) in [
        ("params.ring_start", "0u"),
        ("sum[g] *= factor", "sum[g] /= factor"),
        ("i * ROW_LANES * 4u, x);", "i * 4u, x);"),
        ("block * WEIGHTS + b * SIDE", "b * SIDE"),
        (
            "simdgroup_multiply_accumulate(acc[at], weighed[b]",
            "simdgroup_multiply_accumulate(acc[at], weighed[0]",
        ),
    ] {
        let (passed, _) = run(from, to);
        assert!(!passed, "{from} -> {to}");
    }
    let barrier =
        "            simdgroup_barrier(mem_flags::mem_threadgroup);\n            for (uint j";
    let (_, findings) = run(barrier, "            for (uint j");
    assert!(findings.iter().any(|f| f.kind == "lockstep_reliance"), "{findings:?}");
}

#[test]
fn dense_attention_is_right_and_clean() {
    let cases: Vec<flash_attn_vec::Case> = attention_cases()
        .into_iter()
        .enumerate()
        .filter(|(i, _)| [1, 2, 5].contains(i))
        .flat_map(|(_, shape)| {
            [KvType::F32, KvType::F16].map(|kv_type| flash_attn_vec::Case { shape, kv_type })
        })
        .collect();
    check(&cases);
}

#[test]
fn reduce_is_right_and_clean() {
    let case = |d: usize, nwg, empty_every| flash_attn_vec_reduce::Case {
        head_dim: HeadDim::ALL[d],
        nrows: 3,
        nwg,
        empty_every,
        seed: 5,
    };
    check(&[case(0, 33, 3), case(0, 1, 0), case(3, 5, 1)]);
}

/// Each head dim, and on the smallest what the others have not: pages, splits, a sequence without
/// query tokens and one without positions, dense rows.
#[test]
fn tiles_are_right_and_clean() {
    use flash_attn_tile::{Case, base, sequence};
    let at = |d: usize| Case {
        sequences: vec![sequence(3, 20, 40, 30)],
        mask_type: 2,
        sliding_window: 9,
        ..base(HeadDim::ALL[d])
    };
    let batch = vec![sequence(17, 40, 48, 40), sequence(0, 4, 5, 0), sequence(2, 0, 4, 1)];
    let paged = Case {
        page_size: Some(16),
        sequences: batch,
        nwg: 4,
        split_base: 1,
        ..base(HeadDim::ALL[0])
    };
    let dense = |k, v| Case { k, v, softcap: 20.0, ..at(0) };
    let (f32, f16, b3) = (KeyFormat::F32, KeyFormat::F16, KeyFormat::Tq(Bits::B3));
    let cases = [
        Case { splits: 2, ..paged },
        dense(f32, b3),
        dense(b3, f16),
        dense(f16, f32),
        at(1),
        at(2),
        at(3),
    ];
    check(&cases);
    // Scores far above those of the first block.
    let peaked = Case {
        sequences: vec![sequence(3, 150, 160, 30)],
        mask_type: 1,
        score_sigma: 16.0,
        ..at(1)
    };
    check(&cases.into_iter().chain([peaked]).map(flash_attn_mat_tile::Case).collect::<Vec<_>>());
}

/// Records and a block table that nobody checked: the outputs are anybody's guess, but nothing
/// beyond the buffers is touched.
#[test]
fn wrong_records_of_tiles_reach_nothing_beyond_the_buffers() {
    if without_clang() {
        return;
    }
    let case = flash_attn_tile::base(HeadDim::ALL[0]);
    let problem = kernels::flash_attn_tile::Problem {
        head_dim: case.head_dim,
        k: case.k,
        v: case.v,
        num_heads: case.num_heads,
        num_kv_heads: case.num_kv_heads,
    };
    let params = FlashAttnTileParams { num_pages: 1, num_blocks: 1, ..case.params() };
    let launch = problem.launch(&params, &case.records(), &[0], &Caps::APPLE).unwrap();
    let far = TileSequence {
        first_token: 7,
        query_tokens: 9,
        position: 1 << 30,
        kv_seq_len: 40,
        ring_start: u32::MAX - 9,
        kv_capacity: 3,
        first_block: u32::MAX - 1,
    };
    let reached = |text: &str, record: TileSequence, page: u32| {
        let mut tape = Tape::default();
        let mut buffers = vec![
            tape.input("q", vec![0; launch.needed[1] as usize]),
            tape.input("sequences", bytemuck::bytes_of(&record).to_vec()),
            tape.input("block_table", bytemuck::bytes_of(&page).to_vec()),
        ];
        buffers.extend(launch.needed[4..8].iter().map(|&n| tape.input("kv", vec![0; n as usize])));
        // Tokens that the record does not name are not written: zeros, not poison.
        buffers.push(tape.in_out("dst", vec![0; launch.needed[8] as usize]));
        tape.step(problem.plan(&Caps::APPLE, Language::Msl).unwrap(), launch.clone(), &buffers);
        let mut leg = MslHostLeg::open(LegName::MslHost).unwrap();
        leg.mode = Mode::CheckStrict;
        leg.replace_source("flash_attn_tile", text);
        let ended = leg.run(&tape).is_err();
        ended || leg.findings.iter().any(|f| f.kind == "out_of_bounds")
    };
    let (good, text) = (case.records()[0], kernels::flash_attn_tile::CONTRACT.msl);
    for (record, page) in [(far, 0), (good, u32::MAX), (good, 1)] {
        assert!(!reached(text, record, page), "{record:?}, page {page}");
    }
    let trusting =
        text.replacen("min(block_table[block], params.num_pages - 1u)", "block_table[block]", 1);
    assert!(!reached(&trusting, good, 0) && reached(&trusting, good, 1));
}

/// A broken kernel must not pass: wrong values, and a barrier that is gone.
#[test]
fn broken_msl_is_caught() {
    if without_clang() {
        return;
    }
    let contract = &kernels::flash_attn_vec_tq::CONTRACT;
    let case = attention(0, 3, 33, 40, 39, 1);
    let run = |from: &str, to: &str| changed(contract, &case, from, to);
    let (passed, findings) = run("params.ring_start", "0u");
    assert!(!passed && findings.is_empty(), "{findings:?}");
    // Row groups of a simdgroup that are taken for one, and are not.
    let (passed, findings) = run("join(tid, running);", "");
    assert!(!passed && findings.is_empty(), "{findings:?}");
    // And one whose weights are relative to something else.
    let top = "set_top(tid, simd_lane, owned, running);";
    let odd = "for (uint j = 0; j < OWNED && tid / LANES % 2u == 1u; j++) { running.owned_top.x[j] += 1.0f; }";
    let (passed, findings) = run(top, &format!("{top}\n{odd}"));
    assert!(!passed && findings.is_empty(), "{findings:?}");
    // Weights that overflow, since nothing sends scores far above the first ones through the loop again.
    let (passed, findings) = changed(contract, &peaked(), "&& some_rise(running)", "&& false");
    assert!(!passed && findings.is_empty(), "{findings:?}");
    let barrier = "        threadgroup_barrier(mem_flags::mem_threadgroup);\n        uint heads";
    let (_, findings) = run(barrier, "        uint heads");
    assert!(findings.iter().any(|f| f.kind == "data_race"), "{findings:?}");
    let flags = "threadgroup_barrier(mem_flags::mem_threadgroup);\n        uint heads";
    let (_, findings) = run(flags, "threadgroup_barrier(mem_flags::mem_none);\n        uint heads");
    assert!(findings.iter().any(|f| f.kind == "missing_fence"), "{findings:?}");
}

/// What `--check` asks of a replay or a sweep: no finding, and the same bits in every way.
#[test]
fn every_way_must_write_the_same_bits_without_a_finding() {
    if without_clang() {
        return;
    }
    let case = dequantize_kv::Case {
        codec: Codec::new(HeadDim::ALL[0], Bits::B4, Rotation::Plain),
        num_kv_heads: 3,
        num_tokens: 4,
        capacity: 9,
        read_pos: 7,
        head_major: true,
        seed: 3,
    };
    let text = kernels::dequantize_kv::CONTRACT.msl;
    let ends = |text: &str| {
        let mut leg = MslHostLeg::open(LegName::MslHost).unwrap();
        leg.every_way = true;
        leg.replace_source("dequantize_kv", text);
        match case.run(&mut leg) {
            Ok(outcome) => format!("pass {}", outcome.pass()),
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(ends(text), "pass true");

    let barrier = "    threadgroup_barrier(mem_flags::mem_threadgroup);\n";
    assert!(text.contains(barrier));
    let found = ends(&text.replacen(barrier, "", 1));
    assert!(found.contains("data_race") && found.contains(".metal:"), "{found}");

    // Threads take numbers in the order in which they come: no race, and no two ways alike.
    let numbered = text
        .replacen("    codebook_fill(", "    threadgroup atomic_uint next;\n    if (tid == 0u) atomic_store_explicit(&next, 0u, memory_order_relaxed);\n    codebook_fill(", 1)
        .replacen("params.scale_factor_d512);", "params.scale_factor_d512) * (1.0f + 1e-6f * float(atomic_fetch_add_explicit(&next, 1u, memory_order_relaxed)));", 1);
    let found = ends(&numbered);
    assert!(found.contains("the outputs differ between strict and"), "{found}");
}

#[test]
fn replay_checks_both_forms_of_msl_and_refuses_what_it_cannot_check() {
    if without_clang() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let replay = |extra: &[&str]| {
        let manifest =
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/smollm2-l15-n96/manifest.json");
        Command::cargo_bin("wgtq")
            .unwrap()
            .args(["replay", "--manifest", manifest, "--check", "--out"])
            .arg(folder.path().join("replay"))
            .args(extra)
            .output()
            .unwrap()
    };
    let output = replay(&["--leg", "msl-host,wgsl-naga-msl"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let output = replay(&["--leg", "wgsl"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("--check: need --leg msl-host or --leg wgsl-naga-msl"), "{text}");
}

fn source(body: &str) -> String {
    format!(
        "#include <metal_stdlib>\nusing namespace metal;\n\
         kernel void k(\n    device float *a [[buffer(0)]],\n    device const float *b [[buffer(1)]],\n    \
         uint i [[thread_position_in_grid]],\n    uint t [[thread_index_in_threadgroup]]) {{\n    {body}\n}}\n"
    )
}

/// Two threadgroups of 64 threads; both buffers have one float a thread.
const DISPATCH: &str = r#"{ "kernel": "k", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
    "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512, "init": "ramp_f32" }] }"#;

fn msl_command(folder: &Path, text: &str, extra: &[&str]) -> Command {
    let (file, spec) = (folder.join("k.metal"), folder.join("spec.json"));
    std::fs::write(&file, text).unwrap();
    std::fs::write(&spec, DISPATCH).unwrap();
    let mut command = Command::cargo_bin("wgtq").unwrap();
    command.current_dir(folder).args(["msl", "check", "k.metal", "--dispatch", "spec.json"]);
    command.args(extra);
    command
}

fn msl_check(folder: &Path, text: &str, extra: &[&str]) -> (i32, Value) {
    json_of(msl_command(folder, text, extra).arg("--json"))
}

fn json_of(command: &mut Command) -> (i32, Value) {
    let output = command.output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!("{e}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code().unwrap(), report)
}

/// Sixteen query heads over 300 positions: the dispatch of a decode step, on one core.
#[test]
fn attention_takes_milliseconds_unchecked_and_some_tenths_of_a_second_checked() {
    if without_clang() {
        return;
    }
    let case = flash_attn_vec_tq::Case { num_heads: 16, ..attention(2, 8, 300, 1024, 900, 1) };
    let mut leg = MslHostLeg::open(LegName::MslHost).unwrap();
    for (mode, limit) in [(Mode::Fast, 60), (Mode::CheckStrict, 600)] {
        leg.mode = mode;
        let times = (0..3).map(|_| {
            leg.cpu = Duration::ZERO;
            assert!(case.run(&mut leg).unwrap().pass());
            leg.cpu
        });
        let best = times.min().unwrap();
        println!("attention, 16 heads x 300 positions, D 256, {mode:?}: {best:.1?} of CPU time");
        assert!(best < Duration::from_millis(limit), "{mode:?}: {best:?}");
    }
}

/// Into an empty cache, and from it. The least of several: other programs run on this machine.
#[test]
fn a_file_compiles_in_seconds_and_comes_from_the_cache_in_milliseconds() {
    if without_clang() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let compile_ms = |text: &str| {
        let mut command = msl_command(folder.path(), text, &["--json"]);
        let (code, report) = json_of(command.env("WGTQ_CACHE", folder.path().join("cache")));
        assert_eq!(code, 0, "{report:#}");
        assert!(report["timing"]["cpu_ms"].as_f64() <= report["timing"]["run_ms"].as_f64());
        report["timing"]["compile_ms"].as_f64().unwrap()
    };
    let text = |n: u32| source(&format!("a[i] = {n}.0f * b[i];"));
    let first = compile_ms(&text(0));
    let cold = (1..4).map(|n| compile_ms(&text(n))).fold(f64::MAX, f64::min);
    let warm = (0..5).map(|_| compile_ms(&text(0))).fold(f64::MAX, f64::min);
    println!("first, with the host: {first:.0} ms; cold: {cold:.0} ms; warm: {warm:.1} ms");
    assert!(cold < 5000.0, "cold {cold} ms");
    assert!(warm < 50.0, "warm {warm} ms");
}

/// The project's own files, by the clock on the wall round the whole program.
#[test]
fn every_kernel_of_the_project_compiles_in_seconds_and_lists_in_milliseconds() {
    if without_clang() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let (kernels, kernel_count) = (folder.path().join("kernels"), kernels::ALL.len());
    let wgtq = |arguments: &[&std::ffi::OsStr]| {
        let start = Instant::now();
        let mut command = Command::cargo_bin("wgtq").unwrap();
        command.env("WGTQ_CACHE", folder.path().join("cache")).args(arguments);
        command.assert().success();
        start.elapsed()
    };
    let words = "kernels export --target msl --head-dim 256 --ratio 2 --subgroup-size 32 --out";
    let mut export: Vec<&std::ffi::OsStr> = words.split(' ').map(AsRef::as_ref).collect();
    export.push(kernels.as_os_str());
    wgtq(&export);
    let files = std::fs::read_dir(&kernels).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension() == Some("metal".as_ref())).collect();
    assert!(files.len() >= kernel_count, "{files:?}");
    let list = |path: &Path| wgtq(&["msl".as_ref(), "list".as_ref(), path.as_os_str()]);
    // The first file also builds the host.
    let first = folder.path().join("first.metal");
    std::fs::write(&first, source("a[i] = b[i];")).unwrap();
    list(&first);
    for path in &files {
        let cold = list(path);
        let warm = (0..5).map(|_| list(path)).min().unwrap();
        println!("{}: cold {cold:.0?}, warm {warm:.1?}", path.display());
        assert!(cold < Duration::from_secs(5), "{}: {cold:?}", path.display());
        assert!(warm < Duration::from_millis(50), "{}: {warm:?}", path.display());
    }
}

#[test]
fn a_finding_reads_well_on_a_terminal() {
    if without_clang() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let text = source("threadgroup float s[64];\n    s[t] = b[i];\n    a[i] = s[63 - t];");
    let output = msl_command(folder.path(), &text, &[]).output().unwrap();
    let expected = "\
k.metal:9:10: data_race: two threads of a threadgroup access this with no barrier in between
    9 |     s[t] = b[i];
      |          ^
  other site: k.metal:10:12
   10 |     a[i] = s[63 - t];
      |            ^
  threadgroup memory 's' of 256 bytes at byte offset 128; the other access is by thread 31
  kernel k, threadgroup [0, 0, 0], thread [32, 0, 0]
1 finding
";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert!(String::from_utf8_lossy(&output.stderr).contains(" ms of CPU time"));
}

#[test]
fn endless_loops_bad_code_and_refused_constructs_have_their_own_status() {
    if without_clang() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let endless = "volatile int n = 1; while (n) { } a[i] = 0.0f;";
    let (code, report) = msl_check(folder.path(), &source(endless), &["--timeout", "2"]);
    assert_eq!((code, &report["status"]), (2, &json!("timeout")), "{report:#}");
    let (code, report) = msl_check(folder.path(), &source("a[i] = nothing;"), &[]);
    assert_eq!((code, &report["status"]), (2, &json!("compile_error")), "{report:#}");
    assert!(report["message"].as_str().unwrap().contains("k.metal:"), "{report:#}");
    let (code, report) = msl_check(folder.path(), &source("double x = 1.0; a[i] = x;"), &[]);
    assert_eq!((code, &report["status"]), (2, &json!("compile_error")), "{report:#}");
    assert_eq!(report["lint"][0]["kind"], "double", "{report:#}");
}

#[test]
fn list_prints_the_argument_table_and_run_writes_the_buffers() {
    if without_clang() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let (code, report) =
        msl_check(folder.path(), &source("a[i] = 2.0f * b[i];"), &["--out", out.to_str().unwrap()]);
    assert_eq!(code, 0, "{report:#}");
    let got: Vec<f32> =
        bytemuck::pod_collect_to_vec(&std::fs::read(out.join("buffer_0.bin")).unwrap());
    assert!((0..128).all(|i| got[i] == 2.0 * i as f32));
    let output = Command::cargo_bin("wgtq")
        .unwrap()
        .args(["msl", "list", "--json"])
        .arg(folder.path().join("k.metal"))
        .output()
        .unwrap();
    let kernels: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(kernels[0]["name"], "k");
    assert_eq!(kernels[0]["arguments"][0]["writable"], true);
    assert_eq!(kernels[0]["arguments"][1]["writable"], false);
}

#[test]
fn a_missing_compiler_is_an_error_that_says_what_to_install() {
    let output = Command::cargo_bin("wgtq")
        .unwrap()
        .env("WGTQ_CXX", "/nonexistent/clang++")
        .args(["replay", "--leg", "msl-host", "--manifest"])
        .arg(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/smollm2-l15-n400/manifest.json"),
        )
        .arg("--out")
        .arg(std::env::temp_dir().join("wgtq-none"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("apt-get install") && text.contains("clang-19"), "{text}");
}
