//! The checker against a corpus of small kernels: each defect is found with its kind, its line and
//! what it touched, nothing else is; and kernels that only look wrong are clean.
//!
//! A kernel of `tests/data/msl-corpus` says in its first lines what is wrong, or why nothing is,
//! and how it is dispatched. The marks at the ends of its lines:
//!
//! * `// expect: KIND field=value ..`: the defect, and fields of the finding;
//! * `// other`: the other site, of a race or of two barriers;
//! * `// also: KIND`: a finding that cannot be avoided.
//!
//! Needs clang++ 19 or newer. `WGTQ_CXX=none` is the explicit way to leave these tests out, and
//! `WGTQ_FAR_JUMPS=none` says that address space is scarce (under qemu): jumps over gigabytes are
//! found, but not from which buffer.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rayon::prelude::*;
use serde_json::{Value, json};

/// Lanes ahead in two orders, and close together.
const WAYS: [&[&str]; 3] = [&[], &["--descending"], &["--lockstep"]];

const KINDS: [&str; 10] = [
    "out_of_bounds",
    "readonly_write",
    "uninitialized_read",
    "data_race",
    "missing_fence",
    "lockstep_reliance",
    "divergent_barrier",
    "divergent_simd",
    "misaligned",
    "undefined_arithmetic",
];

const BUFFERLESS: [&str; 4] =
    ["divergent_barrier", "divergent_simd", "undefined_arithmetic", "uninitialized_read"];

const RACES: [&str; 3] = ["data_race", "missing_fence", "lockstep_reliance"];

fn off(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|v| v == "none")
}

fn without_clang() -> bool {
    off("WGTQ_CXX")
}

/// A kernel of the corpus with its marks.
struct Sample {
    path: PathBuf,
    spec: Value,
    expected: Vec<Expected>,
    others: Vec<u64>,
    also: Vec<(u64, String)>,
}

struct Expected {
    line: u64,
    kind: String,
    fields: BTreeMap<String, String>,
}

fn samples(folder: &str) -> Vec<Sample> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/msl-corpus").join(folder);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| Sample::parse(&std::fs::read_to_string(&path).unwrap(), path))
        .collect()
}

impl Sample {
    fn parse(text: &str, path: PathBuf) -> Self {
        let mut sample = Self {
            spec: spec(text, &path),
            path,
            expected: Vec::new(),
            others: Vec::new(),
            also: Vec::new(),
        };
        for (number, line) in (1..).zip(text.lines()) {
            for mark in line.split("// ").skip(1).map(str::trim) {
                match mark.split_once(": ") {
                    None if mark == "other" => sample.others.push(number),
                    Some(("also", kind)) => sample.also.push((number, kind.to_owned())),
                    Some(("expect", rest)) => sample.expected.push(Expected::parse(number, rest)),
                    _ => {}
                }
            }
        }
        sample
    }

    fn name(&self) -> String {
        self.path.file_stem().unwrap().to_string_lossy().into_owned()
    }

