//! Original Metal files dropped in: the kernels that the crate mlx-native publishes, through this
//! project's cases. They must do what the contract says, or differ by their known limits exactly.
//!
//! The files are fetched by Cargo and used where it keeps them; nothing of them is in this
//! repository. `WGTQ_ORIGINALS=DIR` names a folder instead, `WGTQ_ORIGINALS=none` leaves these
//! tests out, and so does `WGTQ_CXX=none`.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;
use wgtq::codec::{Bits, Codec, Direction, HeadDim, Rotation};
use wgtq::driver::DriverError;
use wgtq::kernels::Context;
use wgtq::kernels::flash_attn_vec::KvType;
use wgtq::legs::{Leg, MslHostLeg, Witness};
use wgtq::msl::dispatch::Mode;
use wgtq::parity::originals::{Limit, Status, judge, limits, run};
use wgtq::parity::{
    Case as _, CaseResult, dequantize_kv, flash_attn_vec, flash_attn_vec_reduce, flash_attn_vec_tq,
    fwht, quantize_kv,
};

use Limit::{
    EmptySplitMax, FiniteMask, HalfQ, PositionsLost, ReadsPastKvSeqLen, ReadsUnusedSlots,
    RingStartIgnored, SignsAlwaysOn, SoftcapIgnored,
};

/// Who publishes the files.
const PACKAGE: &str = "mlx-native";
const VERSION: &str = "0.15.16";

/// The folder of originals; none where the tests are to be left out.
fn originals() -> Option<PathBuf> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let without_clang = std::env::var_os("WGTQ_CXX").is_some_and(|v| v == "none");
    let folder = FOLDER.get_or_init(|| match std::env::var_os("WGTQ_ORIGINALS") {
        Some(none) if none == "none" => None,
        Some(folder) => Some(folder.into()),
        None if without_clang => None,
        None => Some(fetched()),
    });
    folder.clone().filter(|_| !without_clang)
}

/// Where Cargo keeps the package's source. `cargo info` fetches that one package and nothing that
/// it depends on.
fn fetched() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let sources = home.unwrap_or_default().join("registry/src");
    let kept = || {
        let registries = std::fs::read_dir(&sources).into_iter().flatten().flatten();
        registries
            .map(|r| r.path().join(format!("{PACKAGE}-{VERSION}/src/shaders")))
            .find(|folder| folder.is_dir())
    };
    kept().unwrap_or_else(|| {
        let output = std::process::Command::new(env!("CARGO"))
            .args(["info", "--quiet", "--registry", "crates-io", &format!("{PACKAGE}@{VERSION}")])
            .current_dir(std::env::temp_dir())
            .output()
            .unwrap();
        kept().unwrap_or_else(|| {
            let error = String::from_utf8_lossy(&output.stderr);
            let error = error.lines().last().unwrap_or("no message");
            panic!(
                "need {PACKAGE} {VERSION} from crates.io, or WGTQ_ORIGINALS=DIR or none: {error}"
            )
        })
    })
}

fn leg(folder: &Path) -> MslHostLeg {
    MslHostLeg::with_originals(folder).expect("clang++ 19, or WGTQ_CXX=none")
}

const D256: HeadDim = HeadDim::ALL[2];
const D512: HeadDim = HeadDim::ALL[3];

fn codec(head_dim: HeadDim, rotation: Rotation) -> Codec {
    Codec::new(head_dim, Bits::B4, rotation)
}

/// Runs a case and checks that its limits are these, and that they make all the difference.
fn expect(
    leg: &mut MslHostLeg,
    case: &dyn std::fmt::Debug,
    play: impl FnOnce(&mut dyn Leg) -> CaseResult,
    want: &[Limit],
) {
    let judged = run(play, leg).unwrap_or_else(|e| panic!("{e}\n{case:#?}"));
    let status = if want.is_empty() { Status::Pass } else { Status::ExpectedDifference };
    assert_eq!((judged.status, &*judged.limits), (status, want), "{judged:#?}\n{case:#?}");
}

