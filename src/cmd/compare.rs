//! `wgtq compare`.

use std::path::PathBuf;
use std::process::ExitCode;

use anstyle::AnsiColor;
use wgtq::compare::{self, Change, Comparison, Options, ReportHead, Side, What};
use wgtq::driver::DriverError;

/// Rows shown without --all.
const SHOWN: usize = 20;

/// Two reports, of two machines, drivers or versions: what changed in status, error and time,
/// biggest first. Takes reports of `parity` and `replay`, and a sweep's audit.json.
///
/// A regression is a status that got worse, a row that vanished although its legs ran, an error that
/// more than doubled and grew by more than a tenth of its tolerance, or (a codec's own error) by
/// more than 2e-4.
///
/// Exit codes: 0 no regression; 1 a regression; 2 a file cannot be read, or the two have nothing to
/// compare.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The report that is held to be right
    #[arg(value_name = "A.json")]
    a: PathBuf,
    /// The report that is judged
    #[arg(value_name = "B.json")]
    b: PathBuf,
    /// A leg of A that has another name in B; may be given several times. Names are compared
    /// without their @tag
    #[arg(long, value_name = "OLD=NEW", value_parser = mapping)]
    map: Vec<(String, String)>,
    /// A row that takes more than X times as long is a regression
    #[arg(long, value_name = "X", value_parser = positive)]
    max_slowdown: Option<f64>,
    /// Show every row, also those that did not change
    #[arg(long)]
    all: bool,
    /// Print the comparison as JSON
    #[arg(long)]
    json: bool,
}

fn mapping(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => {
            Ok((old.to_owned(), new.to_owned()))
        }
        _ => Err("need OLD=NEW".to_owned()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0);
    number.ok_or_else(|| "need a number above 0".to_owned())
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self) -> Result<ExitCode, DriverError> {
        let comparison = match self.compare() {
            Ok(comparison) => comparison,
            Err(message) => {
                super::complain(&message);
                return Ok(ExitCode::from(2));
            }
        };
        if self.json {
            super::print(&super::pretty(&comparison)?);
        } else {
            self.show(&comparison);
        }
        Ok(ExitCode::from(u8::from(comparison.regressions > 0)))
    }

    fn compare(&self) -> Result<Comparison, String> {
        let read = |path| compare::read(path).map_err(|e| e.to_string());
        let (a, b) = (read(&self.a)?, read(&self.b)?);
        let options = Options { map: self.map.clone(), max_slowdown: self.max_slowdown };
        compare::compare(a, b, &options)
            .map_err(|e| format!("{} and {}: {e}", self.a.display(), self.b.display()))
    }

    fn show(&self, comparison: &Comparison) {
        show_head("A", &comparison.a);
        show_head("B", &comparison.b);
        let changed = comparison.changes.iter().filter(|c| self.all || c.what != What::Same);
        let changed: Vec<&Change> = changed.collect();
        let shown = if self.all { changed.len() } else { changed.len().min(SHOWN) };
        if shown > 0 {
            let mut table = super::table(&["", "kernel", "case", "leg", "A", "B", "time"]);
            table.add_rows(changed[..shown].iter().map(|c| cells(c)));
            super::print(&format!("\n{table}"));
        }
        if shown < changed.len() {
            super::print(&format!("{} more; --all shows them", changed.len() - shown));
        }
        super::print("");
        for leg in &comparison.missing_legs {
            let line = format!("{} rows not compared: leg {}: {}", leg.rows, leg.leg, leg.reason);
            super::print(&line);
        }
        for time in &comparison.times {
            super::print(&format!(
                "leg {} took {:.2} times as long (median of {})",
                time.leg, time.median_slowdown, time.rows
            ));
        }
        show_verdict(comparison);
    }
}

fn show_head(name: &str, head: &ReportHead) {
    let text: String = std::iter::once(format!("{name}  {}", head.legs.first().map_or("", |l| l)))
        .chain(head.legs.iter().skip(1).map(|leg| format!("   {leg}")))
        .map(|line| super::wrap(&line, "     "))
        .collect();
    super::print(text.trim_end());
}

fn show_verdict(comparison: &Comparison) {
    let color = if comparison.regressions == 0 { AnsiColor::Green } else { AnsiColor::Red };
    let color = color.on_default().bold();
    let word = if comparison.regressions == 0 { "NO REGRESSION" } else { "REGRESSION" };
    let kinds = [
        What::StatusWorse,
        What::Vanished,
        What::ErrorGrew,
        What::Slower,
        What::ToleranceWidened,
        What::StatusBetter,
        What::ErrorShrank,
        What::Added,
        What::Same,
    ];
    let count = |what| comparison.changes.iter().filter(|c| c.what == what).count();
    let counts: Vec<String> = kinds
        .into_iter()
        .filter(|&what| count(what) > 0)
        .map(|what| format!("{} {}", count(what), what.words()))
        .collect();
    let compared = comparison.compared;
    super::print(&format!("\n{color}{word}{color:#}  {compared} compared: {}", counts.join(", ")));
}

fn cells(change: &Change) -> [String; 7] {
    let leg = match change.against.as_str() {
        wgtq::parity::report::ORACLE => change.leg.clone(),
        against => format!("{} / {against}", change.leg),
    };
    // A status is repeated only where it changed.
    let status = change.a.as_ref().map(|a| a.status) != change.b.as_ref().map(|b| b.status);
    let side = |side: &Option<Side>| side.as_ref().map_or("-".to_owned(), |s| cell(s, status));
    [
        change.what.words().to_owned(),
        change.kernel.replacen("flash_attn_", "attn_", 1),
        change.case.clone(),
        leg,
        side(&change.a),
        side(&change.b),
        change.slowdown.map_or(String::new(), |x| format!("{x:.1} x")),
    ]
}

fn cell(side: &Side, status: bool) -> String {
    let error = side.error.map(|e| format!("{e:.2e}"));
    let share = side.error.zip(side.tolerance).filter(|(_, t)| *t > 0.0);
    let share = share.map(|(e, t)| format!("({:.2} tol)", e / t));
    let word = status.then(|| side.status.as_str().to_owned());
    let parts: Vec<String> = [word, error, share].into_iter().flatten().collect();
    if parts.is_empty() { side.status.as_str().to_owned() } else { parts.join(" ") }
}
