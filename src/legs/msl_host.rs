//! Plays tapes on the host: native MSL, or the MSL that naga makes of the WGSL.

use std::path::Path;
use std::time::{Duration, Instant};

use super::original::Bound;
use super::tape::{BufferId, Run, Step, Tape, sha256};
use super::{CheckerFinding, Leg, LegName, Played};
use crate::contract::{Access, Caps, Plan};
use crate::driver::DriverError;
use crate::gpu::device::AdapterReport;
use crate::msl::dispatch::{Buffer, LaneOrder, Mode, Request, run};
use crate::msl::findings::Finding;
use crate::msl::naga_msl::translate;
use crate::msl::original::{self, Found, Originals, calls};
use crate::msl::toolchain::{Build, Compiled, Toolchain};
use crate::params::MAX_SPLITS;
use crate::source::{Target, assemble};

/// Time limit of one dispatch.
const LIMIT: Duration = Duration::from_secs(120);

/// A leg without a GPU.
#[derive(Debug)]
pub struct MslHostLeg {
    name: LegName,
    toolchain: Toolchain,
    host: std::path::PathBuf,
    report: AdapterReport,
    kernels: Vec<(Plan, Kernel)>,
    replaced: Vec<(String, String)>,
    originals: Option<Originals>,
    found: Vec<(Plan, Build, Found)>,
    /// How lanes run, and whether accesses are checked.
    pub mode: Mode,
    /// Lane order.
    pub order: LaneOrder,
    /// What the checker found, over all tapes played.
    pub findings: Vec<Finding>,
    /// The most threadgroup memory that a dispatch used, in bytes.
    pub max_threadgroup_bytes: u64,
    /// CPU time of the dispatches.
    pub cpu: Duration,
    /// Whether [`Leg::run`] plays every way of [`Leg::play`], and takes a finding, or outputs that
    /// are not the same bits in all of them, for an error.
    pub every_way: bool,
}

/// The ways of [`Leg::play`]: lanes run ahead, from the first and from the last, and lanes that
/// keep close as on a GPU; all checked.
const WAYS: [(&str, Mode, LaneOrder); 3] = [
    ("strict", Mode::CheckStrict, LaneOrder::Ascending),
    ("strict, last lane first", Mode::CheckStrict, LaneOrder::Descending),
    ("lockstep", Mode::CheckLockstep, LaneOrder::Ascending),
];

/// A compiled kernel with what its dispatch needs beside the contract's buffers.
#[derive(Debug, Clone)]
struct Kernel {
    compiled: Compiled,
    entry: String,
    /// Buffer index of naga's table of sizes, and whose sizes it holds.
    sizes: Option<(u32, Vec<u32>)>,
    threadgroup: Vec<u32>,
    checked: bool,
}

/// What plays a step.
enum Executable {
    Own(Kernel),
    Original(Box<Found>),
}

impl MslHostLeg {
    /// Finds the compiler and builds the host. `name` is `msl-host` or `wgsl-naga-msl`.
    pub fn open(name: LegName) -> Result<Self, DriverError> {
        let toolchain = Toolchain::find()?;
        let host = toolchain.host()?;
        let report = AdapterReport {
            name: "MSL on the host".to_owned(),
            backend: "msl-host".to_owned(),
            device_type: "cpu".to_owned(),
            driver: toolchain.version().to_owned(),
            subgroup_size: Some((32, 32)),
            measured_subgroup_size: Some(32),
            shader_f16: true,
            timestamps: false,
            passthrough: true,
            max_workgroup_storage: Caps::APPLE.max_workgroup_storage,
            max_workgroup_threads: Caps::APPLE.max_workgroup_threads,
            max_storage_binding: 1 << 30,
        };
        Ok(Self {
            name,
            toolchain,
            host,
            report,
            kernels: Vec::new(),
            replaced: Vec::new(),
            originals: None,
            found: Vec::new(),
            mode: Mode::Fast,
            order: LaneOrder::Ascending,
            findings: Vec::new(),
            max_threadgroup_bytes: 0,
            cpu: Duration::ZERO,
            every_way: false,
        })
    }

