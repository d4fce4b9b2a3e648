//! The parity suite and its command: complete, honest about what did not run, and red where a
//! kernel is broken.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]

use std::collections::HashSet;

use assert_cmd::Command;
use serde_json::Value;
use wgtq::contract::Contract;
use wgtq::gpu::device::Selection;
use wgtq::legs::{LegName, MslHostLeg, WgpuLeg};
use wgtq::parity::report::{CaseReport, Report, Status, Summary};
use wgtq::parity::suite::{OpenLeg, cases, merge, run_case};

fn off(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|v| v == "none")
}

#[test]
fn every_kernel_has_cases_and_no_two_share_a_name() {
    let cases = cases();
    let names: HashSet<_> = cases.iter().map(|c| (c.kernel(), c.id())).collect();
    assert_eq!(names.len(), cases.len());
    for contract in wgtq::kernels::ALL {
        let of = cases.iter().filter(|c| c.kernel() == contract.stem).count();
        assert!(of >= 20, "{}: {of} cases", contract.stem);
    }
}

fn contract(stem: &str) -> &'static Contract {
    wgtq::kernels::ALL.iter().find(|c| c.stem == stem).unwrap()
}

/// Runs two cases of every kernel on a WGSL and an MSL leg.
fn reports(legs: &mut [OpenLeg]) -> Vec<CaseReport> {
    let mut taken: Vec<&str> = Vec::new();
    let mut reports = Vec::new();
    for case in cases().iter().rev() {
        if taken.iter().filter(|k| **k == case.kernel()).count() < 2 {
            taken.push(case.kernel());
            reports.push(run_case(case.as_ref(), legs));
        }
    }
    reports
}

fn failing(reports: &[CaseReport]) -> HashSet<(&str, &str)> {
    let failures = reports.iter().flat_map(|c| c.failures().map(|f| (&*c.kernel, &*f.leg)));
    failures.collect()
}

#[test]
fn a_broken_wgsl_kernel_and_a_broken_msl_kernel_each_turn_the_report_red_by_name() {
    if off("WGTQ_GPU") || off("WGTQ_CXX") {
        return;
    }
    let open = |change: (LegName, &str, &str, &str)| {
        let mut wgsl = WgpuLeg::open(LegName::Wgsl, &Selection::default()).unwrap();
        let mut msl = MslHostLeg::open(LegName::MslHost).unwrap();
        let (leg, stem, from, to) = change;
        let text = if leg == LegName::Wgsl { contract(stem).wgsl } else { contract(stem).msl };
        assert!(text.contains(from), "{stem} does not contain {from}");
        let changed = text.replacen(from, to, 1);
        match leg {
            LegName::Wgsl => wgsl.replace_source(stem, &changed),
            _ => msl.replace_source(stem, &changed),
        }
        [OpenLeg::new(Box::new(wgsl)), OpenLeg::new(Box::new(msl))]
    };
    let same = (LegName::Wgsl, "fwht", "x", "x");
    let good = reports(&mut open(same));
    assert_eq!(failing(&good), HashSet::new());
    assert_eq!(Summary::of(&good).exit_code(), 0);

    let (stem, from, to) = ("dequantize_kv", "BITS, 0u) * scale;", "BITS, 0u);");
    let red = reports(&mut open((LegName::Wgsl, stem, from, to)));
    // The leg itself, and the pair that it is one half of; nothing else.
    assert_eq!(failing(&red), HashSet::from([(stem, "wgsl")]));
    assert_eq!(red.iter().flat_map(|c| c.failures()).count(), 4);
    assert_eq!(Summary::of(&red).exit_code(), 1);

    let (stem, from, to) = ("flash_attn_vec_reduce", "total / sum", "total");
    let red = reports(&mut open((LegName::MslHost, stem, from, to)));
    let pairs = red.iter().flat_map(|c| c.failures()).filter(|f| f.against == "msl-host").count();
    assert!(failing(&red).contains(&(stem, "msl-host")) && pairs > 0);
    assert!(failing(&red).iter().all(|(kernel, _)| *kernel == stem));

    // Right numbers with a barrier too few are a finding, and a text that is no MSL is named.
    let barrier = "    threadgroup_barrier(mem_flags::mem_threadgroup);\n\n    // A second turn";
    let stem = "flash_attn_vec_tq";
    let red = reports(&mut open((LegName::MslHost, stem, barrier, "\n    // A second turn")));
    let status = |red: &[CaseReport]| {
        let of: Vec<_> = red.iter().filter(|c| c.kernel == stem).collect();
        let leg = of[0].results.iter().find(|r| r.leg == "msl-host").unwrap();
        (leg.status, leg.reason.clone())
    };
    let (found, reason) = status(&red);
    assert!(matches!(found, Status::Finding | Status::Mismatch), "{reason}");
    let (found, reason) =
        status(&reports(&mut open((LegName::MslHost, stem, "kernel void", "kernel vooid"))));
    assert_eq!(found, Status::CompileError, "{reason}");
}

