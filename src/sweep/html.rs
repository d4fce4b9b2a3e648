//! The audit as one self-contained HTML page: opens offline, light and dark.

use std::fmt::Write;
use std::ops::Range;

use plotters::prelude::*;

use super::audit::{Audit, HeadRow, PointRow};
use super::gates::GateStatus;
use super::theory::Theory;
use super::verdict::{BAND_LOWER, BAND_UPPER};

/// What can go wrong while drawing: nothing that a caller can cause.
type Drawn = Result<(), Box<dyn std::error::Error>>;

const MEASURED: RGBColor = RGBColor(0x25, 0x7a, 0xfd);
const EXPECTED: RGBColor = RGBColor(0xe8, 0x8b, 0x00);
const BAND: RGBColor = RGBColor(0x2e, 0xa0, 0x43);
const HOT: RGBColor = RGBColor(0xd0, 0x3a, 0x2b);

/// The page.
pub fn page(audit: &Audit) -> String {
    let mut body = String::new();
    verdict(&mut body, audit);
    section(
        &mut body,
        "Error against length (sweep A)",
        A_TEXT,
        &sweep_plot(&audit.sweep_a, "positions stored", |r| r.kvl_logical),
    );
    section(
        &mut body,
        "Error against position (sweep B)",
        B_TEXT,
        &sweep_plot(&audit.sweep_b, "position of the newest token", |r| r.abs_pos),
    );
    section(&mut body, "Error of each head", HEADS_TEXT, &heat_map(audit));
    ring_wrap(&mut body, audit);
    points(&mut body, audit);
    gates(&mut body, audit);
    environment(&mut body, audit);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>wgtq sweep: {}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n",
        escape(audit.verdict.as_str())
    )
}

const STYLE: &str = "
:root { color-scheme: light dark; --fg: #1c1e21; --bg: #ffffff; --dim: #5c6370; --line: #d7dae0; --bad: #c0281c; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --fg: #e4e6eb; --bg: #16181d; --dim: #9aa1ad; --line: #363b45; --bad: #ff7b6e; --good: #56d364; } }
body { margin: 0; background: var(--bg); color: var(--fg); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; } .dim { color: var(--dim); } .bad { color: var(--bad); } .good { color: var(--good); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.wrap { white-space: normal; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--fg); }
svg [stroke=\"#000000\"] { stroke: var(--line); }
pre { font-size: .8rem; overflow-x: auto; } code { font-size: .85em; } summary { cursor: pointer; }
";

const A_TEXT: &str = "Blue: measured, one line a leg. Orange: what the codec's theory expects at \
    this logit spread, with its standard deviation. Green: the registered band, where there is one.";
const B_TEXT: &str = "The same number of positions at different places: only RoPE angles and draws \
    differ.";
const HEADS_TEXT: &str = "One row a point (first leg), one column a query head; a stronger red is a \
    larger error. A dot marks a head whose largest score moved to another position by quantisation: with \
    scores this sharp, softmax is close to one-hot and such a head returns another V row.";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn section(out: &mut String, title: &str, text: &str, content: &str) {
    let _ = write!(out, "<section><h2>{title}</h2><p class=\"dim\">{text}</p>{content}</section>");
}

fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: Vec<&str>| -> String {
        cells.iter().map(|c| format!("<{tag}>{c}</{tag}>")).collect()
    };
    let mut out = format!("<div class=\"scroll\"><table><tr>{}</tr>", cells("th", header.to_vec()));
    for row in rows {
        let row: Vec<&str> = row.iter().map(String::as_str).collect();
        let _ = write!(out, "<tr>{}</tr>", cells("td", row));
    }
    out + "</table></div>"
}

fn yes_no(good: bool, yes: &str, no: &str) -> String {
    if good {
        format!("<span class=\"good\">{yes}</span>")
    } else {
        format!("<span class=\"bad\">{no}</span>")
    }
}

fn band_cell(band_ok: Option<bool>) -> String {
    band_ok.map_or_else(|| "none".to_owned(), |ok| yes_no(ok, "inside", "outside"))
}

fn verdict(out: &mut String, audit: &Audit) {
    let band = audit.band.as_ref().map_or_else(
        || "no band is registered for this codec".to_owned(),
        |band| format!("band [{}, {}]: {}", band.lower, band.upper, escape(&band.registration)),
    );
    let _ = write!(
        out,
        "<h1>{}</h1><p>{}.</p><p class=\"dim\">Session {}, seed {}, {band}.</p>",
        escape(audit.verdict.as_str()),
        escape(&audit.verdict_reason),
        escape(&audit.session),
        escape(&audit.rng.seed_literal)
    );
}

/// A plot, or a sentence where there is nothing to draw.
fn svg(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn,
) -> String {
    let mut text = String::new();
    let drawn = {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area).and_then(|()| area.present().map_err(Into::into))
    };
    match drawn {
        // The page scales the picture: a view box in place of a fixed size.
        Ok(()) => {
            text.replacen(&format!("width=\"{}\" height=\"{}\"", size.0, size.1), "role=\"img\"", 1)
        }
        Err(e) => format!("<p class=\"bad\">not drawn: {}</p>", escape(&e.to_string())),
    }
}

