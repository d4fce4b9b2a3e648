//! Metal without a Mac: the native MSL, and the MSL that naga makes of the WGSL, executed and
//! checked on this machine; and the checker itself, fed with kernels that are wrong.
//!
//! Needs clang++ 19 or newer. `WGTQ_CXX=none` is the explicit way to leave these tests out.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]

use std::path::Path;

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;
use wgtq::codec::{Bits, Codec, Direction, HeadDim, Rotation};
use wgtq::kernels::flash_attn_vec::KvType;
use wgtq::legs::{LegName, MslHostLeg};
use wgtq::msl::dispatch::{LaneOrder, Mode};
use wgtq::parity::{
    Case, dequantize_kv, flash_attn_vec, flash_attn_vec_reduce, flash_attn_vec_tq, fwht,
    quantize_kv,
};

fn without_clang() -> bool {
    std::env::var_os("WGTQ_CXX").is_some_and(|v| v == "none")
}

/// Every way to run a leg: lanes ahead in two orders, and close together; all checked.
const WAYS: [(Mode, LaneOrder); 3] = [
    (Mode::CheckStrict, LaneOrder::Ascending),
    (Mode::CheckStrict, LaneOrder::Descending),
    (Mode::CheckLockstep, LaneOrder::Ascending),
];

/// Runs a case on both forms of MSL, in every way; the result must be within its tolerance and
/// the checker must find nothing.
fn check(cases: &[impl Case]) {
    if without_clang() {
        return;
    }
    for name in [LegName::MslHost, LegName::WgslNagaMsl] {
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
    ]
}

