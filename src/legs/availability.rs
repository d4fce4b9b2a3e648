//! Which legs this machine can run, and for each that it cannot, why and how to get it.

use schemars::JsonSchema;
use serde::Serialize;

use super::{DawnLeg, Leg as _, LegName, dawn_turned_off, driver_hint};
use crate::driver::{DriverError, one_line};
use crate::gpu::device::{Gpu, Selection, turned_off};
#[cfg(feature = "msl-host")]
use crate::msl::toolchain::Toolchain;

/// Whether a leg can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It can.
    Available,
    /// A part is missing that this kind of machine can have.
    Missing,
    /// Not on this operating system or adapter.
    Unsupported,
    /// Left out by an environment variable.
    TurnedOff,
}

impl Status {
    /// The word as written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Missing => "missing",
            Self::Unsupported => "unsupported",
            Self::TurnedOff => "turned-off",
        }
    }
}

/// What is known of one leg on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Availability {
    /// The leg.
    pub leg: LegName,
    /// Whether it can be opened.
    pub status: Status,
    /// What it runs on, or what stands in its way.
    pub reason: String,
    /// What to do about it: a command where there is one. Null for an available leg.
    pub hint: Option<String>,
}

impl Availability {
    /// Whether the leg can be opened.
    pub fn is_available(&self) -> bool {
        self.status == Status::Available
    }

    fn yes(leg: LegName, on: impl Into<String>) -> Self {
        Self { leg, status: Status::Available, reason: on.into(), hint: None }
    }

    fn no(
        leg: LegName,
        status: Status,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { leg, status, reason: reason.into(), hint: Some(hint.into()) }
    }
}

/// Looks at every leg, in the order of [`LegName::ALL`]. Opens the selected adapter and Dawn, and
/// asks clang for its version; compiles no kernel.
pub fn availability(selection: &Selection) -> Vec<Availability> {
    let gpu = Gpu::open(selection);
    #[cfg(feature = "msl-host")]
    let toolchain = Toolchain::find();
    let of = |leg: &LegName| match *leg {
        #[cfg(feature = "msl-host")]
        leg @ (LegName::MslHost | LegName::WgslNagaMsl) => on_host(leg, &toolchain),
        LegName::WgslDawn => on_dawn(&DawnLeg::open()),
        leg => on_gpu(leg, &gpu),
    };
    LegName::ALL.iter().map(of).collect()
}

/// A leg that plays on a wgpu device.
fn on_gpu(leg: LegName, gpu: &Result<Gpu, DriverError>) -> Availability {
    if turned_off() {
        let hint = "unset WGTQ_GPU";
        return Availability::no(leg, Status::TurnedOff, "WGTQ_GPU=none is set", hint);
    }
    let needed = match leg {
        LegName::WgslSpirv => Some("vulkan"),
        LegName::Msl => Some("metal"),
        _ => None,
    };
    if needed == Some("metal") && !cfg!(target_vendor = "apple") {
        let reason = "needs Metal, which only Apple's systems have";
        return Availability::no(leg, Status::Unsupported, reason, elsewhere());
    }
    if needed == Some("vulkan") && cfg!(target_vendor = "apple") {
        let reason = "needs Vulkan, which Apple's systems do not have";
        return Availability::no(leg, Status::Unsupported, reason, "use the leg msl here");
    }
    let gpu = match gpu {
        Ok(gpu) => gpu,
        Err(error) => return no_gpu(leg, error),
    };
    let report = &gpu.report;
    let on = format!("{} ({})", report.name, report.backend);
    match needed {
        Some(backend) if report.backend != backend => Availability::no(
            leg,
            Status::Unsupported,
            format!("needs a {backend} adapter, found {on}"),
            match hidden_drivers() {
                Some((name, _)) => format!("unset {name}"),
                None => format!("choose one with --backend {backend}"),
            },
        ),
        Some(_) if !report.passthrough => Availability::no(
            leg,
            Status::Unsupported,
            format!("needs PASSTHROUGH_SHADERS, which {on} lacks"),
            "choose another adapter with --adapter NAME",
        ),
        _ => Availability::yes(leg, on),
    }
}

/// The leg that plays on Dawn.
fn on_dawn(leg: &Result<DawnLeg, DriverError>) -> Availability {
    let status =
        if turned_off() || dawn_turned_off() { Status::TurnedOff } else { Status::Missing };
    match leg {
        Ok(leg) => {
            let report = leg.adapter();
            Availability::yes(LegName::WgslDawn, format!("{} ({})", report.name, report.backend))
        }
        Err(DriverError::NoDawn { reason, hint }) => {
            Availability::no(LegName::WgslDawn, status, reason, hint)
        }
        Err(error) => {
            let reason = one_line(&error.to_string());
            Availability::no(LegName::WgslDawn, status, reason, driver_hint())
        }
    }
}

/// Where native MSL can run instead.
const fn elsewhere() -> &'static str {
    if cfg!(feature = "msl-host") {
        "run on a Mac, or use the leg msl-host here"
    } else {
        "run on a Mac"
    }
}

