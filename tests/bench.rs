//! `wgtq bench`: small on a software driver, and the report that is kept.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]

use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

fn wgtq(args: &[&str]) -> Output {
    Command::cargo_bin("wgtq").unwrap().args(args).output().unwrap()
}

/// The report that a successful run prints.
fn report(arguments: &str) -> Value {
    let output = wgtq(&arguments.split_whitespace().collect::<Vec<_>>());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn validate(report: &Value) {
    let schema = wgtq(&["schema", "bench"]);
    let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(report).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_small_run_is_verified_timed_and_drawn() {
    if std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let [json, svg] = ["b.json", "b.svg"].map(|n| folder.path().join(n));
    let output = wgtq(&[
        "bench",
        "--kernel",
        "attention",
        "--preset",
        "S",
        "--kv-seq-len",
        "33,64",
        "--format",
        "f16,3/8",
        "--leg",
        "wgsl-trusted",
        "--hot",
        "--out",
        json.to_str().unwrap(),
        "--svg",
        svg.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    validate(&report);
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    for point in points {
        assert_eq!(point["verified"], true, "{point}");
        assert!(point["timing"]["us"].as_f64().unwrap() > 0.0, "{point}");
        assert!(point["timing"]["f16_ratio"].as_f64().unwrap() > 0.0, "{point}");
    }
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg"));
}

#[test]
fn attention_in_one_dispatch_is_verified_and_timed() {
    if std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none") {
        return;
    }
    let arguments = "bench --kernel attention --preset S --kv-seq-len 33,200 --format f16,3/8 \
                     --dispatches one --leg wgsl-trusted --hot --json";
    let output = wgtq(&arguments.split_whitespace().collect::<Vec<_>>());
    let error = String::from_utf8_lossy(&output.stderr);
    if error.contains("which cannot order workgroups") {
        return;
    }
    assert!(output.status.success(), "{error}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    validate(&report);
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    for point in points {
        let dense = point["format"] == "f16";
        let kernel = if dense { "flash_attn_vec" } else { "flash_attn_decode_tq" };
        assert_eq!((&point["kernel"], &point["verified"]), (&kernel.into(), &true.into()));
        // Above one split, only the dense control has a merge of its own.
        let merges = dense && point["nwg"] != 1;
        assert_eq!(point["timing"]["merge_us"].is_number(), merges, "{point}");
    }
}

#[test]
fn attention_that_skips_rows_is_verified_against_what_it_may_lose() {
    if std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none") {
        return;
    }
    let run = |floor: &str| {
        let report = report(&format!(
            "bench --kernel attention --preset S --kv-seq-len 200 --format 4/4 --leg wgsl --hot \
             --json --weight-floor {floor}"
        ));
        let point = &report["points"][0];
        assert_eq!(point["verified"], true, "{point}");
        [&point["error"], &point["tolerance"]].map(|x| x.as_f64().unwrap())
    };
    let (none, most) = (run("0"), run("0.5"));
    // A kernel that skipped nothing would be as exact as without a floor.
    assert!(most[0] > 100.0 * none[1], "{most:?} {none:?}");
    assert!(most[1] > none[1], "{most:?} {none:?}");
}

#[test]
fn several_query_tokens_are_verified_and_timed() {
    if std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none") {
        return;
    }
    let arguments = "bench --kernel attention --preset S --kv-seq-len 200 --query-tokens 1,16 \
                     --format f16,3/8 --leg wgsl --hot";
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let table = String::from_utf8(wgtq(&arguments).stdout).unwrap();
    assert!(table.contains("shape, n, q") && table.contains("S 200 16"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    let report = report(&[arguments.as_slice(), &["--json"]].concat().join(" "));
    validate(&report);
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    for point in points {
        let several = point["query_tokens"] == 16;
        assert_eq!(point["kernel"] == "flash_attn_tile", several, "{point}");
        assert_eq!(point["verified"], true, "{point}");
        // Both products, of 9 query heads of 64 coordinates, over what is seen.
        let seen = if several { 16 * 200 - 15 * 16 / 2 } else { 200 };
        let flops = f64::from(4 * 9 * 64 * seen);
        let timing = |name: &str| point["timing"][name].as_f64().unwrap();
        assert!((timing("tflop_s") * timing("us") * 1e6 / flops - 1.0).abs() < 1e-9, "{point}");
        assert!(timing("f16_ratio") > 0.0, "{point}");
    }
}

#[test]
fn splits_follow_the_size_of_the_device() {
    if std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none") {
        return;
    }
    let splits = |multiprocessors: &str| {
        let report = report(&format!(
            "bench --kernel attention --preset S --kv-seq-len 600 --format 4/4 --leg wgsl --hot \
             --json --multiprocessors {multiprocessors}"
        ));
        assert_eq!(report["points"][0]["verified"], true);
        report["points"][0]["nwg"].as_u64().unwrap()
    };
    // Two workgroups a multiprocessor, over three KV heads; then splits of 64 positions or more.
    assert_eq!((splits("1"), splits("3")), (1, 2));
    assert!((5..=10).contains(&splits("132")));
}

#[test]
fn f16_arithmetic_is_refused_by_name_where_there_are_no_matrices() {
    if std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none") {
        return;
    }
    let arguments = "bench --kernel attention --preset S --kv-seq-len 64 --format 4/4 --leg wgsl \
                     --arithmetic f16 --hot --json";
    let output = wgtq(&arguments.split_whitespace().collect::<Vec<_>>());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || error.contains("--arithmetic: need f32 on "), "{error}");
}

#[test]
fn row_kernels_are_verified_and_timed() {
    if std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let json = folder.path().join("b.json");
    let arguments = "bench --kernel rows --preset S,X --tokens 1,37 --leg wgsl,wgsl-spirv --hot";
    let arguments: Vec<&str> =
        arguments.split(' ').chain(["--out", json.to_str().unwrap()]).collect();
    let output = wgtq(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    validate(&report);
    assert_eq!(report["points"].as_array().unwrap().len(), 0);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 2 * 2 * 4);
    for row in rows {
        assert_eq!(row["verified"], true, "{row}");
        assert!(row["timing"]["gb_s"].as_f64().unwrap() > 0.0, "{row}");
    }
    // 37 tokens of three heads: f32 rows read, 4-bit rows and a norm each written.
    let quantized = |r: &&Value| r["preset"] == "S" && r["tokens"] == 37 && r["bits"] == "4";
    assert_eq!(rows.iter().find(quantized).unwrap()["bytes"], 37 * 3 * (256 + 32 + 4));
    let both = |r: &&Value| r["preset"] == "S" && r["tokens"] == 37 && r["bits"] == "8/4";
    assert_eq!(rows.iter().find(both).unwrap()["bytes"], 37 * 3 * (512 + 64 + 32 + 8));
}

#[test]
fn the_kept_reports_are_valid_and_every_point_was_right() {
    for text in [
        include_str!("data/bench-h100.json"),
        include_str!("data/bench-h100-one.json"),
        include_str!("data/bench-h100-rows.json"),
        include_str!("data/bench-h100-mat.json"),
        include_str!("data/bench-h100-mat-gl.json"),
        include_str!("data/bench-h100-tokens-f32.json"),
        include_str!("data/bench-h100-tokens-f16.json"),
    ] {
        let report: Value = serde_json::from_str(text).unwrap();
        validate(&report);
        let all = |list: &str| report[list].as_array().unwrap().iter().cloned();
        let points: Vec<Value> = all("points").chain(all("rows")).collect();
        assert!(!points.is_empty());
        assert!(points.iter().all(|p| p["verified"] == true && p["timing"].is_object()));
    }
}

#[test]
fn bad_arguments_are_named() {
    for (args, named) in [
        ("--leg msl-host", "need wgsl, wgsl-trusted, wgsl-spirv or msl, found msl-host"),
        ("--format 7/4", "need f16 or K/V bits such as 8/4, found 7/4"),
        ("--kv-seq-len 0", "--kv-seq-len"),
        ("--tokens 0", "--tokens"),
        ("--kernel merge", "[possible values: attention, rows]"),
        ("--weight-floor 2", "need a number from 0 to 1, found 2"),
        ("--weight-floor 0.1 --dispatches one", "--weight-floor: need 0 with --dispatches one"),
        ("--dispatches three", "[possible values: two, one, one-rotated]"),
        (
            "--dispatches one --arithmetic f16",
            "--dispatches: need two with --arithmetic f16, found one",
        ),
        (
            "--dispatches one-rotated --arithmetic f16",
            "--dispatches: need two with --arithmetic f16, found one-rotated",
        ),
        (
            "--query-tokens 2 --dispatches one",
            "--query-tokens: need 1 with --dispatches one or one-rotated, or --weight-floor, found 2",
        ),
        (
            "--query-tokens 1,65 --kv-seq-len 64,100",
            "--query-tokens: need no more than the 64 positions, found 65",
        ),
        (
            "--weight-floor 0.1 --dispatches one-rotated",
            "--weight-floor: need 0 with --dispatches one or one-rotated",
        ),
    ] {
        let arguments: Vec<&str> = ["bench"].into_iter().chain(args.split(' ')).collect();
        let output = wgtq(&arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(named), "{args:?}: {error}");
    }
}
