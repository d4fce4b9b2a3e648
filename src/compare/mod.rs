//! Two reports - of two machines, drivers or versions - held against each other.
//!
//! Every kind of report is read into the same [`Row`]s ([`Source`]); comparing knows
//! rows only. Rows meet by (kernel, case, leg, against). What a regression is was fixed before any
//! two reports were compared:
//!
//! * **Status**: it got worse, in the order of [`Status`].
//! * **Vanished**: the row is not in the second report, although its legs ran there. Rows of
//!   a leg that did not run are counted and the leg is named, with its reason. A skipped row said
//!   nothing, so nothing vanishes with it.
//! * **Error**: it is more than [`FACTOR`] times what it was *and* grew by more than [`SHARE`] of
//!   the tolerance (the smaller, if the reports differ), or it is no longer a number. Errors of f32
//!   kernels depend on the order of sums and on fused multiply-adds. One rounding in place of two
//!   is a factor of two; and as the tolerances bound all orders, what moves an error by less than
//!   a tenth of one is rounding. A tolerance of 0 leaves no room: any growth counts.
//! * **Codec error** (a floor, a sweep's nrmse): it grew by more than [`CODEC_SLACK`]. It is a
//!   property of the data, which kernels only add rounding to.
//! * **Time**: only with a limit, since clocks are noisy; otherwise it is only reported.
//!
//! An error without a tolerance is reported and never a regression. Names of adapters and versions
//! of drivers are shown and not compared.

mod read;
mod report;

use std::collections::BTreeMap;

pub use read::{Source, SourceError, read};
pub use report::{Change, Comparison, LegTime, MissingLeg, ReportHead, SCHEMA, Side, What};

use crate::parity::report::Status;

/// How much larger an error may be by rounding alone.
pub const FACTOR: f64 = 2.0;
/// Share of the tolerance that rounding alone may move an error by.
pub const SHARE: f64 = 0.1;
/// How far rounding alone may move an error that is the codec's.
pub const CODEC_SLACK: f64 = 2e-4;

/// What two rows have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Stem of the kernel, or the part of the report.
    pub kernel: String,
    /// Name of the case.
    pub case: String,
    /// Label of the leg.
    pub leg: String,
    /// An oracle, or the label of another leg.
    pub against: String,
}

/// One result of a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// How it turned out.
    pub status: Status,
    /// The error; none where there is no answer.
    pub error: Option<f64>,
    /// What it had to stay within.
    pub tolerance: Option<f64>,
    /// How far rounding alone may move the error; none where nothing is known.
    pub slack: Option<Slack>,
    /// Milliseconds of the run.
    pub time_ms: Option<f64>,
}

/// An error regressed where it exceeds both bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slack {
    /// Times what it was.
    pub factor: f64,
    /// More than what it was.
    pub growth: f64,
}

impl Slack {
    /// Of an error that is rounding, held to a tolerance.
    pub const fn rounding(tolerance: f64) -> Self {
        Self { factor: FACTOR, growth: SHARE * tolerance }
    }

    /// Of an error that is the codec's.
    pub const CODEC: Self = Self { factor: 1.0, growth: CODEC_SLACK };

    fn exceeded(self, old: f64, new: f64) -> bool {
        new > old * self.factor && new - old > self.growth
    }
}

/// What to compare by.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Labels of legs in the first report, and their labels in the second.
    pub map: Vec<(String, String)>,
    /// A row that takes more than this many times as long is a regression.
    pub max_slowdown: Option<f64>,
}

/// Why two reports cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// Two kinds of report.
    #[error("need two reports of one kind, found {a} and {b}")]
    Kinds {
        /// Of the first.
        a: String,
        /// Of the second.
        b: String,
    },
    /// No row of one is in the other.
    #[error(
        "the reports have no result in common: legs {a} and legs {b}; --map OLD=NEW maps a leg"
    )]
    NothingInCommon {
        /// Legs of the first.
        a: String,
        /// Legs of the second.
        b: String,
    },
    /// A leg that is mapped but is not there.
    #[error("--map {label}: need a leg of the first report ({known}), found none of that name")]
    UnknownLeg {
        /// As given.
        label: String,
        /// The legs that are there.
        known: String,
    },
    /// Two rows under one key.
    #[error("{report}: need one result for {kernel} {case} {leg} against {against}, found two")]
    Twice {
        /// The first or the second report.
        report: &'static str,
        /// The key's kernel.
        kernel: String,
        /// The key's case.
        case: String,
        /// The key's leg.
        leg: String,
        /// What the key is against.
        against: String,
    },
}