    /// A leg `msl-host` that runs the original Metal files of `folder` in place of this project's
    /// kernels. Lanes keep close, as on a GPU, which originals may rely on; accesses are checked.
    pub fn with_originals(folder: &Path) -> Result<Self, DriverError> {
        let originals = Originals::open(folder)?;
        let mut leg = Self::open(LegName::MslHost)?;
        leg.report.name = format!("original MSL of {} on the host", folder.display());
        leg.originals = Some(originals);
        leg.mode = Mode::CheckLockstep;
        Ok(leg)
    }

    /// The original that stands for `plan`; none where this leg runs this project's kernels.
    pub fn original(&mut self, plan: &Plan) -> Result<Option<Found>, DriverError> {
        let Some(originals) = &self.originals else { return Ok(None) };
        let build = if self.mode.checked() { Build::Checked } else { Build::Fast };
        if let Some((.., found)) = self.found.iter().find(|(p, b, _)| p == plan && *b == build) {
            return Ok(Some(found.clone()));
        }
        let found = originals.find(&self.toolchain, plan, build)?;
        self.found.push((plan.clone(), build, found.clone()));
        Ok(Some(found))
    }

    /// Runs `text` in place of the kernel `stem`'s own MSL file.
    pub fn replace_source(&mut self, stem: &str, text: &str) {
        self.replaced.retain(|(s, _)| s != stem);
        self.replaced.push((stem.to_owned(), text.to_owned()));
        self.kernels.clear();
    }

    fn kernel(&mut self, plan: &Plan) -> Result<Kernel, DriverError> {
        let checked = self.mode.checked();
        let known = self.kernels.iter().find(|(p, k)| p == plan && k.checked == checked);
        if let Some((_, kernel)) = known {
            return Ok(kernel.clone());
        }
        let build = if checked { Build::Checked } else { Build::Fast };
        let kernel = if self.name == LegName::WgslNagaMsl {
            let new = self.replaced.iter().find(|(s, _)| s == plan.contract.stem);
            let naga = match new {
                Some((_, text)) => translate(&plan.with_text(text))?,
                None => translate(plan)?,
            };
            Kernel {
                compiled: self.toolchain.kernel(
                    &format!("{}.naga.metal", plan.label),
                    &naga.text,
                    build,
                )?,
                entry: naga.entry,
                sizes: Some((naga.sizes_index, naga.sized)),
                threadgroup: naga.threadgroup,
                checked,
            }
        } else {
            let mut text = assemble(plan, Target::Msl).text;
            if let Some((_, new)) = self.replaced.iter().find(|(s, _)| s == plan.contract.stem) {
                text = text.replace(plan.contract.msl, new);
            }
            Kernel {
                compiled: self.toolchain.kernel(&format!("{}.metal", plan.label), &text, build)?,
                entry: plan.contract.stem.to_owned(),
                sizes: None,
                threadgroup: Vec::new(),
                checked,
            }
        };
        self.kernels.push((plan.clone(), kernel.clone()));
        Ok(kernel)
    }

