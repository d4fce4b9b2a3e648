//! The matrices: kernels by comparison, and for each kernel, cases by comparison.

use std::fmt::Write;

use super::grid::{Grid, Kernel, Side, class, share};
use super::{escape, mark, meaning, name, thousands};
use crate::parity::report::{CaseResultReport, Status};

const OVERVIEW_TEXT: &str = "Cases without a failure, of those that ran, and how much of its \
    tolerance the largest error uses: the stronger the colour, the more. A row leads to its cases.";

/// A row a kernel, a column a comparison, and what the colours mean.
pub(super) fn overview(out: &mut String, grid: &Grid<'_>) {
    let _ = write!(
        out,
        "<section><h2>Overview</h2><p class=\"dim\">{OVERVIEW_TEXT}</p>\
         <div class=\"scroll\"><table class=\"matrix overview\">{}<tbody>",
        header("kernel", &grid.sides)
    );
    for (k, kernel) in grid.kernels.iter().enumerate() {
        // On a phone, names break between words.
        let stem = escape(kernel.stem).replace('_', "<wbr>_");
        let _ = write!(out, "<tr><th scope=\"row\"><a href=\"#k{k}\">{stem}</a></th>");
        for (s, side) in grid.sides.iter().enumerate() {
            let results: Vec<_> = kernel.rows.iter().filter_map(|r| r.results[s]).collect();
            out.push_str(&sum(&results, k, *side));
        }
        out.push_str("</tr>\n");
    }
    let _ = write!(out, "</tbody></table></div>{}</section>", legend());
}

