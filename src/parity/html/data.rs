//! What lies behind the cells, as compact JSON for the script: arrays in place of objects, every
//! text once, and of a histogram only the bars that are there.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::grid::Grid;
use super::{mark, meaning, name};
use crate::legs::CheckerFinding;
use crate::parity::outcome::{Bin, Metric};
use crate::parity::report::{CaseResultReport, Status};

/// The JSON, fit to stand inside a script element.
///
/// - `statuses`: class, mark, name, meaning, whether good
/// - `sides`: leg, against
/// - `kernels`: stem and cases; a case is its name and a result a side, or 0
/// - a result: status, reason, metric, error, tolerance, worst, histogram, ways, findings, timing;
///   texts by their place in `texts`, 0 where there is none of a thing
/// - a histogram: place of its labels in `labels`, then pairs of bar and count
pub(super) fn json(grid: &Grid<'_>) -> String {
    let mut pool = Pool::default();
    let kernels: Vec<Value> = grid
        .kernels
        .iter()
        .map(|kernel| {
            let row = |row: &super::grid::Row<'_>| {
                let cell = |r: &Option<&CaseResultReport>| r.map_or(json!(0), |r| pool.result(r));
                json!([row.case, row.results.iter().map(cell).collect::<Vec<_>>()])
            };
            json!([kernel.stem, kernel.rows.iter().map(row).collect::<Vec<_>>()])
        })
        .collect();
    let status = |s: &Status| json!([s.as_str(), mark(*s), name(*s), meaning(*s), s.good()]);
    let data = json!({
        "statuses": Status::ALL.iter().map(status).collect::<Vec<_>>(),
        "sides": grid.sides.iter().map(|s| [s.leg, s.against]).collect::<Vec<_>>(),
        "kernels": kernels,
        "texts": pool.texts.items,
        "labels": pool.labels.items,
    });
    in_script(&data)
}

/// Inside a script element nothing is escaped, and only `<` can end it or begin a comment. In
/// JSON it occurs in strings alone, where it has another spelling.
fn in_script(data: &Value) -> String {
    data.to_string().replace('<', "\\u003c")
}

/// Items, each once, and their places.
struct Once<T> {
    items: Vec<T>,
    places: HashMap<T, usize>,
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self { items: Vec::new(), places: HashMap::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Once<T> {
    fn place(&mut self, item: T) -> usize {
        *self.places.entry(item).or_insert_with_key(|item| {
            self.items.push(item.clone());
            self.items.len() - 1
        })
    }
}

/// What results share.
#[derive(Default)]
struct Pool {
    texts: Once<String>,
    labels: Once<Vec<String>>,
}

impl Pool {
    fn text(&mut self, text: &str) -> usize {
        self.texts.place(text.to_owned())
    }

    fn result(&mut self, r: &CaseResultReport) -> Value {
        let metric = r.metric.map(|m| match m {
            Metric::Nrmse => "nrmse",
            Metric::Violations => "violations",
            Metric::MaxAbs => "largest absolute error",
        });
        let worst = r.worst.as_ref().map(|w| json!([w.index, digits(w.got, 9), digits(w.want, 9)]));
        let ways: Vec<Value> = r
            .ways
            .iter()
            .map(|w| json!([self.text(&w.way), w.error.map(|e| digits(e, 4))]))
            .collect();
        let findings =
            r.findings.as_ref().map(|f| f.iter().map(|f| self.finding(f)).collect::<Vec<_>>());
        let timing =
            r.timing.as_ref().map(|t| json!([digits(t.compile_ms, 3), digits(t.execute_ms, 3)]));
        json!([
            r.status as usize,
            self.text(&r.reason),
            metric.map(|m| self.text(m)),
            r.error.map(|e| digits(e, 4)),
            r.tolerance.map(|t| digits(t, 4)),
            worst.unwrap_or(json!(0)),
            self.histogram(&r.histogram),
            if ways.is_empty() { json!(0) } else { json!(ways) },
            findings.map_or(json!(0), |f| json!(f)),
            timing.unwrap_or(json!(0)),
        ])
    }

    fn finding(&mut self, f: &CheckerFinding) -> Value {
        let place = f.place.as_ref().map(|p| self.text(p));
        json!([self.text(&f.kind), self.text(&f.message), place])
    }

    fn histogram(&mut self, bins: &[Bin]) -> Value {
        if bins.is_empty() {
            return json!(0);
        }
        let labels = self.labels.place(bins.iter().map(|b| b.label.clone()).collect());
        let bars = bins.iter().enumerate().filter(|(_, b)| b.count > 0);
        let bars = bars.flat_map(|(i, b)| [json!(i), json!(b.count)]);
        Value::Array(std::iter::once(json!(labels)).chain(bars).collect())
    }
}

/// `x` in so many digits: the reader needs no more, and they are most of the page. A number that
/// JSON does not have becomes text.
fn digits(x: f64, count: usize) -> Value {
    let short: f64 = format!("{x:.*e}", count - 1).parse().unwrap_or(x);
    if short.is_finite() { json!(short) } else { json!(x.to_string()) }
}
