//! The JSON report of a parity run. Clocks appear only in `ran_at` and `timing`, so that two
//! reports diff cleanly.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::outcome::{Bin, Metric, Worst};
use crate::gpu::AdapterReport;
use crate::legs::CheckerFinding;

/// Name and version of the format.
pub const SCHEMA: &str = "wgtq.parity/1";

/// What an output is judged against, when it is not another leg.
pub const ORACLE: &str = "oracle";

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Name and version of the format.
    pub schema: String,
    /// This crate's version.
    pub version: String,
    /// Operating system and processor.
    pub machine: String,
    /// Every leg, also those that could not run.
    pub legs: Vec<LegReport>,
    /// How many results have which status.
    pub summary: Summary,
    /// Every case.
    pub cases: Vec<CaseReport>,
    /// Shader texts that ran.
    pub sources: Vec<SourceReport>,
    /// When, UTC.
    pub ran_at: String,
    /// Times of the whole run.
    pub timing: RunTiming,
}

/// A leg, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LegReport {
    /// Its name in this report.
    pub label: String,
    /// Whether it ran.
    pub available: bool,
    /// Why not, and how to get it; null where it ran.
    pub reason: Option<String>,
    /// The machine behind it.
    pub adapter: Option<AdapterReport>,
}

/// One case on every leg.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CaseReport {
    /// Stem of the kernel.
    pub kernel: String,
    /// Name of the case, unique for the kernel.
    pub case: String,
    /// One a leg against the oracle, then the pairs of legs.
    pub results: Vec<CaseResultReport>,
}

/// How a result turned out.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Within its tolerance, and the checker found nothing.
    Pass,
    /// Differs from the contract exactly as a known limit of the kernel predicts.
    ExpectedDifference,
    /// Not run, for a reason that is given.
    Skipped,
    /// Within its tolerance, but the checker found a defect.
    Finding,
    /// Outside its tolerance, or written where it must not be, or not written where it must be.
    Mismatch,
    /// The kernel did not compile.
    CompileError,
    /// The device or the host failed.
    RuntimeError,
}

impl Status {
    /// Every status, best first.
    pub const ALL: [Self; 7] = [
        Self::Pass,
        Self::ExpectedDifference,
        Self::Skipped,
        Self::Finding,
        Self::Mismatch,
        Self::CompileError,
        Self::RuntimeError,
    ];

    /// The name as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::ExpectedDifference => "expected_difference",
            Self::Skipped => "skipped",
            Self::Finding => "finding",
            Self::Mismatch => "mismatch",
            Self::CompileError => "compile_error",
            Self::RuntimeError => "runtime_error",
        }
    }

    /// Whether a report with it may still be green.
    pub const fn good(self) -> bool {
        matches!(self, Self::Pass | Self::ExpectedDifference | Self::Skipped)
    }
}

/// One comparison. Numbers are null where there is no answer; `reason` then says why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CaseResultReport {
    /// Label of the leg.
    pub leg: String,
    /// `oracle`, or the label of the other leg of a pair.
    pub against: String,
    /// How it turned out.
    pub status: Status,
    /// What the status rests on, in words.
    pub reason: String,
    /// What `error` is.
    pub metric: Option<Metric>,
    /// The error: the largest of all ways of playing.
    pub error: Option<f64>,
    /// What it had to stay within.
    pub tolerance: Option<f64>,
    /// The element that is furthest off.
    pub worst: Option<Worst>,
    /// How many elements are how far off.
    pub histogram: Vec<Bin>,
    /// The error of each way of playing, where there are several.
    pub ways: Vec<WayReport>,
    /// Known limits of an original kernel by which the output differs from the contract, exactly
    /// as they predict; also where a finding decides the status.
    pub limits: Vec<String>,
    /// What the checker found; null where nothing checks.
    pub findings: Option<Vec<CheckerFinding>>,
    /// Times; null for pairs and for what did not run.
    pub timing: Option<Timing>,
}

/// The error of one way of playing a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WayReport {
    /// Which.
    pub way: String,
    /// Its error; null where there is no answer.
    pub error: Option<f64>,
}

/// Wall-clock milliseconds of a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Timing {
    /// Making pipelines; near zero when they were cached.
    pub compile_ms: f64,
    /// Upload, dispatches and read-back, in all ways.
    pub execute_ms: f64,
}

/// Wall-clock seconds of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunTiming {
    /// All cases on all legs.
    pub total_s: f64,
}

/// A shader text that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceReport {
    /// Label of the leg.
    pub leg: String,
    /// Label of the pipeline.
    pub label: String,
    /// SHA-256 of the text.
    pub sha256: String,
}

/// Results by status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the statuses")]
pub struct Summary {
    pub pass: usize,
    pub expected_difference: usize,
    pub skipped: usize,
    pub finding: usize,
    pub mismatch: usize,
    pub compile_error: usize,
    pub runtime_error: usize,
}

impl Summary {
    /// Counts `cases`.
    pub fn of(cases: &[CaseReport]) -> Self {
        let results = || cases.iter().flat_map(|c| &c.results);
        let count = |status| results().filter(|r| r.status == status).count();
        Self {
            pass: count(Status::Pass),
            expected_difference: count(Status::ExpectedDifference),
            skipped: count(Status::Skipped),
            finding: count(Status::Finding),
            mismatch: count(Status::Mismatch),
            compile_error: count(Status::CompileError),
            runtime_error: count(Status::RuntimeError),
        }
    }

    /// How many results have `status`.
    pub const fn count(&self, status: Status) -> usize {
        match status {
            Status::Pass => self.pass,
            Status::ExpectedDifference => self.expected_difference,
            Status::Skipped => self.skipped,
            Status::Finding => self.finding,
            Status::Mismatch => self.mismatch,
            Status::CompileError => self.compile_error,
            Status::RuntimeError => self.runtime_error,
        }
    }

    /// 0 all well, 1 a mismatch or a finding, 2 something could not run or nothing did.
    pub const fn exit_code(&self) -> u8 {
        if self.mismatch + self.finding > 0 {
            1
        } else if self.compile_error + self.runtime_error > 0
            || self.pass + self.expected_difference == 0
        {
            2
        } else {
            0
        }
    }

    /// The exit code in a word or two.
    pub const fn verdict(&self) -> &'static str {
        match self.exit_code() {
            0 => "PASS",
            2 if self.compile_error + self.runtime_error == 0 => "NOTHING RAN",
            _ => "FAIL",
        }
    }
}

impl CaseReport {
    /// The results that make a report red.
    pub fn failures(&self) -> impl Iterator<Item = &CaseResultReport> {
        self.results.iter().filter(|r| !r.status.good())
    }
}