fn has_band(rows: &[PointRow]) -> bool {
    rows.iter().any(|r| r.band_ok.is_some())
}

fn sweep_plot(rows: &[PointRow], x_label: &str, x: impl Fn(&PointRow) -> u32) -> String {
    if rows.is_empty() {
        return "<p>Not measured.</p>".into();
    }
    let xs: Vec<u32> = rows.iter().map(&x).collect();
    let last = f64::from(xs.iter().copied().max().unwrap_or(1)) * 1.06 + 1.0;
    let top = rows
        .iter()
        .map(|r| r.nrmse.max(r.theory.expected_nrmse + r.theory.expected_nrmse_sd))
        .fold(if has_band(rows) { BAND_UPPER } else { 0.0 }, f64::max)
        * 1.12;
    svg((760, 360), |area| draw_sweep(area, rows, x_label, &x, 0.0..last, 0.0..top))
}

fn draw_sweep(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    rows: &[PointRow],
    x_label: &str,
    x: &impl Fn(&PointRow) -> u32,
    x_range: Range<f64>,
    y_range: Range<f64>,
) -> Drawn {
    let last = x_range.end;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d(x_range, y_range)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(0x88, 0x88, 0x88).mix(0.25))
        .x_desc(x_label)
        .y_desc("NRMSE from unquantised attention")
        .x_label_formatter(&|v| format!("{v:.0}"))
        .label_style(("sans-serif", 13))
        .draw()?;
    if has_band(rows) {
        let band = Rectangle::new([(0.0, BAND_LOWER), (last, BAND_UPPER)], BAND.mix(0.18).filled());
        chart.draw_series([band])?;
    }

    let mut seen = Vec::new();
    for row in rows {
        let leg = (row.leg, &row.seed);
        if seen.contains(&leg) {
            continue;
        }
        seen.push(leg);
        let mine = || rows.iter().filter(|r| (r.leg, &r.seed) == leg);
        let at = |r: &PointRow| f64::from(x(r));
        if seen.len() == 1 {
            let bar = |r: &PointRow| {
                let (mean, sd) = (r.theory.expected_nrmse, r.theory.expected_nrmse_sd);
                PathElement::new(
                    vec![(at(r), mean - sd), (at(r), mean + sd)],
                    EXPECTED.stroke_width(2),
                )
            };
            chart.draw_series(mine().map(bar))?;
            chart.draw_series(LineSeries::new(
                mine().map(|r| (at(r), r.theory.expected_nrmse)),
                EXPECTED.stroke_width(1),
            ))?;
        }
        chart.draw_series(LineSeries::new(
            mine().map(|r| (at(r), r.nrmse)),
            MEASURED.stroke_width(2),
        ))?;
        chart.draw_series(mine().map(|r| Circle::new((at(r), r.nrmse), 4, MEASURED.filled())))?;
    }
    Ok(())
}