fn found(leg: &MslHostLeg) -> Vec<(&str, &str)> {
    let mut found: Vec<_> = leg.findings.iter().map(|f| (&*f.kind, &*f.kernel)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn rotations_do_what_the_contract_says_and_are_clean() {
    let Some(folder) = originals() else { return };
    let mut leg = leg(&folder);
    leg.mode = Mode::CheckStrict;
    for head_dim in [D256, D512] {
        for (rotation, direction) in [
            (Rotation::Plain, Direction::Forward),
            (Rotation::Srht, Direction::Forward),
            (Rotation::Srht, Direction::Inverse),
        ] {
            let case = fwht::Case { head_dim, rotation, direction, rows: 5, seed: 1 };
            expect(&mut leg, &case, |l| case.run(l), &[]);
        }
    }
    assert_eq!(found(&leg), []);
}

#[test]
fn encoders_do_what_the_contract_says_but_for_signs_and_are_clean() {
    let Some(folder) = originals() else { return };
    let mut leg = leg(&folder);
    leg.mode = Mode::CheckStrict;
    for (head_dim, rotation, want) in [
        (D256, Rotation::Srht, &[][..]),
        (D512, Rotation::Srht, &[]),
        // The generic encoder: no signs, one norm a position.
        (HeadDim::ALL[0], Rotation::Plain, &[]),
        (D256, Rotation::Plain, &[]),
        (D512, Rotation::Plain, &[SignsAlwaysOn]),
    ] {
        let case = quantize_kv::Case {
            codec: codec(head_dim, rotation),
            num_kv_heads: 3,
            num_tokens: 7,
            capacity: 5,
            write_pos: 3,
            sliding: true,
            amplitude: 1.0,
            seed: 2,
        };
        expect(&mut leg, &case, |l| case.run(l), want);
    }
    assert_eq!(found(&leg), []);
}

#[test]
fn without_the_generic_encoder_plain_rotation_gets_the_signs() {
    let Some(folder) = originals() else { return };
    let copy = TempDir::new().unwrap();
    let name = "hadamard_quantize_kv_fast.metal";
    std::fs::copy(folder.join(name), copy.path().join(name)).unwrap();
    let case = quantize_kv::Case {
        codec: codec(D256, Rotation::Plain),
        num_kv_heads: 2,
        num_tokens: 3,
        capacity: 4,
        write_pos: 1,
        sliding: false,
        amplitude: 1.0,
        seed: 3,
    };
    expect(&mut leg(copy.path()), &case, |l| case.run(l), &[SignsAlwaysOn]);
}

#[test]
fn decoders_do_what_the_contract_says_and_are_clean() {
    let Some(folder) = originals() else { return };
    let mut leg = leg(&folder);
    leg.mode = Mode::CheckStrict;
    for (head_dim, head_major) in [(D256, false), (D256, true), (D512, true)] {
        let case = dequantize_kv::Case {
            codec: codec(head_dim, Rotation::Plain),
            num_kv_heads: 3,
            num_tokens: 4,
            capacity: 9,
            read_pos: 7,
            head_major,
            seed: 3,
        };
        expect(&mut leg, &case, |l| case.run(l), &[]);
    }
    assert_eq!(found(&leg), []);
}

#[test]
fn merges_do_what_the_contract_says_but_for_empty_splits_and_are_clean() {
    let Some(folder) = originals() else { return };
    let mut leg = leg(&folder);
    leg.mode = Mode::CheckStrict;
    let case = |head_dim, nwg, empty_every| flash_attn_vec_reduce::Case {
        head_dim,
        nrows: 3,
        nwg,
        empty_every,
        seed: 5,
    };
    for (case, want) in [
        (case(D256, 32, 0), &[][..]),
        (case(D512, 5, 0), &[]),
        (case(D512, 5, 1), &[]),
        (case(D256, 5, 3), &[EmptySplitMax]),
    ] {
        expect(&mut leg, &case, |l| case.run(l), want);
    }
    assert_eq!(found(&leg), []);
    let error = run(|l| case(D256, 33, 0).run(l), &mut leg).unwrap_err().to_string();
    assert_eq!(error, "flash_attn_vec_reduce: published for nwg 1 to 32 only, found 33");
}

/// Slots, the oldest position's slot and positions, with a window of 30.
fn attention(
    head_dim: HeadDim,
    [cap, start, n]: [u32; 3],
    nwg: u32,
    softcap: f32,
) -> flash_attn_vec_tq::Case {
    flash_attn_vec_tq::Case {
        context: Context::Long,
        k_bits: Bits::B4,
        codec: codec(head_dim, Rotation::Plain),
        num_heads: 4,
        num_kv_heads: 2,
        kv_seq_len: n,
        kv_capacity: cap,
        ring_start: start,
        mask_type: 2,
        sliding_window: 30,
        softcap,
        nwg,
        weight_floor: 0.0,
        score_sigma: 2.0,
        seed: 4,
    }
}

#[test]
fn packed_attention_differs_by_its_known_limits_and_relies_on_lockstep() {
    let Some(folder) = originals() else { return };
    let mut leg = leg(&folder);
    for (case, want) in [
        (attention(D256, [70, 0, 45], 1, 0.0), &[HalfQ][..]),
        (attention(D512, [70, 0, 33], 2, 0.0), &[HalfQ]),
        (attention(D256, [45, 44, 45], 4, 0.0), &[HalfQ]),
        (attention(D256, [70, 0, 70], 3, 3.0), &[HalfQ, SoftcapIgnored]),
        (attention(D512, [64, 60, 41], 1, 0.0), &[HalfQ, ReadsUnusedSlots]),
        (attention(D256, [64, 40, 41], 2, 0.0), &[HalfQ, PositionsLost, ReadsUnusedSlots]),
    ] {
        expect(&mut leg, &case, |l| case.run(l), want);
    }
    assert!(run(|l| attention(D256, [4, 1, 0], 1, 0.0).run(l), &mut leg).is_ok());
    leg.findings.clear();
    leg.mode = Mode::CheckStrict;
    for head_dim in [D256, D512] {
        let _ = run(|l| attention(head_dim, [70, 0, 70], 1, 0.0).run(l), &mut leg);
    }
    let want = ["flash_attn_vec_tq_dk256", "flash_attn_vec_tq_dk512"];
    assert_eq!(found(&leg), want.map(|kernel| ("lockstep_reliance", kernel)));
}

/// Scores far below zero where one position is visible, and far above where it is not.
#[test]
fn a_finite_mask_lets_hidden_positions_through() {
    let Some(folder) = originals() else { return };
    let mut case = attention(D256, [32, 0, 32], 1, 0.0);
    (case.score_sigma, case.sliding_window) = (60_000.0, 1);
    expect(&mut leg(&folder), &case, |l| case.run(l), &[HalfQ, FiniteMask]);
}

#[test]
fn dense_attention_differs_by_its_known_limits_and_relies_on_lockstep() {
    let Some(folder) = originals() else { return };
    let mut leg = leg(&folder);
    for (head_dim, ring, nwg, want) in [
        (D256, [64, 0, 64], 1, &[HalfQ][..]),
        (D512, [96, 0, 32], 1, &[HalfQ]),
        (D256, [64, 0, 41], 1, &[HalfQ, ReadsPastKvSeqLen]),
        (D256, [64, 9, 64], 2, &[HalfQ, RingStartIgnored]),
        (D512, [64, 9, 41], 1, &[HalfQ, RingStartIgnored, ReadsPastKvSeqLen]),
    ] {
        for kv_type in [KvType::F32, KvType::F16] {
            let shape = attention(head_dim, ring, nwg, 0.0);
            let case = flash_attn_vec::Case { shape, kv_type };
            expect(&mut leg, &case, |l| case.run(l), want);
        }
    }
    leg.findings.clear();
    leg.mode = Mode::CheckStrict;
    for kv_type in [KvType::F32, KvType::F16] {
        let case = flash_attn_vec::Case { shape: attention(D256, [64, 0, 64], 1, 0.0), kv_type };
        let _ = run(|l| case.run(l), &mut leg);
    }
    let want = ["flash_attn_vec_dk256", "flash_attn_vec_f16kv_dk256"];
    assert_eq!(found(&leg), want.map(|kernel| ("lockstep_reliance", kernel)));
}

/// Rows past the last head's last slot belong to nobody.
#[test]
fn a_read_past_the_last_head_is_out_of_bounds() {
    let Some(folder) = originals() else { return };
    let shape = attention(D256, [45, 0, 45], 1, 0.0);
    let case = flash_attn_vec::Case { shape, kv_type: KvType::F32 };
    let error = run(|l| case.run(l), &mut leg(&folder)).unwrap_err().to_string();
    assert!(error.contains("out_of_bounds in flash_attn_vec_dk256"), "{error}");
    assert!(error.contains("flash_attn_vec.metal:"), "{error}");
}

/// An original with one token changed must not hide behind the known limits.
#[test]
fn a_broken_original_is_a_mismatch() {
    let Some(folder) = originals() else { return };
    let text = std::fs::read_to_string(folder.join("flash_attn_vec_tq.metal")).unwrap();
    let (from, to) = ("iq2 / heads_per_kv", "iq2 % heads_per_kv");
    assert!(text.contains(from), "the file has no `{from}` to break");
    let copy = TempDir::new().unwrap();
    std::fs::write(copy.path().join("k.metal"), text.replace(from, to)).unwrap();
    let case = attention(D256, [64, 40, 41], 1, 3.0);
    let case = flash_attn_vec_tq::Case { ring_start: 0, ..case };
    let judged = run(|l| case.run(l), &mut leg(copy.path())).unwrap();
    assert_eq!(judged.status, Status::Mismatch, "{judged:#?}");
    assert_eq!(judged.limits, [HalfQ, SoftcapIgnored]);
}

/// A limit that does not hold, or one that holds for another difference, excuses nothing.
#[test]
fn a_limit_excuses_no_other_error() {
    let Some(folder) = originals() else { return };
    let mut leg = leg(&folder);
    let case = attention(D256, [70, 0, 45], 1, 0.0);
    let mut witness = Witness::new(&mut leg);
    let contract = case.run(&mut witness).unwrap();
    let played = witness.played.unwrap();
    assert_eq!(limits(&played).unwrap(), [HalfQ]);
    let status =
        |played: &_, limits: &[Limit]| judge(played, contract.clone(), limits).unwrap().status;
    assert_eq!(status(&played, &[HalfQ]), Status::ExpectedDifference);
    assert_eq!(status(&played, &[]), Status::Mismatch);
    assert_eq!(status(&played, &[SoftcapIgnored, PositionsLost]), Status::Mismatch);
    let mut swapped = played;
    let dst = swapped.after.last_mut().unwrap();
    dst.rotate_left(4 * 256);
    assert_eq!(status(&swapped, &[HalfQ]), Status::Mismatch);
}

#[test]
fn head_dims_without_an_original_are_refused_by_name() {
    let Some(folder) = originals() else { return };
    let mut leg = leg(&folder);
    let (head_dim, rotation) = (HeadDim::ALL[1], Rotation::Srht);
    let case = fwht::Case { head_dim, rotation, direction: Direction::Forward, rows: 1, seed: 1 };
    let error = run(|l| case.run(l), &mut leg).unwrap_err();
    assert!(matches!(error, DriverError::Unpublished { kernel: "fwht", .. }), "{error:?}");
    let text = "fwht: published for head_dim 256 and 512 only, found 128";
    assert_eq!((error.to_string().as_str(), error.exit_code()), (text, 2));
}

/// A file with one kernel: its arguments, and what must be said about it.
const MISFITS: &[(&str, &str)] = &[
    (
        "device half *data [[buffer(0)]], constant uint2 &params [[buffer(1)]]",
        "buffer(0), `data`: need elements of 4 bytes, found `device half * data` of 2 bytes, writable",
    ),
    (
        "device const float *data [[buffer(0)]], constant uint2 &params [[buffer(1)]]",
        "buffer(0), `data`: need a writable argument, found `device const float * data`",
    ),
    (
        "device float *data [[buffer(0)]], constant uint4 &params [[buffer(1)]]",
        "buffer(1), `params`: need a block of 8 to 8 bytes, found `constant uint4 & params` of 16",
    ),
    ("device float *data [[buffer(0)]]", "buffer(1), `params`: need an argument, found none"),
    (
        "device float *data [[buffer(0)]], constant uint2 &params [[buffer(1)]], \
         device float *more [[buffer(7)]]",
        "buffer(7): need no such argument, found `device float * more`",
    ),
    (
        "device float *data [[buffer(0)]], constant uint2 &params [[buffer(1)]], \
         threadgroup float *s [[threadgroup(0)]]",
        "threadgroup(0): need no threadgroup argument, found `threadgroup float * s`",
    ),
];

#[test]
fn files_that_do_not_fit_are_refused_with_need_and_found() {
    if std::env::var_os("WGTQ_CXX").is_some_and(|v| v == "none") {
        return;
    }
    let (head_dim, rotation) = (D256, Rotation::Plain);
    let case = fwht::Case { head_dim, rotation, direction: Direction::Forward, rows: 1, seed: 1 };
    let folder = TempDir::new().unwrap();
    let refused = || run(|l| case.run(l), &mut leg(folder.path())).unwrap_err().to_string();
    let entry = "fwht_standalone_f32_d256";
    for (arguments, want) in MISFITS {
        let text = format!(
            "#include <metal_stdlib>\nusing namespace metal;\nkernel void {entry}({arguments}) {{}}\n"
        );
        std::fs::write(folder.path().join("k.metal"), text).unwrap();
        let error = refused();
        assert!(error.contains(&format!("k.metal: {entry}: {want}")), "{error}");
    }
    std::fs::copy(folder.path().join("k.metal"), folder.path().join("l.metal")).unwrap();
    let error = refused();
    assert!(error.contains("l.metal: ") && error.contains("found one in"), "{error}");
    std::fs::remove_file(folder.path().join("l.metal")).unwrap();
    std::fs::write(folder.path().join("k.metal"), "// nothing\n").unwrap();
    let error = refused();
    assert!(error.contains(&format!("{entry}: kernel: need a kernel of this name")), "{error}");
    std::fs::remove_file(folder.path().join("k.metal")).unwrap();
    let error = MslHostLeg::with_originals(folder.path()).unwrap_err().to_string();
    assert!(error.contains("need .metal files"), "{error}");
}

fn wgtq(args: &[&str]) -> Output {
    Command::cargo_bin("wgtq").unwrap().args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A synthetic manifest with the published signs.
fn synth(folder: &Path, extra: &[&str]) -> String {
    let fixed = ["synth", "--head-dim", "256", "--num-heads", "4", "--num-kv-heads", "2"];
    let path = folder.to_str().unwrap();
    let output = wgtq(&[&fixed[..], &["--rotation", "srht", "--out", path], extra].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    folder.join("manifest.json").to_str().unwrap().to_owned()
}

#[test]
fn replay_names_the_limits_and_the_findings() {
    let Some(originals) = originals() else { return };
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (variation, shape, want) in [
        ("A", &["--kv-seq-len", "300"][..], &["half_q"][..]),
        ("A", &["--kv-seq-len", "64", "--softcap", "2"], &["half_q", "softcap_ignored"]),
        ("C", &["--kv-seq-len", "160"], &["half_q"]),
    ] {
        let manifest = synth(folder.path(), shape);
        let output = wgtq(&[
            "replay",
            "--manifest",
            &manifest,
            "--variation",
            variation,
            "--leg",
            "msl-host",
            "--msl-dir",
            originals.to_str().unwrap(),
            "--out",
            &at("r"),
            "--json",
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["status"], "expected_difference", "{report:#}");
        assert_eq!(report["expected_differences"], serde_json::json!(want), "{report:#}");
        let source = report["sources"][0]["label"].as_str().unwrap();
        assert!(source.starts_with("fwht_") || source == "tq_dequantize_kv", "{report:#}");
    }
}

#[test]
fn what_cannot_run_is_refused_on_one_line() {
    let Some(originals) = originals() else { return };
    let folder = TempDir::new().unwrap();
    let real = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/smollm2-l15-n400/manifest.json");
    let out = folder.path().join("r").to_str().unwrap().to_owned();
    let run = |leg: &str, folder: &str| {
        let output =
            wgtq(&["replay", "--manifest", real, "--leg", leg, "--msl-dir", folder, "--out", &out]);
        let text = stderr(&output);
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        (output.status.code(), text)
    };
    let (code, text) = run("msl-host", originals.to_str().unwrap());
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("published for head_dim 256 and 512 only, found 64"), "{text}");
    let (code, text) = run("wgsl", originals.to_str().unwrap());
    assert!(code == Some(1) && text.contains("--msl-dir: need --leg msl-host"), "{text}");
    let (code, text) = run("msl-host", "/nonexistent");
    assert!(code == Some(1) && text.contains("/nonexistent"), "{text}");
}

#[test]
fn parity_names_the_limits_and_the_findings_of_originals() {
    let Some(folder) = originals() else { return };
    let report = |kernel: &str, case: &str, every: &str| -> (i32, Value) {
        let output = Command::cargo_bin("wgtq")
            .unwrap()
            .args(["parity", "--json", "--leg", "msl-host", "--msl-dir"])
            .arg(&folder)
            .args(["--kernel", kernel, "--case", case, "--every", every])
            .output()
            .unwrap();
        let report = serde_json::from_slice(&output.stdout);
        let notes = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), report.unwrap_or_else(|e| panic!("{e}: {notes}")))
    };
    let results = |report: &Value| -> Vec<Value> {
        report["cases"].as_array().unwrap().iter().map(|c| c["results"][0].clone()).collect()
    };
    // Half Q in every attention; the lockstep that they rely on decides the status.
    let (code, attention) = report("flash_attn_vec_tq", "d256 k4v4 heads4/2 n100/128 at 90", "4");
    assert_eq!(code, 1, "{attention:#}");
    for result in results(&attention) {
        assert_eq!(result["status"], "finding", "{result:#}");
        assert_eq!(result["findings"][0]["kind"], "lockstep_reliance", "{result:#}");
        assert!(result["limits"].as_array().unwrap().contains(&"half_q".into()), "{result:#}");
    }
    // An encoder that always signs is a difference that was expected; 64 was never published.
    let (code, encoder) = report("quantize_kv", "d512 b4 plain", "1");
    assert_eq!((code, encoder["summary"]["mismatch"].as_u64()), (0, Some(0)), "{encoder:#}");
    let cases = encoder["cases"].as_array().unwrap().iter();
    let (corrected, as_they_are): (Vec<_>, Vec<_>) =
        cases.partition(|c| c["case"].as_str().unwrap().ends_with("corrected"));
    assert!(!corrected.is_empty() && !as_they_are.is_empty(), "{encoder:#}");
    for result in as_they_are.iter().map(|c| &c["results"][0]) {
        assert_eq!(result["status"], "expected_difference", "{result:#}");
        assert_eq!(result["limits"], serde_json::json!(["signs_always_on"]));
    }
    // Neither norm correction nor any width but 4 bits was ever published.
    let unpublished = |result: &Value, what: &str| {
        assert_eq!(result["status"], "skipped", "{result:#}");
        assert!(result.to_string().contains(what), "{result:#}");
    };
    corrected.iter().for_each(|c| unpublished(&c["results"][0], "norms without correction"));
    let (_, wide) = report("quantize_kv", "d256 b8 srht", "1");
    results(&wide).iter().for_each(|result| unpublished(result, "codes of 4 bits"));
    assert!(!results(&wide).is_empty());
    let (_, narrow) = report("fwht", "d64", "8");
    assert!(results(&narrow).iter().all(|r| r["status"] == "skipped"), "{narrow:#}");
}
