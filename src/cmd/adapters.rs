//! `wgtq adapters`.

use std::process::ExitCode;

use wgtq::driver::DriverError;
use wgtq::gpu::device::{Backend, list};

/// List GPU adapters with the features that decide which kernel variant runs.
///
/// Best first: the first one is what other commands use unless told otherwise.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only adapters of this backend
    #[arg(long)]
    backend: Option<Backend>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self) -> Result<ExitCode, DriverError> {
        let adapters = list(self.backend);
        if self.json {
            let json = super::pretty(&adapters)?;
            super::print(&json);
            return Ok(ExitCode::SUCCESS);
        }
        if adapters.is_empty() {
            return Err(DriverError::NoAdapter);
        }
        let header = [
            "adapter",
            "backend",
            "type",
            "subgroup",
            "f16",
            "time",
            "native",
            "workgroup",
            "binding",
        ];
        let mut table = super::table(&header);
        for a in &adapters {
            let yes = |b: bool| if b { "yes" } else { "-" }.to_owned();
            table.add_row([
                a.name.clone(),
                a.backend.clone(),
                a.device_type.clone(),
                a.subgroup_size.map_or("-".to_owned(), |(lo, hi)| {
                    if lo == hi { lo.to_string() } else { format!("{lo}..{hi}") }
                }),
                yes(a.shader_f16),
                yes(a.timestamps),
                yes(a.passthrough),
                format!("{} KiB, {}", a.max_workgroup_storage >> 10, a.max_workgroup_threads),
                format!("{} MiB", a.max_storage_binding >> 20),
            ]);
        }
        super::print(&table.to_string());
        super::note(
            "subgroup: lanes; f16: shader arithmetic; time: GPU timestamps; native: pass-through of \
             MSL or SPIR-V",
        );
        Ok(ExitCode::SUCCESS)
    }
}
