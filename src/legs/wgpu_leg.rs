//! Plays tapes on a wgpu device: all steps in one pass of one submit.

use std::time::{Duration, Instant};

use super::tape::{BufferId, Run, Tape};
use super::{Leg, LegName, spirv};
use crate::contract::{Access, Caps, Contract, Language, Plan};
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
        // A contract lives as long as the program; a replacement is made a few times at most.
        let text: &'static str = Box::leak(text.clone().into_boxed_str());
        let contract = match plan.language {
            Language::Wgsl => Contract { wgsl: text, ..*plan.contract },
            Language::Msl => Contract { msl: text, ..*plan.contract },
        };
        Plan { contract: Box::leak(Box::new(contract)), ..plan.clone() }
    }

    /// Index of the plan's kernel, made now if it is new.
    fn kernel(&mut self, plan: &Plan) -> Result<usize, DriverError> {
        if let Some(i) = self.kernels.iter().position(|(p, _)| p == plan) {
            return Ok(i);
        }
        let source = &self.effective(plan);
        let checks = if self.name == LegName::Wgsl { Checks::Checked } else { Checks::Trusted };
        let options = Options { checks, cache: None };
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

    fn upload(&self, tape: &Tape<'_>) -> Result<Vec<wgpu::Buffer>, DriverError> {
        let most = self.gpu.device.limits().max_buffer_size;
        tape.slots
            .iter()
            .map(|slot| {
                let size = slot.bound_bytes().next_multiple_of(4).max(4);
                if size > most {
                    return Err(DriverError::Gpu {
                        message: format!(
                            "buffer `{}`: need {size} bytes, the device allows {most}",
                            slot.label
                        ),
                    });
                }
                let buffer = self.gpu.scoped(|| {
                    self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
                        label: Some(slot.label),
                        size,
                        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
                        mapped_at_creation: true,
                    })
                })?;
                let mut view = buffer.get_mapped_range_mut(..).map_err(gpu_error)?;
                slot.fill(|at, part| view.slice(at..at + part.len()).copy_from_slice(part));
                drop(view);
                buffer.unmap();
                Ok(buffer)
            })
            .collect()
    }

    /// One buffer with the uniform blocks of every step, and where each starts.
    fn uniforms(&self, tape: &Tape<'_>) -> Result<(wgpu::Buffer, Vec<u64>), DriverError> {
        let alignment =
            usize::try_from(self.gpu.device.limits().min_uniform_buffer_offset_alignment)
                .unwrap_or(256);
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for step in &tape.steps {
            for (_, block) in &step.launch.uniforms {
                bytes.resize(bytes.len().next_multiple_of(alignment), 0u8);
                starts.push(bytes.len() as u64);
                bytes.extend_from_slice(block);
            }
        }
        bytes.resize(bytes.len().next_multiple_of(4).max(4), 0);
        let buffer = self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("uniforms"),
            size: bytes.len() as u64,
            usage: wgpu::BufferUsages::UNIFORM,
            mapped_at_creation: true,
        });
        buffer.get_mapped_range_mut(..).map_err(gpu_error)?.copy_from_slice(&bytes);
        buffer.unmap();
        Ok((buffer, starts))
    }

    fn submit(
        &self,
        tape: &Tape<'_>,
        kernels: &[usize],
        buffers: &[wgpu::Buffer],
    ) -> Result<Vec<(BufferId, wgpu::Buffer)>, DriverError> {
        let device = &self.gpu.device;
        let (uniforms, starts) = self.uniforms(tape)?;
        let mut starts = starts.into_iter();
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for (step, &kernel) in tape.steps.iter().zip(kernels) {
                let mut storage = step.buffers.iter();
                let bindings: Vec<wgpu::BufferBinding<'_>> = (0u32..)
                    .zip(step.plan.contract.bindings)
                    .filter_map(|(index, binding)| {
                        if binding.access == Access::Uniform {
                            let size = step.launch.uniform(index).len() as u64;
                            Some(wgpu::BufferBinding {
                                buffer: &uniforms,
                                offset: starts.next()?,
                                size: wgpu::BufferSize::new(size),
                            })
                        } else {
                            Some(buffers[storage.next()?.index()].as_entire_buffer_binding())
                        }
                    })
                    .collect();
                let kernel = &self.kernels[kernel].1;
                let bound = kernel.bind(device, bindings)?;
                kernel.record(&mut pass, &bound, &step.launch)?;
            }
        }
        let mut staged = Vec::new();
        for id in BufferId::all(tape).filter(|id| tape.slots[id.index()].read_back) {
            let source = &buffers[id.index()];
            let copy = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("read-back"),
                size: source.size(),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            encoder.copy_buffer_to_buffer(source, 0, &copy, 0, source.size());
            staged.push((id, copy));
        }
        self.gpu.queue.submit([encoder.finish()]);
        Ok(staged)
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

fn gpu_error(error: impl std::fmt::Display) -> DriverError {
    DriverError::Gpu { message: crate::driver::one_line(&error.to_string()) }
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
        let buffers = self.upload(tape)?;
        let staged = self.gpu.scoped(|| self.submit(tape, &kernels, &buffers))??;
        let mut outputs = Vec::new();
        for (id, copy) in &staged {
            let mut bytes = self.read(copy)?;
            bytes.truncate(tape.slots[id.index()].bound_bytes() as usize);
            outputs.push((*id, tape.accept(*id, bytes)?));
        }
        Ok(Run { outputs, compile, execute: start.elapsed() })
    }
}
