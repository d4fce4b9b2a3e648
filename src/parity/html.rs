//! A parity report as one self-contained page: opens offline, light and dark.
//!
//! The matrices are plain HTML and say everything that decides the verdict; a script adds the
//! filters and, from JSON in the page, what lies behind each cell.

mod data;
mod grid;
mod matrix;
#[cfg(test)]
mod tests;

use std::fmt::Write;

use super::report::{LegReport, Report, SourceReport, Status, Summary};
use grid::{Grid, Place};

const STYLE: &str = include_str!("html/style.css");
const SCRIPT: &str = include_str!("html/script.js");

/// Failures at the top of the page; the others need a click.
const FIRST: usize = 6;

/// Failures that are listed one by one. Where there are more they have a common cause, and the
/// matrices have them all.
const LISTED: usize = 200;

/// The page.
pub fn page(report: &Report) -> String {
    let grid = Grid::of(report);
    let summary = Summary::of(&report.cases);
    let mut body = String::new();
    verdict(&mut body, report, &summary);
    failures(&mut body, &grid);
    matrix::overview(&mut body, &grid);
    legs(&mut body, &report.legs);
    matrix::kernels(&mut body, &grid);
    sources(&mut body, &report.sources);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{}: wgtq parity</title><style>{STYLE}</style></head><body>\n\
         <main>{body}</main>\n{DIALOG}\n\
         <script type=\"application/json\" id=\"data\">{}</script>\n\
         <script>{SCRIPT}</script></body></html>\n",
        summary.verdict(),
        data::json(&grid)
    )
}

const DIALOG: &str = "<dialog id=\"detail\" aria-labelledby=\"detail-title\"></dialog>";

/// Text as HTML, also inside a quoted attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A status by shape, for those who do not see its colour.
const fn mark(status: Status) -> &'static str {
    match status {
        Status::Pass => "\u{2713}",
        Status::ExpectedDifference => "\u{2248}",
        Status::Skipped => "\u{2013}",
        Status::Finding => "!",
        Status::Mismatch => "\u{2717}",
        Status::CompileError => "C",
        Status::RuntimeError => "R",
    }
}

const fn meaning(status: Status) -> &'static str {
    match status {
        Status::Pass => "within its tolerance",
        Status::ExpectedDifference => "differs exactly as a known limit of the kernel predicts",
        Status::Skipped => "not run, for a reason that is given",
        Status::Finding => "within its tolerance, but the checker found a defect",
        Status::Mismatch => "outside its tolerance, or a stray or missing write",
        Status::CompileError => "the kernel did not compile",
        Status::RuntimeError => "the device or the host failed",
    }
}

/// The status in words, as `expected difference`.
fn name(status: Status) -> String {
    status.as_str().replace('_', " ")
}

/// A coloured tag with mark and name.
fn tag(status: Status) -> String {
    let class = status.as_str();
    format!("<span class=\"tag {class}\"><b>{}</b> {}</span>", mark(status), name(status))
}

/// A number with its thousands apart.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out
}

fn verdict(out: &mut String, report: &Report, summary: &Summary) {
    let total: usize = Status::ALL.iter().map(|&s| summary.count(s)).sum();
    let bad: usize = Status::ALL.iter().filter(|s| !s.good()).map(|&s| summary.count(s)).sum();
    let says = match (bad, summary.pass + summary.expected_difference) {
        (0, 0) => "nothing ran".to_owned(),
        (0, ran) => format!("{} comparisons, none failed", thousands(ran)),
        (bad, _) => format!("{} of {} comparisons failed", thousands(bad), thousands(total)),
    };
    let class = if summary.exit_code() == 0 { "good" } else { "bad" };
    let _ = write!(
        out,
        "<header><h1 class=\"{class}\"><span class=\"verdict\">{}</span> {says}</h1><p class=\"counts\">",
        summary.verdict()
    );
    for status in Status::ALL.into_iter().filter(|&s| summary.count(s) > 0) {
        let count = thousands(summary.count(status));
        let _ = write!(
            out,
            "<span class=\"tag {}\" title=\"{}\"><b>{}</b> {count} {}</span> ",
            status.as_str(),
            meaning(status),
            mark(status),
            name(status)
        );
    }
    let _ = write!(
        out,
        "</p><p>{}</p><p class=\"dim\">wgtq {} parity, {} cases, {} in {:.0} s</p></header>",
        escape(&report.machine),
        escape(&report.version),
        thousands(report.cases.len()),
        escape(&report.ran_at),
        report.timing.total_s
    );
}

