//! Reports as rows: one adapter a schema. Each reads only the fields that it compares, so that
//! reports with further fields stay readable.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Key, ReportHead, Row, Slack};
use crate::parity::ATTENTION_NRMSE;
use crate::parity::report::{ORACLE, Status};
use crate::{parity, replay};

/// Name that is given to the format of audit.json, which carries none.
const AUDIT: &str = "audit";
/// Attention on the unquantised values: errors against it are the codec's.
const UNQUANTISED: &str = "unquantised";
/// The other ring start, on the same data.
const OTHER_START: &str = "other ring start";
/// What results are against, when it is no leg.
const REFERENCES: [&str; 3] = [ORACLE, UNQUANTISED, OTHER_START];

/// A report of any kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Its format.
    pub schema: String,
    /// Version of the crate that wrote it; empty where it does not say.
    pub version: String,
    /// Its legs, also those that did not run.
    pub legs: Vec<SourceLeg>,
    /// Its results.
    pub rows: Vec<(Key, Row)>,
}

/// A leg of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLeg {
    /// Its label.
    pub label: String,
    /// Its adapter and driver, or why it did not run.
    pub ran: Result<String, String>,
}

/// Why a file cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not JSON, or a field is missing or of the wrong type.
    #[error("{}: {field}: {message}", path.display())]
    Field {
        /// Which.
        path: PathBuf,
        /// The field's path in it.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// It is not a report that can be compared.
    #[error(
        "{}: schema: need {}, {} or an audit.json of a sweep, found {found}",
        path.display(), parity::report::SCHEMA, replay::report::SCHEMA
    )]
    Schema {
        /// Which.
        path: PathBuf,
        /// What it says it is.
        found: String,
    },
}

/// Reads a report.
pub fn read(path: &Path) -> Result<Source, SourceError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SourceError::File { path: path.to_owned(), source })?;
    let value: Value = serde_json::from_str(&text).map_err(|e| SourceError::Field {
        path: path.to_owned(),
        field: "JSON".to_owned(),
        message: e.to_string(),
    })?;
    match value.get("schema").and_then(Value::as_str) {
        Some(parity::report::SCHEMA) => typed(path, value).map(parity_rows),
        Some(replay::report::SCHEMA) => typed(path, value).map(replay_rows),
        None if value.get("sweep_A").is_some() => typed(path, value).map(audit_rows),
        found => Err(SourceError::Schema {
            path: path.to_owned(),
            found: found.unwrap_or("none").to_owned(),
        }),
    }
}

fn typed<T: DeserializeOwned>(path: &Path, value: Value) -> Result<T, SourceError> {
    serde_path_to_error::deserialize(value).map_err(|e| SourceError::Field {
        path: path.to_owned(),
        field: e.path().to_string(),
        message: e.into_inner().to_string(),
    })
}

impl Source {
    pub(super) fn has_leg(&self, label: &str) -> bool {
        self.legs.iter().any(|l| l.label == label)
    }

