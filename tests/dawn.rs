//! The leg `wgsl-dawn`: the kernels on a second, independent implementation of WGSL.
//!
//! Needs what `tests/ci/dawn.sh` installs. `WGTQ_DAWN=none` is the explicit way to leave these tests
//! out, and so is `WGTQ_GPU=none`. What Dawn does rarely, such as dying, is played by packages that
//! change one thing of the real one.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;
use wgtq::driver::{DriverError, cache_folder};
use wgtq::kernels;
use wgtq::legs::{DawnLeg, Leg as _};
use wgtq::parity::{Case, suite};

fn left_out() -> bool {
    ["WGTQ_DAWN", "WGTQ_GPU"].iter().any(|name| std::env::var_os(name).is_some_and(|v| v == "none"))
}

fn folder() -> PathBuf {
    let named = std::env::var_os("WGTQ_DAWN").map(PathBuf::from);
    std::path::absolute(named.unwrap_or_else(|| cache_folder().join("dawn"))).unwrap()
}

fn leg() -> DawnLeg {
    DawnLeg::open().expect("what tests/ci/dawn.sh installs, or WGTQ_DAWN=none")
}

/// A package that runs `change` on the real one before handing it on. `count(f)` makes a function
/// that calls `f` with the number of the call, from 0; `seen` makes an adapter of an adapter.
fn changed(change: &str) -> (TempDir, DawnLeg) {
    let fake = TempDir::new().unwrap();
    let package = fake.path().join("node_modules/webgpu");
    std::fs::create_dir_all(&package).unwrap();
    let real = folder().join("node_modules/webgpu/index.js");
    let text = format!("import * as real from 'file://{}';\n{CHANGED}\n{change}\n", real.display());
    std::fs::write(package.join("index.js"), text).unwrap();
    let json = r#"{"name": "webgpu", "version": "0.0.0", "type": "module", "main": "index.js"}"#;
    std::fs::write(package.join("package.json"), json).unwrap();
    let driver = "swiftshader";
    std::os::unix::fs::symlink(folder().join(driver), fake.path().join(driver)).unwrap();
    let leg = DawnLeg::open_in(fake.path()).unwrap();
    (fake, leg)
}

/// A package whose adapters and functions can be changed.
const CHANGED: &str = "
export const globals = real.globals;
let seen = (adapter) => adapter;
const parts = (a) => ({
    features: a.features, info: a.info, limits: a.limits, requestDevice: (d) => a.requestDevice(d),
});
const count = (f) => {
    let n = 0;
    return function (...args) { return f.call(this, n++, ...args); };
};
export const create = (flags) => {
    const gpu = real.create(flags);
    return { requestAdapter: async (options) => seen(await gpu.requestAdapter(options)) };
};";

/// The first case of `kernel` whose name contains `text`.
fn case(kernel: &str, text: &str) -> Box<dyn Case> {
    let mut cases = suite::cases().into_iter();
    cases.find(|c| c.kernel() == kernel && c.id().contains(text)).unwrap()
}

fn assert_passes(case: &dyn Case, leg: &mut DawnLeg) {
    match case.run(leg) {
        Ok(o) => assert!(
            o.pass(),
            "{} {}: error {:.3e} over tolerance {:.3e}: {}",
            case.kernel(),
            case.id(),
            o.error,
            o.tolerance,
            o.detail
        ),
        Err(e) => panic!("{} {}: {e}", case.kernel(), case.id()),
    }
}

/// The first case of each kernel at each head dim, and of each type of K and V.
fn one_case_a_head_dim() -> Vec<Box<dyn Case>> {
    let mut seen = Vec::new();
    let mut cases = suite::cases();
    cases.retain(|case| {
        let id = case.id();
        let dim = |word: &&str| word.strip_prefix('d').is_some_and(|d| d.parse::<u32>().is_ok());
        let words = id.split(' ').take_while(|w| !dim(w)).map(str::to_owned);
        let key =
            (case.kernel(), words.collect::<Vec<_>>(), id.split(' ').find(dim).map(str::to_owned));
        let new = key.2.is_some() && !seen.contains(&key);
        if new {
            seen.push(key);
        }
        new
    });
    cases
}

#[test]
fn every_kernel_passes_at_every_head_dim() {
    if left_out() {
        return;
    }
    let cases = one_case_a_head_dim();
    for contract in kernels::ALL {
        let count = cases.iter().filter(|c| c.kernel() == contract.stem).count();
        assert!(count >= 4, "{}: {count} head dims", contract.stem);
    }
    let mut leg = leg();
    for case in cases {
        assert_passes(&*case, &mut leg);
    }
}

