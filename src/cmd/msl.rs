//! `wgtq msl`: anybody's Metal kernels, on this machine.

mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;
use wgtq::driver::{DriverError, Outputs};
use wgtq::msl::dispatch::{self, LaneOrder, Mode, Response};
use wgtq::msl::findings::Finding;
use wgtq::msl::prescan::Lint;
use wgtq::msl::spec::Spec;
use wgtq::msl::toolchain::{Build, Toolchain};

/// Check, run or list Metal kernels without a Mac.
///
/// The MSL is compiled unchanged by clang (19 or newer) and run on this machine's processor.
/// Exit codes: 0 clean; 1 findings; 2 could not run.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Dispatch a kernel and look for races, out-of-bounds and uninitialised accesses, missing
    /// fences, divergence and undefined arithmetic
    Check(Dispatch),
    /// Dispatch a kernel without checks
    Run(Dispatch),
    /// Print the kernels of a file with their argument tables
    List {
        /// MSL source
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Dispatch {
    /// MSL source
    file: PathBuf,
    /// What to dispatch: kernel, threadgroups, threads, buffers
    #[arg(long, value_name = "SPEC.json")]
    dispatch: PathBuf,
    /// Keep the lanes of a simdgroup close, as a GPU does; without it each runs ahead
    #[arg(long)]
    lockstep: bool,
    /// Take lanes, simdgroups and threadgroups from the last
    #[arg(long)]
    descending: bool,
    /// Seconds before an endless kernel is stopped
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// Write the buffers after the run here, as buffer_<index>.bin
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    findings: Vec<Finding>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lint: Vec<Lint>,
    outputs: Vec<OutputFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threadgroup_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timing: Option<Timing>,
}

/// Where the time went, in milliseconds.
#[derive(Debug, Serialize)]
struct Timing {
    /// From the source text to a kernel that can be loaded: little if it is cached.
    compile_ms: f64,
    /// From starting the host's process to its answer.
    run_ms: f64,
    /// CPU time of the dispatch alone.
    cpu_ms: f64,
}

#[derive(Debug, Serialize)]
struct OutputFile {
    index: u32,
    file: String,
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self) -> Result<ExitCode, DriverError> {
        match self.command {
            Command::List { file, json } => list(&file, json),
            Command::Check(d) => d.run(true),
            Command::Run(d) => d.run(false),
        }
    }
}

fn read(file: &Path) -> Result<String, DriverError> {
    std::fs::read_to_string(file)
        .map_err(|source| DriverError::File { path: file.to_owned(), source })
}

fn list(file: &Path, json: bool) -> Result<ExitCode, DriverError> {
    let toolchain = Toolchain::find()?;
    let compiled = toolchain.kernel(&file.display().to_string(), &read(file)?, Build::Fast)?;
    let kernels = dispatch::list(&toolchain.host()?, &compiled.object)?;
    if json {
        super::print(&super::pretty(&kernels)?);
        return Ok(ExitCode::SUCCESS);
    }
    let word = |v: &serde_json::Value| match v {
        serde_json::Value::String(s) => s.clone(),
        serde_json::Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    for kernel in kernels.as_array().into_iter().flatten() {
        let mut table = super::table(&["index", "kind", "type", "name", "attribute", "written"]);
        for a in kernel["arguments"].as_array().into_iter().flatten() {
            let row = ["index", "kind", "type", "name", "attribute", "writable"];
            table.add_row(row.map(|field| word(&a[field])));
        }
        super::print(&format!("{}\n{table}\n", word(&kernel["name"])));
    }
    Ok(ExitCode::SUCCESS)
}

impl Dispatch {
    fn run(self, check: bool) -> Result<ExitCode, DriverError> {
        let mode = match (check, self.lockstep) {
            (true, false) => Mode::CheckStrict,
            (true, true) => Mode::CheckLockstep,
            (false, false) => Mode::Fast,
            (false, true) => Mode::FastLockstep,
        };
        let report = match self.dispatch(mode) {
            Ok(report) => report,
            // What is wrong with the kernel is a result; anything else is an error.
            Err(DriverError::MslTimeout { kernel, seconds }) => {
                Report::failed("timeout", format!("{kernel} was still running after {seconds} s"))
            }
            Err(DriverError::MslSource { message }) => Report::failed("compile_error", message),
            Err(other) => {
                super::complain(&other.to_string());
                return Ok(ExitCode::from(2));
            }
        };
        if self.json {
            super::print(&super::pretty(&report)?);
        } else {
            show::show(&report);
        }
        Ok(ExitCode::from(match report.status {
            "clean" => 0,
            "findings" => 1,
            _ => 2,
        }))
    }

    fn dispatch(&self, mode: Mode) -> Result<Report, DriverError> {
        let spec = Spec::load(&self.dispatch)?;
        let folder = self.dispatch.parent().unwrap_or(Path::new(""));
        let order = if self.descending { LaneOrder::Descending } else { LaneOrder::Ascending };
        let request = spec.request(folder, mode, order, Duration::from_secs(self.timeout))?;
        let start = Instant::now();
        let toolchain = Toolchain::find()?;
        let build = if mode.checked() { Build::Checked } else { Build::Fast };
        let name = self.file.display().to_string();
        let compiled = toolchain.kernel(&name, &read(&self.file)?, build)?;
        if !compiled.scanned.lint.is_empty() {
            return Ok(Report {
                lint: compiled.scanned.lint,
                ..Report::failed("compile_error", "Apple's compiler would refuse this".to_owned())
            });
        }
        let host = toolchain.host()?;
        let compile = start.elapsed();
        let response = dispatch::run(&host, &compiled.object, &request)?;
        let milliseconds = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
        Ok(Report {
            status: if response.findings.is_empty() { "clean" } else { "findings" },
            message: None,
            lint: Vec::new(),
            outputs: self.write(&spec, &response)?,
            threadgroup_bytes: Some(response.threadgroup_bytes),
            timing: Some(Timing {
                compile_ms: milliseconds(compile),
                run_ms: milliseconds(start.elapsed() - compile),
                cpu_ms: milliseconds(response.cpu),
            }),
            findings: response.findings,
        })
    }

    fn write(&self, spec: &Spec, response: &Response) -> Result<Vec<OutputFile>, DriverError> {
        let Some(folder) = &self.out else { return Ok(Vec::new()) };
        std::fs::create_dir_all(folder)
            .map_err(|source| DriverError::File { path: folder.clone(), source })?;
        let mut files = Outputs::default();
        let mut listed = Vec::new();
        for (buffer, bytes) in spec.buffers.iter().zip(&response.buffers) {
            let path = folder.join(format!("buffer_{}.bin", buffer.index));
            files.stage(&path, bytes)?;
            listed.push(OutputFile { index: buffer.index, file: path.display().to_string() });
        }
        files.commit()?;
        Ok(listed)
    }
}

impl Report {
    fn failed(status: &'static str, message: String) -> Self {
        Self {
            status,
            message: Some(message),
            findings: Vec::new(),
            lint: Vec::new(),
            outputs: Vec::new(),
            threadgroup_bytes: None,
            timing: None,
        }
    }
}
