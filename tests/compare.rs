//! `wgtq compare`: this machine against the golden report, and reports that are wrong on purpose.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/parity.json")
}

fn golden_value() -> Value {
    serde_json::from_slice(&std::fs::read(golden()).unwrap()).unwrap()
}

fn wgtq(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("wgtq").unwrap().args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Two files in a folder, compared.
fn compare_texts(a: &str, b: &str, flags: &[&str]) -> (i32, String, String) {
    let folder = TempDir::new().unwrap();
    let paths = [folder.path().join("a.json"), folder.path().join("b.json")];
    std::fs::write(&paths[0], a).unwrap();
    std::fs::write(&paths[1], b).unwrap();
    let mut arguments = vec!["compare", paths[0].to_str().unwrap(), paths[1].to_str().unwrap()];
    arguments.extend(flags);
    wgtq(&arguments)
}

/// The exit code and the comparison.
fn compare(a: &Value, b: &Value, flags: &[&str]) -> (i32, Value) {
    let flags = [flags, &["--json"]].concat();
    let (code, out, notes) = compare_texts(&a.to_string(), &b.to_string(), &flags);
    (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {notes}")))
}

/// A result of the golden report: of the leg `wgsl` against the oracle, held by nrmse.
fn pick(report: &mut Value) -> (&mut Value, [String; 2]) {
    let cases = report["cases"].as_array_mut().unwrap();
    let case = cases.iter_mut().find(|c| c["kernel"] == "flash_attn_vec_tq").unwrap();
    let name = [&case["kernel"], &case["case"]].map(|s| s.as_str().unwrap().to_owned());
    let results = case["results"].as_array_mut().unwrap();
    (results.iter_mut().find(|r| r["leg"] == "wgsl" && r["against"] == "oracle").unwrap(), name)
}

/// The first change is `what` on the picked row, and there is no other regression.
fn check_first(comparison: &Value, what: &str, name: &[String; 2]) {
    let first = &comparison["changes"][0];
    assert_eq!(first["what"], what, "{first}");
    assert_eq!([&first["kernel"], &first["case"]], [&name[0], &name[1]], "{first}");
    assert_eq!(first["leg"], "wgsl", "{first}");
}

#[test]
fn this_machine_has_no_regression_from_the_golden_report() {
    if ["WGTQ_GPU", "WGTQ_CXX"].iter().any(|v| std::env::var_os(v).is_some_and(|v| v == "none")) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let fresh = folder.path().join("parity.json");
    let fresh = fresh.to_str().unwrap();
    let legs = ["--leg", "wgsl,msl-host", "--require-legs", "wgsl,msl-host"];
    let (code, table, notes) =
        wgtq(&[&["parity", "--every", "7", "--compact", "--out", fresh][..], &legs].concat());
    assert_eq!(code, 0, "{notes}{table}");
    let (code, table, notes) = wgtq(&["compare", golden().to_str().unwrap(), fresh]);
    assert_eq!(code, 0, "{notes}{table}\nto renew: tests/data/golden/README.md");
    assert!(table.contains("NO REGRESSION"), "{table}");
}

#[test]
fn a_report_equals_itself_and_another_driver_or_last_digit_is_no_regression() {
    let (a, mut b) = (golden_value(), golden_value());
    let (code, comparison) = compare(&a, &b, &[]);
    assert_eq!((code, &comparison["regressions"]), (0, &json!(0)));
    b["legs"][0]["adapter"]["driver"] = json!("another 1.2.3");
    b["machine"] = json!("another");
    let (picked, _) = pick(&mut b);
    picked["error"] = json!(picked["error"].as_f64().unwrap() * 1.3);
    let (code, comparison) = compare(&a, &b, &[]);
    assert_eq!((code, &comparison["regressions"]), (0, &json!(0)));
}

#[test]
fn a_worse_status_is_a_regression_and_the_other_way_round_it_is_not() {
    let (a, mut b) = (golden_value(), golden_value());
    let (picked, name) = pick(&mut b);
    picked["status"] = json!("finding");
    let (code, comparison) = compare(&a, &b, &[]);
    assert_eq!((code, &comparison["regressions"]), (1, &json!(1)));
    check_first(&comparison, "status_worse", &name);
    let (code, comparison) = compare(&b, &a, &[]);
    assert_eq!(code, 0);
    check_first(&comparison, "status_better", &name);
}

#[test]
fn an_error_that_grew_within_its_tolerance_or_is_no_number_is_a_regression() {
    let (a, name) = (golden_value(), pick(&mut golden_value()).1);
    let tolerance = pick(&mut golden_value()).0["tolerance"].as_f64().unwrap();
    for error in [json!(0.9 * tolerance), Value::Null] {
        let mut b = golden_value();
        pick(&mut b).0["error"] = error;
        let (code, comparison) = compare(&a, &b, &[]);
        assert_eq!((code, &comparison["regressions"]), (1, &json!(1)));
        check_first(&comparison, "error_grew", &name);
    }
}

/// How many results of a report are so.
fn results(report: &Value, wanted: impl Fn(&Value) -> bool) -> usize {
    let cases = report["cases"].as_array().unwrap().iter();
    cases.flat_map(|c| c["results"].as_array().unwrap()).filter(|r| wanted(r)).count()
}

#[test]
fn a_vanished_row_is_a_regression_unless_its_leg_did_not_run() {
    let (a, mut b) = (golden_value(), golden_value());
    let (picked, name) = pick(&mut b);
    picked["leg"] = json!("gone");
    b["cases"].as_array_mut().unwrap().iter_mut().for_each(|c| {
        c["results"].as_array_mut().unwrap().retain(|r| r["leg"] != "gone");
    });
    let (code, comparison) = compare(&a, &b, &[]);
    assert_eq!((code, &comparison["regressions"]), (1, &json!(1)));
    check_first(&comparison, "vanished", &name);

    // A skipped row said nothing.
    let (mut skipped, mut b) = (golden_value(), b);
    pick(&mut skipped).0["status"] = json!("skipped");
    let (code, comparison) = compare(&skipped, &b, &[]);
    assert_eq!((code, &comparison["regressions"]), (0, &json!(0)));

    // Without a compiler, the second machine has neither the leg nor its pairs.
    b = golden_value();
    let legs = b["legs"].as_array_mut().unwrap();
    let host = legs.iter_mut().find(|l| l["label"] == "msl-host").unwrap();
    (host["available"], host["reason"]) = (json!(false), json!("no clang here"));
    b["cases"].as_array_mut().unwrap().iter_mut().for_each(|c| {
        let results = c["results"].as_array_mut().unwrap();
        results.retain(|r| r["leg"] != "msl-host" && r["against"] != "msl-host");
    });
    let (code, comparison) = compare(&a, &b, &[]);
    let rows = results(&a, |r| r["leg"] == "msl-host" || r["against"] == "msl-host");
    assert_eq!((code, &comparison["regressions"]), (0, &json!(0)));
    assert_eq!(
        comparison["missing_legs"],
        json!([{ "leg": "msl-host", "reason": "no clang here", "rows": rows }])
    );
    let (_, table, _) = compare_texts(&a.to_string(), &b.to_string(), &[]);
    assert!(table.contains("leg msl-host: no clang here"), "{table}");
}

#[test]
fn legs_meet_without_their_tags_and_by_map() {
    let renamed = |to: &str| {
        let text = golden_value().to_string();
        serde_json::from_str::<Value>(&text.replace("\"wgsl\"", &format!("\"{to}\""))).unwrap()
    };
    let compared = |comparison: &Value| comparison["compared"].as_u64().unwrap();
    let all = compared(&compare(&golden_value(), &golden_value(), &[]).1);
    let (code, comparison) = compare(&renamed("wgsl@h100"), &renamed("wgsl@lavapipe"), &[]);
    assert_eq!((code, compared(&comparison)), (0, all));
    let (code, comparison) = compare(&renamed("wgsl"), &renamed("wgsl-trusted"), &[]);
    let native = results(&golden_value(), |r| r["leg"] == "msl-host") as u64;
    assert_eq!((code, compared(&comparison)), (0, native), "{}", comparison["missing_legs"]);
    let map = ["--map", "wgsl=wgsl-trusted"];
    let (code, comparison) = compare(&renamed("wgsl"), &renamed("wgsl-trusted"), &map);
    assert_eq!((code, compared(&comparison)), (0, all));
    let text = golden_value().to_string();
    let (code, _, notes) = compare_texts(&text, &text, &["--map", "no=wgsl"]);
    assert_eq!(code, 2);
    assert!(notes.contains("--map no"), "{notes}");
}

#[test]
fn slowness_counts_only_with_a_limit() {
    let (mut a, mut b) = (golden_value(), golden_value());
    pick(&mut a).0["timing"] = json!({ "compile_ms": 0.0, "execute_ms": 10.0 });
    let (picked, name) = pick(&mut b);
    picked["timing"] = json!({ "compile_ms": 0.0, "execute_ms": 50.0 });
    assert_eq!(compare(&a, &b, &[]).0, 0);
    assert_eq!(compare(&a, &b, &["--max-slowdown", "6"]).0, 0);
    let (code, comparison) = compare(&a, &b, &["--max-slowdown", "4"]);
    assert_eq!(code, 1);
    check_first(&comparison, "slower", &name);
}

#[test]
fn files_that_cannot_be_compared_are_exit_code_2_by_name() {
    let text = golden_value().to_string();
    let replay = json!({
        "schema": "wgtq.replay/1", "version": "0", "manifest": "m/manifest.json", "legs": []
    })
    .to_string();
    let mut foreign = golden_value();
    for case in foreign["cases"].as_array_mut().unwrap() {
        case["kernel"] = json!(format!("another {}", case["kernel"]));
    }
    let mut wrong = golden_value();
    pick(&mut wrong).0["status"] = json!("fine");
    for (b, named) in [
        (text[..text.len() / 2].to_owned(), "b.json: JSON"),
        (r#"{ "schema": "wgtq.parity/9" }"#.to_owned(), "found wgtq.parity/9"),
        ("[]".to_owned(), "found none"),
        (wrong.to_string(), ".status: unknown variant `fine`"),
        (replay, "wgtq.parity/1 and wgtq.replay/1"),
        (foreign.to_string(), "no result in common"),
    ] {
        let (code, out, notes) = compare_texts(&text, &b, &[]);
        assert_eq!((code, out.as_str(), notes.lines().count()), (2, "", 1), "{named}: {notes}");
        assert!(notes.contains(named), "{named}: {notes}");
    }
    let (code, _, notes) = wgtq(&["compare", golden().to_str().unwrap(), "/nonexistent.json"]);
    assert_eq!((code, notes.contains("/nonexistent.json")), (2, true), "{notes}");
}

#[test]
fn the_table_fits_a_hundred_columns_and_the_json_its_schema() {
    let (a, mut b) = (golden_value(), golden_value());
    for case in b["cases"].as_array_mut().unwrap() {
        case["results"][0]["status"] = json!("runtime_error");
    }
    let (code, table, _) = compare_texts(&a.to_string(), &b.to_string(), &[]);
    assert_eq!(code, 1);
    assert!(table.contains("more; --all shows them"), "{table}");
    let (_, all, _) = compare_texts(&a.to_string(), &b.to_string(), &["--all"]);
    assert!(all.lines().count() > table.lines().count());
    for line in table.lines().chain(all.lines()) {
        assert!(line.chars().count() <= 100, "{}: {line}", line.chars().count());
    }
    let (_, schema, _) = wgtq(&["schema", "compare"]);
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let (_, comparison) = compare(&a, &b, &[]);
    let validator = jsonschema::validator_for(&schema).unwrap();
    assert!(validator.is_valid(&comparison), "{:?}", validator.iter_errors(&comparison).next());
}