    /// `wgtq msl check`, as anybody runs it: exit code and report.
    fn check(&self, way: &[&str]) -> (i32, Value) {
        let spec = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(spec.path(), self.spec.to_string()).unwrap();
        let output = Command::new(assert_cmd::cargo::cargo_bin("wgtq"))
            .args(["msl", "check", "--json"])
            .arg(&self.path)
            .arg("--dispatch")
            .arg(spec.path())
            .args(way)
            .output()
            .unwrap();
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
            panic!("{}: {e}: {}", self.name(), String::from_utf8_lossy(&output.stderr))
        });
        (output.status.code().unwrap(), report)
    }

    /// Whether a finding is the marked defect. Of a race either access may come second.
    fn is_the_defect(&self, finding: &Value) -> bool {
        let [expected] = &self.expected[..] else { return false };
        let (line, other) = (finding["line"].as_u64(), finding["other_line"].as_u64());
        let sites_fit = if self.others.is_empty() {
            line == Some(expected.line) && other.is_none()
        } else {
            let is_other = |site: Option<u64>| site.is_some_and(|line| self.others.contains(&line));
            let is_main = |site| site == Some(expected.line);
            (is_main(line) && is_other(other)) || (is_other(line) && is_main(other))
        };
        finding["kind"] == *expected.kind && sites_fit
    }

    fn is_marked(&self, finding: &Value) -> bool {
        let also =
            |(line, kind): &(u64, String)| finding["line"] == *line && finding["kind"] == **kind;
        self.is_the_defect(finding) || self.also.iter().any(also)
    }

    /// What every finding must say, whatever it is about.
    fn is_complete(&self, finding: &Value) -> bool {
        let within = |position: &str, size: &str| {
            (0..3).all(|axis| finding[position][axis].as_u64() < self.spec[size][axis].as_u64())
        };
        finding["file"] == *self.path.to_string_lossy()
            && finding["kernel"] == self.spec["kernel"]
            && finding["column"].as_u64() > Some(0)
            && within("threadgroup", "threadgroups")
            && within("thread", "threads")
            && finding["message"].as_str().is_some_and(|m| !m.is_empty())
    }

    /// Where the defect lies.
    fn places(&self) -> BTreeSet<&'static str> {
        let text = std::fs::read_to_string(&self.path).unwrap();
        let expected = &self.expected[0];
        let mut places = blocks_around(&text, expected.line);
        let other_than = |field: &str, first: &str| {
            expected.fields.get(field).is_some_and(|value| value != first)
        };
        if other_than("threadgroup", "0,0,0") {
            places.insert("second threadgroup");
        }
        if other_than("buffer", "0") {
            places.insert("second buffer");
        }
        places
    }

    /// What is wrong with the report on a defective kernel.
    fn judge(&self, way: &[&str], code: i32, report: &Value) -> Option<String> {
        let findings = report["findings"].as_array().unwrap();
        let expected = &self.expected[0];
        let far = |value: &str| value.parse::<u64>().is_ok_and(|offset| offset > u32::MAX.into());
        let unknown = off("WGTQ_FAR_JUMPS") && expected.fields.values().any(|value| far(value));
        let has_fields = |finding: &Value| {
            unknown
                || expected.fields.iter().all(|(field, value)| {
                    let found = finding[field].to_string();
                    found.trim_matches(['[', ']']) == value
                })
        };
        let problem = if code != 1 || report["status"] != "findings" {
            "not exit code 1 with status findings"
        } else if !findings.iter().any(|f| self.is_the_defect(f)) {
            "the defect is not found"
        } else if let Some(stray) = findings.iter().find(|f| !self.is_marked(f)) {
            return Some(format!("{} {way:?}: a finding too many: {stray:#}", self.name()));
        } else if !findings.iter().all(|f| self.is_complete(f)) {
            "a finding is incomplete"
        } else if way.is_empty() && !findings.iter().any(|f| self.is_the_defect(f) && has_fields(f))
        {
            "no finding has the fields of the mark"
        } else {
            return None;
        };
        Some(format!("{} {way:?}: {problem}: {report:#}", self.name()))
    }
}

impl Expected {
    fn parse(line: u64, text: &str) -> Self {
        let mut words = text.split_whitespace();
        let kind = words.next().unwrap().to_owned();
        let fields = words.map(|word| word.split_once('=').unwrap());
        Self { line, kind, fields: fields.map(|(k, v)| (k.to_owned(), v.to_owned())).collect() }
    }
}

/// Whether a line of a kernel file lies in a loop, in a helper function, in a template.
fn blocks_around(text: &str, line: u64) -> BTreeSet<&'static str> {
    let mut open: Vec<String> = Vec::new();
    let mut words = String::new();
    for (number, text) in (1..).zip(text.lines()) {
        let code = text.split("//").next().unwrap_or_default();
        if number == line {
            words.push_str(code);
            break;
        }
        for c in code.chars() {
            match c {
                '{' => open.push(std::mem::take(&mut words)),
                '}' => {
                    open.pop();
                    words.clear();
                }
                // Not the semicolons of a `for`.
                ';' if words.matches('(').count() == words.matches(')').count() => words.clear(),
                _ => words.push(c),
            }
        }
        words.push(' ');
    }
    let is_loop = |head: &String| head.contains("for (") || head.contains("while (");
    let function = &open[0];
    [
        ("loop", open[1..].iter().chain([&words]).any(is_loop)),
        ("helper", !function.contains("kernel")),
        ("template", function.contains("template")),
    ]
    .into_iter()
    .filter_map(|(place, yes)| yes.then_some(place))
    .collect()
}

