//! The kernels that work row by row, on as many rows as T tokens have KV heads.
//!
//! A sample of rows, the last one among them, is held against the oracle on the buffers that are
//! then timed. Gigabytes are those that have to move: rows read and rows written.

mod verdict;

use super::array::{Array, copies};
use super::bandwidth::Copier;
use super::clock::Clock;
use super::report::{RowReport, RowTiming};
use super::samples::Samples;
use super::{Plan, Preset, leg};
use crate::codec::{Bits, Codec, Direction, Rotation, row};
use crate::contract::{Access, Launch, Plan as KernelPlan};
use crate::driver::DriverError;
use crate::gpu::device::Gpu;
use crate::gpu::{RawBound, RawKernel};
use crate::kernels::{fwht, quantize_k_and_v, quantize_kv};
use crate::legs::LegName;
use crate::params::{FwhtParams, QuantizeKvParams};
use crate::parity::Outcome;
use crate::rng::Gaussian;

/// Rows that are held against the oracle.
const CHECKED: u64 = 64;
/// Rows of data, again and again: a number that no layout has as a factor.
const PERIOD: usize = 1021;

/// A kernel with its widths.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kernel {
    Fwht,
    Quantize(Bits),
    /// K and V in one dispatch.
    QuantizeBoth {
        k: Bits,
        v: Bits,
    },
}

const KERNELS: [Kernel; 4] = [
    Kernel::Quantize(Bits::B4),
    Kernel::Quantize(Bits::B8),
    Kernel::QuantizeBoth { k: Bits::B8, v: Bits::B4 },
    Kernel::Fwht,
];

/// What rows a measurement is about.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shape {
    preset: Preset,
    tokens: u32,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    shape: Shape,
    kernel: Kernel,
    leg: LegName,
    /// Whether the GPU was idle before.
    idle: bool,
}

/// Points of every shape and leg.
pub(super) const fn points_each() -> usize {
    KERNELS.len()
}

/// Measures every kernel on every shape; `done` is told each point's name.
pub(super) fn run(
    gpu: &Gpu,
    clock: &Clock,
    plan: &Plan,
    mut done: impl FnMut(&str),
) -> Result<Vec<RowReport>, DriverError> {
    let copier = Copier::new(gpu, clock, plan)?;
    let mut reports = Vec::new();
    for &preset in &plan.presets {
        for &tokens in &plan.tokens {
            let shape = Shape { preset, tokens };
            let source = shape.source(gpu, plan)?;
            let mut idle = true;
            for kernel in KERNELS {
                let copied_us = copier.copied_us(shape.read(kernel), shape.written(kernel))?;
                for &leg in &plan.legs {
                    let point = Point { shape, kernel, leg, idle };
                    let report = match &source {
                        Ok(source) => point.measure(gpu, clock, source, plan)?,
                        Err(lacking) => point.skipped(lacking),
                    };
                    reports.push(RowReport { copied_us, ..report });
                    done(&format!("{} {tokens} {}", preset.name(), kernel.stem()));
                    idle = false;
                }
            }
        }
    }
    Ok(reports)
}

impl Kernel {
    const fn stem(self) -> &'static str {
        match self {
            Self::Fwht => "fwht",
            Self::Quantize(_) => "quantize_kv",
            Self::QuantizeBoth { .. } => "quantize_k_and_v",
        }
    }

    /// The widths that it writes, in the order of its outputs.
    fn widths(self) -> Vec<Bits> {
        match self {
            Self::Fwht => Vec::new(),
            Self::Quantize(bits) => vec![bits],
            Self::QuantizeBoth { k, v } => vec![k, v],
        }
    }

    fn bits(self) -> Option<String> {
        match self {
            Self::Fwht => None,
            Self::Quantize(bits) => Some(bits.to_string()),
            Self::QuantizeBoth { k, v } => Some(format!("{k}/{v}")),
        }
    }
}

/// Rows as they come from two projections.
struct Source {
    rows: [Array; 2],
    copies: u64,
}