/// Compares two reports, biggest change first.
pub fn compare(a: Source, b: Source, options: &Options) -> Result<Comparison, CompareError> {
    if a.schema != b.schema {
        return Err(CompareError::Kinds { a: a.schema, b: b.schema });
    }
    if let Some((label, _)) = options.map.iter().find(|(old, _)| !a.has_leg(old)) {
        return Err(CompareError::UnknownLeg { label: label.clone(), known: a.leg_names() });
    }
    let (a, b) = (a.relabelled(&options.map), b.relabelled(&[]));
    let (old, new) = (keyed("the first report", &a)?, keyed("the second report", &b)?);
    if !old.keys().any(|key| new.contains_key(key)) {
        return Err(CompareError::NothingInCommon { a: a.leg_names(), b: b.leg_names() });
    }
    let mut changes = Vec::new();
    let mut missing: Vec<MissingLeg> = Vec::new();
    for (key, row) in &old {
        match (new.get(key), b.missing_leg(key)) {
            (Some(now), _) => changes.push(both(key, row, now, options)),
            (None, Some((leg, reason))) => count_missing(&mut missing, leg, reason),
            (None, None) if row.status == Status::Skipped => {}
            (None, None) => changes.push(one(key, What::Vanished, Some(row), None)),
        }
    }
    let added = new.iter().filter(|(key, _)| !old.contains_key(*key));
    changes.extend(added.map(|(key, row)| one(key, What::Added, None, Some(row))));
    changes.sort_by(|x, y| {
        (x.what.cmp(&y.what))
            .then_with(|| y.size().total_cmp(&x.size()))
            .then_with(|| x.place().cmp(&y.place()))
    });
    Ok(Comparison {
        schema: SCHEMA.to_owned(),
        of: a.schema.clone(),
        a: a.head(),
        b: b.head(),
        compared: old.keys().filter(|key| new.contains_key(*key)).count(),
        regressions: changes.iter().filter(|c| c.what.regression()).count(),
        missing_legs: missing,
        times: times(&changes),
        changes,
    })
}

fn keyed<'a>(
    report: &'static str,
    source: &'a Source,
) -> Result<BTreeMap<&'a Key, &'a Row>, CompareError> {
    let mut rows = BTreeMap::new();
    for (key, row) in &source.rows {
        if rows.insert(key, row).is_some() {
            let Key { kernel, case, leg, against } = key.clone();
            return Err(CompareError::Twice { report, kernel, case, leg, against });
        }
    }
    Ok(rows)
}

fn count_missing(missing: &mut Vec<MissingLeg>, leg: &str, reason: &str) {
    match missing.iter_mut().find(|m| m.leg == leg) {
        Some(m) => m.rows += 1,
        None => {
            missing.push(MissingLeg { leg: leg.to_owned(), reason: reason.to_owned(), rows: 1 });
        }
    }
}

fn one(key: &Key, what: What, a: Option<&Row>, b: Option<&Row>) -> Change {
    let Key { kernel, case, leg, against } = key.clone();
    let growth = a.zip(b).and_then(|(a, b)| growth(a, b));
    let slowdown = a.zip(b).and_then(|(a, b)| slowdown(a, b));
    let (a, b) = (a.map(Side::from), b.map(Side::from));
    Change { what, kernel, case, leg, against, a, b, growth, slowdown }
}

fn both(key: &Key, a: &Row, b: &Row, options: &Options) -> Change {
    one(key, what(a, b, options), Some(a), Some(b))
}

/// The gravest thing that happened to a row.
fn what(a: &Row, b: &Row, options: &Options) -> What {
    let slower = slowdown(a, b).zip(options.max_slowdown).is_some_and(|(x, limit)| x > limit);
    let widened = a.tolerance.zip(b.tolerance).is_some_and(|(a, b)| b > a * (1.0 + 1e-6));
    if b.status > a.status {
        What::StatusWorse
    } else if b.status < a.status {
        What::StatusBetter
    } else if error_regressed(a, b) {
        What::ErrorGrew
    } else if slower {
        What::Slower
    } else if widened {
        What::ToleranceWidened
    } else if error_regressed(b, a) {
        What::ErrorShrank
    } else {
        What::Same
    }
}

