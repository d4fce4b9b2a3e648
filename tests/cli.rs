//! The program from outside: what it prints, writes and exits with.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;
use wgtq::codec::{Bits, Codec, HeadDim, Rotation};

fn without_gpu() -> bool {
    std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none")
}

fn wgtq(args: &[&str]) -> Output {
    Command::cargo_bin("wgtq").unwrap().args(args).output().unwrap()
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Replays a manifest and returns the report; fails with what the program said.
fn replay(manifest: &Path, extra: &[&str]) -> Value {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("r.json");
    let mut args =
        vec!["replay", "--manifest", manifest.to_str().unwrap(), "--out", out.to_str().unwrap()];
    args.extend(extra);
    let output = wgtq(&args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    assert!(folder.path().join("r_sdpa_out.bin").exists());
    serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap()
}

fn number(report: &Value, field: &str) -> f64 {
    report[field].as_f64().unwrap_or_else(|| panic!("{field} is {}", report[field]))
}

const CAPTURES: [&str; 6] = [
    "smollm2-l02-n96",
    "smollm2-l15-n96",
    "smollm2-l28-n96",
    "smollm2-l02-n400",
    "smollm2-l15-n400",
    "smollm2-l28-n400",
];

/// What an independent program, tests/data/expected.py, computed for a capture: `[9, 64]`.
fn expected(capture: &str, name: &str) -> Vec<f64> {
    bytemuck::pod_collect_to_vec(&std::fs::read(data(capture).join(name)).unwrap())
}

/// NRMSE of one of its outputs from another.
fn expected_nrmse(capture: &str, name: &str, reference: &str) -> f64 {
    let output: Vec<f32> = expected(capture, name).iter().map(|&x| x as f32).collect();
    wgtq::metrics::compare(&output, &expected(capture, reference), 64).unwrap().nrmse
}

/// A capture as older manifests have it: no codec, and the newest row of the unquantised K and V.
fn with_newest_row_only() -> TempDir {
    let (folder, source) = (TempDir::new().unwrap(), data("smollm2-l15-n400"));
    let at = |name: &str| folder.path().join(name);
    for name in ["k_packed.u8.bin", "v_packed.u8.bin", "k_norms.f32.bin", "v_norms.f32.bin"]
        .into_iter()
        .chain(["q.f32.bin"])
    {
        std::fs::copy(source.join(name), at(name)).unwrap();
    }
    for side in ["k", "v"] {
        let full = std::fs::read(source.join(format!("{side}_full.f32.bin"))).unwrap();
        let newest: Vec<u8> =
            full.chunks_exact(400 * 256).flat_map(|head| &head[399 * 256..]).copied().collect();
        std::fs::write(at(&format!("{side}_pre_quant.f32.bin")), newest).unwrap();
    }
    let text = std::fs::read_to_string(source.join("manifest.json")).unwrap();
    let mut manifest: Value = serde_json::from_str(&text).unwrap();
    manifest.as_object_mut().unwrap().remove("codec").unwrap();
    let paths = manifest["dump_paths"].as_object_mut().unwrap();
    for side in ["k", "v"] {
        paths.remove(&format!("{side}_pre_quant_full")).unwrap();
        paths.insert(format!("{side}_pre_quant"), format!("{side}_pre_quant.f32.bin").into());
    }
    std::fs::write(at("manifest.json"), format!("{manifest:#}")).unwrap();
    folder
}

#[test]
fn real_captures_replay_within_the_bounds_in_every_variation_and_leg() {
    if without_gpu() {
        return;
    }
    for layer in CAPTURES {
        let manifest = data(layer).join("manifest.json");
        for variation in ["A", "C"] {
            let legs = ["--leg", "wgsl,wgsl-trusted,wgsl-spirv", "--variation", variation];
            let report =
                replay(&manifest, if cfg!(target_vendor = "apple") { &legs[2..] } else { &legs });
            for leg in report["legs"].as_array().unwrap() {
                assert!(number(leg, "dequant_oracle_nrmse") < 5e-6, "{leg}");
                assert_eq!(leg["status"], "pass");
            }
        }
        assert!(number(&replay(&manifest, &["--variation", "B"]), "dequant_oracle_nrmse") > 0.3);
    }
}

/// The output file itself against the numbers of an independent program.
#[test]
fn replayed_outputs_equal_the_independent_programs_numbers() {
    if without_gpu() {
        return;
    }
    for layer in CAPTURES {
        for variation in ["A", "C"] {
            let folder = TempDir::new().unwrap();
            let out = folder.path().join("o");
            let manifest = data(layer).join("manifest.json");
            let output = wgtq(&[
                "replay",
                "--manifest",
                manifest.to_str().unwrap(),
                "--variation",
                variation,
                "--out",
                out.to_str().unwrap(),
            ]);
            assert!(output.status.success(), "{}", stderr(&output));
            let got: Vec<f32> = bytemuck::pod_collect_to_vec(
                &std::fs::read(folder.path().join("o_sdpa_out.bin")).unwrap(),
            );
            let want = expected(layer, "expected_dequant.f64.bin");
            let difference = wgtq::metrics::compare(&got, &want, 64).unwrap();
            assert!(difference.nrmse < 5e-6, "{layer} {variation}: {difference:?}");
        }
    }
}

/// Twice the K norm of position 10 changes the output by what the independent program says; where it
/// weighs too little, as in long contexts, the report says that nothing can be seen.
#[test]
fn canaries_show_what_the_independent_program_predicts() {
    if without_gpu() {
        return;
    }
    for layer in CAPTURES {
        let manifest = data(layer).join("manifest.json");
        let effect = expected_nrmse(layer, "expected_canary.f64.bin", "expected_dequant.f64.bin");
        let status = if layer.ends_with("n96") { "pass" } else { "not_judged" };
        for variation in ["A", "C"] {
            let run =
                |extra: &[&str]| replay(&manifest, &[&["--variation", variation], extra].concat());
            assert!(number(&run(&["--canary"]), "dequant_oracle_nrmse") < 5e-6);
            let jump = run(&["--canary", "in-range", "--canary-asymmetric"]);
            assert_eq!(jump["status"], status, "{layer}: {effect:e}: {jump:#}");
            let measured = number(&jump, "dequant_oracle_nrmse");
            let predicted = number(&jump, "predicted_canary_nrmse");
            assert!((predicted / effect - 1.0).abs() < 1e-3, "{layer}: {predicted}, want {effect}");
            assert!((measured - effect).abs() < 1e-5, "{layer}: {measured}, want {effect}");
            let outside = run(&["--canary", "1e9"]);
            assert_eq!(outside["canary_bit_identical"], true);
            assert_eq!(outside["canary"], "out-of-range");
        }
    }
}

#[test]
fn the_older_tools_environment_variable_makes_the_canary_asymmetric() {
    if without_gpu() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let output = Command::cargo_bin("wgtq")
        .unwrap()
        .env("HF2Q_REPLAY_CANARY_ASYMMETRIC", "1")
        .args(["replay", "--canary", "--json", "--manifest"])
        .arg(data("smollm2-l15-n400/manifest.json"))
        .arg("--out")
        .arg(folder.path().join("x"))
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["canary"], "in-range-asymmetric");
}

/// Against the independent program's, over decoded rows of which the newest is unquantised.
#[test]
fn the_floor_is_measured_where_the_manifest_allows_it() {
    if without_gpu() {
        return;
    }
    let older = with_newest_row_only();
    let report = replay(&older.path().join("manifest.json"), &["--oracle", "both"]);
    assert_eq!(report["independent_floor_source"], "newest_row");
    let cost =
        expected_nrmse("smollm2-l15-n400", "expected_dequant.f64.bin", "expected_newest.f64.bin");
    let floor = number(&report, "independent_floor_nrmse");
    assert!(cost > 1e-3 && (floor - cost).abs() < 1e-5, "{floor}, want {cost}");
    assert!(number(&report, "dequant_oracle_nrmse") < 5e-6);
    // Without a codec in the manifest: plain rotation, 4 bits, as this capture is.
    assert_eq!(report["codec"], replay(&data("smollm2-l15-n400/manifest.json"), &[])["codec"]);

    let folder = TempDir::new().unwrap();
    let manifest = synth(folder.path(), &[]);
    let report = replay(&manifest, &["--oracle", "independent-floor"]);
    assert_eq!(report["independent_floor_source"], "full");
    assert_eq!(report["dequant_oracle_nrmse"], Value::Null);
    // iid data at logit sigma 1: sqrt(2 x 0.0093), see tests/oracle for the codec's own error.
    let floor = number(&report, "independent_floor_nrmse");
    assert!((0.1..0.17).contains(&floor), "{floor}");
}

/// What the codec costs on a real model, against the same independent program.
#[test]
fn captures_with_the_full_cache_show_the_codecs_cost() {
    if without_gpu() {
        return;
    }
    for layer in CAPTURES {
        let cost = expected_nrmse(layer, "expected_dequant.f64.bin", "expected_full.f64.bin");
        assert!((0.1..0.18).contains(&cost), "{layer}: {cost}");

        let report = replay(&data(layer).join("manifest.json"), &["--oracle", "both"]);
        assert_eq!(report["independent_floor_source"], "full");
        let floor = number(&report, "independent_floor_nrmse");
        assert!((floor - cost).abs() < 1e-5, "{layer}: {floor}, want {cost}");
    }
}

#[test]
fn the_report_keeps_the_older_tools_fields_and_adds_ours() {
    if without_gpu() {
        return;
    }
    let report = replay(&data("smollm2-l15-n400/manifest.json"), &[]);
    for field in [
        "variation",
        "canary",
        "ran_at",
        "dequant_oracle_nrmse",
        "max_abs_diff",
        "per_head_max_abs_diff",
        "any_nan_inf_in_gpu_output",
        "exit_status",
        "bin_path",
        "independent_floor_nrmse",
        "leg",
        "adapter",
        "codec",
        "sources",
        "timing",
        "tolerance",
    ] {
        assert!(report.get(field).is_some(), "no field {field}");
    }
    assert_eq!(report["exit_status"], "ok");
    assert_eq!(report["per_head_max_abs_diff"].as_array().unwrap().len(), 9);
    assert_eq!(report["sources"][0]["sha256"].as_str().unwrap().len(), 64);
}

fn synth(folder: &Path, extra: &[&str]) -> PathBuf {
    let mut args = vec!["synth", "--out", folder.to_str().unwrap()];
    args.extend(extra);
    let output = wgtq(&args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    folder.join("manifest.json")
}

/// Shapes of the replay's acceptance list; heads are `num_heads/num_kv_heads`.
#[test]
fn synthetic_shapes_replay_within_the_bounds() {
    if without_gpu() {
        return;
    }
    // head_dim, heads, n, cap, ring_start, window, softcap, rotation
    let shapes = [
        ("64", "2/2", "1", "1", "0", "0", "0", "plain"),
        ("64", "6/2", "31", "31", "30", "1", "30", "srht"),
        ("128", "4/2", "32", "40", "39", "31", "0", "srht"),
        ("128", "7/1", "33", "33", "16", "33", "30", "plain"),
        ("256", "8/1", "33", "64", "63", "38", "0", "plain"),
        ("256", "4/2", "1000", "1024", "600", "0", "30", "srht"),
        ("512", "2/1", "1000", "1000", "999", "999", "0", "srht"),
        ("512", "3/1", "32", "33", "1", "32", "30", "plain"),
    ];
    for (d, heads, n, cap, start, window, softcap, rotation) in shapes {
        let folder = TempDir::new().unwrap();
        let (nh, nkv) = heads.split_once('/').unwrap();
        let manifest = synth(
            folder.path(),
            &[
                "--head-dim",
                d,
                "--num-heads",
                nh,
                "--num-kv-heads",
                nkv,
                "--kv-seq-len",
                n,
                "--kv-capacity",
                cap,
                "--ring-start",
                start,
                "--sliding-window",
                window,
                "--softcap",
                softcap,
                "--rotation",
                rotation,
                "--mask-type",
                "2",
            ],
        );
        for variation in ["A", "C"] {
            let report = replay(&manifest, &["--variation", variation]);
            let error = number(&report, "dequant_oracle_nrmse");
            assert!(
                error < 5e-6,
                "D {d} heads {heads} n {n} cap {cap} variation {variation}: {error:e}"
            );
        }
    }
}

/// Every width on either side, with the settings in the report and the codec's cost as theory has it.
#[test]
fn k_and_v_of_any_width_replay_within_the_bounds() {
    if without_gpu() {
        return;
    }
    // k_bits, v_bits, head_dim, rotation, norm correction
    let codecs = [
        ("8", "3", 128, "srht", false),
        ("4", "6", 64, "plain", true),
        ("5", "2", 256, "srht", true),
        ("2", "8", 512, "plain", false),
    ];
    for (k_bits, v_bits, head_dim, rotation, norm_correction) in codecs {
        let folder = TempDir::new().unwrap();
        let d = head_dim.to_string();
        let mut flags = vec!["--k-bits", k_bits, "--v-bits", v_bits, "--rotation", rotation];
        flags.extend(["--head-dim", &d, "--kv-capacity", "310", "--ring-start", "200"]);
        flags.extend(norm_correction.then_some("--norm-correction"));
        let manifest = synth(folder.path(), &flags);
        for variation in ["A", "C"] {
            let report = replay(&manifest, &["--variation", variation, "--oracle", "both"]);
            assert!(number(&report, "dequant_oracle_nrmse") < 5e-6, "{flags:?}: {report:#}");
            let floor = number(&report, "independent_floor_nrmse");
            let codec = &report["codec"];
            let bits = |field: &str| codec[field].as_u64().unwrap() as u32;
            assert_eq!(
                (bits("k_bits").to_string(), bits("v_bits").to_string()),
                (k_bits.into(), v_bits.into())
            );
            assert_eq!(
                (&codec["rotation"], &codec["norm_correction"]),
                (&rotation.into(), &norm_correction.into())
            );
            let mse = |bits| {
                let head_dim = HeadDim::new(head_dim).unwrap();
                Codec::new(head_dim, Bits::new(bits).unwrap(), Rotation::Plain).expected_mse()
            };
            let closed_form = (mse(bits("k_bits")) + mse(bits("v_bits"))).sqrt();
            assert!((floor / closed_form - 1.0).abs() < 0.25, "{flags:?}: {floor}, {closed_form}");
        }
    }
}

#[test]
fn canaries_work_where_k_and_v_differ_in_width() {
    if without_gpu() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let manifest = synth(
        folder.path(),
        &["--k-bits", "8", "--v-bits", "3", "--kv-seq-len", "40", "--kv-capacity", "64"],
    );
    let jump = replay(&manifest, &["--canary", "in-range", "--canary-asymmetric"]);
    assert!(number(&jump, "predicted_canary_nrmse") > 1e-4, "{jump:#}");
    let outside = replay(&manifest, &["--canary", "out-of-range"]);
    assert_eq!(outside["canary_bit_identical"], true);
}

/// Scale 1 at head_dim 256: scores with a standard deviation of 16.
#[test]
fn sharp_logits_stay_within_their_bound() {
    if without_gpu() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let shape = ["--head-dim", "256", "--scale", "1", "--kv-seq-len", "500", "--num-heads", "16"];
    let manifest = synth(folder.path(), &[&shape[..], &["--num-kv-heads", "8"]].concat());
    for variation in ["A", "C"] {
        let report = replay(&manifest, &["--variation", variation]);
        assert!(number(&report, "max_abs_score") > 40.0);
        let error = number(&report, "dequant_oracle_nrmse");
        assert!(error < 2e-5 && number(&report, "tolerance") < 2e-5, "{error:e}");
    }
}

#[test]
fn synth_is_a_function_of_its_seed() {
    let (a, b, c) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    for (folder, seed) in [(&a, "0x10"), (&b, "16"), (&c, "17")] {
        synth(folder.path(), &["--seed", seed]);
    }
    let read = |folder: &TempDir, name: &str| std::fs::read(folder.path().join(name)).unwrap();
    for name in ["k_packed.u8.bin", "v_norms.f32.bin", "q.f32.bin", "k_full.f32.bin"] {
        assert_eq!(read(&a, name), read(&b, name));
        assert_ne!(read(&a, name), read(&c, name));
    }
}

/// A capture with one thing wrong, replayed: exit code 1, one line that holds every word, and
/// nothing written.
struct BadInput {
    name: &'static str,
    words: &'static [&'static str],
    extra: &'static [&'static str],
    breakage: fn(&Path),
}