/// Label and heads of each point of the first leg and seed.
fn heat_rows(audit: &Audit) -> Vec<(String, &[HeadRow])> {
    let leg = audit.legs.first().map(|l| l.leg);
    let seed = audit.sweep_a.first().or(audit.sweep_b.first()).map(|r| &r.seed);
    let point = |name: &'static str| {
        move |r: &PointRow| format!("{name} pos {} n {}", r.abs_pos, r.kvl_logical)
    };
    let a = audit.sweep_a.iter().map(|r| (point("A")(r), r.leg, &r.seed, &*r.heads));
    let b = audit.sweep_b.iter().map(|r| (point("B")(r), r.leg, &r.seed, &*r.heads));
    let wrap = audit.ring_wrap.iter().map(|r| {
        (format!("wrap pos {} n {}", r.abs_pos, r.kvl_logical), r.leg, &r.seed, &*r.heads)
    });
    a.chain(b)
        .chain(wrap)
        .filter(|(_, l, s, _)| Some(*l) == leg && seed.is_none_or(|seed| seed == *s))
        .map(|(label, _, _, heads)| (label, heads))
        .collect()
}

fn heat_map(audit: &Audit) -> String {
    let rows = heat_rows(audit);
    let heads = rows.iter().map(|(_, h)| h.len()).max().unwrap_or(0);
    if heads == 0 {
        return "<p>Not measured.</p>".into();
    }
    svg((760, 60 + 26 * rows.len() as u32), |area| draw_heat_map(area, &rows, heads))
}

fn draw_heat_map(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    rows: &[(String, &[HeadRow])],
    heads: usize,
) -> Drawn {
    let count = rows.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(38)
        .y_label_area_size(0)
        .build_cartesian_2d(-(heads as f64) * 0.28..heads as f64, count..0.0)?;
    chart.configure_mesh().disable_mesh().disable_axes().draw()?;
    let worst = rows.iter().flat_map(|(_, h)| h.iter()).map(|h| h.nrmse).fold(0.1, f64::max);
    for (y, (label, cells)) in rows.iter().enumerate() {
        let y = y as f64;
        let text = Text::new(label.clone(), (-(heads as f64) * 0.28, y + 0.3), ("sans-serif", 13));
        chart.draw_series([text])?;
        for cell in *cells {
            let x = cell.head as f64;
            let shade = HOT.mix((cell.nrmse / worst).clamp(0.0, 1.0) * 0.9 + 0.04);
            let area = [(x + 0.04, y + 0.06), (x + 0.96, y + 0.94)];
            chart.draw_series([Rectangle::new(area, shade.filled())])?;
            if cell.flipped {
                let dot = RGBColor(0x10, 0x10, 0x10);
                chart.draw_series([Circle::new((x + 0.5, y + 0.5), 4, dot.filled())])?;
                let rim = RGBColor(0xff, 0xff, 0xff);
                chart.draw_series([Circle::new((x + 0.5, y + 0.5), 4, rim.stroke_width(1))])?;
            }
        }
    }
    let labels = (0..heads)
        .map(|h| Text::new(h.to_string(), (h as f64 + 0.36, count + 0.15), ("sans-serif", 12)));
    chart.draw_series(labels)?;
    Ok(())
}

fn expected(t: &Theory) -> String {
    format!("{:.2} &plusmn; {:.2}", t.expected_nrmse, t.expected_nrmse_sd)
}

fn ring_wrap(out: &mut String, audit: &Audit) {
    let header = [
        "leg",
        "position",
        "n",
        "ring starts",
        "NRMSE",
        "NRMSE",
        "difference",
        "visited",
        "same data",
        "band",
    ];
    let rows: Vec<Vec<String>> = audit
        .ring_wrap
        .iter()
        .map(|r| {
            let n =
                r.kvl_logical.min(if r.sliding_window == 0 { u32::MAX } else { r.sliding_window });
            vec![
                r.leg.as_str().to_owned(),
                r.abs_pos.to_string(),
                r.kvl_logical.to_string(),
                format!("{}, {}", r.ring_start_a, r.ring_start_b),
                format!("{:.6}", r.ring_start_a_nrmse),
                format!("{:.6}", r.ring_start_b_nrmse),
                format!("{:.1e}", r.ab_delta),
                yes_no(
                    r.positions_visited == [n, n],
                    &format!("{n} of {n}"),
                    &format!("{:?} of {n}", r.positions_visited),
                ),
                yes_no(r.h3_data_reuse, "yes", "no"),
                band_cell(r.band_ok),
            ]
        })
        .collect();
    let text = "The same data at two ring starts. The difference alone cannot show positions that \
        both runs lose, so a probe counts the positions that the kernel visits.";
    section(out, "Ring wrap", text, &table(&header, &rows));
}

