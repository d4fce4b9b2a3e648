//! Plays tapes in the browser.

use web_time::Instant;

use super::LEG;
use super::device::WebGpu;
use super::faults::Fault;
use crate::contract::Plan;
use crate::driver::DriverError;
use crate::error::Error;
use crate::gpu::{Options, RawKernel};
use crate::legs::submit::{Uploaded, accept, submit};
use crate::legs::{Run, Tape, sha256};
use crate::parity::report::SourceReport;
use crate::source::{Target, assemble};

/// The leg `wgsl-browser`.
pub(super) struct Player {
    pub gpu: WebGpu,
    kernels: Vec<(Plan, RawKernel)>,
    fault: Option<&'static Fault>,
    /// Shader texts that have run.
    pub sources: Vec<SourceReport>,
}

impl Player {
    /// A player on an open device, with `fault` put into its kernel.
    pub fn new(gpu: WebGpu, fault: Option<&'static Fault>) -> Self {
        Self { gpu, kernels: Vec::new(), fault, sources: Vec::new() }
    }

    /// All steps in order, then the outputs.
    pub async fn play(&mut self, tape: &Tape<'_>) -> Result<Run, DriverError> {
        let start = Instant::now();
        self.compile(tape).await?;
        let compile = start.elapsed();

        let start = Instant::now();
        let kernels = self.kernels(tape);
        let on = (&self.gpu.device, &self.gpu.queue);
        let uploaded = self.gpu.scoped(|| Uploaded::new(on.0, tape)).await??;
        let staged = self.gpu.scoped(|| submit(on, tape, &kernels, &uploaded)).await??;
        let mut outputs = Vec::new();
        for (id, copy) in staged {
            outputs.push(accept(tape, id, self.gpu.read(&copy).await?)?);
            copy.destroy();
        }
        uploaded.destroy();
        Ok(Run { outputs, compile, execute: start.elapsed() })
    }

    /// Makes the kernels that the tape needs and that are not there yet.
    pub async fn compile(&mut self, tape: &Tape<'_>) -> Result<(), DriverError> {
        for plan in tape.plans() {
            if self.kernels.iter().any(|(known, _)| known == plan) {
                continue;
            }
            let text = self.fault.and_then(|fault| fault.apply(plan));
            let effective = text.map_or_else(|| plan.clone(), |text| plan.with_text(&text));
            let source = assemble(&effective, Target::WgslBrowser);
            let new = || RawKernel::new(&self.gpu.device, &effective, &Options::default());
            let kernel = self.gpu.scoped(new).await.map_err(|error| {
                let message = match first_place(&error.to_string()) {
                    Some(line) => {
                        let (file, line) = source.locate(line);
                        format!("{file}:{line}: {error}")
                    }
                    None => error.to_string(),
                };
                Error::Shader { kernel: plan.contract.stem, message }
            })??;
            self.kernels.push((plan.clone(), kernel));
            let (leg, label) = (LEG.to_owned(), plan.label.clone());
            let report = SourceReport { leg, label, sha256: sha256(&source.text) };
            if !self.sources.contains(&report) {
                self.sources.push(report);
            }
        }
        Ok(())
    }

    /// The compiled kernel of each step.
    pub fn kernels(&self, tape: &Tape<'_>) -> Vec<&RawKernel> {
        let of = |plan| self.kernels.iter().find(|(known, _)| known == plan).map(|(_, k)| k);
        tape.plans().filter_map(of).collect()
    }
}

/// The line of the first `:line:column` in a browser's message.
fn first_place(message: &str) -> Option<u32> {
    let parts: Vec<&str> = message.split(':').collect();
    parts.windows(2).find_map(|pair| {
        let column = pair[1].split_whitespace().next()?;
        column.parse::<u32>().ok()?;
        pair[0].trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::first_place;

    #[test]
    fn the_line_of_a_compiler_message() {
        let chromium = "Error while parsing WGSL: :12:4 error: unresolved value 'x'";
        assert_eq!(first_place(chromium), Some(12));
        assert_eq!(first_place("pipeline at 3: no place"), None);
    }
}