fn edit(folder: &Path, from: &str, to: &str) {
    let path = folder.join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn set_float(folder: &Path, file: &str, index: usize, value: f32) {
    let path = folder.join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4 * index..4 * index + 4].copy_from_slice(&value.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

fn resize(folder: &Path, file: &str, change: i64) {
    let path = folder.join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.resize((bytes.len() as i64 + change) as usize, 0);
    std::fs::write(path, bytes).unwrap();
}

macro_rules! bad {
    ($name:literal, [$($word:literal),*], $breakage:expr) => {
        bad!($name, [$($word),*], $breakage, [])
    };
    ($name:literal, [$($word:literal),*], $breakage:expr, [$($extra:literal),*]) => {
        BadInput { name: $name, words: &[$($word),*], extra: &[$($extra),*], breakage: $breakage }
    };
}

#[test]
fn bad_input_gets_one_clear_line_and_exit_code_1() {
    let table = [
        bad!("manifest missing", ["manifest.json", "No such file"], |f| {
            std::fs::remove_file(f.join("manifest.json")).unwrap();
        }),
        bad!("not JSON", ["manifest.json", "expected value"], |f| {
            std::fs::write(f.join("manifest.json"), "K V Q").unwrap();
        }),
        bad!("empty file", ["manifest.json", "EOF"], |f| {
            std::fs::write(f.join("manifest.json"), "").unwrap();
        }),
        bad!("text after the JSON", ["trailing characters"], |f| {
            let path = f.join("manifest.json");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(path, text + "}").unwrap();
        }),
        bad!("missing field", ["params", "missing field `scale`"], |f| edit(
            f,
            "\"scale\": 0.125,",
            ""
        )),
        bad!("wrong type", ["params.num_heads", "\"nine\"", "u32"], |f| edit(
            f,
            "\"num_heads\": 9",
            "\"num_heads\": \"nine\""
        )),
        bad!("negative count", ["params.kv_seq_len", "-400", "u32"], |f| edit(
            f,
            "\"kv_seq_len\": 400",
            "\"kv_seq_len\": -400"
        )),
        bad!("count over u32", ["params.kv_capacity", "4294967296", "u32"], |f| edit(
            f,
            "\"kv_capacity\": 416",
            "\"kv_capacity\": 4294967296"
        )),
        bad!("duplicate key", ["duplicate field `num_heads`"], |f| edit(
            f,
            "\"num_heads\": 9,",
            "\"num_heads\": 9, \"num_heads\": 9,"
        )),
        bad!("both names of one file", ["duplicate field"], |f| edit(
            f,
            "\"q_natural\"",
            "\"k_packed_post_quant\": \"k_packed.u8.bin\", \"q_natural\""
        )),
        bad!("no KV heads", ["num_kv_heads", "at least 1", "found 0"], |f| edit(
            f,
            "\"num_kv_heads\": 3",
            "\"num_kv_heads\": 0"
        )),
        bad!("no query heads", ["num_heads", "found 0"], |f| edit(
            f,
            "\"num_heads\": 9",
            "\"num_heads\": 0"
        )),
        bad!("heads not divisible", ["num_heads", "multiple of num_kv_heads 3", "found 10"], |f| {
            edit(f, "\"num_heads\": 9", "\"num_heads\": 10")
        }),
        bad!("head_dim 100", ["head_dim", "64, 128, 256 or 512", "100"], |f| edit(
            f,
            "\"head_dim\": 64",
            "\"head_dim\": 100"
        )),
        bad!("nothing stored", ["kv_seq_len", "at least 1", "found 0"], |f| edit(
            f,
            "\"kv_seq_len\": 400",
            "\"kv_seq_len\": 0"
        )),
        bad!("more stored than slots", ["kv_seq_len", "416", "417"], |f| edit(
            f,
            "\"kv_seq_len\": 400",
            "\"kv_seq_len\": 417"
        )),
        bad!("no slots", ["kv_capacity", "found 0"], |f| edit(
            f,
            "\"kv_capacity\": 416",
            "\"kv_capacity\": 0"
        )),
        bad!("ring starts past the end", ["ring_start", "416", "found 416"], |f| edit(
            f,
            "\"ring_start\": 0",
            "\"ring_start\": 416"
        )),
        bad!("mask 3", ["mask_type", "found 3"], |f| edit(
            f,
            "\"mask_type\": 1",
            "\"mask_type\": 3"
        )),
        bad!("negative scale", ["scale", "above 0", "-0.125"], |f| edit(
            f,
            "\"scale\": 0.125",
            "\"scale\": -0.125"
        )),
        bad!("NaN scale", ["params.scale", "expected f32"], |f| edit(
            f,
            "\"scale\": 0.125",
            "\"scale\": \"NaN\""
        )),
        bad!("infinite scale", ["params.scale"], |f| edit(
            f,
            "\"scale\": 0.125",
            "\"scale\": 1e39"
        )),
        bad!("negative softcap", ["softcap", "0 or above", "-5"], |f| edit(
            f,
            "\"softcap\": 0.0",
            "\"softcap\": -5.0"
        )),
        bad!("sizes that would overflow", ["kv_capacity", "at most"], |f| {
            edit(f, "\"num_kv_heads\": 3", "\"num_kv_heads\": 2147483648");
            edit(f, "\"num_heads\": 9", "\"num_heads\": 2147483648");
            edit(f, "\"kv_capacity\": 416", "\"kv_capacity\": 2147483648");
        }),
        bad!("sizes that nobody has", ["k_packed", "need 51539607552 bytes", "found 39936"], |f| {
            edit(f, "\"kv_capacity\": 416", "\"kv_capacity\": 536870912")
        }),
        bad!("data file missing", ["v_packed.u8.bin", "No such file"], |f| std::fs::remove_file(
            f.join("v_packed.u8.bin")
        )
        .unwrap()),
        bad!("data file is a folder", ["q_natural", "need a file"], |f| edit(f, "q.f32.bin", ".")),
        bad!("data file truncated", ["k_packed.u8.bin", "need 39936 bytes", "found 39935"], |f| {
            resize(f, "k_packed.u8.bin", -1)
        }),
        bad!("data file too long", ["v_norms.f32.bin", "need 4992 bytes", "found 4996"], |f| {
            resize(f, "v_norms.f32.bin", 4)
        }),
        bad!("odd bytes", ["q.f32.bin", "need 2304 bytes", "found 2307"], |f| resize(
            f,
            "q.f32.bin",
            3
        )),
        bad!("empty data file", ["k_norms.f32.bin", "found 0"], |f| resize(
            f,
            "k_norms.f32.bin",
            -4992
        )),
        bad!(
            "NaN in a stored norm",
            ["k_norms.f32.bin", "KV head 1, slot 3", "finite", "NaN"],
            |f| set_float(f, "k_norms.f32.bin", 416 + 3, f32::NAN)
        ),
        bad!("infinity in a stored norm", ["v_norms.f32.bin", "KV head 0, slot 399", "inf"], |f| {
            set_float(f, "v_norms.f32.bin", 399, f32::INFINITY)
        }),
        bad!("negative stored norm", ["v_norms.f32.bin", "0 or above", "-1"], |f| set_float(
            f,
            "v_norms.f32.bin",
            0,
            -1.0
        )),
        bad!("NaN in q", ["q.f32.bin", "value 7", "NaN"], |f| set_float(
            f,
            "q.f32.bin",
            7,
            f32::NAN
        )),
        bad!("infinity in q", ["q.f32.bin", "value 0", "inf"], |f| set_float(
            f,
            "q.f32.bin",
            0,
            f32::INFINITY
        )),
        bad!("7-bit K codes", ["codec.k_bits", "need 2, 3, 4, 5, 6 or 8", "found 7"], |f| edit(
            f,
            "\"params\"",
            "\"codec\": {\"k_bits\": 7}, \"params\""
        )),
        bad!("0-bit V codes", ["codec.v_bits", "need 2, 3, 4, 5, 6 or 8", "found 0"], |f| edit(
            f,
            "\"params\"",
            "\"codec\": {\"v_bits\": 0}, \"params\""
        )),
        bad!("bits that are no number", ["codec.v_bits", "\"four\"", "u32"], |f| edit(
            f,
            "\"params\"",
            "\"codec\": {\"v_bits\": \"four\"}, \"params\""
        )),
        bad!(
            "K at another width than its file",
            ["k_packed.u8.bin", "need 49920 bytes"],
            |f| edit(f, "\"params\"", "\"codec\": {\"k_bits\": 5}, \"params\"")
        ),
        bad!(
            "V at another width than its file",
            ["v_packed.u8.bin", "need 79872 bytes"],
            |f| edit(f, "\"params\"", "\"codec\": {\"v_bits\": 8}, \"params\"")
        ),
        bad!("norm correction that is no bool", ["codec.norm_correction", "boolean"], |f| edit(
            f,
            "\"params\"",
            "\"codec\": {\"norm_correction\": 1}, \"params\""
        )),
        bad!(
            "widths of a mode that has none",
            ["--k-bits", "multistep"],
            |_| (),
            ["--k-bits", "8"]
        ),
        bad!("unknown rotation", ["codec.rotation", "unknown variant `random`"], |f| edit(
            f,
            "\"params\"",
            "\"codec\": {\"rotation\": \"random\"}, \"params\""
        )),
        bad!("half of a pair", ["v_pre_quant", "both or neither"], |f| edit(
            f,
            "\"v_pre_quant\"",
            "\"other\""
        )),
        bad!(
            "half of the compact sources",
            ["compact_sources", "all four files or none", "3 missing"],
            |f| edit(
                f,
                "\"params\"",
                "\"compact_sources\": {\"k_packed_compact\": \"k_packed.u8.bin\"}, \"params\""
            )
        ),
        bad!(
            "in-range canary beyond what is stored",
            ["--canary in-range", "position 10", "kv_seq_len 5"],
            |f| edit(f, "\"kv_seq_len\": 400", "\"kv_seq_len\": 5"),
            ["--canary"]
        ),
        bad!(
            "out-of-range canary with every slot in use",
            ["--canary out-of-range", "kv_capacity = 416"],
            |f| edit(f, "\"kv_seq_len\": 400", "\"kv_seq_len\": 416"),
            ["--canary", "out-of-range"]
        ),
        bad!(
            "asymmetric without in-range",
            ["--canary-asymmetric", "in-range"],
            |_| (),
            ["--canary", "1e9", "--canary-asymmetric"]
        ),
        bad!("asymmetric without canary", ["--canary"], |_| (), ["--canary-asymmetric"]),
        bad!(
            "floor without its data",
            ["--oracle independent-floor", "k_pre_quant"],
            |f| {
                edit(f, "\"k_pre_quant\"", "\"a\"");
                edit(f, "\"v_pre_quant\"", "\"b\"");
            },
            ["--oracle", "independent-floor"]
        ),
        bad!("unknown variation", ["--variation", "A, B, C"], |_| (), ["--variation", "D"]),
        bad!("unknown leg", ["--leg", "wgsl-spirv"], |_| (), ["--leg", "cuda"]),
        bad!("unknown flag", ["--multi"], |_| (), ["--multi"]),
    ];
    assert!(table.len() >= 25);
    for BadInput { name, words, extra, breakage } in table {
        let folder = with_newest_row_only();
        breakage(folder.path());
        let before = std::fs::read_dir(folder.path()).unwrap().count();
        let (manifest, out) = (folder.path().join("manifest.json"), folder.path().join("out"));
        let mut args = vec![
            "replay",
            "--manifest",
            manifest.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ];
        args.extend(extra);
        let output = wgtq(&args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{name}: {text}");
        for word in words {
            assert!(text.contains(word), "{name}: no {word:?} in {text}");
        }
        assert!(output.stdout.is_empty(), "{name}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), before, "{name}: files left");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_the_work() {
    let manifest = data("smollm2-l15-n400/manifest.json");
    let folder = TempDir::new().unwrap();
    let inside_a_file = folder.path().join("file");
    std::fs::write(&inside_a_file, "x").unwrap();
    for out in [folder.path().join("missing/out"), inside_a_file.join("out")] {
        let output = wgtq(&[
            "replay",
            "--manifest",
            manifest.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains("out.json"), "{}", stderr(&output));
    }
    std::fs::create_dir(folder.path().join("taken.json")).unwrap();
    let out = folder.path().join("taken.json");
    let output =
        wgtq(&["replay", "--manifest", manifest.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("found a folder"), "{}", stderr(&output));
}

#[test]
fn bad_shapes_of_synth_name_the_field_and_write_nothing() {
    for (flags, word) in [
        (["--head-dim", "100"], "head_dim"),
        (["--num-heads", "7"], "num_heads"),
        (["--kv-seq-len", "0"], "kv_seq_len"),
        (["--kv-capacity", "3"], "kv_seq_len"),
        (["--ring-start", "300"], "ring_start"),
        (["--softcap", "-1"], "softcap"),
        (["--kv-capacity", "2000000000"], "kv_capacity"),
        (["--seed", "zebra"], "--seed"),
        (["--k-bits", "7"], "--k-bits"),
        (["--v-bits", "f16"], "--v-bits"),
        (["--bits", "16"], "2, 3, 4, 5, 6 or 8"),
    ] {
        let folder = TempDir::new().unwrap();
        let out = folder.path().join("s");
        let output = wgtq(&[&["synth", "--out", out.to_str().unwrap()], &flags[..]].concat());
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{flags:?}: {}", stderr(&output));
        assert!(!out.exists(), "{flags:?}");
    }
}

/// Finite inputs whose scores overflow f32: the run happens, so the report is written, with nulls
/// and the flag, and the exit code is 2.
#[test]
fn nan_in_the_output_is_reported_not_hidden() {
    if without_gpu() {
        return;
    }
    let folder = with_newest_row_only();
    for coordinate in 0..64 {
        set_float(folder.path(), "q.f32.bin", coordinate, 3e38);
    }
    let (manifest, out) = (folder.path().join("manifest.json"), folder.path().join("out.json"));
    let output =
        wgtq(&["replay", "--manifest", manifest.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    assert_eq!(report["any_nan_inf_in_gpu_output"], true);
    assert_eq!(report["dequant_oracle_nrmse"], Value::Null);
    assert_eq!(report["exit_status"], "nan_inf");
    assert_eq!(report["status"], "runtime_error");
}

#[test]
fn a_missing_gpu_is_an_error_that_says_so() {
    let folder = TempDir::new().unwrap();
    let run = |key: &str, value: &str, extra: &[&str]| {
        Command::cargo_bin("wgtq")
            .unwrap()
            .env(key, value)
            .args(["replay", "--manifest"])
            .arg(data("smollm2-l15-n400/manifest.json"))
            .arg("--out")
            .arg(folder.path().join("o"))
            .args(extra)
            .output()
            .unwrap()
    };
    let output = run("WGTQ_GPU", "none", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("WGTQ_GPU=none"), "{}", stderr(&output));
    if cfg!(target_os = "linux") {
        let output = run("VK_DRIVER_FILES", "/nonexistent.json", &["--backend", "vulkan"]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_leg_of_another_platform_is_refused_by_name() {
    if without_gpu() || cfg!(target_vendor = "apple") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let output = wgtq(&[
        "replay",
        "--leg",
        "msl",
        "--manifest",
        data("smollm2-l15-n400/manifest.json").to_str().unwrap(),
        "--out",
        folder.path().join("o").to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("Metal"), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn output_is_plain_where_no_terminal_reads_it_and_fits_100_columns() {
    if without_gpu() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let output = wgtq(&[
        "replay",
        "--manifest",
        data("smollm2-l15-n400/manifest.json").to_str().unwrap(),
        "--oracle",
        "both",
        "--out",
        folder.path().join("o").to_str().unwrap(),
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\u{1b}'), "{text}");
    let widest = text.lines().filter(|l| !l.starts_with('/')).map(|l| l.chars().count()).max();
    assert!(widest.unwrap() <= 100, "{text}");
    assert!(text.contains("pass"), "{text}");
}

#[test]
fn adapters_are_listed_best_first() {
    if without_gpu() {
        return;
    }
    let output = wgtq(&["adapters", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let adapters: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(adapters[0]["name"].is_string() && adapters[0]["subgroup_size"] != 0);
    assert!(wgtq(&["adapters"]).status.success());
}

/// A synthetic input whose manifest uses the older names and has rows by position beside those by
/// slot, and norms for the out-of-range canary. Returns the folder.
fn with_compact_sources() -> TempDir {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (heads, n, cap, start) = (2usize, 50usize, 64usize, 40usize);
    let manifest =
        synth(folder.path(), &["--kv-seq-len", "50", "--kv-capacity", "64", "--ring-start", "40"]);
    for (side, suffix, row) in [
        ("k", "packed.u8", 64),
        ("v", "packed.u8", 64),
        ("k", "norms.f32", 4),
        ("v", "norms.f32", 4),
    ] {
        let padded = std::fs::read(at(&format!("{side}_{suffix}.bin"))).unwrap();
        let mut compact = Vec::new();
        for head in 0..heads {
            for i in 0..n {
                let slot = (head * cap + (start + i) % cap) * row;
                compact.extend_from_slice(&padded[slot..slot + row]);
            }
        }
        std::fs::write(at(&format!("{side}_{suffix}.compact.bin")), compact).unwrap();
    }
    let mut norms = std::fs::read(at("k_norms.f32.bin")).unwrap();
    for slot in 0..heads * cap {
        if (slot % cap + cap - start) % cap >= n {
            norms[slot * 4..slot * 4 + 4].copy_from_slice(&7e7f32.to_le_bytes());
        }
    }
    std::fs::write(at("k_norms.canary.bin"), norms).unwrap();
    let text = std::fs::read_to_string(&manifest)
        .unwrap()
        .replace("\"dump_paths\"", "\"inputs\"")
        .replace(
            "\"k_packed_padded\"",
            "\"k_norms_canary\": \"k_norms.canary.bin\", \"k_packed_post_quant\"",
        )
        .replace("\"v_norms_padded\"", "\"v_norms_post_quant\"")
        .replacen(
            '{',
            "{ \"compact_sources\": { \"k_packed_compact\": \"k_packed.u8.compact.bin\", \
             \"v_packed_compact\": \"v_packed.u8.compact.bin\", \
             \"k_norms_compact\": \"k_norms.f32.compact.bin\", \
             \"v_norms_compact\": \"v_norms.f32.compact.bin\" },",
            1,
        );
    std::fs::write(manifest, text).unwrap();
    folder
}

fn replay_status(folder: &Path, extra: &[&str]) -> (Option<i32>, Value) {
    let (manifest, out) = (folder.join("manifest.json"), folder.join("r"));
    let mut args =
        vec!["replay", "--manifest", manifest.to_str().unwrap(), "--out", out.to_str().unwrap()];
    args.extend(extra);
    let output = wgtq(&args);
    let report = serde_json::from_slice(&std::fs::read(folder.join("r.json")).unwrap()).unwrap();
    (output.status.code(), report)
}

#[test]
fn compact_rows_are_the_oracles_and_older_names_are_read() {
    if without_gpu() {
        return;
    }
    let folder = with_compact_sources();
    for extra in [
        &["--variation", "A"][..],
        &["--variation", "C"],
        &["--canary"],
        &["--canary", "--canary-asymmetric"],
    ] {
        let (code, report) = replay_status(folder.path(), extra);
        assert_eq!(
            (code, &report["status"]),
            (Some(0), &Value::from("pass")),
            "{extra:?}: {report:#}"
        );
    }
    // Two positions swapped in the compact rows only: the oracle must see other data.
    let path = folder.path().join("k_packed.u8.compact.bin");
    let mut rows = std::fs::read(&path).unwrap();
    let (a, b) = rows.split_at_mut(64);
    a.swap_with_slice(&mut b[..64]);
    std::fs::write(&path, rows).unwrap();
    let (code, report) = replay_status(folder.path(), &[]);
    assert_eq!((code, &report["status"]), (Some(2), &Value::from("mismatch")), "{report:#}");
}

#[test]
fn canary_norms_of_the_manifest_are_used_and_must_not_touch_stored_positions() {
    if without_gpu() {
        return;
    }
    let folder = with_compact_sources();
    let (code, report) = replay_status(folder.path(), &["--canary", "out-of-range"]);
    assert_eq!(
        (code, &report["canary_bit_identical"]),
        (Some(0), &Value::from(true)),
        "{report:#}"
    );
    set_float(folder.path(), "k_norms.canary.bin", 40, 1e9);
    let (code, report) = replay_status(folder.path(), &["--canary", "out-of-range"]);
    assert_eq!(
        (code, &report["canary_bit_identical"]),
        (Some(2), &Value::from(false)),
        "{report:#}"
    );
}

/// Data files are looked for beside the manifest first, then in the working folder.
#[test]
fn data_files_are_found_beside_the_manifest_then_in_the_working_folder() {
    if without_gpu() {
        return;
    }
    let (data_folder, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let manifest = synth(data_folder.path(), &[]);
    let moved = elsewhere.path().join("manifest.json");
    std::fs::rename(manifest, &moved).unwrap();
    let output = Command::cargo_bin("wgtq")
        .unwrap()
        .current_dir(data_folder.path())
        .args(["replay", "--manifest"])
        .arg(&moved)
        .args(["--out", "r"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(data_folder.path().join("r_sdpa_out.bin").exists());
}
