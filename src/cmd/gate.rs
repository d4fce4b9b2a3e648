//! `wgtq gate`: hidden; what a production sweep runs in a subprocess before it measures.

use std::process::ExitCode;

use wgtq::driver::DriverError;
use wgtq::gpu::device::Selection;
use wgtq::legs::LegName;
use wgtq::sweep::gates::Gate;

use super::{CodecArgs, GpuArgs, HostArgs};

/// Run one gate of the production sweep.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which
    gate: Gate,
    /// Who executes the kernels
    #[arg(long, value_enum, default_value = "wgsl")]
    leg: LegName,
    #[command(flatten)]
    codec: CodecArgs,
    #[command(flatten)]
    gpu: GpuArgs,
    #[command(flatten)]
    host: HostArgs,
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self) -> Result<ExitCode, DriverError> {
        let mut leg = self.host.open(self.leg, &Selection::from(self.gpu))?;
        super::note(&format!("adapter: {}", leg.adapter().line()));
        let checked = self.gate.check(leg.as_mut(), self.codec.into())?;
        super::print(&checked.lines.join("\n"));
        Ok(if checked.passed { ExitCode::SUCCESS } else { ExitCode::from(2) })
    }
}
