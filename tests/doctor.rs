//! `wgtq doctor` on this machine, and on machines that lack a part.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]

use assert_cmd::Command;
use serde_json::Value;

/// The report and the exit code with these variables set on top of a clean environment.
fn doctor(variables: &[(&str, &str)]) -> (Value, i32) {
    let mut command = Command::cargo_bin("wgtq").unwrap();
    for name in ["WGTQ_CXX", "VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    let output = command.args(["doctor", "--json"]).output().unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.code().unwrap())
}

fn leg<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut legs = report["legs"].as_array().unwrap().iter();
    legs.find(|leg| leg["leg"] == name).unwrap_or_else(|| panic!("no leg {name} in {report}"))
}

/// Available without a hint, or anything else with a reason and a hint.
fn check_words(report: &Value) {
    for leg in report["legs"].as_array().unwrap() {
        let available = leg["status"] == "available";
        assert_eq!(available, leg["hint"].is_null(), "{leg}");
        assert!(!leg["reason"].as_str().unwrap().is_empty(), "{leg}");
    }
}

fn without_gpu() -> bool {
    std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none")
}

#[test]
fn a_page_has_every_adapter_with_its_measured_subgroups_and_every_leg() {
    if without_gpu() {
        return;
    }
    let (report, code) = doctor(&[]);
    assert_eq!(code, 0, "{report}");
    check_words(&report);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["legs"].as_array().unwrap().len(), wgtq::legs::LegName::ALL.len());
    assert_eq!(leg(&report, "wgsl")["status"], "available");
    for adapter in report["adapters"].as_array().unwrap() {
        assert!(adapter["error"].is_null(), "{adapter}");
        if let (Some(range), Some(width)) =
            (adapter["subgroup_size"].as_array(), adapter["measured_subgroup_size"].as_u64())
        {
            let ends = [range[0].as_u64().unwrap(), range[1].as_u64().unwrap()];
            assert!((ends[0]..=ends[1]).contains(&width), "{adapter}");
        }
    }
}

#[test]
fn the_page_fits_a_hundred_columns() {
    let output = Command::cargo_bin("wgtq")
        .unwrap()
        .arg("doctor")
        .env("WGTQ_CXX", "/nonexistent/a/rather/long/path/to/a/compiler/that/nobody/has/clang++")
        .output()
        .unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    for line in page.lines() {
        assert!(line.chars().count() <= 100, "{}: {line}", line.chars().count());
    }
    assert!(page.contains("leg wgsl-spirv") && page.contains("cache"), "{page}");
}

#[test]
fn a_compiler_that_is_not_there_is_named_with_what_to_do() {
    let (report, _) = doctor(&[("WGTQ_CXX", "/nonexistent")]);
    check_words(&report);
    for name in ["msl-host", "wgsl-naga-msl"] {
        let leg = leg(&report, name);
        assert_eq!(leg["status"], "missing", "{leg}");
        assert!(leg["reason"].as_str().unwrap().contains("/nonexistent"), "{leg}");
        assert!(leg["hint"].as_str().unwrap().contains("WGTQ_CXX"), "{leg}");
    }
    assert!(report["clang"].is_null());
}

#[cfg(target_os = "linux")]
#[test]
fn hidden_vulkan_drivers_are_named_with_what_to_do() {
    if without_gpu() {
        return;
    }
    let (report, _) = doctor(&[("VK_DRIVER_FILES", "/nonexistent")]);
    check_words(&report);
    let spirv = leg(&report, "wgsl-spirv");
    assert_ne!(spirv["status"], "available", "{spirv}");
    // A machine with OpenGL still has an adapter, but none of Vulkan.
    assert_eq!(spirv["hint"], "unset VK_DRIVER_FILES", "{spirv}");
    if report["adapters"].as_array().unwrap().is_empty() {
        assert!(spirv["reason"].as_str().unwrap().contains("/nonexistent"), "{spirv}");
    }
}

#[test]
fn what_is_turned_off_is_not_missing_and_nothing_left_is_exit_code_2() {
    let (report, code) = doctor(&[("WGTQ_GPU", "none"), ("WGTQ_CXX", "none")]);
    check_words(&report);
    assert_eq!(code, 2, "{report}");
    assert_eq!(leg(&report, "wgsl")["status"], "turned-off");
    assert_eq!(leg(&report, "msl-host")["status"], "turned-off");
    assert_eq!(leg(&report, "wgsl")["hint"], "unset WGTQ_GPU");
    assert!(report["adapters"].as_array().unwrap().is_empty());
}
