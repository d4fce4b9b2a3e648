//! `wgtq parity`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use anstyle::AnsiColor;
use wgtq::driver::{DriverError, Outputs, check_writable};
use wgtq::gpu::device::Selection;
use wgtq::kernels::{ALL, NATIVE};
use wgtq::legs::{Availability, LegName, availability};
use wgtq::parity::report::{
    CaseReport, CaseResultReport, LegReport, ORACLE, Report, RunTiming, SCHEMA, Status, Summary,
};
use wgtq::parity::selection::select;
use wgtq::parity::suite::{self, OpenLeg};
use wgtq::parity::{Case, compact, html};

use super::{GpuArgs, MslArgs, machine};

/// Every kernel on every leg that this machine has: each leg against the f64 oracle, WGSL against
/// native MSL, and the checker's verdict on both forms of MSL.
///
/// Exit codes: 0 all pass; 1 a mismatch or a finding; 2 something could not run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these kernels
    #[arg(long, value_name = "STEM", value_delimiter = ',')]
    kernel: Vec<String>,
    /// Only cases whose name contains this, such as d256 or softcap
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Only every N-th case of each kernel at each head dim, for a quick look
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// Only these legs [default: all that this machine has]
    #[arg(long, value_enum, value_delimiter = ',')]
    leg: Vec<LegName>,
    /// Legs that must run: exit code 2 where one does not
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LEG")]
    require_legs: Vec<LegName>,
    #[command(flatten)]
    msl: MslArgs,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Name put behind the legs' names (leg@NAME), for reports that will be merged
    #[arg(long, value_name = "NAME")]
    tag: Option<String>,
    /// Run nothing: put the cases and legs of these reports into one
    #[arg(long, value_name = "REPORT.json", num_args = 1.., conflicts_with_all = ["kernel", "case", "every", "leg", "require_legs", "msl_dir", "adapter", "backend", "tag"])]
    merge: Vec<PathBuf>,
    /// Write the JSON report here
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also write a self-contained HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write JSON that can be kept in a repository and compared with later reports: a line a case,
    /// without clocks and histograms
    #[arg(long)]
    compact: bool,
    /// Print the JSON report on stdout instead of the table
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self) -> Result<ExitCode, DriverError> {
        for path in self.out.iter().chain(&self.html) {
            check_writable(path)?;
        }
        let report = if self.merge.is_empty() {
            self.play()?
        } else {
            let reports: Vec<Report> =
                self.merge.iter().map(|p| super::read_json(p)).collect::<Result<_, _>>()?;
            suite::merge(reports)
        };
        self.write(&report)?;
        let missing: Vec<&LegName> =
            self.require_legs.iter().filter(|&&leg| !self.has(&report, leg)).collect();
        let code = if missing.is_empty() { report.summary.exit_code() } else { 2 };
        Ok(ExitCode::from(code))
    }

    /// Whether a required leg ran; complains if not.
    fn has(&self, report: &Report, required: LegName) -> bool {
        let label = self.label(required);
        let leg = report.legs.iter().find(|leg| leg.label == label);
        if leg.is_some_and(|leg| leg.available) {
            return true;
        }
        let unknown = if leg.is_some() { "it did not run" } else { "--leg leaves it out" };
        let reason = leg.and_then(|leg| leg.reason.as_deref()).unwrap_or(unknown);
        super::complain(&format!("--require-legs {label}: {reason}"));
        false
    }

    /// Runs the cases on the legs.
    fn play(&self) -> Result<Report, DriverError> {
        let cases = self.cases()?;
        let (mut legs, leg_reports) = self.legs()?;
        let start = Instant::now();
        let bar = super::bar(cases.len() as u64);
        let mut reports: Vec<CaseReport> = Vec::new();
        for case in &cases {
            bar.set_message(format!("{} {}", case.kernel(), case.id()));
            let report = suite::run_case(case.as_ref(), &mut legs);
            for f in report.failures() {
                let line = format!("{} {}: {}", report.kernel, report.case, failure(f));
                bar.suspend(|| super::note(&line));
            }
            reports.push(report);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Report {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: format!("{}, {}", machine::system(), machine::processor()),
            legs: leg_reports,
            summary: Summary::of(&reports),
            cases: reports,
            sources: legs.into_iter().flat_map(|l| l.sources).collect(),
            ran_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            timing: RunTiming { total_s: start.elapsed().as_secs_f64() },
        })
    }

    fn cases(&self) -> Result<Vec<Box<dyn Case>>, DriverError> {
        for kernel in &self.kernel {
            let known = || ALL.iter().chain(NATIVE).map(|c| c.stem);
            if !known().any(|stem| stem == kernel) {
                return Err(DriverError::Argument {
                    flag: "--kernel",
                    need: format!("one of {}", known().collect::<Vec<_>>().join(", ")),
                    found: kernel.clone(),
                });
            }
        }
        let wanted = |case: &dyn Case| {
            (self.kernel.is_empty() || self.kernel.iter().any(|k| k == case.kernel()))
                && self.case.as_ref().is_none_or(|text| case.id().contains(text.as_str()))
        };
        let mut cases = suite::cases();
        cases.extend(suite::native_cases());
        cases.retain(|case| wanted(case.as_ref()));
        let cases = select(cases, self.every);
        if cases.is_empty() {
            return Err(DriverError::Argument {
                flag: "--case",
                need: "text that a case of these kernels contains".to_owned(),
                found: self.case.clone().unwrap_or_default(),
            });
        }
        Ok(cases)
    }

    /// Opens the legs that are wanted and there, and says of every other why not.
    fn legs(&self) -> Result<(Vec<OpenLeg>, Vec<LegReport>), DriverError> {
        let selection = Selection::from(self.gpu.clone());
        let (mut open, mut reports) = (Vec::new(), Vec::new());
        for found in availability(&selection) {
            if !self.leg.is_empty() && !self.leg.contains(&found.leg) {
                continue;
            }
            let label = self.label(found.leg);
            let opened = if found.is_available() {
                self.open(found.leg, &selection).map_err(|e| e.to_string())
            } else {
                Err(why(&found))
            };
            match opened {
                Ok(mut leg) => {
                    let line = format!("leg {label} on {}", leg.leg().adapter().line());
                    super::note(super::wrap(&line, "    ").trim_end());
                    let adapter = Some(leg.leg().adapter().clone());
                    leg.label.clone_from(&label);
                    reports.push(LegReport { label, available: true, reason: None, adapter });
                    open.push(leg);
                }
                Err(reason) => {
                    super::note(&format!("leg {label} left out: {reason}"));
                    let reason = Some(reason);
                    reports.push(LegReport { label, available: false, reason, adapter: None });
                }
            }
        }
        if open.is_empty() {
            return Err(DriverError::Gpu { message: "no leg can run".to_owned() });
        }
        Ok((open, reports))
    }

    fn open(&self, leg: LegName, selection: &Selection) -> Result<OpenLeg, DriverError> {
        match self.msl.folder() {
            Some(folder) if leg == LegName::MslHost => OpenLeg::originals(folder),
            _ => Ok(OpenLeg::new(leg.open(selection)?)),
        }
    }

    fn label(&self, leg: LegName) -> String {
        match &self.tag {
            Some(tag) => format!("{}@{tag}", leg.as_str()),
            None => leg.as_str().to_owned(),
        }
    }

    fn text(&self, report: &Report) -> Result<String, DriverError> {
        if !self.compact {
            return super::pretty(report);
        }
        compact::lines(&report.clone().compact())
            .map_err(|e| DriverError::File { path: "JSON".into(), source: e.into() })
    }

    fn write(&self, report: &Report) -> Result<(), DriverError> {
        let json = self.text(report)?;
        let mut outputs = Outputs::default();
        if let Some(path) = &self.out {
            outputs.stage(path, json.as_bytes())?;
        }
        if let Some(path) = &self.html {
            outputs.stage(path, html::page(report).as_bytes())?;
        }
        outputs.commit()?;
        if self.json {
            super::print(&json);
        } else {
            show(report);
        }
        let written: Vec<String> =
            self.out.iter().chain(&self.html).map(|p| Path::display(p).to_string()).collect();
        if !written.is_empty() {
            super::note(&format!("wrote {}", written.join(", ")));
        }
        Ok(())
    }
}

