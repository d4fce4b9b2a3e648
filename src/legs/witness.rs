//! A leg that plays through another and keeps what the last kernel was given and what it wrote.

use super::{Leg, LegName, MslHostLeg, Run, Tape};
use crate::contract::{Caps, Plan};
use crate::driver::DriverError;
use crate::gpu::device::AdapterReport;
use crate::msl::original::Published;

/// One kernel of a tape, as it was played.
#[derive(Debug, Clone)]
pub struct Witnessed {
    /// What was planned.
    pub plan: Plan,
    /// The original that stood for it.
    pub published: Published,
    /// Contents of the uniform bindings by index: the contract's own blocks.
    pub uniforms: Vec<(u32, Vec<u8>)>,
    /// Contents of the storage bindings before, in binding order; empty for a poisoned output.
    pub before: Vec<Vec<u8>>,
    /// Contents after, in binding order; empty where nothing was read back.
    pub after: Vec<Vec<u8>>,
}

impl Witnessed {
    /// Contents of uniform binding `index`.
    pub fn uniform(&self, index: u32) -> &[u8] {
        self.uniforms.iter().find(|(i, _)| *i == index).map_or(&[], |(_, bytes)| bytes)
    }
}

/// Plays through a leg with originals.
#[derive(Debug)]
pub struct Witness<'l> {
    leg: &'l mut MslHostLeg,
    /// The last tape's kernel, if that tape had one kernel and the leg runs originals.
    pub played: Option<Witnessed>,
}

impl<'l> Witness<'l> {
    /// Plays through `leg`.
    pub const fn new(leg: &'l mut MslHostLeg) -> Self {
        Self { leg, played: None }
    }
}

impl Leg for Witness<'_> {
    fn name(&self) -> LegName {
        self.leg.name()
    }

    fn caps(&self) -> Caps {
        self.leg.caps()
    }

    fn adapter(&self) -> &AdapterReport {
        self.leg.adapter()
    }

    fn max_splits(&self) -> u32 {
        self.leg.max_splits()
    }

    fn runs_originals(&self) -> bool {
        self.leg.runs_originals()
    }

    fn findings(&self) -> Vec<String> {
        self.leg.findings()
    }

    fn source_hashes(&mut self, tape: &Tape<'_>) -> Result<Vec<(String, String)>, DriverError> {
        self.leg.source_hashes(tape)
    }

    fn run(&mut self, tape: &Tape<'_>) -> Result<Run, DriverError> {
        self.played = None;
        let run = self.leg.run(tape)?;
        if let [step] = tape.steps.as_slice()
            && let Some(found) = self.leg.original(&step.plan)?
        {
            let initial = |id| tape.initial(id).to_vec();
            self.played = Some(Witnessed {
                plan: step.plan.clone(),
                published: found.published,
                uniforms: step.launch.uniforms.clone(),
                before: step.buffers.iter().copied().map(initial).collect(),
                after: step.buffers.iter().map(|&id| run.bytes(id).to_vec()).collect(),
            });
        }
        Ok(run)
    }
}