    /// One dispatch: buffers in, buffers out.
    fn dispatch(
        &mut self,
        kernel: &Kernel,
        step: &Step,
        memory: &mut [Vec<u8>],
    ) -> Result<(), DriverError> {
        let mut storage = step.buffers.iter();
        let mut buffers = Vec::new();
        let mut places = Vec::new();
        for (index, binding) in (0u32..).zip(step.plan.contract.bindings) {
            let (bytes, place) = if binding.access == Access::Uniform {
                (step.launch.uniform(index).to_vec(), None)
            } else {
                let id = storage.next().ok_or_else(|| DriverError::Msl {
                    message: format!("{}: no buffer for `{}`", kernel.entry, binding.name),
                })?;
                (std::mem::take(&mut memory[id.index()]), Some(*id))
            };
            buffers.push(Buffer { index, writable: binding.access == Access::ReadWrite, bytes });
            places.push(place);
        }
        if let Some((index, sized)) = &kernel.sizes {
            let size = |b: &u32| (buffers[*b as usize].bytes.len() as u32).to_le_bytes();
            let bytes = sized.iter().flat_map(size).collect();
            buffers.push(Buffer { index: *index, writable: false, bytes });
        }
        let request = Request {
            mode: self.mode,
            order: self.order,
            kernel: kernel.entry.clone(),
            threadgroups: step.launch.grid,
            threads: [step.plan.workgroup_size, 1, 1],
            constants: Vec::new(),
            threadgroup_memory: (0u32..).zip(kernel.threadgroup.iter().copied()).collect(),
            buffers,
            limit: LIMIT,
        };
        let buffers = self.send(&kernel.compiled.object, &request)?;
        for (place, bytes) in places.iter().zip(buffers) {
            if let Some(id) = place {
                memory[id.index()] = bytes;
            }
        }
        Ok(())
    }

    /// Runs a request and keeps what the checker finds, each place once; the buffers after it.
    fn send(&mut self, object: &Path, request: &Request) -> Result<Vec<Vec<u8>>, DriverError> {
        let response = run(&self.host, object, request)?;
        self.max_threadgroup_bytes = self.max_threadgroup_bytes.max(response.threadgroup_bytes);
        self.cpu += response.cpu;
        let place = |f: &Finding| (f.kind.clone(), f.kernel.clone(), f.file.clone(), f.line);
        for finding in response.findings {
            if self.findings.iter().all(|f| place(f) != place(&finding)) {
                self.findings.push(finding);
            }
        }
        Ok(response.buffers)
    }

    /// The dispatches by which an original does a step.
    fn dispatch_original(
        &mut self,
        found: &Found,
        step: &Step,
        memory: &mut [Vec<u8>],
    ) -> Result<(), DriverError> {
        for call in calls(&found.published, &step.launch)? {
            let bound = Bound::new(found, &call, step, memory);
            let request = Request {
                mode: self.mode,
                order: self.order,
                kernel: found.published.entry.clone(),
                threadgroups: call.grid,
                threads: [call.threads, 1, 1],
                constants: Vec::new(),
                threadgroup_memory: found
                    .arguments
                    .threadgroup
                    .then_some((0, found.published.threadgroup_bytes))
                    .into_iter()
                    .collect(),
                buffers: bound.buffers,
                limit: LIMIT,
            };
            let after = self.send(&found.compiled.object, &request)?;
            bound.places.iter().zip(after).for_each(|(place, bytes)| place.keep(bytes, memory));
        }
        Ok(())
    }

    /// The first way, if no way has a finding and all write the same bits: where nothing races, no
    /// order of lanes shows in a sum.
    fn run_every_way(&mut self, tape: &Tape<'_>) -> Result<Run, DriverError> {
        let mut first: Option<Played> = None;
        for played in self.play(tape)? {
            if let Some(finding) = played.findings.iter().flatten().next() {
                let place = finding.place.as_deref().unwrap_or("no place known");
                let message = format!("{place}: {}: {}", finding.kind, finding.message);
                return Err(DriverError::Msl { message });
            }
            let Some(first) = &first else {
                first = Some(played);
                continue;
            };
            if first.run.outputs != played.run.outputs {
                let message =
                    format!("the outputs differ between {} and {}", first.way, played.way);
                return Err(DriverError::Msl { message });
            }
        }
        first.map(|played| played.run).ok_or_else(|| DriverError::Msl {
            message: "there is no way to play a tape".to_owned(),
        })
    }