/// The header row; the first pair of legs begins a new group.
fn header(first: &str, sides: &[Side<'_>]) -> String {
    let mut out = format!("<thead><tr><th scope=\"col\">{first}</th>");
    for (i, side) in sides.iter().enumerate() {
        let begins = side.is_pair() && (i == 0 || !sides[i - 1].is_pair());
        let _ = write!(
            out,
            "<th scope=\"col\"{}>{}<small>vs {}</small></th>",
            if begins { " class=\"begins\"" } else { "" },
            label(side.leg),
            label(side.against)
        );
    }
    out + "</tr></thead>"
}

/// The label of a leg, which may break before its machine.
fn label(leg: &str) -> String {
    escape(leg).replace('@', "<wbr>@")
}

/// All results of a kernel and a comparison in one cell.
fn sum(results: &[&CaseResultReport], kernel: usize, side: Side<'_>) -> String {
    let Some(worst) = results.iter().map(|r| r.status).max_by_key(|s| weight(*s)) else {
        return "<td class=\"none\">not compared</td>".to_owned();
    };
    let ran: Vec<_> = results.iter().filter(|r| r.status != Status::Skipped).collect();
    let well = ran.iter().filter(|r| r.status.good()).count();
    let largest = ran.iter().filter_map(|r| share(r)).max_by(f64::total_cmp);
    let broken = ran.iter().any(|r| r.status == Status::Mismatch && share(r).is_none());
    let uses = match largest {
        _ if broken => "no number".to_owned(),
        Some(largest) => percent(largest),
        None => String::new(),
    };
    let note = match ran.len() {
        0 => "skipped".to_owned(),
        count => format!("{well}/{count} <small>{uses}</small>"),
    };
    format!(
        "<td class=\"{}\"><a href=\"#k{kernel}\" title=\"{}\"><b>{}</b>{note}</a></td>",
        class(worst, largest),
        escape(&format!("{}: {}", side.words(), name(worst))),
        mark(worst),
    )
}

/// Worse is heavier; what was left out weighs nothing beside what ran.
fn weight(status: Status) -> usize {
    match status {
        Status::Skipped => 0,
        status => 1 + status as usize,
    }
}

/// What the colours and marks mean.
fn legend() -> String {
    const SHADES: [&str; 6] = ["exact", "0.1 %", "1 %", "10 %", "32 %", "100 %"];
    let mut out = "<p class=\"legend\"><span>\u{2713} pass, error as a share of its tolerance, up to:</span> \
                   <span class=\"scale\">"
        .to_owned();
    for (level, text) in SHADES.iter().enumerate() {
        let _ = write!(out, "<span class=\"pass u{level}\">{text}</span>");
    }
    out.push_str("</span></p><p class=\"legend\">");
    for status in Status::ALL.into_iter().filter(|&s| s != Status::Pass) {
        let _ = write!(
            out,
            "<span class=\"tag {}\" title=\"{}\"><b>{}</b> {}</span> ",
            status.as_str(),
            meaning(status),
            mark(status),
            name(status)
        );
    }
    out + "</p>"
}

const KERNELS_TEXT: &str = "A row a case, a column a comparison; each cell has the error. Choose a cell \
    for its reason, worst element, histogram and times; arrow keys move from cell to cell.";

/// A matrix a kernel, with the filters above.
pub(super) fn kernels(out: &mut String, grid: &Grid<'_>) {
    let _ =
        write!(out, "<section><h2>Cases</h2><p class=\"dim\">{KERNELS_TEXT}</p>{}", filters(grid));
    for (k, kernel) in grid.kernels.iter().enumerate() {
        section(out, grid, k, kernel);
    }
    out.push_str("</section>");
}

fn section(out: &mut String, grid: &Grid<'_>, k: usize, kernel: &Kernel<'_>) {
    let results = || kernel.rows.iter().flat_map(|r| &r.results).flatten();
    let bad = results().filter(|r| !r.status.good()).count();
    let state = match bad {
        0 => String::new(),
        bad => {
            format!("<span class=\"tag mismatch\"><b>\u{2717}</b> {} failed</span>", thousands(bad))
        }
    };
    let _ = write!(
        out,
        "<details class=\"kernel\" id=\"k{k}\" data-k=\"{k}\" open><summary><h3>{}</h3> \
         <span class=\"dim\"><span class=\"shown\">{}</span> cases</span> {state}</summary>\
         <div class=\"scroll tall\"><table class=\"matrix cells\">{}<tbody>",
        escape(kernel.stem),
        thousands(kernel.rows.len()),
        header("case", &grid.sides)
    );
    for row in &kernel.rows {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(row.case));
        for result in &row.results {
            out.push_str(&result.map_or("<td></td>".to_owned(), cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div></details>\n");
}

/// A cell: mark, error, and the share of the tolerance for those who prefer it.
fn cell(result: &CaseResultReport) -> String {
    let share = share(result);
    let over = if result.status == Status::Mismatch && share.is_none_or(|s| s > 10.0) {
        " far"
    } else {
        ""
    };
    let data = share.map_or_else(String::new, |s| format!(" data-s=\"{}\"", percent(s)));
    format!(
        "<td class=\"{}{over}\"{data}><b>{}</b><i>{}</i></td>",
        class(result.status, share),
        mark(result.status),
        number(result)
    )
}

/// The error as short as it can be read.
fn number(result: &CaseResultReport) -> String {
    match (result.status, result.error) {
        (Status::Skipped, _) => "skipped".to_owned(),
        (Status::CompileError, _) => "compile".to_owned(),
        (Status::RuntimeError, None) => "failed".to_owned(),
        (_, None) => "no number".to_owned(),
        (_, Some(0.0)) => "0".to_owned(),
        (_, Some(e)) if e.fract() == 0.0 && e < 1e5 => format!("{e}"),
        (_, Some(e)) => format!("{e:.1e}"),
    }
}

/// A share of a tolerance in two digits.
fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".to_owned(),
        p if !p.is_finite() => "none allowed".to_owned(),
        p if p < 0.01 => "&lt; 0.01 %".to_owned(),
        p if p < 0.1 => format!("{p:.2} %"),
        p if p < 10.0 => format!("{p:.1} %"),
        _ if share > 99_999.0 => format!("{share:.0e} times"),
        p if p < 1000.0 => format!("{p:.0} %"),
        _ => format!("{share:.0} times"),
    }
}

/// What to show. Hidden until the script runs, which they need.
fn filters(grid: &Grid<'_>) -> String {
    let kernels = grid
        .kernels
        .iter()
        .enumerate()
        .map(|(k, kernel)| format!("<option value=\"{k}\">{}</option>", escape(kernel.stem)));
    let mut legs: Vec<&str> = Vec::new();
    for leg in grid.sides.iter().map(|s| s.leg).chain(grid.pairs().map(|s| s.against)) {
        if !legs.contains(&leg) {
            legs.push(leg);
        }
    }
    let legs = legs.iter().map(|l| format!("<option value=\"{0}\">{0}</option>", escape(l)));
    format!(
        "<noscript><p>Without JavaScript there are no filters, and cells do not open.</p></noscript>\
         <form class=\"filters\" hidden>\
         <label><input type=\"checkbox\" name=\"bad\"> only failures</label>\
         <label>kernel <select name=\"kernel\"><option value=\"\">all</option>{}</select></label>\
         <label>leg <select name=\"leg\"><option value=\"\">all</option>{}</select></label>\
         <label>case <input type=\"search\" name=\"text\" placeholder=\"d256, softcap\" size=\"12\"></label>\
         <label>cells show <select name=\"show\"><option value=\"\">the error</option>\
         <option value=\"share\">its share of the tolerance</option></select></label>\
         <span class=\"buttons\"><button type=\"button\" name=\"open\">open all</button> \
         <button type=\"button\" name=\"close\">close all</button></span>\
         <output></output></form>",
        kernels.collect::<String>(),
        legs.collect::<String>()
    )
}