/// Why a leg cannot run and what to do about it.
fn why(found: &Availability) -> String {
    match &found.hint {
        Some(hint) => format!("{}; {hint}", found.reason),
        None => found.reason.clone(),
    }
}

fn failure(f: &CaseResultReport) -> String {
    let red = AnsiColor::Red.on_default().bold();
    format!("{red}{}{red:#} {} against {}: {}", f.status.as_str(), f.leg, f.against, f.reason)
}

fn table(report: &Report, kernels: &[&str]) -> comfy_table::Table {
    let sides = distinct(
        report.cases.iter().flat_map(|c| &c.results).map(|r| (r.leg.as_str(), r.against.as_str())),
    );
    let header: Vec<String> = kernels.iter().map(|k| in_lines(k)).collect();
    let header: Vec<&str> =
        std::iter::once("leg").chain(header.iter().map(String::as_str)).collect();
    let mut table = super::table(&header);
    for (leg, against) in sides {
        let side = if against == ORACLE { leg.to_owned() } else { format!("{leg}\n/ {against}") };
        let mut row = vec![side.replace('@', "\n@")];
        row.extend(kernels.iter().map(|kernel| cell(report, kernel, leg, against)));
        table.add_row(row);
    }
    table
}

/// Columns that names of kernels and errors have room for.
const MOST_COLUMNS: usize = 7;

