//! The table of the row kernels.

use wgtq::bench::report::{Report, RowReport};
use wgtq::legs::LegName;

use super::{micros, speed};
use crate::cmd::{print, table};

/// Prints the table.
pub(super) fn show(report: &Report) {
    let msl = report.rows.iter().any(|row| row.leg == LegName::Msl.as_str());
    let last = if msl { "/ MSL" } else { "/ trusted" };
    let header = ["tokens", "kernel", "bits", "leg", "us", "p10..p90", "GB/s, %", "copied", last];
    let mut rows = table(&header);
    for row in &report.rows {
        rows.add_row(cells(row, msl));
    }
    print(&rows.to_string());
    print(
        "GB/s: of the rows read and written, a row a token and KV head, and per cent of copy speed.\n\
         Copied: us in which a dispatch that only copies reads and writes as many bytes. Sampled rows, \
         the\nlast one among them, were verified at every point.",
    );
}

fn cells(row: &RowReport, msl: bool) -> Vec<String> {
    let mut cells = vec![
        format!("{} {}", row.preset, row.tokens),
        row.kernel.clone(),
        row.bits.clone().unwrap_or_else(|| "-".to_owned()),
        row.leg.clone(),
    ];
    let Some(timing) = &row.timing else {
        cells.extend(match &row.skipped {
            Some(lacking) => ["skipped".to_owned(), lacking.clone()],
            None => ["WRONG".to_owned(), row.detail.clone()],
        });
        return cells;
    };
    let ratio = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.2}"));
    cells.extend([
        micros(timing.us),
        format!("{}..{}", micros(timing.us_p10), micros(timing.us_p90)),
        speed(timing.gb_s, timing.of_copy),
        row.copied_us.map_or("-".to_owned(), micros),
        ratio(if msl { timing.msl_ratio } else { timing.trusted_ratio }),
    ]);
    cells
}
