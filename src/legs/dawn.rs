//! Plays tapes on Dawn, the WebGPU of Chromium, through Node.js: a second, independent
//! implementation of WGSL. It takes the text that a browser takes.

mod install;
mod process;

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub(crate) use install::{dawn_turned_off, driver_hint};

use self::install::Install;
use self::process::{Failure, FailureKind, Process};
use super::tape::{BufferId, Run, Tape};
use super::{Leg, LegName};
use crate::contract::{Access, Caps, Plan};
use crate::driver::{DriverError, one_line};
use crate::gpu::device::{AdapterReport, turned_off};
use crate::gpu::probe;
use crate::source::{Source, Target, assemble};

/// The program on the other side.
const HOST: &str = include_str!("dawn/host.mjs");

/// Time limit of a request.
const LIMIT: Duration = Duration::from_secs(120);

/// A leg on Dawn. It takes the best adapter that Dawn accepts, whatever was selected for wgpu.
#[derive(Debug)]
pub struct DawnLeg {
    install: Install,
    report: AdapterReport,
    caps: Caps,
    session: Option<Session>,
    replaced: Vec<(String, String)>,
    /// Time limit of a request.
    pub limit: Duration,
}

/// A process with its device and the pipelines made on it, by number.
#[derive(Debug)]
struct Session {
    process: Process,
    made: usize,
    kernels: Vec<(Plan, usize)>,
}

/// A request, as `host.mjs` reads it.
#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Request<'a> {
    Open { backend: &'a str },
    Pipeline { label: &'a str, text: &'a str, bindings: Vec<&'static str> },
    Run { buffers: Vec<BufferSpec>, steps: Vec<StepSpec> },
}

#[derive(Debug, Clone, Copy, Serialize)]
struct BufferSpec {
    bytes: usize,
    uniform: bool,
    read_back: bool,
}

#[derive(Debug, Serialize)]
struct StepSpec {
    pipeline: usize,
    grid: [u32; 3],
    buffers: Vec<usize>,
}

/// The answer of a request that says nothing but that it was done.
#[derive(Debug, Deserialize)]
struct Done {}

/// The answer to [`Request::Open`], by WebGPU's names.
#[derive(Debug, Deserialize)]
struct Opened {
    info: Info,
    features: Vec<String>,
    limits: Limits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    vendor: String,
    device: String,
    description: String,
    subgroup_min_size: u32,
    subgroup_max_size: u32,
    is_fallback_adapter: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    max_compute_invocations_per_workgroup: u32,
    max_compute_workgroup_size_x: u32,
    max_compute_workgroups_per_dimension: u32,
    max_compute_workgroup_storage_size: u32,
    max_storage_buffer_binding_size: u64,
}

/// The backend that Dawn is asked for.
const fn backend() -> &'static str {
    if cfg!(target_vendor = "apple") {
        "metal"
    } else if cfg!(windows) {
        "d3d12"
    } else {
        "vulkan"
    }
}

impl DawnLeg {
    /// Finds Dawn (`WGTQ_DAWN`, else the cache folder), opens a device and measures its subgroups.
    pub fn open() -> Result<Self, DriverError> {
        if turned_off() {
            let reason = "WGTQ_GPU=none is set".to_owned();
            return Err(DriverError::NoDawn { reason, hint: "unset WGTQ_GPU".to_owned() });
        }
        Self::on(Install::find()?)
    }

    /// The same with the npm package in `folder`.
    pub fn open_in(folder: &Path) -> Result<Self, DriverError> {
        Self::on(Install::in_folder(folder)?)
    }

    fn on(install: Install) -> Result<Self, DriverError> {
        let (mut session, opened) = Session::open(&install, LIMIT)?;
        let measured = if opened.has("subgroups") { session.subgroup_size()? } else { None };
        let reported = opened.info.subgroup_min_size..=opened.info.subgroup_max_size;
        // A width that its driver does not admit to is none to plan for.
        let width = measured.filter(|width| reported.contains(width));
        Ok(Self {
            report: opened.report(&install, width),
            caps: opened.caps(width),
            install,
            session: Some(session),
            replaced: Vec::new(),
            limit: LIMIT,
        })
    }

    /// Runs `text` in place of the kernel `stem`'s own WGSL file.
    pub fn replace_source(&mut self, stem: &str, text: &str) {
        self.replaced.retain(|(s, _)| s != stem);
        self.replaced.push((stem.to_owned(), text.to_owned()));
        if let Some(session) = &mut self.session {
            session.kernels.clear();
        }
    }

    /// The id of Dawn's process; none after it failed, until the next tape starts another.
    pub fn process_id(&self) -> Option<u32> {
        self.session.as_ref().map(|session| session.process.id())
    }

    fn source(&self, plan: &Plan) -> Source {
        match self.replaced.iter().find(|(stem, _)| stem == plan.contract.stem) {
            Some((_, text)) => assemble(&plan.with_text(text), Target::WgslBrowser),
            None => assemble(plan, Target::WgslBrowser),
        }
    }