    /// One way: as [`Self::mode`] and [`Self::order`] say.
    fn run_once(&mut self, tape: &Tape<'_>) -> Result<Run, DriverError> {
        let start = Instant::now();
        let kernels: Vec<Executable> = tape
            .steps
            .iter()
            .map(|s| match self.original(&s.plan)? {
                Some(found) => Ok(Executable::Original(Box::new(found))),
                None => Ok(Executable::Own(self.kernel(&s.plan)?)),
            })
            .collect::<Result<_, DriverError>>()?;
        let compile = start.elapsed();

        let start = Instant::now();
        let mut memory: Vec<Vec<u8>> = tape
            .slots
            .iter()
            .map(|slot| {
                let mut bytes = vec![0; slot.bound_bytes() as usize];
                slot.fill(|at, part| bytes[at..at + part.len()].copy_from_slice(part));
                bytes
            })
            .collect();
        for (step, kernel) in tape.steps.iter().zip(&kernels) {
            match kernel {
                Executable::Own(kernel) => self.dispatch(kernel, step, &mut memory)?,
                Executable::Original(found) => self.dispatch_original(found, step, &mut memory)?,
            }
        }
        let outputs = BufferId::all(tape)
            .filter(|id| tape.slots[id.index()].read_back)
            .map(|id| Ok((id, tape.accept(id, std::mem::take(&mut memory[id.index()]))?)))
            .collect::<Result<_, DriverError>>()
            .map_err(|e| self.originals.as_ref().and_then(|_| self.fatal()).unwrap_or(e))?;
        Ok(Run { outputs, compile, execute: start.elapsed() })
    }

    /// The finding that ended a dispatch of an original early, as the error of its tape.
    fn fatal(&self) -> Option<DriverError> {
        let fatal = self.findings.iter().find(|f| f.kind == "out_of_bounds")?;
        Some(DriverError::Msl { message: fatal.to_string() })
    }
}

impl Leg for MslHostLeg {
    fn name(&self) -> LegName {
        self.name
    }

    fn caps(&self) -> Caps {
        Caps::APPLE
    }

    fn adapter(&self) -> &AdapterReport {
        &self.report
    }

    fn max_splits(&self) -> u32 {
        if self.originals.is_some() { original::MAX_SPLITS } else { MAX_SPLITS }
    }

    fn runs_originals(&self) -> bool {
        self.originals.is_some()
    }

    fn findings(&self) -> Vec<String> {
        self.findings.iter().map(Finding::to_string).collect()
    }

    fn source_hashes(&mut self, tape: &Tape<'_>) -> Result<Vec<(String, String)>, DriverError> {
        if self.originals.is_none() {
            return Ok(tape.source_hashes(Target::of(self.name.language())));
        }
        let mut hashes = Vec::new();
        for step in &tape.steps {
            if let Some(found) = self.original(&step.plan)? {
                let entry = (found.published.entry, sha256(&found.text));
                if !hashes.contains(&entry) {
                    hashes.push(entry);
                }
            }
        }
        Ok(hashes)
    }

    fn run(&mut self, tape: &Tape<'_>) -> Result<Run, DriverError> {
        if self.every_way { self.run_every_way(tape) } else { self.run_once(tape) }
    }

    fn play(&mut self, tape: &Tape<'_>) -> Result<Vec<Played>, DriverError> {
        let (mode, order) = (self.mode, self.order);
        let before = std::mem::take(&mut self.findings);
        let mut played = Vec::new();
        for (way, mode, order) in WAYS {
            (self.mode, self.order) = (mode, order);
            let run = self.run_once(tape);
            let found = std::mem::take(&mut self.findings);
            let findings = Some(found.iter().map(CheckerFinding::from).collect());
            played.push(run.map(|run| Played { way, run, findings }));
        }
        (self.mode, self.order, self.findings) = (mode, order, before);
        played.into_iter().collect()
    }
}

impl From<&Finding> for CheckerFinding {
    fn from(f: &Finding) -> Self {
        let place = |file: &String| match (f.line, f.column) {
            (Some(line), Some(column)) => format!("{file}:{line}:{column}"),
            _ => file.clone(),
        };
        Self { kind: f.kind.clone(), message: f.message.clone(), place: f.file.as_ref().map(place) }
    }
}
