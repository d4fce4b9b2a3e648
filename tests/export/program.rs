//! `wgtq kernels` from outside.

use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;
use sha2::{Digest, Sha256};

fn wgtq(arguments: &[&str]) -> Output {
    Command::cargo_bin("wgtq").unwrap().args(arguments).output().unwrap()
}

#[test]
fn export_writes_code_and_contract_side_by_side() {
    let folder = tempfile::TempDir::new().unwrap();
    let out = folder.path().to_str().unwrap();
    for (target, kernels) in [("wgsl-browser", 8), ("msl", 8), ("spirv", 8), ("hlsl", 8)] {
        let output = wgtq(&[
            "kernels",
            "export",
            "--target",
            target,
            "--head-dim",
            "64,512",
            "--rotation",
            "srht",
            "--kernel",
            "fwht,quantize_kv,flash_attn_vec_reduce",
            "--out",
            out,
            "--json",
        ]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let contracts: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(contracts.len(), kernels, "{target}");
        for contract in contracts {
            let path = folder.path().join(contract["file"].as_str().unwrap());
            let hash = Sha256::digest(std::fs::read(&path).unwrap());
            let hash: String = hash.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(contract["sha256"], hash, "{}", path.display());
            let beside = std::fs::read(path.with_extension("json")).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&beside).unwrap(), contract);
        }
    }
}

/// For people: lines that fit a terminal, and names that can be copied.
#[test]
fn the_table_of_an_export_breaks_no_file_name() {
    let folder = tempfile::TempDir::new().unwrap();
    let out = folder.path().to_str().unwrap();
    let flags = ["kernels", "export", "--target", "spirv", "--head-dim", "128", "--ratio", "4"];
    let output = wgtq(&[&flags[..], &["--subgroup-size", "32", "--out", out]].concat());
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.lines().all(|line| line.len() <= 100), "{table}");
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert_eq!(table.contains(&name), name.ends_with(".spv"), "{name}: {table}");
    }
    assert!(!table.contains("capability "), "{table}");
}

/// Attention for each K width with each V width; every other kernel once for each width of either.
#[test]
fn export_takes_k_and_v_widths_apart() {
    let folder = tempfile::TempDir::new().unwrap();
    let out = folder.path().to_str().unwrap();
    let exported = |flags: &[&str]| -> Vec<(String, Value)> {
        let kernels = "flash_attn_vec_tq,quantize_kv,dequantize_kv";
        let base = ["kernels", "export", "--target", "wgsl-native", "--head-dim", "64", "--json"];
        let output = wgtq(&[&base[..], &["--kernel", kernels, "--out", out], flags].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let contracts: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let name = |c: &Value| c["kernel"].as_str().unwrap().to_owned();
        contracts.iter().map(|c| (name(c), c["variant"].clone())).collect()
    };
    let of = |contracts: &[(String, Value)], kernel: &str, field: &str| -> Vec<String> {
        let mine = contracts.iter().filter(|(name, _)| name == kernel);
        mine.map(|(_, variant)| variant[field].as_str().unwrap().to_owned()).collect()
    };
    let apart = exported(&["--k-bits", "8,6", "--v-bits", "4,3", "--norm-correction"]);
    assert_eq!(of(&apart, "flash_attn_vec_tq", "k_bits"), ["8", "8", "6", "6"]);
    assert_eq!(of(&apart, "flash_attn_vec_tq", "v_bits"), ["4", "3", "4", "3"]);
    assert_eq!(of(&apart, "quantize_kv", "bits"), ["8", "4", "3", "6"]);
    assert_eq!(of(&apart, "quantize_kv", "norm_correction"), ["true"; 4]);
    assert_eq!(of(&apart, "dequantize_kv", "bits"), ["8", "4", "3", "6"]);

    let same = exported(&["--bits", "2,5"]);
    assert_eq!(of(&same, "flash_attn_vec_tq", "k_bits"), ["2", "5"]);
    assert_eq!(of(&same, "flash_attn_vec_tq", "v_bits"), ["2", "5"]);
    assert_eq!(of(&same, "quantize_kv", "norm_correction"), ["false"; 2]);

    let k_only = exported(&["--k-bits", "8"]);
    assert_eq!(of(&k_only, "flash_attn_vec_tq", "k_bits"), ["8"]);
    assert_eq!(of(&k_only, "flash_attn_vec_tq", "v_bits"), ["4"]);
}

#[test]
fn wrong_flags_are_named_and_write_nothing() {
    let folder = tempfile::TempDir::new().unwrap();
    let out = folder.path().join("new");
    for (flags, word) in [
        (&["--target", "glsl", "--head-dim", "64"][..], "glsl"),
        (&["--target", "msl", "--head-dim", "65"], "65"),
        (&["--target", "msl", "--head-dim", "64", "--bits", "9"], "bits"),
        (&["--target", "msl", "--head-dim", "64", "--v-bits", "7"], "2, 3, 4, 5, 6 or 8"),
        (&["--target", "msl", "--head-dim", "64", "--bits", "4", "--k-bits", "8"], "--k-bits"),
        (&["--target", "msl", "--head-dim", "64", "--kernel", "sdpa"], "sdpa"),
        (&["--target", "msl", "--head-dim", "64", "--ratio", "0"], "ratio"),
        (&["--target", "msl", "--head-dim", "64", "--subgroup-size", "none"], "32 for MSL"),
        (&["--target", "hlsl", "--head-dim", "64", "--subgroup-size", "12"], "power of two"),
        (&["--target", "hlsl"], "--head-dim"),
    ] {
        let arguments = [&["kernels", "export", "--out", out.to_str().unwrap()], flags].concat();
        let output = wgtq(&arguments);
        assert_eq!(output.status.code(), Some(1), "{flags:?}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(word), "{flags:?}: {message}");
        assert!(!out.exists(), "{flags:?}");
    }
}

#[test]
fn list_names_every_kernel() {
    let output = wgtq(&["kernels", "list", "--json"]);
    let listed: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = listed.iter().map(|k| k["kernel"].as_str().unwrap()).collect();
    let all: Vec<&str> = wgtq::kernels::ALL.iter().map(|c| c.stem).collect();
    assert_eq!(names, all);
}