fn failures(out: &mut String, grid: &Grid<'_>) {
    let all: Vec<_> = grid.failures().collect();
    if all.is_empty() {
        return;
    }
    // What fails on several legs for one reason is one item.
    let key = |p: &Place<'_>| (p.kernel, p.row, p.result.status);
    let same =
        |a: &Place<'_>, b: &Place<'_>| key(a) == key(b) && a.result.reason == b.result.reason;
    let groups: Vec<&[Place<'_>]> = all.chunk_by(same).collect();
    let items: Vec<String> = groups.iter().take(LISTED).map(|g| failure(grid, g)).collect();
    let (first, rest) = items.split_at(items.len().min(FIRST));
    let _ =
        write!(out, "<section><h2>What failed</h2><ul class=\"failures\">{}</ul>", first.concat());
    if !rest.is_empty() {
        let _ = write!(
            out,
            "<details><summary>{} more</summary><ul class=\"failures\">{}</ul>",
            thousands(groups.len() - first.len()),
            rest.concat()
        );
        if groups.len() > items.len() {
            out.push_str("<p class=\"dim\">The matrices below have all others.</p>");
        }
        out.push_str("</details>");
    }
    out.push_str("</section>");
}

/// A failure of one case, on one side or several.
fn failure(grid: &Grid<'_>, places: &[Place<'_>]) -> String {
    let [first, ..] = places else { return String::new() };
    let kernel = &grid.kernels[first.kernel];
    let link = |place: &Place<'_>| {
        let words = escape(&grid.sides[place.side].words());
        format!("<a href=\"#{}\">{words}</a>", place.anchor())
    };
    format!(
        "<li>{} <strong>{} {}</strong> {}<br>{}</li>\n",
        tag(first.result.status),
        escape(kernel.stem),
        escape(kernel.rows[first.row].case),
        places.iter().map(link).collect::<Vec<_>>().join(", "),
        escape(&first.result.reason)
    )
}

const LEGS_TEXT: &str = "A leg is one way to execute the kernels: a language on a device. Every leg is \
    compared with the oracle (the same computation in f64 on the processor), and every leg written in \
    WGSL with every leg written in MSL.";

fn legs(out: &mut String, legs: &[LegReport]) {
    let _ =
        write!(out, "<section><h2>Legs</h2><p class=\"dim\">{LEGS_TEXT}</p><dl class=\"legs\">");
    for leg in legs {
        let state = if leg.available {
            "<span class=\"tag pass\"><b>\u{2713}</b> ran</span>"
        } else {
            "<span class=\"tag skipped\"><b>\u{2013}</b> did not run</span>"
        };
        let _ = write!(out, "<dt><code>{}</code> {state}</dt><dd>", escape(&leg.label));
        if let Some(adapter) = &leg.adapter {
            let subgroups = match adapter.measured_subgroup_size {
                Some(width) => format!("subgroups {width} wide"),
                None => "no subgroups".to_owned(),
            };
            let f16 = if adapter.shader_f16 { "f16 in shaders" } else { "no f16 in shaders" };
            let _ = write!(
                out,
                "{} <span class=\"dim\">{subgroups}, {f16}</span>",
                escape(&adapter.line())
            );
        }
        match &leg.reason {
            Some(reason) => out.push_str(&escape(reason)),
            None if !leg.available => out.push_str("The report gives no reason."),
            None => {}
        }
        out.push_str("</dd>");
    }
    out.push_str("</dl></section>");
}

fn sources(out: &mut String, sources: &[SourceReport]) {
    let _ = write!(
        out,
        "<section><h2>Shader texts</h2><details><summary>SHA-256 of each of the {} texts that ran</summary>\
         <div class=\"scroll\"><table class=\"plain\"><thead><tr><th>leg</th><th>pipeline</th><th>SHA-256</th></tr></thead><tbody>",
        thousands(sources.len())
    );
    for s in sources {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td><code>{}</code></td></tr>",
            escape(&s.leg),
            escape(&s.label),
            escape(&s.sha256)
        );
    }
    out.push_str("</tbody></table></div></details></section>");
}
