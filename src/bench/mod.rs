//! Times on a GPU, beside the device's own copy and read speed: decode attention over packed caches
//! of every width and over dense f16, and the kernels that work row by row ([`Subject::Rows`]).
//!
//! Every point of attention is verified on the very buffers that are timed: the last KV head with all its query
//! heads against the f64 oracle. A time is the GPU's timestamps around one pass of many calls,
//! divided by their number; a call is the attention dispatch and, where the context is split, the
//! merge. Each call waits for the one before it, since they write the same output. Calls go round
//! copies of the cache that together are larger than any last-level cache.

mod array;
mod bandwidth;
mod cache;
pub mod chart;
mod clock;
mod leg;
mod point;
pub mod report;
mod rows;
mod samples;
mod tile;

use std::str::FromStr;

use crate::codec::{Bits, HeadDim};
use crate::driver::DriverError;
use crate::gpu::device::Gpu;
use crate::legs::LegName;
use bandwidth::{Bandwidth, Copier};
use cache::Cache;
use clock::Clock;
use report::{Environment, PointReport, RowReport};

/// Heads and head dim of a model, by the letter of its row in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Preset {
    /// 16 query heads, 8 KV heads, head_dim 256
    #[cfg_attr(feature = "cli", value(name = "G"))]
    G,
    /// 32 query heads, 8 KV heads, head_dim 128
    #[cfg_attr(feature = "cli", value(name = "L"))]
    L,
    /// 32 query heads, 4 KV heads, head_dim 512
    #[cfg_attr(feature = "cli", value(name = "X"))]
    X,
    /// 9 query heads, 3 KV heads, head_dim 64
    #[cfg_attr(feature = "cli", value(name = "S"))]
    S,
}

impl Preset {
    /// The letter.
    pub const fn name(self) -> &'static str {
        match self {
            Self::G => "G",
            Self::L => "L",
            Self::X => "X",
            Self::S => "S",
        }
    }

    /// Query heads, KV heads, coordinates of a head vector.
    pub const fn shape(self) -> (u32, u32, HeadDim) {
        let [d64, d128, d256, d512] = HeadDim::ALL;
        match self {
            Self::G => (16, 8, d256),
            Self::L => (32, 8, d128),
            Self::X => (32, 4, d512),
            Self::S => (9, 3, d64),
        }
    }
}

/// Kernels that are timed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Subject {
    /// Decode attention, merge included
    Attention,
    /// The encoders, quantize_kv and quantize_k_and_v, and fwht
    Rows,
}

/// How K and V are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Dense f16: the control.
    F16,
    /// Packed codes of these widths.
    Packed {
        /// Bits of a K code.
        k: Bits,
        /// Bits of a V code.
        v: Bits,
    },
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::F16 => f.write_str("f16"),
            Self::Packed { k, v } => write!(f, "{k}/{v}"),
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "f16" {
            return Ok(Self::F16);
        }
        let bits = |part: &str| part.parse().ok().and_then(|b| Bits::new(b).ok());
        text.split_once('/')
            .and_then(|(k, v)| Some(Self::Packed { k: bits(k)?, v: bits(v)? }))
            .ok_or_else(|| format!("need f16 or K/V bits such as 8/4, found {text}"))
    }
}

/// Arithmetic of packed attention.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Arithmetic {
    /// f32: flash_attn_vec_tq, or flash_attn_tile for several query tokens
    #[default]
    F32,
    /// f16 with f32 sums, on cooperative matrices: flash_attn_mat_tq or flash_attn_mat_tile
    F16,
}

/// Dispatches of packed attention.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Dispatches {
    /// Attention and, where the context is split, the merge; q and the output stay rotated
    #[default]
    Two,
    /// flash_attn_decode_tq: merge and both rotations are part of it
    One,
    /// flash_attn_decode_tq: the merge is part of it; q and the output stay rotated
    OneRotated,
}

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Kernels.
    pub subjects: Vec<Subject>,
    /// Shapes.
    pub presets: Vec<Preset>,
    /// Positions that attention is over.
    pub lengths: Vec<u32>,
    /// Query tokens of attention, each no more than any length: the newest ones.
    pub query_tokens: Vec<u32>,
    /// Tokens of the row kernels, each with a row a KV head.
    pub tokens: Vec<u32>,
    /// Formats.
    pub formats: Vec<Format>,
    /// Arithmetic of packed attention.
    pub arithmetic: Arithmetic,
    /// Dispatches of packed attention; one is f32.
    pub dispatches: Dispatches,
    /// Weight under which V is skipped, 0 for none: by two dispatches in f32.
    pub weight_floor: f32,
    /// Legs: those of wgpu.
    pub legs: Vec<LegName>,
    /// Numbers of splits to try; empty for the kernel's own choice.
    pub splits: Vec<u32>,
    /// Whether one cache is read again and again.
    pub hot: bool,
    /// Least milliseconds of calls before the first sample.
    pub warm_up_ms: f64,
    /// The same after the oracle has left the GPU idle: it needs them to raise its clock.
    pub wake_up_ms: f64,
    /// Samples of a point.
    pub samples: usize,
    /// Seed of the data.
    pub seed: u64,
}