/// The dispatch: a comment that starts with `dispatch:`, over as many lines as it takes.
fn spec(text: &str, path: &Path) -> Value {
    let from = text.split_once("// dispatch:").unwrap_or_else(|| panic!("{}", path.display())).1;
    let json: String = from
        .lines()
        .map_while(|l| (!l.starts_with('#')).then(|| l.trim_start_matches("//")))
        .collect();
    serde_json::from_str(&json).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every problem of every sample, in parallel.
#[expect(clippy::print_stdout, reason = "how long the corpus takes is of interest")]
fn problems(
    samples: &[Sample],
    judge: impl Fn(&Sample, &[&str]) -> Option<String> + Sync,
) -> String {
    let start = Instant::now();
    let found: Vec<String> = samples
        .par_iter()
        .flat_map_iter(|sample| WAYS.map(|way| judge(sample, way)).into_iter().flatten())
        .collect();
    println!(
        "{} kernels, {} ways: {:.1} s",
        samples.len(),
        WAYS.len(),
        start.elapsed().as_secs_f32()
    );
    found.join("\n\n")
}

#[test]
fn the_corpus_is_whole() {
    let defects = samples("defects");
    assert!(defects.len() >= 80, "{} defects", defects.len());
    for kind in KINDS {
        let count = defects.iter().filter(|s| s.expected[0].kind == kind).count();
        assert!(count >= 5, "{count} defects of kind {kind}");
        let places: BTreeSet<&str> = defects
            .iter()
            .filter(|s| s.expected[0].kind == kind)
            .flat_map(Sample::places)
            .collect();
        // Barriers, simdgroup operations, arithmetic and threadgroup memory have no buffer.
        let buffers = !BUFFERLESS.contains(&kind);
        let wanted = ["helper", "template", "loop", "second threadgroup"];
        for place in wanted.into_iter().chain(buffers.then_some("second buffer")) {
            assert!(places.contains(place), "{kind}: none in a {place}");
        }
    }
    for sample in &defects {
        let [expected] = &sample.expected[..] else { panic!("{}: one mark", sample.name()) };
        assert!(KINDS.contains(&&*expected.kind), "{}", sample.name());
        let race = RACES.contains(&&*expected.kind);
        assert!(!race || !sample.others.is_empty(), "{}: the other site", sample.name());
        assert!(sample.name().starts_with(&*expected.kind), "{}", sample.name());
    }
    let clean = samples("clean");
    assert!(clean.len() >= 30, "{} clean kernels", clean.len());
    assert!(clean.iter().all(|s| s.expected.is_empty() && s.also.is_empty()));
}

#[test]
fn every_defect_is_found_and_nothing_else() {
    if without_clang() {
        return;
    }
    let problems = problems(&samples("defects"), |sample, way| {
        let (code, report) = sample.check(way);
        sample.judge(way, code, &report)
    });
    assert!(problems.is_empty(), "{problems}");
}

#[test]
fn suspicious_but_right_kernels_are_clean() {
    if without_clang() {
        return;
    }
    let problems = problems(&samples("clean"), |sample, way| {
        let (code, report) = sample.check(way);
        let clean = code == 0 && report["status"] == "clean" && report["findings"] == json!([]);
        (!clean).then(|| format!("{} {way:?}: {report:#}", sample.name()))
    });
    assert!(problems.is_empty(), "{problems}");
}

/// The judge of this file rejects reports that are off in one point.
#[test]
fn a_report_that_is_off_is_rejected() {
    let all = samples("defects");
    let sample = all.iter().find(|s| s.name() == "data_race_index_in_group").unwrap();
    let line = sample.expected[0].line;
    let good = json!({ "status": "findings", "findings": [{
        "kind": "data_race", "message": "m", "file": sample.path, "line": line, "column": 5,
        "kernel": "copy", "threadgroup": [1, 0, 0], "thread": [0, 0, 0],
        "buffer": 0, "offset": 0, "other_line": line,
    }] });
    assert_eq!(sample.judge(&[], 1, &good), None);
    assert!(sample.judge(&[], 0, &good).is_some());
    for (field, wrong) in [
        ("kind", json!("missing_fence")),
        ("line", json!(line + 1)),
        ("other_line", Value::Null),
        ("column", Value::Null),
        ("file", json!("other.metal")),
        ("kernel", json!("k")),
        ("threadgroup", json!([2, 0, 0])),
        ("thread", json!([64, 0, 0])),
        ("offset", json!(4)),
        ("buffer", json!(1)),
    ] {
        let mut bad = good.clone();
        bad["findings"][0][field] = wrong;
        assert!(sample.judge(&[], 1, &bad).is_some(), "{field}");
    }
    let mut more = good.clone();
    let mut stray = good["findings"][0].clone();
    stray["kind"] = json!("out_of_bounds");
    more["findings"].as_array_mut().unwrap().push(stray);
    assert!(sample.judge(&[], 1, &more).is_some());
}
