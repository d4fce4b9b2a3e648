//! The JSON of a comparison.

use schemars::JsonSchema;
use serde::Serialize;

use super::Row;
use crate::parity::report::Status;

/// Name and version of the format.
pub const SCHEMA: &str = "wgtq.compare/1";

/// The whole comparison.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Comparison {
    /// Name and version of the format.
    pub schema: String,
    /// Format of the two reports.
    pub of: String,
    /// The first report.
    pub a: ReportHead,
    /// The second report.
    pub b: ReportHead,
    /// Rows that are in both.
    pub compared: usize,
    /// Changes that are regressions.
    pub regressions: usize,
    /// Legs of the first report that did not run in the second.
    pub missing_legs: Vec<MissingLeg>,
    /// How much longer each leg took.
    pub times: Vec<LegTime>,
    /// Every row, biggest change first.
    pub changes: Vec<Change>,
}

/// Where a report is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ReportHead {
    /// Version of this crate; empty where the report does not say.
    pub version: String,
    /// Each leg that ran, with its adapter and driver.
    pub legs: Vec<String>,
}

/// A leg whose rows could not be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MissingLeg {
    /// Its label.
    pub leg: String,
    /// Why it did not run.
    pub reason: String,
    /// Rows of the first report that need it.
    pub rows: usize,
}

/// Time of a leg in the second report by that in the first.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct LegTime {
    /// Its label.
    pub leg: String,
    /// Rows with a time in both.
    pub rows: usize,
    /// The upper median of their quotients.
    pub median_slowdown: f64,
}

/// What happened to a row, gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Its status got worse.
    StatusWorse,
    /// It is not in the second report, although its legs ran.
    Vanished,
    /// Its error grew by more than rounding.
    ErrorGrew,
    /// It took longer than the limit.
    Slower,
    /// Its tolerance got wider.
    ToleranceWidened,
    /// Its status got better.
    StatusBetter,
    /// Its error shrank by more than rounding.
    ErrorShrank,
    /// It is only in the second report.
    Added,
    /// Nothing beyond rounding and noise.
    Same,
}

impl What {
    /// Whether it makes a comparison fail.
    pub const fn regression(self) -> bool {
        matches!(self, Self::StatusWorse | Self::Vanished | Self::ErrorGrew | Self::Slower)
    }

    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::StatusWorse => "worse",
            Self::Vanished => "vanished",
            Self::ErrorGrew => "error grew",
            Self::Slower => "slower",
            Self::ToleranceWidened => "wider tolerance",
            Self::StatusBetter => "better",
            Self::ErrorShrank => "error shrank",
            Self::Added => "new",
            Self::Same => "same",
        }
    }
}

/// One row of the two reports.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Change {
    /// What happened.
    pub what: What,
    /// Stem of the kernel, or the part of the report.
    pub kernel: String,
    /// Name of the case.
    pub case: String,
    /// Label of the leg, as in the second report.
    pub leg: String,
    /// An oracle, or the label of another leg.
    pub against: String,
    /// In the first report; null where it is new.
    pub a: Option<Side>,
    /// In the second report; null where it vanished.
    pub b: Option<Side>,
    /// Growth of the error, 1 being all that rounding may do; null where it has no bound or is not
    /// finite.
    pub growth: Option<f64>,
    /// Time in the second report by that in the first.
    pub slowdown: Option<f64>,
}

impl Change {
    /// How big it is among changes of its kind.
    pub fn size(&self) -> f64 {
        match (self.what, self.b.as_ref()) {
            (What::StatusWorse, Some(b)) => f64::from(b.status as u8),
            (What::StatusBetter, _) => self.a.as_ref().map_or(0.0, |a| f64::from(a.status as u8)),
            (What::Slower, _) => self.slowdown.unwrap_or(0.0),
            (What::ErrorGrew, _) => self.growth.unwrap_or(f64::INFINITY),
            _ => self.growth.map_or(0.0, f64::abs),
        }
    }

    /// Where it is, for a stable order.
    pub(super) fn place(&self) -> [&str; 4] {
        [&self.kernel, &self.case, &self.leg, &self.against]
    }
}

/// A row in one report.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Side {
    /// How it turned out.
    pub status: Status,
    /// The error; null where there is no answer.
    pub error: Option<f64>,
    /// What it had to stay within.
    pub tolerance: Option<f64>,
    /// Milliseconds of the run.
    pub time_ms: Option<f64>,
}

impl From<&Row> for Side {
    fn from(row: &Row) -> Self {
        let Row { status, error, tolerance, time_ms, .. } = *row;
        Self { status, error, tolerance, time_ms }
    }
}
