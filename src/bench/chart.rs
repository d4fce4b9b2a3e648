//! Time against length as SVG: a panel a shape, both axes logarithmic. A colour is a format with its
//! number of query tokens, a kind of line a leg; the time that the stored bytes take at copy speed is
//! a thin line of the same colour.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::report::{PointReport, Report};

/// Width and height of a panel.
const PANEL: (u32, u32) = (760, 420);

/// A picture of `report`; empty if nothing was timed.
pub fn svg(report: &Report) -> Result<String, String> {
    let timed = report.points.iter().filter(|p| p.timing.is_some());
    let presets = distinct(timed.map(|p| p.preset.as_str()));
    let mut text = String::new();
    let size = (PANEL.0, PANEL.1 * presets.len().max(1) as u32);
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(|e| e.to_string())?;
        for (panel, preset) in area.split_evenly((presets.len().max(1), 1)).iter().zip(&presets) {
            draw(panel, report, preset).map_err(|e| e.to_string())?;
        }
        area.present().map_err(|e| e.to_string())?;
    }
    Ok(text)
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    names.fold(Vec::new(), |mut all, name| {
        if !all.contains(&name) {
            all.push(name);
        }
        all
    })
}

/// What a colour stands for: a format, and the number of query tokens above one.
fn series(point: &PointReport) -> String {
    match point.query_tokens {
        1 => point.format.clone(),
        tokens => format!("{}, {tokens} tokens", point.format),
    }
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(area: &DrawingArea<SVGBackend<'_>, Shift>, report: &Report, preset: &str) -> Drawn {
    let points: Vec<&PointReport> =
        report.points.iter().filter(|p| p.preset == preset && p.timing.is_some()).collect();
    let floor = |p: &PointReport| p.cache_bytes as f64 / report.environment.copy_gb_s / 1e3;
    let us = |p: &PointReport| p.timing.as_ref().map_or(f64::NAN, |t| t.us);
    let lengths = || points.iter().map(|p| f64::from(p.kv_seq_len));
    let (low, high) = (lengths().fold(f64::MAX, f64::min), lengths().fold(1.0, f64::max));
    let bottom = points.iter().map(|p| floor(p).min(us(p))).fold(f64::MAX, f64::min);
    let top = points.iter().map(|p| us(p)).fold(1e-9, f64::max);
    let first = points[0];
    let caption = format!(
        "{preset}: {} query heads, {} KV heads, head_dim {} - {}",
        first.num_heads, first.num_kv_heads, first.head_dim, report.environment.adapter.name
    );
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 15))
        .margin(10)
        .x_label_area_size(42)
        .y_label_area_size(60)
        .build_cartesian_2d(
            (low * 0.9..high * 1.15).log_scale().base(2.0),
            (bottom * 0.8..top * 1.3).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("positions")
        .y_desc("microseconds a call; thin: stored bytes at copy speed")
        .x_label_formatter(&|v| format!("{v:.0}"))
        .y_label_formatter(&|v| format!("{v}"))
        .draw()?;
    let names: Vec<String> = points.iter().map(|p| series(p)).collect();
    let formats = distinct(names.iter().map(String::as_str));
    let legs = distinct(points.iter().map(|p| p.leg.as_str()));
    for (f, format) in formats.iter().enumerate() {
        let color = Palette99::pick(f).to_rgba();
        for (l, leg) in legs.iter().enumerate() {
            let mine = || points.iter().filter(|p| series(p) == *format && p.leg == *leg);
            let line = mine().map(|p| (f64::from(p.kv_seq_len), us(p)));
            // The last leg is the one without checks, or native: drawn whole, the others in dashes.
            let gap = 4 * (legs.len() - 1 - l) as i32;
            chart
                .draw_series(DashedLineSeries::new(line, 8, gap, color.stroke_width(2)))?
                .label(format!("{format} {leg}"))
                .legend(move |(x, y)| {
                    let end = x + if gap == 0 { 18 } else { 8 };
                    PathElement::new([(x, y), (end, y)], color.stroke_width(2))
                });
            let dots = mine().map(|p| (f64::from(p.kv_seq_len), us(p)));
            chart.draw_series(dots.map(|at| Circle::new(at, 3, color.filled())))?;
        }
        let stored = points.iter().filter(|p| series(p) == *format && p.leg == legs[0]);
        let least = stored.map(|p| (f64::from(p.kv_seq_len), floor(p)));
        chart.draw_series(LineSeries::new(least, color.stroke_width(1)))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .border_style(BLACK.mix(0.3))
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