impl Plan {
    /// Each leg with each number of splits.
    pub fn runs(&self) -> Vec<(LegName, Option<u32>)> {
        let splits = || -> Vec<Option<u32>> {
            if self.splits.is_empty() {
                return vec![None];
            }
            self.splits.iter().copied().map(Some).collect()
        };
        self.legs.iter().flat_map(|&leg| splits().into_iter().map(move |n| (leg, n))).collect()
    }

    /// What attention is over: shape, positions, query tokens, format.
    fn caches(&self) -> Vec<(Preset, u32, u32, Format)> {
        let mut caches = Vec::new();
        for &preset in &self.presets {
            for &length in &self.lengths {
                for &query_tokens in &self.query_tokens {
                    caches.extend(self.formats.iter().map(|&f| (preset, length, query_tokens, f)));
                }
            }
        }
        caches
    }

    /// Number of points.
    pub fn count(&self) -> usize {
        let each = |subject: &Subject| match subject {
            Subject::Attention => self.caches().len() * self.runs().len(),
            Subject::Rows => {
                let rows = self.tokens.len() * self.legs.len() * rows::points_each();
                rows * self.presets.len()
            }
        };
        self.subjects.iter().map(each).sum()
    }
}

/// One point to measure.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    preset: Preset,
    length: u32,
    query_tokens: u32,
    format: Format,
    arithmetic: Arithmetic,
    dispatches: Dispatches,
    weight_floor: f32,
    leg: LegName,
    /// The number of splits, unless the kernel chooses.
    nwg: Option<u32>,
    /// Whether the GPU was idle before.
    idle: bool,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The device.
    pub environment: Environment,
    /// Attention.
    pub points: Vec<PointReport>,
    /// Row kernels.
    pub rows: Vec<RowReport>,
}

/// Measures everything that `plan` names; `done` is told the name of each point as it is finished.
pub fn run(gpu: &Gpu, plan: &Plan, mut done: impl FnMut(&str)) -> Result<Measured, DriverError> {
    let clock = Clock::new(gpu)?;
    let bandwidth = Bandwidth::measure(&Copier::new(gpu, &clock, plan)?)?;
    let (mut points, mut rows) = (Vec::new(), Vec::new());
    for subject in &plan.subjects {
        match subject {
            Subject::Attention => points = attention(gpu, &clock, plan, &mut done)?,
            Subject::Rows => rows = rows::run(gpu, &clock, plan, &mut done)?,
        }
    }
    report::relate(&mut points, bandwidth.copy_gb_s);
    report::relate_rows(&mut rows, bandwidth.copy_gb_s);
    let environment = Environment {
        adapter: gpu.report.clone(),
        copy_gb_s: bandwidth.copy_gb_s,
        read_gb_s: bandwidth.read_gb_s,
        dispatch_us: bandwidth.dispatch_us,
    };
    Ok(Measured { environment, points, rows })
}

fn attention(
    gpu: &Gpu,
    clock: &Clock,
    plan: &Plan,
    mut done: impl FnMut(&str),
) -> Result<Vec<PointReport>, DriverError> {
    let mut points = Vec::new();
    for (preset, length, query_tokens, format) in plan.caches() {
        let cache = Cache::new(gpu, (preset, length, query_tokens, format), plan)?;
        let mut idle = true;
        for (leg, nwg) in plan.runs() {
            let Plan { arithmetic, dispatches, weight_floor, .. } = *plan;
            let point = Point {
                preset,
                length,
                query_tokens,
                format,
                arithmetic,
                dispatches,
                weight_floor,
                leg,
                nwg,
                idle,
            };
            points.push(point.measure(gpu, clock, &cache, plan)?);
            done(&format!("{} {length} {format}", preset.name()));
            idle = false;
        }
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_read_back_as_they_are_written() {
        for text in ["f16", "4/4", "8/4", "2/6"] {
            assert_eq!(text.parse::<Format>().unwrap().to_string(), text);
        }
        for text in ["", "f32", "4", "7/4", "4/", "4/4/4", "k4v4"] {
            let error = text.parse::<Format>().unwrap_err();
            assert!(error.contains(&format!("found {text}")), "{error}");
        }
    }
}