#[test]
fn without_the_subgroups_feature_kernels_add_up_through_workgroup_memory() {
    if left_out() {
        return;
    }
    let (_fake, mut leg) = changed(
        "seen = (adapter) => {
             const features = [...adapter.features].filter((f) => !f.startsWith('subgroup'));
             return { ...parts(adapter), features: new Set(features) };
         };",
    );
    assert_eq!(leg.adapter().subgroup_size, None);
    assert_eq!(leg.caps().subgroup_size, None);
    for case in one_case_a_head_dim() {
        assert_passes(&*case, &mut leg);
    }
}

#[test]
fn a_width_that_the_probe_does_not_find_is_not_planned_for() {
    if left_out() {
        return;
    }
    let (_fake, mut leg) = changed(
        "seen = (adapter) => {
             const { vendor, device, description, isFallbackAdapter } = adapter.info;
             const info = { vendor, device, description, isFallbackAdapter };
             return {
                 ...parts(adapter), info: { ...info, subgroupMinSize: 128, subgroupMaxSize: 128 },
             };
         };",
    );
    assert_eq!(leg.adapter().subgroup_size, Some((128, 128)));
    assert_eq!(leg.adapter().measured_subgroup_size, None);
    assert_eq!(leg.caps().subgroup_size, None);
    assert_passes(&*case("flash_attn_vec_tq", "d64"), &mut leg);
}

#[test]
fn a_broken_kernel_fails() {
    if left_out() {
        return;
    }
    let mut leg = leg();
    for (stem, text, by) in [
        ("dequantize_kv", "BITS, 0u) * scale;", "BITS, 0u);"),
        ("flash_attn_vec_reduce", "total / sum", "total * sum"),
    ] {
        let contract = kernels::ALL.iter().find(|c| c.stem == stem).unwrap();
        assert!(contract.wgsl.contains(text), "{stem}: {text}");
        let case = case(stem, if stem == "dequantize_kv" { "d128" } else { "none empty" });
        leg.replace_source(stem, &contract.wgsl.replacen(text, by, 1));
        assert!(!case.run(&mut leg).unwrap().pass(), "{stem}: {by} was not seen");
        leg.replace_source(stem, contract.wgsl);
        assert_passes(&*case, &mut leg);
    }
}

#[test]
fn a_syntax_error_names_the_line_of_the_file() {
    if left_out() {
        return;
    }
    let mut leg = leg();
    let contract = kernels::ALL.iter().find(|c| c.stem == "fwht").unwrap();
    for (wrong, line) in [("fn broken( {\n", 1), ("fn broken() { let x: u32 = 1.5; }\n", 1)] {
        leg.replace_source("fwht", &format!("{wrong}{}", contract.wgsl));
        let error = case("fwht", "d64").run(&mut leg).unwrap_err();
        assert!(
            matches!(&error, DriverError::Library(wgtq::Error::Shader { kernel: "fwht", .. })),
            "{error:?}"
        );
        assert!(error.to_string().contains(&format!("wgsl/fwht.wgsl:{line}: ")), "{error}");
    }
    leg.replace_source("fwht", contract.wgsl);
    assert_passes(&*case("fwht", "d64"), &mut leg);
}

#[test]
fn a_process_that_dies_in_a_dispatch_is_an_error_and_the_next_tape_starts_another() {
    if left_out() {
        return;
    }
    // Three submits are the subgroup probe's.
    let (_fake, mut leg) = changed(
        "globals.GPUQueue.prototype.submit = ((submit) => count(function (n, ...args) {
             if (n === 3) process.kill(process.pid, 'SIGKILL');
             return submit.apply(this, args);
         }))(globals.GPUQueue.prototype.submit);",
    );
    let case = case("fwht", "d64");
    let error = case.run(&mut leg).unwrap_err();
    assert!(matches!(&error, DriverError::Dawn { .. }), "{error:?}");
    assert!(error.to_string().contains("fwht: its process ended with signal: 9"), "{error}");
    assert_eq!(leg.process_id(), None);
    assert_passes(&*case, &mut leg);
    assert!(leg.process_id().is_some());
}

#[test]
fn a_process_that_is_killed_between_tapes_is_an_error() {
    if left_out() {
        return;
    }
    let mut leg = leg();
    let id = leg.process_id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-9", &id]).status().unwrap().success());
    let error = case("fwht", "d64").run(&mut leg).unwrap_err();
    assert!(matches!(&error, DriverError::Dawn { .. }), "{error:?}");
    assert_passes(&*case("fwht", "d64"), &mut leg);
}