impl Source {
    /// Those that a kernel reads: a width of codes each, or the rows that `fwht` works in.
    fn read_by(&self, kernel: Kernel) -> &[Array] {
        &self.rows[..kernel.widths().len().max(1)]
    }
}

impl Shape {
    fn rows(self) -> u64 {
        let (_, num_kv_heads, _) = self.preset.shape();
        u64::from(self.tokens) * u64::from(num_kv_heads)
    }

    fn row_floats(self) -> u64 {
        let (_, _, head_dim) = self.preset.shape();
        head_dim.get().into()
    }

    /// Bytes that a call has to read.
    fn read(self, kernel: Kernel) -> u64 {
        self.rows() * 4 * self.row_floats() * kernel.widths().len().max(1) as u64
    }

    /// Bytes that a call has to write.
    fn written(self, kernel: Kernel) -> u64 {
        let (_, _, head_dim) = self.preset.shape();
        let norms = 4 * u64::from(head_dim.norms_per_pos());
        let encoded = |bits: Bits| row::row_bytes(head_dim, bits) + norms;
        let each = match kernel {
            Kernel::Fwht => 4 * self.row_floats(),
            _ => kernel.widths().into_iter().map(encoded).sum(),
        };
        self.rows() * each
    }

    /// N(0, 1) with a few large coordinates, as K has them; or what the device lacks.
    fn source(self, gpu: &Gpu, plan: &Plan) -> Result<Result<Source, String>, DriverError> {
        let bytes = self.rows() * self.row_floats() * 4;
        let most = gpu.report.max_storage_binding.min(gpu.device.limits().max_buffer_size);
        if bytes > most {
            return Ok(Err(format!("needs a binding of {bytes} bytes, the device allows {most}")));
        }
        let d = self.row_floats() as usize;
        let mut block = Gaussian::new(plan.seed).normals(PERIOD * d);
        for row in block.chunks_exact_mut(d) {
            row.iter_mut().skip(3).step_by(16).for_each(|x| *x *= 4.0);
        }
        let copies = copies(gpu, plan, bytes, bytes);
        let side = |shift: usize| {
            block.rotate_left(shift * d);
            Array::filled(gpu, bytes, bytemuck::cast_slice(&block), copies)
        };
        let [k, v] = [0, 1].map(side);
        Ok(Ok(Source { rows: [k?, v?], copies }))
    }

    /// Rows to check: the first, the last, and others at equal distances.
    fn checked(self) -> Vec<u64> {
        let count = self.rows().min(CHECKED);
        (0..count).map(|i| i * (self.rows() - 1) / (count - 1).max(1)).collect()
    }

    /// Where row `row` is stored, among the rows of a cache.
    fn stored(self, row: u64) -> u64 {
        let (_, num_kv_heads, _) = self.preset.shape();
        let (token, head) = (row / u64::from(num_kv_heads), row % u64::from(num_kv_heads));
        head * u64::from(self.tokens) + token
    }
}

/// A pipeline with its launch, its outputs, and its bindings for each copy.
struct Call {
    kernel: RawKernel,
    launch: Launch,
    outputs: Vec<Array>,
    bound: Vec<RawBound>,
}

impl Point {
    fn codec(&self, bits: Bits) -> Codec {
        let (_, _, head_dim) = self.shape.preset.shape();
        Codec::new(head_dim, bits, Rotation::Plain)
    }

    fn rotation(&self) -> fwht::Problem {
        let (_, _, head_dim) = self.shape.preset.shape();
        fwht::Problem { head_dim, rotation: Rotation::Srht, direction: Direction::Forward }
    }

    fn bytes(&self) -> u64 {
        self.shape.read(self.kernel) + self.shape.written(self.kernel)
    }

    fn params(&self) -> QuantizeKvParams {
        let (_, num_kv_heads, head_dim) = self.shape.preset.shape();
        QuantizeKvParams {
            head_dim: head_dim.get(),
            num_kv_heads,
            write_pos: 0,
            cache_capacity: self.shape.tokens,
            is_sliding: 0,
            scale_factor_d512: 1.0,
            rms_probe_enabled: 0,
            num_tokens: self.shape.tokens,
        }
    }