    /// Numbers of the pipelines of a tape's steps; what is new is made now.
    fn pipelines(&self, on: &mut Session, tape: &Tape<'_>) -> Result<Vec<usize>, DriverError> {
        let number = |plan: &Plan| {
            if let Some((_, number)) = on.kernels.iter().find(|(p, _)| p == plan) {
                return Ok(*number);
            }
            let bindings = plan.contract.bindings.iter().map(|b| binding_type(b.access)).collect();
            let source = self.source(plan);
            let made = on.pipeline(&plan.label, &source.text, bindings, self.limit)?;
            let number = made.map_err(|failure| refused(plan, &source, &failure))?;
            on.kernels.push((plan.clone(), number));
            Ok(number)
        };
        tape.steps.iter().map(|step| &step.plan).map(number).collect()
    }

    /// Fails where a binding is larger than the device allows.
    fn check(&self, tape: &Tape<'_>) -> Result<(), DriverError> {
        for step in &tape.steps {
            for id in &step.buffers {
                let needed = tape.slots[id.index()].bound_bytes();
                let found = self.report.max_storage_binding;
                if needed > found {
                    let (kernel, limit) = (step.plan.contract.stem, "maxStorageBufferBindingSize");
                    return Err(crate::Error::Limit { kernel, limit, needed, found }.into());
                }
            }
        }
        Ok(())
    }

    fn play_on(&self, on: &mut Session, tape: &Tape<'_>) -> Result<Run, DriverError> {
        let start = Instant::now();
        let pipelines = self.pipelines(on, tape)?;
        let compile = start.elapsed();

        let start = Instant::now();
        let mut memory = Memory::of(tape);
        let steps = memory.steps(tape, &pipelines);
        let what = tape.steps.first().map_or("an empty tape", |s| s.plan.contract.stem);
        let request = Request::Run { buffers: memory.buffers.clone(), steps };
        let answer = on.process.ask::<Done>(what, &request, memory.data, self.limit)?;
        let (Done {}, data) = answer.map_err(|failure| device_error(what, &failure))?;
        let mut rest = data.as_slice();
        let mut outputs = Vec::new();
        for id in BufferId::all(tape).filter(|id| tape.slots[id.index()].read_back) {
            let Some((bytes, after)) = rest.split_at_checked(memory.buffers[id.index()].bytes)
            else {
                return Err(DriverError::Dawn { message: format!("{what}: an output is missing") });
            };
            rest = after;
            let bytes = bytes[..tape.slots[id.index()].bound_bytes() as usize].to_vec();
            outputs.push((id, tape.accept(id, bytes)?));
        }
        Ok(Run { outputs, compile, execute: start.elapsed() })
    }
}

impl Session {
    fn open(install: &Install, limit: Duration) -> Result<(Self, Opened), DriverError> {
        let mut process = Process::start(install.command(HOST))?;
        let request = Request::Open { backend: backend() };
        match process.ask("open", &request, Vec::new(), limit)? {
            Ok((opened, _)) => Ok((Self { process, made: 0, kernels: Vec::new() }, opened)),
            Err(Failure { kind: FailureKind::Adapter, message, .. }) => {
                Err(DriverError::NoDawn { reason: message, hint: driver_hint().to_owned() })
            }
            Err(failure) => Err(device_error("open", &failure)),
        }
    }

    /// Makes a pipeline; its number.
    fn pipeline(
        &mut self,
        label: &str,
        text: &str,
        bindings: Vec<&'static str>,
        limit: Duration,
    ) -> Result<Result<usize, Failure>, DriverError> {
        let request = Request::Pipeline { label, text, bindings };
        let made = self.process.ask::<Done>(label, &request, Vec::new(), limit)?;
        Ok(made.map(|_| {
            self.made += 1;
            self.made - 1
        }))
    }

    /// The width that the same probe finds as on wgpu.
    fn subgroup_size(&mut self) -> Result<Option<u32>, DriverError> {
        probe::subgroup_size(|text, size| {
            let what = "subgroup probe";
            let failed = |failure: Failure| device_error(what, &failure);
            let text = format!("enable subgroups;\n{text}");
            let bindings = vec![binding_type(Access::ReadWrite)];
            let pipeline = self.pipeline(what, &text, bindings, LIMIT)?.map_err(failed)?;
            let bytes = size as usize * 8;
            let request = Request::Run {
                buffers: vec![BufferSpec { bytes, uniform: false, read_back: true }],
                steps: vec![StepSpec { pipeline, grid: [1, 1, 1], buffers: vec![0] }],
            };
            let answer = self.process.ask::<Done>(what, &request, vec![0; bytes], LIMIT)?;
            Ok(bytemuck::pod_collect_to_vec(&answer.map_err(failed)?.1))
        })
    }
}