#[test]
fn a_process_that_hangs_is_ended_at_the_time_limit() {
    if left_out() {
        return;
    }
    let (_fake, mut leg) = changed(
        "globals.GPUQueue.prototype.submit = ((submit) => count(function (n, ...args) {
             if (n === 3) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
             return submit.apply(this, args);
         }))(globals.GPUQueue.prototype.submit);",
    );
    leg.limit = Duration::from_secs(3);
    let start = Instant::now();
    let error = case("fwht", "d64").run(&mut leg).unwrap_err();
    assert!(matches!(&error, DriverError::DawnTimeout { seconds: 3, .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    leg.limit = Duration::from_secs(60);
    assert_passes(&*case("fwht", "d64"), &mut leg);
}

#[test]
fn a_folder_without_the_package_says_how_to_get_it() {
    if left_out() {
        return;
    }
    let empty = TempDir::new().unwrap();
    let DriverError::NoDawn { reason, hint } = DawnLeg::open_in(empty.path()).unwrap_err() else {
        panic!("not the error of a missing part");
    };
    assert!(reason.contains("the npm package webgpu"), "{reason}");
    let path = empty.path().display();
    assert!(hint.starts_with(&format!("npm install --prefix {path} webgpu@")), "{hint}");
}

/// What `wgtq doctor` says of the leg with these variables set.
fn doctor(variables: &[(&str, &Path)]) -> Value {
    let mut command = Command::cargo_bin("wgtq").unwrap();
    command.env_remove("WGTQ_DAWN").env_remove("WGTQ_GPU").envs(variables.iter().copied());
    let output = command.args(["doctor", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let legs = report["legs"].as_array().unwrap();
    legs.iter().find(|leg| leg["leg"] == "wgsl-dawn").unwrap().clone()
}

#[test]
fn the_doctor_names_what_is_missing() {
    let nowhere = Path::new("/nonexistent");
    for (variables, status, reason, hint) in [
        (vec![("WGTQ_DAWN", nowhere)], "missing", "/nonexistent/node_modules", "npm install"),
        (vec![("PATH", nowhere)], "missing", "needs Node.js", "install Node.js"),
        (vec![("WGTQ_DAWN", Path::new("none"))], "turned-off", "WGTQ_DAWN=none", "unset WGTQ_DAWN"),
        (vec![("WGTQ_GPU", Path::new("none"))], "turned-off", "WGTQ_GPU=none", "unset WGTQ_GPU"),
    ] {
        let needs_node = hint == "npm install";
        if needs_node && left_out() {
            continue;
        }
        let leg = doctor(&variables);
        assert_eq!(leg["status"], status, "{leg}");
        assert!(leg["reason"].as_str().unwrap().contains(reason), "{leg}");
        assert!(leg["hint"].as_str().unwrap().contains(hint), "{leg}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_machine_without_a_driver_for_dawn_says_so() {
    if left_out() {
        return;
    }
    let folder = folder();
    let leg = doctor(&[("WGTQ_DAWN", &folder), ("VK_DRIVER_FILES", Path::new("/nonexistent"))]);
    assert_eq!(leg["status"], "missing", "{leg}");
    assert!(leg["reason"].as_str().unwrap().contains("no vulkan adapter"), "{leg}");
    assert!(leg["hint"].as_str().unwrap().contains("chromium-common"), "{leg}");
}

#[test]
fn replay_and_parity_run_it() {
    if left_out() {
        return;
    }
    let out = TempDir::new().unwrap();
    let manifest =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/smollm2-l15-n400/manifest.json");
    let mut replay = Command::cargo_bin("wgtq").unwrap();
    replay.args(["replay", "--leg", "wgsl-dawn", "--manifest"]).arg(manifest);
    replay.arg("--out").arg(out.path().join("r.json")).assert().success();
    let mut parity = Command::cargo_bin("wgtq").unwrap();
    parity.args(["parity", "--leg", "wgsl-dawn", "--kernel", "fwht", "--case", "d64", "--json"]);
    let report: Value =
        serde_json::from_slice(&parity.assert().success().get_output().stdout).unwrap();
    assert_eq!(report["legs"][0]["label"], "wgsl-dawn");
    assert_eq!(
        report["legs"][0]["adapter"]["backend"].as_str().unwrap().split(' ').next(),
        Some("dawn")
    );
    assert_eq!(report["sources"][0]["leg"], "wgsl-dawn");
    assert!(
        report["cases"].as_array().unwrap().iter().all(|c| c["results"][0]["status"] == "pass")
    );
}