fn points(out: &mut String, audit: &Audit) {
    let row = |sweep: &str, r: &PointRow| {
        vec![
            sweep.to_owned(),
            r.leg.as_str().to_owned(),
            r.seed.clone(),
            r.abs_pos.to_string(),
            r.kvl_logical.to_string(),
            format!("{:.4}", r.nrmse),
            expected(&r.theory),
            format!("{:.1}", r.theory.logit_sigma),
            format!("{} of {}", r.flipped_heads, r.heads.len()),
            format!("{:.1e}", r.dequant_oracle_nrmse),
            band_cell(r.band_ok),
        ]
    };
    let rows: Vec<Vec<String>> = audit
        .sweep_a
        .iter()
        .map(|r| row("A", r))
        .chain(audit.sweep_b.iter().map(|r| row("B", r)))
        .collect();
    let header = [
        "sweep",
        "leg",
        "seed",
        "position",
        "n",
        "NRMSE",
        "expected",
        "logit sigma",
        "heads flipped",
        "kernel error",
        "band",
    ];
    let text = "NRMSE is the whole cost of the codec; the kernel error is the part that the kernel \
        adds (against the dequantising oracle): rounding.";
    section(out, "Points", text, &table(&header, &rows));
}

fn gates(out: &mut String, audit: &Audit) {
    let mut content = String::new();
    for g in &audit.regression_gates {
        let status = yes_no(g.status == GateStatus::Pass, "PASS", "FAIL");
        let lines = escape(&[&g.stdout_tail[..], &g.stderr_tail[..]].concat().join("\n"));
        let _ = write!(
            content,
            "<details{}><summary>{status} {} on {}, {} ms</summary><pre>{lines}</pre></details>",
            if g.status == GateStatus::Fail { " open" } else { "" },
            g.name.as_str(),
            g.leg.as_str(),
            g.duration_ms
        );
    }
    let text =
        "Checks in a subprocess of the very binary that measures, before anything is measured.";
    section(out, "Gates", text, &content);
}

fn environment(out: &mut String, audit: &Audit) {
    let mut rows: Vec<[String; 2]> = Vec::new();
    for leg in &audit.legs {
        let machine = leg.adapter.as_ref().map_or("not opened".into(), |a| a.line());
        rows.push([
            format!("leg {}", leg.leg.as_str()),
            format!("{} on {}", leg.verdict.as_str(), escape(&machine)),
        ]);
    }
    let (r, s) = (&audit.regime, &audit.regime.shapes);
    rows.push([
        "shape".into(),
        format!(
            "{} query heads, {} KV heads, head_dim {}, capacity {}, scale {}, {}, {}/{} bits{}",
            s.num_heads,
            s.num_kv_heads,
            s.head_dim,
            s.kv_capacity,
            r.scale,
            r.rotation,
            r.k_bits,
            r.v_bits,
            if r.norm_correction { ", norms corrected" } else { "" }
        ),
    ]);
    rows.push([
        "data".into(),
        format!(
            "RMSNorm eps {:e}, RoPE theta {} ({}); {}; {} words drawn",
            r.rms_norm_eps,
            r.rope_theta,
            r.rope_convention,
            audit.rng.algorithm,
            audit.rng.total_u64s_consumed
        ),
    ]);
    if let Some(i) = &audit.intersection_check {
        rows.push([
            "intersection".into(),
            format!(
                "position {}, n {}: {:.4} in sweep A, {:.4} in sweep B; {}",
                i.abs_pos,
                i.kvl_logical,
                i.sweep_a_nrmse,
                i.sweep_b_nrmse,
                escape(&i.note)
            ),
        ]);
    }
    if let Some(g) = audit.regression_gates.first() {
        rows.push(["executable".into(), format!("<code>{}</code>", escape(&g.executable_sha256))]);
    }
    let rows: String = rows
        .iter()
        .map(|[name, value]| format!("<tr><th>{name}</th><td class=\"wrap\">{value}</td></tr>"))
        .collect();
    section(out, "Environment", "", &format!("<table>{rows}</table>"));
}