/// A variable that names the only Vulkan drivers to look for.
fn hidden_drivers() -> Option<(&'static str, String)> {
    let set = |name| Some((name, std::env::var_os(name)?.to_string_lossy().into_owned()));
    ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].into_iter().find_map(set)
}

fn no_gpu(leg: LegName, error: &DriverError) -> Availability {
    match error {
        DriverError::NoAdapter => {
            let (reason, hint) = match hidden_drivers() {
                Some((name, value)) => {
                    (format!("no GPU adapter found, with {name}={value}"), format!("unset {name}"))
                }
                None => ("no GPU adapter found".to_owned(), install(Part::Vulkan)),
            };
            Availability::no(leg, Status::Missing, reason, hint)
        }
        DriverError::Argument { .. } => {
            let reason = one_line(&error.to_string());
            Availability::no(leg, Status::Missing, reason, "list adapters with wgtq adapters")
        }
        _ => {
            let reason = one_line(&error.to_string());
            Availability::no(leg, Status::Missing, reason, "update the GPU driver")
        }
    }
}

/// A leg that plays on this machine's processor.
#[cfg(feature = "msl-host")]
fn on_host(leg: LegName, toolchain: &Result<Toolchain, DriverError>) -> Availability {
    if cfg!(windows) {
        let reason = "the host needs Linux or macOS";
        return Availability::no(leg, Status::Unsupported, reason, "run in WSL");
    }
    let named = std::env::var("WGTQ_CXX").ok();
    if named.as_deref() == Some("none") {
        let reason = "WGTQ_CXX=none is set";
        return Availability::no(leg, Status::TurnedOff, reason, "unset WGTQ_CXX");
    }
    match (toolchain, named) {
        (Ok(toolchain), _) => Availability::yes(leg, toolchain.version()),
        (Err(_), Some(name)) => Availability::no(
            leg,
            Status::Missing,
            format!("WGTQ_CXX={name} is no clang that runs"),
            "set WGTQ_CXX to clang++ 19 or newer, or unset it",
        ),
        (Err(_), None) => {
            let reason = "needs clang++ 19 or newer, found none";
            Availability::no(leg, Status::Missing, reason, install(Part::Clang))
        }
    }
}

/// What a package can bring.
#[derive(Debug, Clone, Copy)]
enum Part {
    Vulkan,
    #[cfg(feature = "msl-host")]
    Clang,
}

/// Package managers by their program, with the packages of Vulkan in software and of clang.
const MANAGERS: &[(&str, &str, &str)] = &[
    ("apt-get install --no-install-recommends", "mesa-vulkan-drivers", "clang-19"),
    ("dnf install", "mesa-vulkan-drivers", "clang"),
    ("pacman -S", "vulkan-swrast", "clang"),
];

/// The command that installs `part` on this machine; words where no package manager is known.
fn install(part: Part) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let here = |command: &str| {
        let program = command.split(' ').next().unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    let manager = MANAGERS.iter().find(|(command, ..)| here(command));
    match (part, manager) {
        (Part::Vulkan, _) if cfg!(target_vendor = "apple") => {
            "Metal comes with macOS; a virtual machine must pass the GPU on".to_owned()
        }
        (Part::Vulkan, Some((command, vulkan, _))) => format!("{command} {vulkan}"),
        (Part::Vulkan, None) => "install a Vulkan driver (Mesa's lavapipe needs no GPU)".to_owned(),
        #[cfg(feature = "msl-host")]
        (Part::Clang, Some((command, _, clang))) => format!("{command} {clang}"),
        #[cfg(feature = "msl-host")]
        (Part::Clang, None) if cfg!(target_vendor = "apple") => {
            "brew install llvm, then set WGTQ_CXX to its bin/clang++".to_owned()
        }
        #[cfg(feature = "msl-host")]
        (Part::Clang, None) => "install clang 19 or newer".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_leg_without_its_part_says_why_and_what_to_do() {
        for error in [
            DriverError::NoAdapter,
            DriverError::Gpu { message: "lost".to_owned() },
            DriverError::Argument { flag: "--adapter", need: "x".into(), found: "y".into() },
        ] {
            let gpu = Err(error);
            for leg in [LegName::Wgsl, LegName::WgslTrusted, LegName::WgslSpirv, LegName::Msl] {
                let found = on_gpu(leg, &gpu);
                assert!(!found.is_available() && !found.reason.is_empty(), "{found:?}");
                assert!(found.hint.is_some_and(|h| !h.is_empty()), "{leg:?}: {}", found.reason);
            }
        }
    }

    #[cfg(feature = "msl-host")]
    #[test]
    fn a_host_leg_without_a_compiler_says_what_to_install() {
        let found = on_host(LegName::MslHost, &Err(DriverError::Msl { message: String::new() }));
        assert!(!found.is_available() && found.hint.is_some(), "{found:?}");
    }
}
