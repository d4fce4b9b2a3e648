//! What the page offers for download.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::BenchReport;
use crate::parity::report::Report;

/// A parity report, and beside its fields what was timed. Readers of [`Report`] read it as one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WebReport {
    /// The report.
    #[serde(flatten)]
    pub report: Report,
    /// The benchmark; null where it did not run.
    pub bench: Option<BenchReport>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::report::{RunTiming, SCHEMA, Summary};
    use crate::web::Clock;

    #[test]
    fn a_download_reads_as_a_parity_report() {
        let report = Report {
            schema: SCHEMA.to_owned(),
            version: String::new(),
            machine: "a browser".to_owned(),
            legs: Vec::new(),
            summary: Summary::default(),
            cases: Vec::new(),
            sources: Vec::new(),
            ran_at: String::new(),
            timing: RunTiming { total_s: 1.5 },
        };
        let bench = BenchReport::new(Clock::WallClock);
        let web = WebReport { report: report.clone(), bench: Some(bench) };
        let json = serde_json::to_string(&web).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        assert_eq!(serde_json::from_str::<WebReport>(&json).unwrap(), web);
    }
}
