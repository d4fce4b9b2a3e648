//! A parity report as a self-contained page.

use super::report::Report;

/// The page.
pub fn page(report: &Report) -> String {
    format!("<!doctype html><title>{}</title>", report.schema)
}