/// A row a comparison and a column a kernel: how many cases are well, and the largest error. Of more
/// kernels than have room side by side, several tables as wide as each other.
fn show(report: &Report) {
    let kernels: Vec<&str> = distinct(report.cases.iter().map(|c| c.kernel.as_str()));
    let tables = kernels.len().div_ceil(MOST_COLUMNS).max(1);
    for kernels in kernels.chunks(kernels.len().div_ceil(tables).max(1)) {
        super::print(&format!("\n{}", table(report, kernels)));
    }
    super::print(
        "\nEach cell: cases that are well, of how many; the error that uses up most of its tolerance, \
         and how\nmuch of it.",
    );
    for leg in report.legs.iter().filter(|l| !l.available) {
        super::print(&format!(
            "leg {} did not run: {}",
            leg.label,
            leg.reason.as_deref().unwrap_or("no reason known").replace("; ", "\n    ")
        ));
    }
    for (kernel, reason) in distinct(skipped(report).map(|(kernel, _, reason)| (kernel, reason))) {
        let legs = distinct(
            skipped(report).filter(|s| (s.0, s.2) == (kernel, reason)).map(|(_, leg, _)| leg),
        );
        let line = format!("skipped on {}: {reason}", legs.join(", "));
        super::print(&super::wrap(&line, "    "));
    }
    let counts: Vec<String> = Status::ALL
        .iter()
        .filter(|s| report.summary.count(**s) > 0)
        .map(|s| format!("{} {}", report.summary.count(*s), s.as_str()))
        .collect();
    let good = report.summary.exit_code() == 0;
    let color = if good { AnsiColor::Green } else { AnsiColor::Red }.on_default().bold();
    super::print(&format!(
        "\n{color}{}{color:#}  {} in {:.0} s",
        report.summary.verdict(),
        counts.join(", "),
        report.timing.total_s
    ));
}

/// Kernel, leg and reason of what was skipped.
fn skipped(report: &Report) -> impl Iterator<Item = (&str, &str, &str)> {
    report.cases.iter().flat_map(|case| {
        let results = case.results.iter().filter(|r| r.status == Status::Skipped);
        results.map(|r| (case.kernel.as_str(), r.leg.as_str(), r.reason.as_str()))
    })
}

/// A kernel's name on lines of eight characters where words allow it: all kernels beside each other.
fn in_lines(kernel: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (i, word) in kernel.split('_').enumerate() {
        let word = if i == 0 { word.to_owned() } else { format!("_{word}") };
        match lines.last_mut() {
            Some(line) if line.len() + word.len() <= 8 => line.push_str(&word),
            _ => lines.push(word),
        }
    }
    lines.join("\n")
}

fn cell(report: &Report, kernel: &str, leg: &str, against: &str) -> String {
    let results: Vec<&CaseResultReport> = report
        .cases
        .iter()
        .filter(|c| c.kernel == kernel)
        .flat_map(|c| &c.results)
        .filter(|r| r.leg == leg && r.against == against)
        .collect();
    let ran = results.iter().filter(|r| r.status != Status::Skipped).count();
    let good = results.iter().filter(|r| r.status.good() && r.status != Status::Skipped).count();
    // The error that uses up most of its tolerance; violations have none to use.
    let share = |r: &CaseResultReport| r.error.zip(r.tolerance).map(|(e, t)| (e, e / t));
    let worst = results.iter().filter_map(|r| share(r)).max_by(|a, b| a.1.total_cmp(&b.1));
    let error = match worst {
        Some((0.0, _)) | None => String::new(),
        Some((error, share)) if share.is_finite() => format!("\n{error:.0e} {:.0}%", 100.0 * share),
        Some((error, _)) => format!("\n{error}"),
    };
    match results.len() {
        0 => "-".to_owned(),
        _ if ran == 0 => "skipped".to_owned(),
        _ => format!("{good}/{ran}{error}"),
    }
}

fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut all = Vec::new();
    for item in items {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    all
}
