//! Perplexity against bytes of cache per token, as SVG.

use plotters::prelude::*;

use crate::attention::Kind;
use crate::error::{ModelError, Result};
use crate::measure::{Report, Row};

const ORACLE: RGBColor = RGBColor(0x25, 0x7a, 0xfd);
const GPU: RGBColor = RGBColor(0xe8, 0x8b, 0x00);
const GREY: RGBColor = RGBColor(0x88, 0x88, 0x88);

/// The picture.
pub fn draw(report: &Report) -> Result<String> {
    let mut svg = String::new();
    plot(&mut svg, report).map_err(|e| ModelError::Chart(e.to_string()))?;
    Ok(svg)
}

fn plot(svg: &mut String, report: &Report) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let exact = report.exact.perplexity;
    let most_bytes = report.rows.iter().map(|r| r.bytes_per_token).max().unwrap_or(1) as f64 * 1.1;
    let worst = report.rows.iter().map(|r| r.perplexity).fold(exact, f64::max) * 1.1;
    let area = SVGBackend::with_string(svg, (760, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .x_label_area_size(42)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..most_bytes, exact * 0.9..worst)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY.mix(0.25))
        .x_desc("bytes of KV cache per token")
        .y_desc(format!("perplexity, first {} tokens", report.tokens))
        .x_label_formatter(&|v| format!("{v:.0}"))
        .y_label_formatter(&|v| format!("{v:.1}"))
        .label_style(("sans-serif", 13))
        .draw()?;
    let line = [(0.0, exact), (most_bytes, exact)];
    chart.draw_series(LineSeries::new(line, GREY.stroke_width(1)))?;
    let label = format!("unquantised, {} bytes", report.exact.bytes_per_token);
    chart.draw_series([Text::new(
        label,
        (most_bytes * 0.01, exact * 0.985),
        ("sans-serif", 13),
    )])?;
    let at = |r: &Row| (r.bytes_per_token as f64, r.perplexity);
    for kind in [Kind::Oracle, Kind::Gpu] {
        let mine = report.rows.iter().filter(|row| row.attention == kind);
        let dots: Vec<_> = mine.map(|r| Circle::new(at(r), 4, colour(kind).filled())).collect();
        if !dots.is_empty() {
            let dot = move |at| Circle::new(at, 4, colour(kind).filled());
            chart.draw_series(dots)?.label(kind.name()).legend(dot);
        }
    }
    // Pairs of the same sum lie close together: their labels go to either side in turn.
    chart.draw_series(report.rows.iter().enumerate().map(|(i, r)| {
        let name = r.pair();
        let place = if i % 2 == 0 { (7, -14) } else { (-25, -14) };
        EmptyElement::at(at(r)) + Text::new(name, place, ("sans-serif", 12))
    }))?;
    let corner = SeriesLabelPosition::UpperRight;
    chart.configure_series_labels().position(corner).label_font(("sans-serif", 13)).draw()?;
    area.present()?;
    Ok(())
}

fn colour(kind: Kind) -> RGBColor {
    if kind == Kind::Gpu { GPU } else { ORACLE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Unquantised;

    #[test]
    fn every_measurement_is_in_the_picture() {
        let row = |k_bits, v_bits, perplexity| Row {
            attention: Kind::Oracle,
            k_bits,
            v_bits,
            norm_correction: false,
            bytes_per_token: 100 * u64::from(k_bits + v_bits),
            perplexity,
            ratio: 1.0,
            ratio_sd: None,
            mean_kl: 0.0,
            mean_kl_sd: None,
            top1_agreement: 1.0,
            seconds: 0.0,
        };
        let report = Report {
            text: "t".into(),
            tokens: 9,
            scored: 8,
            repeats: 1,
            exact: Unquantised { bytes_per_token: 7000, perplexity: 18.0, seconds: 0.0 },
            rows: vec![row(6, 4, 18.1), row(4, 4, 20.0), row(16, 4, 18.2)],
        };
        let svg = draw(&report).unwrap();
        assert!(
            svg.contains("6/4") && svg.contains("f16/4") && svg.contains("7000 bytes"),
            "{svg}"
        );
        assert!(svg.contains("oracle") && !svg.contains("gpu"), "{svg}");
        let empty = Report { rows: Vec::new(), ..report };
        assert!(draw(&empty).unwrap().contains("unquantised"));
    }
}