    fn plan(&self, gpu: &Gpu) -> Result<(KernelPlan, Launch), DriverError> {
        let (_, _, head_dim) = self.shape.preset.shape();
        let (caps, language) = (&gpu.caps, self.leg.language());
        let params = self.params();
        Ok(match self.kernel {
            Kernel::Fwht => {
                let num_heads = u32::try_from(self.shape.rows()).unwrap_or(u32::MAX);
                let params = FwhtParams { head_dim: head_dim.get(), num_heads };
                let problem = self.rotation();
                (problem.plan(caps, language)?, problem.launch(&params, caps, language)?)
            }
            Kernel::Quantize(bits) => {
                let problem = quantize_kv::Problem { codec: self.codec(bits) };
                (problem.plan(caps, language)?, problem.launch(&params, caps, language)?)
            }
            Kernel::QuantizeBoth { k, v } => {
                let problem = quantize_k_and_v::Problem { k_bits: k, codec: self.codec(v) };
                (problem.plan(caps, language)?, problem.launch(&params, caps, language)?)
            }
        })
    }

    /// Verifies, then times.
    fn measure(
        &self,
        gpu: &Gpu,
        clock: &Clock,
        source: &Source,
        plan: &Plan,
    ) -> Result<RowReport, DriverError> {
        let (kernel_plan, launch) = self.plan(gpu)?;
        let call = self.call(gpu, source, &kernel_plan, launch)?;
        let mut at = 0;
        let mut pass = |calls: u64| {
            clock.time(gpu, |pass| {
                for _ in 0..calls {
                    let bound = &call.bound[at % call.bound.len()];
                    call.kernel.record(pass, bound, &call.launch)?;
                    at += 1;
                }
                Ok(())
            })
        };
        let rows = self.shape.checked();
        let before = self.pieces(gpu, source, &rows)?;
        let first = pass(1)?;
        let outcome = self.outcome(gpu, (source, &call), &rows, &before)?;
        let mut report = RowReport {
            pipeline: kernel_plan.label.clone(),
            copies: source.copies,
            verified: outcome.pass(),
            error: outcome.error.is_finite().then_some(outcome.error),
            tolerance: outcome.tolerance,
            detail: outcome.detail.clone(),
            ..self.report()
        };
        if report.verified {
            let warm_up_ms = if self.idle { plan.wake_up_ms } else { plan.warm_up_ms };
            let samples = Samples::take(first, warm_up_ms, plan.samples, &mut pass)?;
            report.timing = Some(self.timing(&samples));
        }
        Ok(report)
    }

    fn report(&self) -> RowReport {
        let (_, num_kv_heads, head_dim) = self.shape.preset.shape();
        RowReport {
            preset: self.shape.preset.name().to_owned(),
            num_kv_heads,
            head_dim: head_dim.get(),
            tokens: self.shape.tokens,
            kernel: self.kernel.stem().to_owned(),
            pipeline: String::new(),
            bits: self.kernel.bits(),
            leg: self.leg.as_str().to_owned(),
            bytes: self.bytes(),
            copied_us: None,
            copies: 0,
            skipped: None,
            verified: false,
            error: None,
            tolerance: 0.0,
            detail: String::new(),
            timing: None,
        }
    }

    fn skipped(&self, lacking: &str) -> RowReport {
        RowReport { skipped: Some(lacking.to_owned()), ..self.report() }
    }

    fn timing(&self, samples: &Samples) -> RowTiming {
        RowTiming {
            us: samples.at(0.5),
            us_p10: samples.at(0.1),
            us_p90: samples.at(0.9),
            calls: samples.calls,
            samples: samples.us.len(),
            gb_s: self.bytes() as f64 / samples.at(0.5) / 1e3,
            of_copy: None,
            trusted_ratio: None,
            msl_ratio: None,
        }
    }