    pub(super) fn leg_names(&self) -> String {
        self.legs.iter().map(|l| l.label.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn head(&self) -> ReportHead {
        let line = |l: &SourceLeg| l.ran.as_ref().ok().map(|on| format!("{} on {on}", l.label));
        ReportHead {
            version: self.version.clone(),
            legs: self.legs.iter().filter_map(line).collect(),
        }
    }

    /// The leg that `key` needs and that did not run here, with the reason.
    pub(super) fn missing_leg<'a>(&'a self, key: &'a Key) -> Option<(&'a str, &'a str)> {
        let leg = |label: &str| self.legs.iter().find(|l| l.label == label);
        match (leg(&key.leg), leg(&key.against)) {
            (None, _) => Some((&key.leg, "not in the second report")),
            (Some(SourceLeg { label, ran: Err(why) }), _)
            | (_, Some(SourceLeg { label, ran: Err(why) })) => Some((label, why)),
            (_, None) if !REFERENCES.contains(&key.against.as_str()) => {
                Some((&key.against, "not in the second report"))
            }
            _ => None,
        }
    }

    /// With other labels: those of `map`, the others less their `@tag` where that leaves no two
    /// alike.
    pub(super) fn relabelled(mut self, map: &[(String, String)]) -> Self {
        let plain = |label: &str| label.split('@').next().unwrap_or(label).to_owned();
        let labels: Vec<String> = self.legs.iter().map(|l| l.label.clone()).collect();
        let alone = |label: &str| labels.iter().filter(|l| plain(l) == plain(label)).count() < 2;
        let rename = |label: &mut String| {
            if let Some((_, new)) = map.iter().find(|(old, _)| old == label) {
                label.clone_from(new);
            } else if alone(label) {
                *label = plain(label);
            }
        };
        self.legs.iter_mut().for_each(|l| rename(&mut l.label));
        for (key, _) in &mut self.rows {
            rename(&mut key.leg);
            rename(&mut key.against);
        }
        self
    }
}

/// The fields of an adapter that tell machines apart.
#[derive(Deserialize)]
struct Adapter {
    name: String,
    backend: String,
    driver: String,
}

impl Adapter {
    fn line(&self) -> String {
        format!("{} ({}, {})", self.name, self.backend, self.driver)
    }
}

#[derive(Deserialize)]
struct Timing {
    execute_ms: f64,
}

#[derive(Deserialize)]
struct Parity {
    version: String,
    legs: Vec<ParityLeg>,
    cases: Vec<ParityCase>,
}

#[derive(Deserialize)]
struct ParityLeg {
    label: String,
    available: bool,
    reason: Option<String>,
    adapter: Option<Adapter>,
}

#[derive(Deserialize)]
struct ParityCase {
    kernel: String,
    case: String,
    results: Vec<ParityResult>,
}

#[derive(Deserialize)]
struct ParityResult {
    leg: String,
    against: String,
    status: Status,
    error: Option<f64>,
    tolerance: Option<f64>,
    timing: Option<Timing>,
}

fn parity_rows(report: Parity) -> Source {
    let leg = |l: ParityLeg| SourceLeg {
        label: l.label,
        ran: match l.available {
            true => Ok(l.adapter.map_or_else(|| "an unknown adapter".to_owned(), |a| a.line())),
            false => Err(l.reason.unwrap_or_else(|| "no reason given".to_owned())),
        },
    };
    let mut rows = Vec::new();
    for case in report.cases {
        for r in case.results {
            let (kernel, case) = (case.kernel.clone(), case.case.clone());
            let row = Row {
                status: r.status,
                error: r.error,
                tolerance: r.tolerance,
                slack: r.tolerance.map(Slack::rounding),
                time_ms: r.timing.map(|t| t.execute_ms),
            };
            rows.push((Key { kernel, case, leg: r.leg, against: r.against }, row));
        }
    }
    Source {
        schema: parity::report::SCHEMA.to_owned(),
        version: report.version,
        legs: report.legs.into_iter().map(leg).collect(),
        rows,
    }
}

#[derive(Deserialize)]
struct Replay {
    version: String,
    manifest: String,
    legs: Vec<ReplayLeg>,
}

#[derive(Deserialize)]
struct ReplayLeg {
    leg: String,
    variation: String,
    canary: String,
    status: ReplayStatus,
    dequant_oracle_nrmse: Option<f64>,
    tolerance: Option<f64>,
    independent_floor_nrmse: Option<f64>,
    adapter: Adapter,
    timing: Timing,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReplayStatus {
    Pass,
    Mismatch,
    ExpectedDifference,
    NotJudged,
    RuntimeError,
}

impl From<ReplayStatus> for Status {
    fn from(status: ReplayStatus) -> Self {
        match status {
            ReplayStatus::Pass => Self::Pass,
            ReplayStatus::Mismatch => Self::Mismatch,
            ReplayStatus::ExpectedDifference => Self::ExpectedDifference,
            ReplayStatus::NotJudged => Self::Skipped,
            ReplayStatus::RuntimeError => Self::RuntimeError,
        }
    }
}

/// The folder of the manifest names the capture: machines keep it under different paths.
fn replay_rows(report: Replay) -> Source {
    let manifest = Path::new(&report.manifest);
    let name = manifest.parent().and_then(Path::file_name).unwrap_or(manifest.as_os_str());
    let mut source = Source {
        schema: replay::report::SCHEMA.to_owned(),
        version: report.version,
        legs: Vec::new(),
        rows: Vec::new(),
    };
    for entry in report.legs {
        let key = |against: &str| Key {
            kernel: format!("replay {}", name.to_string_lossy()),
            case: format!("{}, canary {}", entry.variation, entry.canary),
            leg: entry.leg.clone(),
            against: against.to_owned(),
        };
        let dequant = Row {
            status: entry.status.into(),
            error: entry.dequant_oracle_nrmse,
            tolerance: entry.tolerance,
            slack: entry.tolerance.map(Slack::rounding),
            time_ms: Some(entry.timing.execute_ms),
        };
        source.rows.push((key(ORACLE), dequant));
        if let Some(floor) = entry.independent_floor_nrmse {
            source.rows.push((key(UNQUANTISED), codec_row(Status::Pass, Some(floor))));
        }
        let ran = Ok(entry.adapter.line());
        source.legs.push(SourceLeg { label: entry.leg, ran });
    }
    source
}

const fn codec_row(status: Status, error: Option<f64>) -> Row {
    Row { status, error, tolerance: None, slack: Some(Slack::CODEC), time_ms: None }
}

#[derive(Deserialize)]
struct Audit {
    legs: Vec<AuditLeg>,
    regression_gates: Vec<Gate>,
    #[serde(rename = "sweep_A")]
    sweep_a: Vec<Point>,
    #[serde(rename = "sweep_B")]
    sweep_b: Vec<Point>,
    ring_wrap: Vec<RingWrap>,
    regime: Regime,
}

#[derive(Deserialize)]
struct Regime {
    k_bits: u32,
    v_bits: u32,
    #[serde(default)]
    norm_correction: bool,
}

impl Regime {
    /// What a case's name says of the codec, so that points of different codecs do not meet; nothing
    /// of the one that bands are registered for.
    fn label(&self) -> String {
        let Self { k_bits, v_bits, norm_correction } = *self;
        match (k_bits, v_bits, norm_correction) {
            (4, 4, false) => String::new(),
            (_, _, false) => format!(", k{k_bits}v{v_bits}"),
            (_, _, true) => format!(", k{k_bits}v{v_bits} corrected"),
        }
    }
}

#[derive(Deserialize)]
struct AuditLeg {
    leg: String,
    adapter: Option<Adapter>,
}

#[derive(Deserialize)]
struct Gate {
    name: String,
    leg: String,
    status: String,
    duration_ms: f64,
}

#[derive(Deserialize)]
struct Point {
    leg: String,
    seed: String,
    abs_pos: u32,
    kvl_logical: u32,
    nrmse: Option<f64>,
    band_ok: Option<bool>,
    dequant_oracle_nrmse: Option<f64>,
}

#[derive(Deserialize)]
struct RingWrap {
    leg: String,
    seed: String,
    abs_pos: u32,
    kvl_logical: u32,
    #[serde(rename = "ring_start_A_nrmse")]
    nrmse: Option<f64>,
    ab_delta: Option<f64>,
    band_ok: Option<bool>,
}

/// A sweep states no tolerance for rounding; the least that any attention is held to is taken.
fn audit_rows(audit: Audit) -> Source {
    let leg = |l: AuditLeg| SourceLeg {
        label: l.leg,
        // A gate failed before it was opened: its rows then count as vanished.
        ran: Ok(l.adapter.map_or_else(|| "no adapter: a gate failed".to_owned(), |a| a.line())),
    };
    let gates = audit.regression_gates.into_iter().map(gate_row);
    let codec = audit.regime.label();
    let a = audit.sweep_a.into_iter().flat_map(|p| point_rows("sweep A", &codec, p));
    let b = audit.sweep_b.into_iter().flat_map(|p| point_rows("sweep B", &codec, p));
    let wraps = audit.ring_wrap.into_iter().flat_map(|p| ring_wrap_rows(&codec, p));
    Source {
        schema: AUDIT.to_owned(),
        version: String::new(),
        legs: audit.legs.into_iter().map(leg).collect(),
        rows: gates.chain(a).chain(b).chain(wraps).collect(),
    }
}

fn gate_row(gate: Gate) -> (Key, Row) {
    let status = if gate.status == "PASS" { Status::Pass } else { Status::Mismatch };
    let key = Key {
        kernel: "gate".to_owned(),
        case: gate.name,
        leg: gate.leg,
        against: ORACLE.to_owned(),
    };
    let row =
        Row { status, error: None, tolerance: None, slack: None, time_ms: Some(gate.duration_ms) };
    (key, row)
}

fn in_band(band_ok: Option<bool>) -> Status {
    match band_ok {
        Some(true) => Status::Pass,
        Some(false) => Status::Mismatch,
        None => Status::Skipped,
    }
}

fn point_rows(sweep: &str, codec: &str, p: Point) -> [(Key, Row); 2] {
    let key = |against: &str| Key {
        kernel: sweep.to_owned(),
        case: format!("position {}, n {}, seed {}{codec}", p.abs_pos, p.kvl_logical, p.seed),
        leg: p.leg.clone(),
        against: against.to_owned(),
    };
    let unquantised = codec_row(in_band(p.band_ok), p.nrmse);
    [(key(UNQUANTISED), unquantised), (key(ORACLE), rounding_row(p.dequant_oracle_nrmse))]
}

fn ring_wrap_rows(codec: &str, p: RingWrap) -> [(Key, Row); 2] {
    let key = |against: &str| Key {
        kernel: "ring wrap".to_owned(),
        case: format!("position {}, n {}, seed {}{codec}", p.abs_pos, p.kvl_logical, p.seed),
        leg: p.leg.clone(),
        against: against.to_owned(),
    };
    let unquantised = codec_row(in_band(p.band_ok), p.nrmse);
    [(key(UNQUANTISED), unquantised), (key(OTHER_START), rounding_row(p.ab_delta.map(f64::abs)))]
}

fn rounding_row(error: Option<f64>) -> Row {
    Row {
        status: Status::Pass,
        error,
        tolerance: None,
        slack: Some(Slack::rounding(ATTENTION_NRMSE)),
        time_ms: None,
    }
}
