//! Plays tapes on a wgpu device: all steps in one pass of one submit.

use std::time::{Duration, Instant};

use super::submit::{Uploaded, accept, gpu_error, submit};
use super::tape::{Run, Tape};
use super::{Leg, LegName, spirv};
use crate::contract::{Caps, Plan};
use crate::driver::DriverError;
use crate::gpu::device::{AdapterReport, Gpu, Selection};
use crate::gpu::{Checks, Options, PassthroughCode, RawKernel};

/// A leg on a wgpu device.
#[derive(Debug)]
pub struct WgpuLeg {
    name: LegName,
    gpu: Gpu,
    kernels: Vec<(Plan, RawKernel)>,
    replaced: Vec<(String, String)>,
}

impl WgpuLeg {
    /// Opens a device for leg `name`.
    pub fn open(name: LegName, selection: &Selection) -> Result<Self, DriverError> {
        Ok(Self::on(name, Gpu::open(selection)?))
    }

    /// A leg on an open device.
    pub fn on(name: LegName, gpu: Gpu) -> Self {
        Self { name, gpu, kernels: Vec::new(), replaced: Vec::new() }
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Runs `text` in place of the kernel `stem`'s own file, behind the same contract: for
    /// mutation tests, and for trying a changed kernel.
    pub fn replace_source(&mut self, stem: &str, text: &str) {
        self.replaced.retain(|(s, _)| s != stem);
        self.replaced.push((stem.to_owned(), text.to_owned()));
        self.kernels.clear();
    }

    /// The plan with the replaced text, if there is one.
    fn effective(&self, plan: &Plan) -> Plan {
        let Some((_, text)) = self.replaced.iter().find(|(s, _)| s == plan.contract.stem) else {
            return plan.clone();
        };
        plan.with_text(text)
    }

    /// Index of the plan's kernel, made now if it is new.
    fn kernel(&mut self, plan: &Plan) -> Result<usize, DriverError> {
        if let Some(i) = self.kernels.iter().position(|(p, _)| p == plan) {
            return Ok(i);
        }
        let source = &self.effective(plan);
        let checks = if self.name == LegName::Wgsl { Checks::Checked } else { Checks::Trusted };
        let options = Options { checks, ..Options::default() };
        let device = &self.gpu.device;
        let kernel = match self.name {
            LegName::WgslSpirv => {
                let code = PassthroughCode::SpirV(spirv::compile(source)?);
                self.gpu.scoped(|| RawKernel::passthrough(device, source, code, &options))??
            }
            _ => self.gpu.scoped(|| RawKernel::new(device, source, &options))??,
        };
        self.kernels.push((plan.clone(), kernel));
        Ok(self.kernels.len() - 1)
    }

    fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>, DriverError> {
        let (send, receive) = std::sync::mpsc::channel();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = send.send(result);
        });
        let poll = wgpu::PollType::Wait {
            submission_index: None,
            timeout: Some(Duration::from_secs(600)),
        };
        self.gpu.device.poll(poll).map_err(gpu_error)?;
        receive.recv().map_err(gpu_error)?.map_err(gpu_error)?;
        let bytes = buffer.get_mapped_range(..).map_err(gpu_error)?.to_vec();
        buffer.unmap();
        Ok(bytes)
    }
}

impl Leg for WgpuLeg {
    fn name(&self) -> LegName {
        self.name
    }

    fn caps(&self) -> Caps {
        self.gpu.caps
    }

    fn adapter(&self) -> &AdapterReport {
        &self.gpu.report
    }

    fn run(&mut self, tape: &Tape<'_>) -> Result<Run, DriverError> {
        let start = Instant::now();
        let kernels: Vec<usize> =
            tape.steps.iter().map(|s| self.kernel(&s.plan)).collect::<Result<_, _>>()?;
        let compile = start.elapsed();

        let start = Instant::now();
        let device = &self.gpu.device;
        let uploaded = self.gpu.scoped(|| Uploaded::new(device, tape))??;
        let kernels: Vec<&RawKernel> = kernels.iter().map(|&k| &self.kernels[k].1).collect();
        let on = (device, &self.gpu.queue);
        let staged = self.gpu.scoped(|| submit(on, tape, &kernels, &uploaded))??;
        let mut outputs = Vec::new();
        for (id, copy) in staged {
            outputs.push(accept(tape, id, self.read(&copy)?)?);
        }
        Ok(Run { outputs, compile, execute: start.elapsed() })
    }
}
