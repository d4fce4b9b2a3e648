//! What comes of a tape that a leg plays in every way it has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Run;

/// One way of playing a tape, and what came of it.
#[derive(Debug)]
pub struct Played {
    /// The way, where a leg has several.
    pub way: &'static str,
    /// The outputs.
    pub run: Run,
    /// What a checker found; none where nothing checks.
    pub findings: Option<Vec<CheckerFinding>>,
}

/// A defect that a leg's checker found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckerFinding {
    /// out_of_bounds, data_race, ..
    pub kind: String,
    /// In words.
    pub message: String,
    /// `file:line:column`, where known.
    pub place: Option<String>,
}