/// Whether the error of `b` is more than rounding makes of that of `a`.
fn error_regressed(a: &Row, b: &Row) -> bool {
    match (a.error, b.error) {
        (Some(old), Some(new)) => slack(a, b).is_some_and(|s| s.exceeded(old, new)),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// The narrower slack, so that a wider tolerance in one report excuses nothing.
fn slack(a: &Row, b: &Row) -> Option<Slack> {
    let narrower = |a: Slack, b: Slack| if a.growth <= b.growth { a } else { b };
    a.slack.zip(b.slack).map(|(a, b)| narrower(a, b))
}

/// Growth of the error in units of what rounding may do.
fn growth(a: &Row, b: &Row) -> Option<f64> {
    let (old, new) = a.error.zip(b.error)?;
    match new - old {
        0.0 => Some(0.0),
        grown => slack(a, b).map(|s| grown / s.growth),
    }
}

fn slowdown(a: &Row, b: &Row) -> Option<f64> {
    a.time_ms.zip(b.time_ms).filter(|(a, _)| *a > 0.0).map(|(a, b)| b / a)
}

/// The median slowdown of each leg.
fn times(changes: &[Change]) -> Vec<LegTime> {
    let mut legs: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for change in changes {
        if let Some(slowdown) = change.slowdown {
            legs.entry(&change.leg).or_default().push(slowdown);
        }
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let time = |(leg, all): (&str, Vec<f64>)| LegTime {
        leg: leg.to_owned(),
        rows: all.len(),
        median_slowdown: median(all),
    };
    legs.into_iter().map(time).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(error: Option<f64>, tolerance: f64) -> Row {
        Row {
            status: Status::Pass,
            error,
            tolerance: Some(tolerance),
            slack: Some(Slack::rounding(tolerance)),
            time_ms: Some(10.0),
        }
    }

    fn change(a: Row, b: Row) -> What {
        what(&a, &b, &Options::default())
    }

    #[test]
    fn an_error_regresses_only_beyond_the_factor_and_the_share() {
        let old = || row(Some(2e-6), 5e-6);
        assert_eq!(change(old(), row(Some(3.9e-6), 5e-6)), What::Same, "beyond the share only");
        assert_eq!(change(old(), row(Some(4.1e-6), 5e-6)), What::ErrorGrew);
        assert_eq!(change(row(Some(1e-8), 5e-6), row(Some(4e-7), 5e-6)), What::Same, "factor only");
        assert_eq!(change(row(Some(4.1e-6), 5e-6), old()), What::ErrorShrank);
        // No room where nothing is allowed, and none gained by a wider tolerance.
        assert_eq!(change(row(Some(0.0), 0.0), row(Some(1.0), 0.0)), What::ErrorGrew);
        assert_eq!(change(old(), row(Some(4.1e-6), 5e-3)), What::ErrorGrew);
        assert_eq!(change(old(), row(Some(2e-6), 5e-3)), What::ToleranceWidened);
    }

    #[test]
    fn an_error_that_is_no_longer_a_number_regresses_and_one_that_never_was_does_not() {
        assert_eq!(change(row(Some(1e-7), 5e-6), row(None, 5e-6)), What::ErrorGrew);
        assert_eq!(change(row(None, 5e-6), row(None, 5e-6)), What::Same);
        assert_eq!(change(row(None, 5e-6), row(Some(1e-7), 5e-6)), What::ErrorShrank);
        let unjudged = |e| Row { tolerance: None, slack: None, ..row(Some(e), 1.0) };
        assert_eq!(change(unjudged(0.1), unjudged(9.0)), What::Same);
    }

    #[test]
    fn every_worse_status_regresses_and_no_better_one_does() {
        for (i, old) in Status::ALL.into_iter().enumerate() {
            for (j, new) in Status::ALL.into_iter().enumerate() {
                let with = |status| Row { status, ..row(Some(0.0), 1.0) };
                let what = change(with(old), with(new));
                assert_eq!(what == What::StatusWorse, j > i, "{old:?} to {new:?}: {what:?}");
                assert_eq!(what.regression(), j > i, "{old:?} to {new:?}: {what:?}");
            }
        }
    }

    #[test]
    fn time_regresses_only_beyond_a_limit_that_was_given() {
        let (fast, slow) =
            (row(Some(0.0), 1.0), Row { time_ms: Some(31.0), ..row(Some(0.0), 1.0) });
        assert_eq!(change(fast.clone(), slow.clone()), What::Same);
        let limit = |x| Options { max_slowdown: Some(x), ..Options::default() };
        assert_eq!(what(&fast, &slow, &limit(3.0)), What::Slower);
        assert_eq!(what(&fast, &slow, &limit(3.2)), What::Same);
    }
}
