//! The sweeps from outside: registered numbers, gates, probe, schema, interruption.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;
use wgtq::codec::{Bits, CodecSettings};
use wgtq::gpu::device::{Gpu, Selection};
use wgtq::legs::{LegName, WgpuLeg};
use wgtq::sweep::gates::Gate;
use wgtq::sweep::probe::positions_visited;
use wgtq::sweep::production::Plan;
use wgtq::sweep::{Step, ring_start};

fn without_gpu() -> bool {
    std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none")
}

fn wgtq(args: &[&str]) -> Output {
    Command::cargo_bin("wgtq").unwrap().args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Violations of the schema that the program prints, as text.
fn violations(schema: &str, report: &Value) -> Vec<String> {
    let output = wgtq(&["schema", schema]);
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    validator.iter_errors(report).map(|e| e.to_string()).collect()
}

/// The registered sweep's errors on lavapipe; any adapter and any leg is within 2e-4 of them.
const SWEEP_A: [f64; 6] = [0.470412, 0.493150, 0.423527, 0.340700, 0.332908, 0.498108];
const SWEEP_B: [f64; 5] = [0.406569, 0.461251, 0.191977, 0.368738, 0.395097];
const RING_WRAP: [f64; 2] = [0.310037, 0.332978];

fn near(row: &Value, field: &str, want: f64) {
    let got = row[field].as_f64().unwrap();
    assert!((got - want).abs() < 2e-4, "{field} {got}, want {want}: {row}");
}

#[test]
fn registered_sweep_falsifies_its_band_with_the_registered_numbers_on_every_leg() {
    if without_gpu() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let (out, html) = (folder.path().join("p"), folder.path().join("p.html"));
    let legs = if cfg!(target_vendor = "apple") { "wgsl,msl" } else { "wgsl,wgsl-spirv" };
    let output = wgtq(&[
        "replay",
        "--production-faithful",
        "--leg",
        legs,
        "--out",
        out.to_str().unwrap(),
        "--html",
        html.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let audit = read(&out.join("audit.json"));
    assert_eq!(violations("audit", &audit), Vec::<String>::new());

    assert_eq!(audit["verdict"], "BAND_PRE_FALSIFIED");
    assert_eq!(audit["band"]["lower"], 0.05);
    assert_eq!(audit["band"]["upper"], 0.35);
    assert_eq!(audit["rng"]["total_u64s_consumed"], 25_448_448);
    let rows = |name: &str| audit[name].as_array().unwrap().clone();
    assert_eq!(rows("sweep_A").len(), 12);
    for (i, row) in rows("sweep_A").iter().enumerate() {
        near(row, "nrmse", SWEEP_A[i / 2]);
        let in_band = (0.05..=0.35).contains(&row["nrmse"].as_f64().unwrap());
        assert_eq!(row["band_ok"], in_band);
        assert!(row["dequant_oracle_nrmse"].as_f64().unwrap() < 2e-5, "{row}");
    }
    for (i, row) in rows("sweep_B").iter().enumerate() {
        near(row, "nrmse", SWEEP_B[i / 2]);
    }
    let before = |name: &str, pos: u32, n: u32| {
        let row = rows(name).into_iter().find(|r| r["abs_pos"] == pos && r["kvl_logical"] == n);
        row.unwrap()["rng_u64s_consumed_before"].clone()
    };
    assert_eq!(before("sweep_A", 500, 500), 1_581_056);
    assert_eq!(before("sweep_B", 500, 500), 19_238_912);
    for (i, row) in rows("ring_wrap").iter().enumerate() {
        near(row, "ring_start_A_nrmse", RING_WRAP[i / 2]);
        near(row, "ring_start_B_nrmse", RING_WRAP[i / 2]);
        assert!(row["ab_delta"].as_f64().unwrap() < 1e-6, "{row}");
        assert_eq!(row["positions_visited"], serde_json::json!([256, 256]));
        assert_eq!(row["h3_data_reuse"], true);
        let pos = row["abs_pos"].as_u64().unwrap();
        assert_eq!(row["ring_start_A_passed_to_kernel"], (pos + 1) % 1024);
        assert_eq!(row["ring_start_B_passed_to_kernel"], pos % 1024);
    }
    assert_eq!(audit["intersection_check"]["match_to_7_decimal_places"], false);
    for gate in rows("regression_gates") {
        assert_eq!(gate["status"], "PASS", "{gate}");
        assert_eq!(gate["executable_sha256"].as_str().unwrap().len(), 64);
    }

    let page = std::fs::read_to_string(html).unwrap();
    assert!(page.contains("BAND_PRE_FALSIFIED") && page.matches("<svg").count() == 3);
    assert!(
        !page.contains("http://")
            || page.matches("http://").count() == page.matches("http://www.w3.org").count()
    );
    assert!(!page.contains("<script"), "the page needs no script");
}

/// Every field of the published format, by name: the schema alone is made from the same types as
/// the audit and could not miss one.
#[test]
fn the_audit_has_every_published_field() {
    if without_gpu() {
        return;
    }
    let folder = TempDir::new().unwrap();
    wgtq(&["replay", "--production-faithful", "--out", folder.path().to_str().unwrap()]);
    let audit = read(&folder.path().join("audit.json"));
    let has = |value: &Value, fields: &[&str]| {
        for field in fields {
            assert!(value.get(field).is_some_and(|v| !v.is_null()), "no {field} in {value}");
        }
    };
    has(
        &audit,
        &[
            "session",
            "iter",
            "ran_at",
            "verdict",
            "band",
            "regression_gates",
            "regime",
            "sweep_A",
            "sweep_B",
            "ring_wrap",
            "rng",
            "intersection_check",
            "csv_equivalent",
        ],
    );
    assert_eq!((&audit["iter"], &audit["session"]), (&6.into(), &"wgtq".into()));
    has(&audit["band"], &["lower", "upper", "registration"]);
    has(
        &audit["regime"],
        &[
            "rmsnorm_weights",
            "rms_norm_eps",
            "rope_theta",
            "rope_convention",
            "scale",
            "mask_type",
            "softcap",
            "shapes",
            "dense_floor_reference",
            "v_norm_policy",
            "ring_wrap_kvl_reason",
        ],
    );
    assert_eq!(audit["regime"]["rmsnorm_weights"], "unit_fallback");
    let shapes = serde_json::json!(
        { "num_heads": 16, "num_kv_heads": 8, "head_dim": 256, "kv_capacity": 1024 }
    );
    assert_eq!(audit["regime"]["shapes"], shapes);
    let point = [
        "abs_pos",
        "kvl_logical",
        "sliding_window",
        "nrmse",
        "band_ok",
        "rng_u64s_consumed_before",
    ];
    for row in ["sweep_A", "sweep_B"].iter().flat_map(|s| audit[*s].as_array().unwrap()) {
        has(row, &point);
    }
    for row in audit["ring_wrap"].as_array().unwrap() {
        has(
            row,
            &[
                "abs_pos",
                "kvl_logical",
                "sliding_window",
                "ring_start_a",
                "ring_start_b",
                "ring_start_A_passed_to_kernel",
                "ring_start_B_passed_to_kernel",
                "ring_start_A_nrmse",
                "ring_start_B_nrmse",
                "ab_delta",
                "band_ok",
                "rng_u64s_consumed_before",
                "h3_data_reuse",
            ],
        );
    }
    has(&audit["rng"], &["seed_literal", "algorithm", "single_instance", "total_u64s_consumed"]);
    has(
        &audit["intersection_check"],
        &[
            "abs_pos",
            "kvl_logical",
            "sweep_A_intersection_nrmse",
            "sweep_B_intersection_nrmse",
            "match_to_7_decimal_places",
            "absdiff",
            "band_ok",
            "note",
        ],
    );
    for gate in audit["regression_gates"].as_array().unwrap() {
        has(
            gate,
            &[
                "name",
                "exit_code",
                "status",
                "duration_ms",
                "stdout_tail",
                "stderr_tail",
                "executable",
                "executable_sha256",
            ],
        );
    }
    assert_eq!(audit["csv_equivalent"].as_str().unwrap().lines().count(), 1 + 6 + 5 + 2 * 2);
}

/// What the schema is for: it must refuse an audit that lacks a field or has one of another type.
#[test]
fn the_schema_refuses_a_changed_audit() {
    if without_gpu() {
        return;
    }
    let folder = TempDir::new().unwrap();
    wgtq(&["replay", "--production-faithful", "--out", folder.path().to_str().unwrap()]);
    let audit = read(&folder.path().join("audit.json"));
    for (pointer, field) in
        [("", "verdict"), ("/rng", "total_u64s_consumed"), ("/sweep_A/0", "nrmse")]
    {
        let mut lacking = audit.clone();
        lacking.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(field);
        assert!(!violations("audit", &lacking).is_empty(), "{field} removed");
        let mut changed = audit.clone();
        changed.pointer_mut(pointer).unwrap()[field] = Value::from("something else");
        assert!(!violations("audit", &changed).is_empty(), "{field} changed");
    }
}

fn gate_holds(gate: Gate) {
    if without_gpu() {
        return;
    }
    let mut leg = WgpuLeg::on(LegName::Wgsl, Gpu::open(&Selection::default()).unwrap());
    let checked = gate.check(&mut leg, CodecSettings::DEFAULT).unwrap();
    assert!(checked.passed && !checked.lines.is_empty(), "{:#?}", checked.lines);
}

#[test]
fn round_trip_identity() {
    gate_holds(Gate::GateRoundTripIdentity);
}

#[test]
fn bitwidth_ab() {
    gate_holds(Gate::GateBitwidthAb);
}

#[test]
fn multistep_self_check() {
    gate_holds(Gate::GateMultistepSelfCheck);
}

/// A gate that cannot fail is none: kernels that are wrong must fail it.
#[test]
fn gates_fail_on_broken_kernels() {
    if without_gpu() {
        return;
    }
    let mut leg = WgpuLeg::on(LegName::Wgsl, Gpu::open(&Selection::default()).unwrap());
    let contract = |stem| *wgtq::kernels::ALL.iter().find(|c| c.stem == stem).unwrap();
    for (gate, stem, from, to) in [
        (Gate::GateRoundTripIdentity, "quantize_kv", "encode_scale(norm,", "encode_scale(-norm,"),
        (Gate::GateRoundTripIdentity, "fwht", ", INV_SQRT_HEAD_DIM)", ", 0.062)"),
        (Gate::GateMultistepSelfCheck, "flash_attn_vec_tq", "params.ring_start, ", "0u, "),
    ] {
        let original = contract(stem).wgsl;
        assert!(original.contains(from), "{stem}: {from}");
        leg.replace_source(stem, &original.replace(from, to));
        let passed = gate.check(&mut leg, CodecSettings::DEFAULT).is_ok_and(|c| c.passed);
        assert!(!passed, "{} passes with {stem}: {from} -> {to}", gate.as_str());
        leg.replace_source(stem, original);
    }
}

/// Without what theory expects, the number could not be told from a broken kernel.
#[test]
fn theory_explains_the_registered_errors() {
    if without_gpu() {
        return;
    }
    let folder = TempDir::new().unwrap();
    wgtq(&["replay", "--production-faithful", "--out", folder.path().to_str().unwrap()]);
    let audit = read(&folder.path().join("audit.json"));
    let (mut flipped_errors, mut kept_errors) = (Vec::new(), Vec::new());
    let rows = ["sweep_A", "sweep_B"].iter().flat_map(|s| audit[*s].as_array().unwrap());
    for row in rows {
        let theory = &row["theory"];
        let sd = theory["expected_nrmse_sd"].as_f64().unwrap();
        let off = row["nrmse"].as_f64().unwrap() - theory["expected_nrmse"].as_f64().unwrap();
        assert!(off.abs() < 3.0 * sd, "{} standard deviations from theory: {row}", off / sd);
        assert!((14.0..18.0).contains(&theory["logit_sigma"].as_f64().unwrap()));
        let heads = row["heads"].as_array().unwrap();
        let flipped = heads.iter().filter(|h| h["flipped"] == true).count();
        assert_eq!(row["flipped_heads"], flipped);
        for head in heads {
            let error = head["nrmse"].as_f64().unwrap();
            if head["flipped"] == true {
                flipped_errors.push(error)
            } else {
                kept_errors.push(error)
            }
        }
    }
    // A flipped head returns another V row; only near-ties keep its error small.
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    assert!(flipped_errors.len() > 5 && mean(&flipped_errors) > 3.0 * mean(&kept_errors));
}

#[test]
fn multistep_rows_have_the_registered_rings_and_clean_kernels() {
    if without_gpu() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("m.json");
    let output = wgtq(&["replay", "--multistep", "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report = read(&out);
    assert_eq!(violations("multistep", &report), Vec::<String>::new());
    let markdown = std::fs::read_to_string(folder.path().join("m.md")).unwrap();
    assert_eq!(markdown, String::from_utf8_lossy(&output.stdout));
    assert_eq!(report["overall_verdict"], "dequant_spec_bug_confirmed");
    let rows = report["rows"].as_array().unwrap();
    let rings: Vec<[u64; 3]> = rows
        .iter()
        .map(|r| ["abs_pos", "kvl_logical", "ring_start"].map(|f| r[f].as_u64().unwrap()))
        .collect();
    assert_eq!(rings, [[50, 51, 0], [500, 501, 0], [1050, 1024, 27], [2048, 1024, 1]]);
    for (row, want) in rows.iter().zip(MULTISTEP) {
        near(row, "independent_floor_nrmse", want);
        assert!(row["dequant_oracle_nrmse"].as_f64().unwrap() < 2e-5, "{row}");
    }
    let again = folder.path().join("other");
    wgtq(&["replay", "--multistep", "--seed", "7", "--out", again.to_str().unwrap()]);
    let other = read(&folder.path().join("other.json"));
    assert_ne!(other["rows"][0]["independent_floor_nrmse"], rows[0]["independent_floor_nrmse"]);
}

const MULTISTEP: [f64; 4] = [0.240032, 0.622211, 0.358174, 0.308106];

#[test]
fn a_failing_gate_is_recorded_and_nothing_is_measured() {
    if without_gpu() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let html = folder.path().join("a.html");
    let output = Command::cargo_bin("wgtq")
        .unwrap()
        .env("WGTQ_FAIL_GATE", "gate_bitwidth_ab")
        .args(["replay", "--production-faithful", "--out"])
        .arg(folder.path())
        .arg("--html")
        .arg(&html)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let audit = read(&folder.path().join("audit.json"));
    assert_eq!(violations("audit", &audit), Vec::<String>::new());
    assert_eq!(audit["verdict"], "GATE_FAILED");
    let status: Vec<&str> = audit["regression_gates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| g["status"].as_str().unwrap())
        .collect();
    assert_eq!(status, ["PASS", "FAIL", "PASS"]);
    let gate = &audit["regression_gates"][1];
    assert_eq!(gate["exit_code"], 2);
    assert!(gate["stdout_tail"].to_string().contains("WGTQ_FAIL_GATE"), "{gate}");
    for rows in ["sweep_A", "sweep_B", "ring_wrap"] {
        assert_eq!(audit[rows], serde_json::json!([]));
    }
    assert_eq!(audit["rng"]["total_u64s_consumed"], 0);
    assert!(std::fs::read_to_string(html).unwrap().contains("GATE_FAILED"));
}

/// Two runs that lose the same position agree with each other; the probe must see the loss.
#[test]
fn a_kernel_that_drops_the_newest_slot_is_caught_by_the_probe() {
    if without_gpu() {
        return;
    }
    let gpu = Gpu::open(&Selection::default()).unwrap();
    let mut leg = WgpuLeg::on(LegName::Wgsl, gpu);
    let shape = Plan::registered(String::new()).shape;
    let step = |kv_seq_len, sliding_window| Step {
        abs_pos: 1050,
        kv_seq_len,
        sliding_window,
        ring_start: ring_start(1050, 1024),
    };
    let contract = &wgtq::kernels::flash_attn_vec_tq::CONTRACT;
    for (n, window, want) in [(256, 512, 256), (300, 0, 300), (700, 600, 600), (5, 512, 5)] {
        leg.replace_source(contract.stem, contract.wgsl);
        let seen = positions_visited(&mut leg, &shape, &step(n, window)).unwrap();
        assert_eq!(seen.positions, want, "n {n} window {window}");
        assert!((seen.weight - 1.0).abs() < 1e-4, "{seen:?}");

        let newest = "min(begin + span, params.kv_seq_len)";
        assert!(contract.wgsl.contains(newest));
        let dropped = contract.wgsl.replace(newest, "min(begin + span, params.kv_seq_len - 1u)");
        leg.replace_source(contract.stem, &dropped);
        let seen = positions_visited(&mut leg, &shape, &step(n, window)).unwrap();
        assert_eq!(seen.positions, want - 1, "n {n} window {window}");

        // Slots taken for positions: what the published kernels did.
        let physical = contract.wgsl.replace("end - 1u), params.ring_start,", "end - 1u), 0u,");
        assert_ne!(physical, contract.wgsl);
        leg.replace_source(contract.stem, &physical);
        let seen = positions_visited(&mut leg, &shape, &step(n, window)).unwrap();
        assert_ne!(seen.positions, want, "n {n} window {window}");
    }
}

#[test]
fn a_sweep_of_another_shape_has_the_same_report() {
    if without_gpu() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let args = [
        "sweep",
        "--out",
        folder.path().to_str().unwrap(),
        "--num-heads",
        "4",
        "--num-kv-heads",
        "2",
        "--head-dim",
        "64",
        "--kv-capacity",
        "128",
        "--scale",
        "0.125",
        "--lengths",
        "32,64",
        "--at-position",
        "63",
        "--positions",
        "40,100",
        "--at-length",
        "32",
        "--rotation",
        "srht",
        "--seeds",
        "1,0x2",
        "--sliding-window",
        "0",
        "--json",
    ];
    let output = wgtq(&args);
    let audit: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(violations("audit", &audit), Vec::<String>::new());
    assert_eq!(audit["sweep_A"].as_array().unwrap().len(), 4);
    assert_eq!(audit["ring_wrap"].as_array().unwrap().len(), 4);
    assert_eq!(audit["rng"]["single_instance"], false);
    assert_eq!(audit["regime"]["rotation"], "srht");
    for row in audit["sweep_A"].as_array().unwrap() {
        // Logit spread of about 1: the closed form applies, and it holds.
        let closed = row["theory"]["closed_form_nrmse"].as_f64().unwrap();
        let nrmse = row["nrmse"].as_f64().unwrap();
        assert!((nrmse / closed - 1.0).abs() < 0.35, "{nrmse} {closed}");
    }
    let code = if audit["verdict"] == "BAND_PRE_FALSIFIED" { 2 } else { 0 };
    assert_eq!(output.status.code(), Some(code));
}

/// Nothing is registered for these codecs: theory is what there is to compare with.
#[test]
fn other_codecs_get_theory_and_no_registered_verdict() {
    if without_gpu() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("a");
    let html = folder.path().join("a.html");
    let output = wgtq(&[
        "sweep",
        "--out",
        out.to_str().unwrap(),
        "--html",
        html.to_str().unwrap(),
        "--num-heads=4",
        "--num-kv-heads=2",
        "--head-dim=128",
        "--kv-capacity=256",
        "--scale=0.0884",
        "--lengths=128,200",
        "--at-position=200",
        "--positions=150,200",
        "--at-length=128",
        "--sliding-window=0",
        "--k-bits=8",
        "--v-bits=3",
        "--norm-correction",
    ]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}{text}", stderr(&output));
    assert!(text.contains("NOT_REGISTERED: the band is registered for 4-bit K and V"), "{text}");
    assert!(text.contains("K at 8 and V at 3 bits with norm correction have none"), "{text}");
    let audit = read(&out.join("audit.json"));
    assert_eq!(violations("audit", &audit), Vec::<String>::new());
    assert_eq!((&audit["verdict"], &audit["band"]), (&"NOT_REGISTERED".into(), &Value::Null));
    let regime = &audit["regime"];
    assert_eq!((&regime["k_bits"], &regime["v_bits"]), (&8.into(), &3.into()));
    assert_eq!(regime["norm_correction"], true);
    for row in ["sweep_A", "sweep_B"].iter().flat_map(|s| audit[*s].as_array().unwrap()) {
        assert_eq!(row["band_ok"], Value::Null);
        assert!(row["dequant_oracle_nrmse"].as_f64().unwrap() < 5e-6, "{row}");
        // V at 3 bits makes all of the error.
        let closed = row["theory"]["closed_form_nrmse"].as_f64().unwrap();
        assert!((closed / 0.034f64.sqrt() - 1.0).abs() < 0.02, "{closed}");
        assert!((row["nrmse"].as_f64().unwrap() / closed - 1.0).abs() < 0.2, "{row}");
    }
    for row in audit["ring_wrap"].as_array().unwrap() {
        assert_eq!(row["positions_visited"], serde_json::json!([64, 64]));
        assert_eq!(row["band_ok"], Value::Null);
    }
    // Gates run with the codec that is measured, and say so.
    for gate in audit["regression_gates"].as_array().unwrap() {
        let command = gate["command"].to_string();
        assert!(command.contains("--k-bits=8") && command.contains("--v-bits=3"), "{command}");
        assert_eq!(gate["status"], "PASS", "{gate}");
    }
    assert!(std::fs::read_to_string(html).unwrap().contains("no band is registered"));

    // It compares with itself; points of another codec are other points.
    let path = out.join("audit.json");
    let compare = |other: &Path| {
        let output = wgtq(&["compare", path.to_str().unwrap(), other.to_str().unwrap()]);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, table) = compare(&path);
    assert!(code == Some(0) && table.contains("NO REGRESSION"), "{table}");
    let mut other = audit;
    other["regime"]["k_bits"] = 6.into();
    let other_path = folder.path().join("other.json");
    std::fs::write(&other_path, other.to_string()).unwrap();
    let (code, table) = compare(&other_path);
    assert!(code != Some(0), "{table}");
}

#[test]
fn multistep_with_other_widths_has_no_verdict_and_a_smaller_floor() {
    if without_gpu() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("m");
    let args = ["replay", "--multistep", "--k-bits", "8", "--v-bits", "6", "--rotation", "srht"];
    let output = wgtq(&[&args[..], &["--out", out.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report = read(&folder.path().join("m.json"));
    assert_eq!(violations("multistep", &report), Vec::<String>::new());
    assert_eq!(report["overall_verdict"], "not_registered");
    let codec = serde_json::json!(
        { "rotation": "srht", "k_bits": 8, "v_bits": 6, "norm_correction": false }
    );
    assert_eq!(report["codec"], codec);
    for (row, at_4_bits) in report["rows"].as_array().unwrap().iter().zip(MULTISTEP) {
        assert_eq!(row["verdict"], "not_registered");
        assert!(row["dequant_oracle_nrmse"].as_f64().unwrap() < 2e-5, "{row}");
        assert!(row["independent_floor_nrmse"].as_f64().unwrap() < 0.6 * at_4_bits, "{row}");
    }
    let markdown = std::fs::read_to_string(folder.path().join("m.md")).unwrap();
    assert!(markdown.contains("what K at 8 and V at 6 bits (srht) cost"), "{markdown}");
    assert!(markdown.contains("there is none here"), "{markdown}");
}

/// A gate must see a kernel that is wrong at the widths measured and right at 4 bits.
#[test]
fn gates_fail_on_a_kernel_that_is_broken_at_the_measured_width_only() {
    if without_gpu() {
        return;
    }
    let mut leg = WgpuLeg::on(LegName::Wgsl, Gpu::open(&Selection::default()).unwrap());
    let original = wgtq::kernels::quantize_kv::CONTRACT.wgsl;
    let wrong = original.replace("own_words(codes, BITS)", "own_words(codes, 4u)");
    assert_ne!(wrong, original);
    leg.replace_source("quantize_kv", &wrong);
    let five = CodecSettings { v_bits: Bits::B5, ..CodecSettings::DEFAULT };
    let mut passes = |codec| {
        Gate::GateRoundTripIdentity.check(&mut leg, codec).is_ok_and(|checked| checked.passed)
    };
    assert!(passes(CodecSettings::DEFAULT));
    assert!(!passes(five));
}

#[test]
fn flags_that_a_mode_would_ignore_are_errors() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("x");
    let out = out.to_str().unwrap();
    for (args, word) in [
        (vec!["--multistep", "--manifest", "m.json"], "--manifest"),
        (vec!["--multistep", "--variation", "A"], "--variation"),
        (vec!["--multistep", "--canary"], "--canary"),
        (vec!["--multistep", "--oracle", "both"], "--oracle"),
        (vec!["--multistep", "--html", "x.html"], "--html"),
        (vec!["--production-faithful", "--seed", "1"], "--seed"),
        (vec!["--production-faithful", "--manifest", "m.json"], "--manifest"),
        (vec!["--singlestep", "--manifest", "m.json", "--seed", "1"], "--seed"),
        (vec!["--manifest", "m.json", "--session", "s"], "--session"),
        (vec!["--manifest", "m.json", "--bits", "8"], "--bits"),
        (vec!["--manifest", "m.json", "--rotation", "srht"], "--rotation"),
        (vec!["--multistep", "--bits", "8", "--v-bits", "4"], "cannot be used with"),
        (vec!["--multistep", "--k-bits", "1"], "--k-bits"),
        (vec!["--multistep", "--production-faithful"], "cannot be used with"),
        (vec!["--singlestep"], "--manifest"),
    ] {
        let output = wgtq(&[&["replay", "--out", out], &args[..]].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{args:?}: {}", stderr(&output));
        assert_eq!(stderr(&output).trim_end().lines().count(), 1, "{}", stderr(&output));
    }
    for (args, word) in [
        (["--bits", "7"], "--bits"),
        (["--v-bits", "04"], "--v-bits"),
        (["--lengths", "2000"], "kv_seq_len"),
        (["--lengths", "0"], "kv_seq_len"),
        (["--num-heads", "7"], "num_heads"),
        (["--head-dim", "96"], "head_dim"),
        (["--scale", "-1"], "scale"),
        (["--seeds", "x"], "--seeds"),
    ] {
        let output = wgtq(&[&["sweep", "--out", out], &args[..]].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{args:?}: {}", stderr(&output));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// An interrupted run leaves no file, whole or half.
#[cfg(unix)]
#[test]
fn an_interrupted_sweep_leaves_no_file() {
    if without_gpu() {
        return;
    }
    for delay in [300, 900, 1500] {
        let folder = TempDir::new().unwrap();
        let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("wgtq"))
            .args(["replay", "--production-faithful", "--out"])
            .arg(folder.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        let killed = std::process::Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap();
        let status = child.wait().unwrap();
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        // On a fast machine the run may have ended: then its one file is whole.
        if status.code().is_none() && killed.success() {
            assert_eq!(files, 0, "after {delay} ms");
        } else {
            assert_eq!(
                violations("audit", &read(&folder.path().join("audit.json"))),
                Vec::<String>::new()
            );
        }
    }
}
