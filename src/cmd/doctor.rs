//! `wgtq doctor`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use wgtq::driver::{DriverError, cache_folder};
use wgtq::gpu::device::{AdapterReport, Backend, Selection, probe, turned_off};
use wgtq::legs::{Availability, availability};
use wgtq::msl::toolchain::Toolchain;

use super::{GpuArgs, machine};

/// One page of what this machine can run, for bug reports.
///
/// Opens every adapter and measures its subgroup width; says of each leg whether it can run and,
/// where it cannot, why and what to do. Exit code 2 if no leg can run.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    gpu: GpuArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Debug, serde::Serialize)]
struct Report {
    version: &'static str,
    system: String,
    architecture: &'static str,
    processor: String,
    processors: usize,
    adapters: Vec<Adapter>,
    legs: Vec<Availability>,
    clang: Option<Clang>,
    cache: PathBuf,
    /// Variables that change what is found.
    environment: BTreeMap<String, String>,
}

#[derive(Debug, serde::Serialize)]
struct Adapter {
    #[serde(flatten)]
    report: AdapterReport,
    /// Why it does not open.
    error: Option<String>,
}

#[derive(Debug, serde::Serialize)]
struct Clang {
    program: PathBuf,
    version: String,
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self) -> Result<ExitCode, DriverError> {
        let report = Report::gather(&Selection::from(self.gpu));
        if self.json {
            super::print(&super::pretty(&report)?);
        } else {
            super::print(&report.page());
        }
        let any = report.legs.iter().any(Availability::is_available);
        Ok(if any { ExitCode::SUCCESS } else { ExitCode::from(2) })
    }
}

/// Prefixes of variables that Vulkan loaders, Mesa and this program read.
const VARIABLES: [&str; 6] = ["WGTQ_", "VK_", "LP_NATIVE", "LIBGL_", "MESA_", "WGPU_"];

impl Report {
    fn gather(selection: &Selection) -> Self {
        let listed = |backend: Option<Backend>| if turned_off() { vec![] } else { probe(backend) };
        let adapters = listed(selection.backend)
            .into_iter()
            .map(|(report, error)| Adapter { report, error: error.map(|e| e.to_string()) })
            .collect();
        let clang = Toolchain::find()
            .ok()
            .map(|t| Clang { program: t.program().to_owned(), version: t.version().to_owned() });
        let environment = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.to_string_lossy().into_owned())))
            .filter(|(name, _)| VARIABLES.iter().any(|prefix| name.starts_with(prefix)))
            .collect();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            system: machine::system(),
            architecture: std::env::consts::ARCH,
            processor: machine::processor(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            adapters,
            legs: availability(selection),
            clang,
            cache: cache_folder(),
            environment,
        }
    }

    fn page(&self) -> String {
        let mut table = super::table(&["wgtq", self.version]);
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        row("system", format!("{}, {}", self.system, self.architecture));
        row("processor", format!("{} x {}", self.processors, self.processor));
        for adapter in &self.adapters {
            row("adapter", adapter.lines());
        }
        if self.adapters.is_empty() {
            row("adapter", if turned_off() { "WGTQ_GPU=none is set" } else { "none" }.to_owned());
        }
        row(
            "clang",
            self.clang
                .as_ref()
                .map_or("none".to_owned(), |c| format!("{} ({})", c.version, c.program.display())),
        );
        row("cache", self.cache.display().to_string());
        for (name, value) in &self.environment {
            row("variable", format!("{name}={value}"));
        }
        for leg in &self.legs {
            let hint = leg.hint.iter().map(|hint| format!("\n-> {hint}"));
            let text =
                format!("{}: {}{}", leg.status.as_str(), leg.reason, hint.collect::<String>());
            row(&format!("leg {}", leg.leg.as_str()), text);
        }
        table.to_string()
    }
}

impl Adapter {
    fn lines(&self) -> String {
        let r = &self.report;
        let subgroup = match (r.subgroup_size, r.measured_subgroup_size) {
            (None, _) => "no subgroups".to_owned(),
            (Some((lo, hi)), Some(width)) => format!("subgroups {lo}..{hi}, measured {width}"),
            (Some((lo, hi)), None) => format!("subgroups {lo}..{hi}, not usable"),
        };
        let features = [
            (r.shader_f16, "f16"),
            (r.timestamps, "timestamps"),
            (r.passthrough, "pass-through of native code"),
        ];
        let has: Vec<&str> = features.iter().filter(|(yes, _)| *yes).map(|(_, n)| *n).collect();
        let mut lines = vec![
            r.line(),
            [&[subgroup.as_str()], has.as_slice()].concat().join(", "),
            format!(
                "{} KiB of workgroup memory, {} threads, bindings of {} MiB",
                r.max_workgroup_storage >> 10,
                r.max_workgroup_threads,
                r.max_storage_binding >> 20
            ),
        ];
        lines.extend(self.error.iter().map(|error| format!("does not open: {error}")));
        lines.join("\n")
    }
}
