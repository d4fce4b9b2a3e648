//! Replay of one decode step: captured or synthesised inputs through the kernels of any leg,
//! compared with the f64 oracles.

pub mod manifest;
#[cfg(feature = "msl-host")]
mod originals;
pub mod report;
pub mod singlestep;
pub mod synth;

use serde::Serialize;

/// Which computation is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Variation {
    /// FWHT(q), attention over packed K and V, FWHT(out).
    #[default]
    #[cfg_attr(feature = "cli", value(name = "A", alias = "a"))]
    #[serde(rename = "A")]
    A,
    /// Attention over packed K and V with the unrotated q, output left rotated: must be far off.
    #[cfg_attr(feature = "cli", value(name = "B", alias = "b"))]
    #[serde(rename = "B")]
    B,
    /// K and V decoded and un-rotated on the device, then dense attention.
    #[cfg_attr(feature = "cli", value(name = "C", alias = "c"))]
    #[serde(rename = "C (dense control)")]
    C,
}

/// What is changed on purpose before the replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Canary {
    /// Nothing.
    #[default]
    None,
    /// The K norm of KV head 0, position 10, doubled on the device and in the oracle.
    InRange,
    /// The same, doubled on the device only.
    InRangeAsymmetric,
    /// The norms of every slot that holds no position become 1e9.
    OutOfRange,
}

/// Which references the output is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Oracle {
    /// Attention on the decoded K and V: rounding only.
    #[default]
    Dequant,
    /// Attention on the unquantised K and V: what the codec costs.
    IndependentFloor,
    /// Both.
    Both,
}

/// Position that the in-range canary changes.
pub const CANARY_POSITION: u32 = 10;
/// Factor of the in-range canary.
pub const CANARY_FACTOR: f32 = 2.0;
/// Norm of the out-of-range canary.
pub const CANARY_NORM: f32 = 1e9;