fn wgtq(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("wgtq").unwrap().args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_is_skipped_is_said_with_its_reason() {
    if off("WGTQ_GPU") {
        return;
    }
    let (code, table, notes) =
        wgtq(&["parity", "--kernel", "flash_attn_mat_tq", "--every", "90", "--leg", "wgsl"]);
    if code == 0 {
        return; // this device has matrices
    }
    assert_eq!(code, 2, "{notes}");
    let line = table.replace("\n    ", " ");
    let said = "skipped on wgsl: flash_attn_mat_tq: needs the device feature";
    assert!(line.contains(said) && line.contains("which is not enabled"), "{table}");
    assert!(table.contains("NOTHING RAN") && !table.contains("FAIL"), "{table}");
    let widest = table.lines().map(|l| l.chars().count()).max().unwrap();
    assert!(widest <= 100, "{widest} columns:\n{table}");
}

#[test]
fn the_command_writes_a_report_that_its_schema_accepts() {
    if off("WGTQ_GPU") {
        return;
    }
    let folder = tempfile::TempDir::new().unwrap();
    let (json, html) = (folder.path().join("r.json"), folder.path().join("r.html"));
    let (code, table, notes) = wgtq(&[
        "parity",
        "--kernel",
        "fwht,quantize_kv",
        "--every",
        "9",
        "--leg",
        "wgsl,msl",
        "--out",
        json.to_str().unwrap(),
        "--html",
        html.to_str().unwrap(),
    ]);
    let metal = cfg!(target_vendor = "apple");
    assert_eq!(code, 0, "{notes}");
    let widest = table.lines().map(|l| l.chars().count()).max().unwrap();
    assert!(widest <= 100, "{widest} columns:\n{table}");
    assert!(metal || table.contains("leg msl did not run: needs Metal"), "{table}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let (_, schema, _) = wgtq(&["schema", "parity"]);
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    assert!(validator.is_valid(&report), "{:?}", validator.iter_errors(&report).next());
    assert!(!validator.is_valid(&serde_json::json!({ "schema": "wgtq.parity/1" })));
    assert_eq!(report["legs"][0]["available"], true);
    assert!(std::fs::read_to_string(html).unwrap().starts_with("<!doctype html>"));

    // Two reports become one: the same cases, legs side by side.
    let read = || serde_json::from_value::<Report>(report.clone()).unwrap();
    let both = merge(vec![read(), read()]);
    assert_eq!(both.cases.len(), read().cases.len());
    assert_eq!(both.summary.pass, 2 * read().summary.pass);
    assert!(both.legs.iter().any(|l| l.label == "wgsl #2"), "{:?}", both.legs);
}

#[test]
fn a_required_leg_that_is_missing_and_wrong_names_are_errors_of_one_line() {
    if off("WGTQ_GPU") {
        return;
    }
    if cfg!(not(target_vendor = "apple")) {
        let (code, _, notes) = wgtq(&[
            "parity",
            "--kernel",
            "fwht",
            "--every",
            "40",
            "--leg",
            "wgsl,msl",
            "--require-legs",
            "msl",
        ]);
        assert_eq!(code, 2);
        assert!(notes.contains("error: --require-legs msl: needs Metal"), "{notes}");
    }
    let few = ["parity", "--kernel", "fwht", "--every", "40", "--leg", "wgsl"];
    let (code, _, notes) = wgtq(&[&few[..], &["--require-legs", "wgsl,wgsl-trusted"]].concat());
    assert_eq!(code, 2, "{notes}");
    assert!(notes.contains("--require-legs wgsl-trusted: --leg leaves it out"), "{notes}");
    let (code, _, notes) = wgtq(&["parity", "--kernel", "flash"]);
    assert_eq!((code, notes.lines().count()), (1, 1), "{notes}");
    let (code, _, notes) = wgtq(&["parity", "--case", "no such case"]);
    assert_eq!((code, notes.lines().count()), (1, 1), "{notes}");
    let (code, _, notes) = wgtq(&["parity", "--merge", "/nonexistent.json"]);
    assert_eq!((code, notes.lines().count()), (1, 1), "{notes}");
}