#[test]
fn packed_attention_is_right_and_clean() {
    check(&attention_cases());
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

/// A broken kernel must not pass: wrong values, and a barrier that is gone.
#[test]
fn broken_msl_is_caught() {
    if without_clang() {
        return;
    }
    let contract = &wgtq::kernels::flash_attn_vec_tq::CONTRACT;
    let case = attention(0, 3, 33, 40, 39, 1);
    let run = |from: &str, to: &str| {
        assert!(contract.msl.contains(from), "{from}");
        let mut leg = MslHostLeg::open(LegName::MslHost).unwrap();
        leg.mode = Mode::CheckStrict;
        leg.replace_source(contract.stem, &contract.msl.replacen(from, to, 1));
        let outcome = case.run(&mut leg);
        (outcome.is_ok_and(|o| o.pass()), leg.findings)
    };
    let (passed, findings) = run("params.ring_start", "0u");
    assert!(!passed && findings.is_empty(), "{findings:?}");
    let barrier = "        threadgroup_barrier(mem_flags::mem_threadgroup);\n        float all_top";
    let (_, findings) = run(barrier, "        float all_top");
    assert!(findings.iter().any(|f| f.kind == "data_race"), "{findings:?}");
    let flags = "threadgroup_barrier(mem_flags::mem_threadgroup);\n        float all_top";
    let (_, findings) =
        run(flags, "threadgroup_barrier(mem_flags::mem_none);\n        float all_top");
    assert!(findings.iter().any(|f| f.kind == "missing_fence"), "{findings:?}");
}

/// Kernels with one defect each: the kind that must be found, and the text of its line.
const DEFECTS: &[(&str, &str, &str)] = &[
    ("out_of_bounds", "a[i + 1] = 1.0f; // here", ""),
    ("out_of_bounds", "a[i] = b[i * 3]; // here", ""),
    ("readonly_write", "((device float *)b)[i] = 1.0f; // here", ""),
    ("uninitialized_read", "threadgroup float s[64]; a[i] = s[t]; // here", ""),
    ("data_race", "threadgroup float s[64]; s[t] = b[i]; a[i] = s[63 - t]; // here", ""),
    ("data_race", "a[t] = b[i]; // here", ""),
    (
        "missing_fence",
        "threadgroup float s[64]; s[t] = b[i]; threadgroup_barrier(mem_flags::mem_device); a[i] = s[63 - t]; // here",
        "",
    ),
    ("lockstep_reliance", "threadgroup float s[64]; s[t] = b[i]; a[i] = s[t ^ 1]; // here", ""),
    (
        "divergent_barrier",
        "if (t < 40) { threadgroup_barrier(mem_flags::mem_threadgroup); } // here",
        "",
    ),
    ("divergent_simd", "if (t < 16) { a[i] = simd_shuffle_down(b[i], 16); } // here", ""),
    ("undefined_arithmetic", "a[i] = float(1u << (t + 8u)); // here", ""),
    ("undefined_arithmetic", "a[i] = float(7 / (int(t) - 3)); // here", ""),
    (
        "misaligned",
        "a[i] = *(device const float *)((device const char *)b + 1 + 4 * (t / 2)); // here",
        "",
    ),
    (
        "out_of_bounds",
        "poke(a, i); // in a helper",
        "inline void poke(device float *p, uint i) {\n    p[i + 64] = 0.0f; // here\n}\n",
    ),
    (
        "data_race",
        "put<2>(a, t, b[i]);",
        "template <int N> inline void put(device float *p, uint i, float x) {\n    p[i / N] = x; // here\n}\n",
    ),
];

fn source(body: &str, helpers: &str) -> String {
    format!(
        "#include <metal_stdlib>\nusing namespace metal;\n{helpers}\
         kernel void k(\n    device float *a [[buffer(0)]],\n    device const float *b [[buffer(1)]],\n    \
         uint i [[thread_position_in_grid]],\n    uint t [[thread_index_in_threadgroup]]) {{\n    {body}\n}}\n"
    )
}

/// Two threadgroups of 64 threads; both buffers have one float a thread.
fn msl_check(folder: &Path, text: &str, extra: &[&str]) -> (i32, Value) {
    let (file, spec) = (folder.join("k.metal"), folder.join("spec.json"));
    std::fs::write(&file, text).unwrap();
    let dispatch = json!({
        "kernel": "k",
        "threadgroups": [2, 1, 1],
        "threads": [64, 1, 1],
        "buffers": [
            { "index": 0, "bytes": 512 },
            { "index": 1, "bytes": 512, "init": "ramp_f32" },
        ],
    });
    std::fs::write(&spec, dispatch.to_string()).unwrap();
    let output = Command::cargo_bin("wgtq")
        .unwrap()
        .args(["msl", "check"])
        .arg(&file)
        .arg("--dispatch")
        .arg(&spec)
        .arg("--json")
        .args(extra)
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!("{e}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code().unwrap(), report)
}

#[test]
fn seeded_defects_are_found_with_kind_and_line() {
    if without_clang() {
        return;
    }
    for (kind, body, helpers) in DEFECTS {
        let folder = TempDir::new().unwrap();
        let text = source(body, helpers);
        let marked = text.lines().position(|l| l.contains("// here"));
        let line = marked.map(|l| l + 1).unwrap();
        let (code, report) = msl_check(folder.path(), &text, &[]);
        assert_eq!(code, 1, "{kind}: {body}: {report:#}");
        assert_eq!(report["status"], "findings");
        let hit = |f: &Value| f["kind"] == *kind && f["line"] == line;
        assert!(
            report["findings"].as_array().unwrap().iter().any(hit),
            "{kind}: {body}: {report:#}"
        );
    }
}

#[test]
fn suspicious_but_correct_kernels_are_clean() {
    if without_clang() {
        return;
    }
    for body in [
        "a[i] = b[i];",
        "a[i] = b[127 - i];",
        "threadgroup float s[64]; s[t] = b[i]; threadgroup_barrier(mem_flags::mem_threadgroup); a[i] = s[63 - t];",
        "threadgroup float s[64]; s[t] = b[i]; simdgroup_barrier(mem_flags::mem_threadgroup); a[i] = s[t ^ 1];",
        "a[i] = simd_sum(b[i]) + simd_shuffle_xor(b[i], 5);",
        "if (t >= 32) { a[i] = simd_sum(b[i]); }",
        "for (uint n = 0; n < 3; n++) { threadgroup_barrier(mem_flags::mem_device); a[i] += 1.0f; }",
        "threadgroup atomic_uint n; if (t == 0) { atomic_store_explicit(&n, 0u, memory_order_relaxed); } threadgroup_barrier(mem_flags::mem_threadgroup); atomic_fetch_add_explicit(&n, 1u, memory_order_relaxed); a[i] = 0.0f;",
    ] {
        let folder = TempDir::new().unwrap();
        let (code, report) = msl_check(folder.path(), &source(body, ""), &[]);
        assert_eq!((code, &report["status"]), (0, &json!("clean")), "{body}: {report:#}");
    }
}

#[test]
fn endless_loops_bad_code_and_refused_constructs_have_their_own_status() {
    if without_clang() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let endless = "volatile int n = 1; while (n) { } a[i] = 0.0f;";
    let (code, report) = msl_check(folder.path(), &source(endless, ""), &["--timeout", "2"]);
    assert_eq!((code, &report["status"]), (2, &json!("timeout")), "{report:#}");
    let (code, report) = msl_check(folder.path(), &source("a[i] = nothing;", ""), &[]);
    assert_eq!((code, &report["status"]), (2, &json!("compile_error")), "{report:#}");
    assert!(report["message"].as_str().unwrap().contains("k.metal:"), "{report:#}");
    let (code, report) = msl_check(folder.path(), &source("double x = 1.0; a[i] = x;", ""), &[]);
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
    let (code, report) = msl_check(
        folder.path(),
        &source("a[i] = 2.0f * b[i];", ""),
        &["--out", out.to_str().unwrap()],
    );
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
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/smollm2-l05/manifest.json"))
        .arg("--out")
        .arg(std::env::temp_dir().join("wgtq-none"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("apt-get install") && text.contains("clang-19"), "{text}");
}