    /// Pipeline, outputs and bindings. `fwht` works in its source.
    fn call(
        &self,
        gpu: &Gpu,
        source: &Source,
        plan: &KernelPlan,
        launch: Launch,
    ) -> Result<Call, DriverError> {
        let kernel = leg::pipeline(gpu, self.leg, plan)?;
        let bindings = || launch.contract.bindings.iter().zip(&launch.needed);
        let outputs: Vec<Array> = bindings()
            .filter(|(b, _)| b.access == Access::ReadWrite && self.kernel != Kernel::Fwht)
            .map(|(_, &bytes)| Array::new(gpu, bytes, source.copies))
            .collect::<Result<_, _>>()?;
        let params: Vec<u8> = launch.uniforms.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let params = leg::uniform(gpu, &params)?;
        let bind = |i: u64| {
            let arrays = source.read_by(self.kernel).iter().chain(&outputs);
            let mut arrays = arrays.map(|array| array.copy(i));
            let buffers = bindings().filter_map(|(b, _)| match b.access {
                Access::Uniform => Some(params.as_entire_buffer_binding()),
                Access::Read | Access::ReadWrite => arrays.next(),
            });
            kernel.bind(&gpu.device, buffers.collect())
        };
        let bound = gpu.scoped(|| (0..source.copies).map(bind).collect::<Result<_, _>>())??;
        Ok(Call { kernel, launch, outputs, bound })
    }

    /// The rows `rows` of what the kernel reads, one array after the other.
    fn pieces(
        &self,
        gpu: &Gpu,
        source: &Source,
        rows: &[u64],
    ) -> Result<Vec<Vec<u8>>, DriverError> {
        let arrays = source.read_by(self.kernel).iter();
        arrays.map(|array| array.pieces(gpu, 4 * self.shape.row_floats(), rows)).collect()
    }

    /// What the first call made of `rows`, which were `before`: the first outcome that is wrong, or
    /// the last.
    fn outcome(
        &self,
        gpu: &Gpu,
        (source, call): (&Source, &Call),
        rows: &[u64],
        before: &[Vec<u8>],
    ) -> Result<Outcome, DriverError> {
        let before: Vec<Vec<f32>> =
            before.iter().map(|b| bytemuck::pod_collect_to_vec(b)).collect();
        if self.kernel == Kernel::Fwht {
            let after = self.pieces(gpu, source, rows)?;
            return Ok(verdict::rotated(&self.rotation(), &before[0], &after[0]));
        }
        let stored: Vec<u64> = rows.iter().map(|&row| self.shape.stored(row)).collect();
        let sides = self.kernel.widths().into_iter().zip(&before).zip(call.outputs.chunks(2));
        let mut outcome = Outcome::broken("nothing was encoded".to_owned(), 0.0);
        for ((bits, before), written) in sides {
            let codec = self.codec(bits);
            let norms_bytes = 4 * u64::from(codec.head_dim.norms_per_pos());
            let packed = written[0].pieces(gpu, row::row_bytes(codec.head_dim, bits), &stored)?;
            let norms = written[1].pieces(gpu, norms_bytes, &stored)?;
            outcome = verdict::quantized(codec, before, &packed, &norms);
            if !outcome.pass() {
                break;
            }
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_row_are_checked_and_none_twice() {
        for tokens in [1, 2, 21, 22, 4096] {
            let shape = Shape { preset: Preset::S, tokens };
            let rows = shape.checked();
            assert_eq!((rows[0], rows[rows.len() - 1]), (0, shape.rows() - 1), "{tokens}");
            assert!(rows.is_sorted_by(|a, b| a < b), "{rows:?}");
            assert_eq!(rows.len() as u64, shape.rows().min(CHECKED));
        }
    }

    #[test]
    fn a_row_is_stored_by_head_then_token() {
        let shape = Shape { preset: Preset::S, tokens: 10 };
        assert_eq!([0, 1, 3, 29].map(|row| shape.stored(row)), [0, 10, 1, 29]);
    }
}
