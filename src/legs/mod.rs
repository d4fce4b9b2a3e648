//! Legs: who can execute a kernel. A driver writes a [`Tape`] once and any leg plays it.

#[cfg(feature = "driver")]
mod availability;
#[cfg(feature = "driver")]
mod dawn;
#[cfg(feature = "msl-host")]
mod msl_host;
#[cfg(feature = "msl-host")]
mod original;
mod played;
mod recorder;
#[cfg(feature = "driver")]
pub(crate) mod spirv;
#[cfg(any(feature = "driver", feature = "web"))]
pub(crate) mod submit;
#[cfg_attr(
    not(any(feature = "driver", feature = "web")),
    expect(dead_code, reason = "the feature `suite` alone has no leg that plays a tape")
)]
mod tape;
#[cfg(feature = "driver")]
mod wgpu_leg;
#[cfg(feature = "msl-host")]
mod witness;

use schemars::JsonSchema;
use serde::Serialize;

#[cfg(feature = "driver")]
pub use availability::{Availability, Status, availability};
#[cfg(feature = "driver")]
pub use dawn::DawnLeg;
#[cfg(feature = "driver")]
pub(crate) use dawn::{dawn_turned_off, driver_hint};
#[cfg(feature = "msl-host")]
pub use msl_host::MslHostLeg;
pub use played::{CheckerFinding, Played};
pub use recorder::{PackedBuffers, Recorder};
#[cfg(feature = "web")]
pub(crate) use tape::sha256;
pub use tape::{BufferId, POISON, Run, Tape};
#[cfg(feature = "driver")]
pub use wgpu_leg::WgpuLeg;
#[cfg(feature = "msl-host")]
pub use witness::{Witness, Witnessed};

use crate::contract::{Caps, Language};
use crate::driver::DriverError;
use crate::gpu::AdapterReport;
#[cfg(feature = "driver")]
use crate::gpu::device::Selection;
use crate::params::MAX_SPLITS;
use crate::source::Target;

/// A leg's name on the command line and in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum LegName {
    /// WGSL through wgpu, with wgpu's run-time checks.
    Wgsl,
    /// WGSL through wgpu without run-time checks, as hand-written MSL runs.
    WgslTrusted,
    /// The WGSL as SPIR-V through a pass-through module (Vulkan).
    WgslSpirv,
    /// The WGSL as a browser takes it, through Dawn.
    WgslDawn,
    /// The native MSL through a pass-through module (Metal).
    Msl,
    /// The native MSL executed on this machine's processor.
    #[cfg(feature = "msl-host")]
    MslHost,
    /// The MSL that naga makes of the WGSL for Metal, executed on this machine's processor.
    #[cfg(feature = "msl-host")]
    WgslNagaMsl,
}

impl LegName {
    /// Every leg that this build has.
    pub const ALL: &[Self] = &[
        Self::Wgsl,
        Self::WgslTrusted,
        Self::WgslSpirv,
        Self::WgslDawn,
        Self::Msl,
        #[cfg(feature = "msl-host")]
        Self::MslHost,
        #[cfg(feature = "msl-host")]
        Self::WgslNagaMsl,
    ];

    /// The name as written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wgsl => "wgsl",
            Self::WgslTrusted => "wgsl-trusted",
            Self::WgslSpirv => "wgsl-spirv",
            Self::WgslDawn => "wgsl-dawn",
            Self::Msl => "msl",
            #[cfg(feature = "msl-host")]
            Self::MslHost => "msl-host",
            #[cfg(feature = "msl-host")]
            Self::WgslNagaMsl => "wgsl-naga-msl",
        }
    }

    /// The language its kernels are planned for.
    pub const fn language(self) -> Language {
        match self {
            Self::Msl => Language::Msl,
            #[cfg(feature = "msl-host")]
            Self::MslHost => Language::Msl,
            _ => Language::Wgsl,
        }
    }

    /// Opens the leg.
    #[cfg(feature = "driver")]
    pub fn open(self, selection: &Selection) -> Result<Box<dyn Leg + Send>, DriverError> {
        match self {
            Self::WgslDawn => Ok(Box::new(DawnLeg::open()?)),
            #[cfg(feature = "msl-host")]
            Self::MslHost | Self::WgslNagaMsl => Ok(Box::new(MslHostLeg::open(self)?)),
            _ => Ok(Box::new(WgpuLeg::open(self, selection)?)),
        }
    }

    /// Opens the leg; `msl-host` with the original Metal files of `msl_dir`, if that is given.
    #[cfg(feature = "msl-host")]
    pub fn open_with(
        self,
        selection: &Selection,
        msl_dir: Option<&std::path::Path>,
    ) -> Result<Box<dyn Leg + Send>, DriverError> {
        match (self, msl_dir) {
            (Self::MslHost, Some(folder)) => Ok(Box::new(MslHostLeg::with_originals(folder)?)),
            _ => self.open(selection),
        }
    }
}

/// Something that plays tapes.
pub trait Leg {
    /// Its name.
    fn name(&self) -> LegName;
    /// What plans for it may use.
    fn caps(&self) -> Caps;
    /// The machine behind it.
    fn adapter(&self) -> &AdapterReport;
    /// Most splits of a row that its kernels take.
    fn max_splits(&self) -> u32 {
        MAX_SPLITS
    }
    /// Whether it runs original Metal files, with their known limits, in place of this project's.
    fn runs_originals(&self) -> bool {
        false
    }
    /// What a checker found, over all tapes played, a line each.
    fn findings(&self) -> Vec<String> {
        Vec::new()
    }
    /// Label and SHA-256 of every distinct source text that it runs for `tape`.
    fn source_hashes(&mut self, tape: &Tape<'_>) -> Result<Vec<(String, String)>, DriverError> {
        Ok(tape.source_hashes(Target::of(self.name().language())))
    }
    /// Plays `tape`: all steps in order, then the outputs.
    fn run(&mut self, tape: &Tape<'_>) -> Result<Run, DriverError>;
    /// Plays `tape` in every way that the leg has: one, or, where a checker runs it, lanes in
    /// several orders.
    fn play(&mut self, tape: &Tape<'_>) -> Result<Vec<Played>, DriverError> {
        Ok(vec![Played { way: "", run: self.run(tape)?, findings: None }])
    }
}