impl Opened {
    fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }

    fn caps(&self, subgroup_size: Option<u32>) -> Caps {
        let limits = &self.limits;
        Caps {
            subgroup_size,
            matrices: None,
            storage_fence: false,
            multiprocessors: Caps::MULTIPROCESSORS,
            max_workgroup_storage: limits.max_compute_workgroup_storage_size,
            max_workgroup_threads: limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x),
            max_workgroups_per_dim: limits.max_compute_workgroups_per_dimension,
        }
    }

    fn report(&self, install: &Install, measured: Option<u32>) -> AdapterReport {
        let (info, limits) = (&self.info, &self.limits);
        let range = (info.subgroup_min_size, info.subgroup_max_size);
        AdapterReport {
            name: info.device.trim_end_matches('-').to_owned(),
            backend: format!("dawn {}", backend()),
            device_type: if info.is_fallback_adapter { "cpu" } else { "other" }.to_owned(),
            driver: format!("{} {}, webgpu {}", info.vendor, info.description, install.version),
            subgroup_size: self.has("subgroups").then_some(range),
            measured_subgroup_size: measured,
            shader_f16: self.has("shader-f16"),
            timestamps: self.has("timestamp-query"),
            passthrough: false,
            max_workgroup_storage: limits.max_compute_workgroup_storage_size,
            max_workgroup_threads: limits.max_compute_invocations_per_workgroup,
            max_storage_binding: limits.max_storage_buffer_binding_size,
        }
    }
}

/// The buffers of a tape and its uniform blocks, one after the other.
struct Memory {
    buffers: Vec<BufferSpec>,
    data: Vec<u8>,
}

impl Memory {
    fn of(tape: &Tape<'_>) -> Self {
        let mut memory = Self { buffers: Vec::new(), data: Vec::new() };
        for slot in &tape.slots {
            let start = memory.push(slot.bound_bytes() as usize, false, slot.read_back);
            slot.fill(|at, part| {
                memory.data[start + at..start + at + part.len()].copy_from_slice(part);
            });
        }
        memory
    }

    /// Adds a buffer of zeros; where it starts in the data.
    fn push(&mut self, bytes: usize, uniform: bool, read_back: bool) -> usize {
        let (start, bytes) = (self.data.len(), bytes.next_multiple_of(4).max(4));
        self.buffers.push(BufferSpec { bytes, uniform, read_back });
        self.data.resize(start + bytes, 0);
        start
    }

    /// The dispatches, each uniform block as a buffer of its own.
    fn steps(&mut self, tape: &Tape<'_>, pipelines: &[usize]) -> Vec<StepSpec> {
        let mut steps = Vec::new();
        for (step, &pipeline) in tape.steps.iter().zip(pipelines) {
            let mut storage = step.buffers.iter();
            let mut buffers = Vec::new();
            for (index, binding) in (0u32..).zip(step.plan.contract.bindings) {
                if binding.access == Access::Uniform {
                    let block = step.launch.uniform(index);
                    let start = self.push(block.len(), true, false);
                    self.data[start..start + block.len()].copy_from_slice(block);
                    buffers.push(self.buffers.len() - 1);
                } else {
                    buffers.extend(storage.next().map(|id| id.index()));
                }
            }
            steps.push(StepSpec { pipeline, grid: step.launch.grid, buffers });
        }
        steps
    }
}

/// WebGPU's name of a buffer binding.
const fn binding_type(access: Access) -> &'static str {
    match access {
        Access::Uniform => "uniform",
        Access::Read => "read-only-storage",
        Access::ReadWrite => "storage",
    }
}

/// A pipeline that Dawn refuses; an error of the text names the file's own line.
fn refused(plan: &Plan, source: &Source, failure: &Failure) -> DriverError {
    let kernel = plan.contract.stem;
    if failure.kind != FailureKind::Shader {
        return device_error(kernel, failure);
    }
    let place = failure.line.map(|line| source.locate(line));
    let place = place.map_or(String::new(), |(file, line)| format!("{file}:{line}: "));
    let message = format!("{place}{}", one_line(&failure.message));
    crate::Error::Shader { kernel, message }.into()
}

fn device_error(what: &str, failure: &Failure) -> DriverError {
    DriverError::Dawn { message: format!("{what}: {}", one_line(&failure.message)) }
}

impl Leg for DawnLeg {
    fn name(&self) -> LegName {
        LegName::WgslDawn
    }

    fn caps(&self) -> Caps {
        self.caps
    }

    fn adapter(&self) -> &AdapterReport {
        &self.report
    }

    fn source_hashes(&mut self, tape: &Tape<'_>) -> Result<Vec<(String, String)>, DriverError> {
        Ok(tape.source_hashes(Target::WgslBrowser))
    }

    fn run(&mut self, tape: &Tape<'_>) -> Result<Run, DriverError> {
        self.check(tape)?;
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::open(&self.install, self.limit)?.0,
        };
        let run = self.play_on(&mut session, tape);
        // A process that died or hangs is not asked again: the next tape starts another.
        if !matches!(run, Err(DriverError::Dawn { .. } | DriverError::DawnTimeout { .. })) {
            self.session = Some(session);
        }
        run
    }
}
