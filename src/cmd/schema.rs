//! `wgtq schema`.

use std::process::ExitCode;

use wgtq::driver::DriverError;
use wgtq::export::KernelContract;
use wgtq::parity;
use wgtq::sweep::{audit, multistep};

/// Print the JSON schema of a report.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which report
    #[arg(value_enum)]
    report: Which,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Which {
    /// audit.json of a production sweep
    Audit,
    /// The JSON of a multistep run
    Multistep,
    /// The JSON of a parity run
    Parity,
    /// The JSON of `wgtq bench`
    Bench,
    /// The JSON of `wgtq compare`
    Compare,
    /// The contract beside an exported kernel
    Kernel,
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self) -> Result<ExitCode, DriverError> {
        let schema = match self.report {
            Which::Audit => schemars::schema_for!(audit::Audit),
            Which::Multistep => schemars::schema_for!(multistep::Report),
            Which::Parity => schemars::schema_for!(parity::report::Report),
            Which::Bench => schemars::schema_for!(wgtq::bench::report::Report),
            Which::Compare => schemars::schema_for!(wgtq::compare::Comparison),
            Which::Kernel => schemars::schema_for!(KernelContract),
        };
        super::print(&super::pretty(&schema)?);
        Ok(ExitCode::SUCCESS)
    }
}
