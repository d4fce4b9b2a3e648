//! The results of a report by place: kernel, case, comparison.

use crate::parity::report::{CaseResultReport, ORACLE, Report, Status};

/// A report as a matrix of every case and every comparison.
pub(super) struct Grid<'a> {
    /// Legs against the oracle first, then pairs of legs.
    pub(super) sides: Vec<Side<'a>>,
    pub(super) kernels: Vec<Kernel<'a>>,
}

/// What is compared with what.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Side<'a> {
    pub(super) leg: &'a str,
    pub(super) against: &'a str,
}

pub(super) struct Kernel<'a> {
    pub(super) stem: &'a str,
    pub(super) rows: Vec<Row<'a>>,
}

pub(super) struct Row<'a> {
    pub(super) case: &'a str,
    /// One a side; none where the case has no such comparison.
    pub(super) results: Vec<Option<&'a CaseResultReport>>,
}

/// A result and where it is.
pub(super) struct Place<'a> {
    pub(super) kernel: usize,
    pub(super) row: usize,
    pub(super) side: usize,
    pub(super) result: &'a CaseResultReport,
}

impl<'a> Side<'a> {
    fn of(result: &'a CaseResultReport) -> Self {
        Self { leg: &result.leg, against: &result.against }
    }

    pub(super) fn is_pair(&self) -> bool {
        self.against != ORACLE
    }

    pub(super) fn words(&self) -> String {
        format!("{} against {}", self.leg, self.against)
    }
}

impl Place<'_> {
    /// The fragment that opens the result.
    pub(super) fn anchor(&self) -> String {
        format!("r{}.{}.{}", self.kernel, self.row, self.side)
    }
}

impl<'a> Grid<'a> {
    pub(super) fn of(report: &'a Report) -> Self {
        let mut sides: Vec<Side<'a>> = Vec::new();
        for result in report.cases.iter().flat_map(|c| &c.results) {
            let side = Side::of(result);
            if !sides.contains(&side) {
                sides.push(side);
            }
        }
        sides.sort_by_key(Side::is_pair);
        let mut kernels: Vec<Kernel<'a>> = Vec::new();
        for case in &report.cases {
            let row = Row {
                case: &case.case,
                results: sides.iter().map(|&side| result(&case.results, side)).collect(),
            };
            match kernels.iter_mut().find(|k| k.stem == case.kernel) {
                Some(kernel) => kernel.rows.push(row),
                None => kernels.push(Kernel { stem: &case.kernel, rows: vec![row] }),
            }
        }
        Self { sides, kernels }
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = &Side<'a>> {
        self.sides.iter().filter(|s| s.is_pair())
    }

    fn places(&self) -> impl Iterator<Item = Place<'a>> {
        self.kernels.iter().enumerate().flat_map(|(kernel, k)| {
            k.rows.iter().enumerate().flat_map(move |(row, r)| {
                let place = move |(side, result): (usize, &Option<&'a CaseResultReport>)| {
                    Some(Place { kernel, row, side, result: (*result)? })
                };
                r.results.iter().enumerate().filter_map(place)
            })
        })
    }

    pub(super) fn failures(&self) -> impl Iterator<Item = Place<'a>> {
        self.places().filter(|p| !p.result.status.good())
    }
}

/// The result of a side; the worst, should a report have several.
fn result<'a>(results: &'a [CaseResultReport], side: Side<'_>) -> Option<&'a CaseResultReport> {
    results.iter().filter(|r| Side::of(r) == side).max_by_key(|r| r.status)
}

/// How much of its tolerance an error uses: 0 for none at all, 1 for all of it.
pub(super) fn share(result: &CaseResultReport) -> Option<f64> {
    match (result.error?, result.tolerance?) {
        (0.0, _) => Some(0.0),
        (error, tolerance) => Some(error / tolerance),
    }
}

/// The share in steps that are even on a logarithmic scale.
pub(super) fn level(share: Option<f64>) -> u8 {
    const STEPS: [f64; 5] = [1e-3, 1e-2, 1e-1, 0.32, 1.0];
    match share.filter(|s| !s.is_nan()) {
        Some(0.0) => 0,
        Some(s) => 1 + STEPS.iter().take_while(|&&step| s > step).count() as u8,
        None => 6,
    }
}

/// The classes that colour a cell: status, and the level where the status has shades.
pub(super) fn class(status: Status, share: Option<f64>) -> String {
    match status {
        Status::Pass => format!("pass u{}", level(share).min(5)),
        status => status.as_str().to_owned(),
    }
}
