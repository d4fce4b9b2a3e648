//! One point: pipelines and bindings, verification, samples.

use super::cache::Cache;
use super::clock::{Clock, read};
use super::leg::{filled, pipeline, uniform};
use super::report::{PointReport, Timing};
use super::samples::Samples;
use super::{Arithmetic, Dispatches, Format, Plan, Point, tile};
use crate::contract::{Caps, Language, Launch, Plan as KernelPlan};
use crate::driver::DriverError;
use crate::gpu::device::Gpu;
use crate::gpu::{RawBound, RawKernel};
use crate::kernels::Context;
use crate::kernels::{
    flash_attn_decode_tq, flash_attn_mat_tq, flash_attn_vec, flash_attn_vec_reduce,
    flash_attn_vec_tq,
};
use crate::legs::POISON;
use crate::params::{FlashAttnVecParams, FlashAttnVecReduceParams, FlashAttnVecTqParams};
use crate::parity::judge;

/// A kernel with its launch and its bindings: one for each copy of the cache, or one for all.
struct Step {
    kernel: RawKernel,
    launch: Launch,
    bound: Vec<RawBound>,
}

impl Step {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>, at: usize) -> crate::Result<()> {
        self.kernel.record(pass, &self.bound[at % self.bound.len()], &self.launch)
    }
}

/// Everything of a call.
struct Call {
    steps: Vec<Step>,
    out: wgpu::Buffer,
}

impl Point {
    /// Verifies, then times.
    pub fn measure(
        &self,
        gpu: &Gpu,
        clock: &Clock,
        cache: &Cache,
        plan: &Plan,
    ) -> Result<PointReport, DriverError> {
        let (kernel, nwg, plans) = self.plans(&gpu.caps, cache)?;
        let call = self.call(gpu, cache, nwg, &plans)?;
        let mut at = 0;
        let mut pass = |steps: &[Step], calls: u64| {
            clock.time(gpu, |pass| {
                for _ in 0..calls {
                    steps.iter().try_for_each(|step| step.record(pass, at))?;
                    at += 1;
                }
                Ok(())
            })
        };
        let first = pass(&call.steps, 1)?;
        let outcome = judge(
            &call.output(gpu, cache)?,
            &cache.want,
            cache.params.head_dim as usize,
            cache.tolerance,
        );
        let mut report = PointReport {
            preset: self.preset.name().to_owned(),
            num_heads: cache.params.n_heads,
            num_kv_heads: cache.params.n_kv_heads,
            head_dim: cache.params.head_dim,
            kv_seq_len: self.length,
            query_tokens: self.query_tokens,
            kernel: kernel.to_owned(),
            pipeline: plans[0].label.clone(),
            format: self.format.to_string(),
            leg: self.leg.as_str().to_owned(),
            nwg,
            cache_bytes: cache.bytes,
            cache_copies: cache.copies,
            verified: outcome.pass(),
            error: outcome.error.is_finite().then_some(outcome.error),
            tolerance: cache.tolerance,
            detail: outcome.detail.clone(),
            timing: None,
        };
        if outcome.pass() {
            report.timing = Some(self.timing(plan, cache, first, &call, &mut pass)?);
        }
        Ok(report)
    }

    /// Warms up, then times whole calls and each of their dispatches alone; `first` is what one cold
    /// call took.
    fn timing(
        &self,
        plan: &Plan,
        cache: &Cache,
        first: f64,
        call: &Call,
        pass: &mut impl FnMut(&[Step], u64) -> Result<f64, DriverError>,
    ) -> Result<Timing, DriverError> {
        let warm_up_ms = if self.idle { plan.wake_up_ms } else { plan.warm_up_ms };
        let mut time = |steps: &[Step], warm_up_ms: f64, samples: usize| {
            Samples::take(first, warm_up_ms, samples, |calls| pass(steps, calls))
        };
        let whole = time(&call.steps, warm_up_ms, plan.samples)?;
        let mut alone = |i: usize| -> Result<Option<f64>, DriverError> {
            let step = call.steps.get(i..=i);
            step.map(|step| Ok(time(step, 0.0, plan.samples.div_ceil(3))?.at(0.5))).transpose()
        };
        let us = whole.at(0.5);
        Ok(Timing {
            us,
            us_p10: whole.at(0.1),
            us_p90: whole.at(0.9),
            attention_us: alone(0)?.unwrap_or(us),
            merge_us: alone(1)?,
            calls: whole.calls,
            samples: whole.us.len(),
            gb_s: cache.bytes as f64 / us / 1e3,
            tflop_s: cache.flops() / us / 1e6,
            of_copy: None,
            f16_ratio: None,
            trusted_ratio: None,
            msl_ratio: None,
        })
    }

    /// Stem of the kernel, the number of splits, and the plans of a call.
    fn plans(
        &self,
        caps: &Caps,
        cache: &Cache,
    ) -> Result<(&'static str, u32, Vec<KernelPlan>), DriverError> {
        let language = self.leg.language();
        let (_, _, head_dim) = self.preset.shape();
        let (kernel, nwg, attention) = match self.format {
            _ if self.query_tokens > 1 => {
                let nwg = self.splits(|| Ok(tile::splits(self, caps, language)))?;
                let (kernel, plan) = tile::plan(self, caps, language)?;
                (kernel, nwg, plan)
            }
            Format::F16 => {
                let problem = self.dense();
                let nwg = self.splits(|| problem.splits(self.length, caps, language))?;
                ("flash_attn_vec", nwg, problem.plan(caps, language)?)
            }
            Format::Packed { .. } if self.arithmetic == Arithmetic::F16 => {
                let problem = self.on_matrices(cache);
                let nwg = self.splits(|| problem.splits(self.length, caps, language))?;
                ("flash_attn_mat_tq", nwg, problem.plan(caps, language)?)
            }
            Format::Packed { .. } if self.dispatches != Dispatches::Two => {
                let problem = self.whole(cache);
                let nwg = self.splits(|| problem.splits(self.length, caps, language))?;
                let plan = problem.plan_for(Context::of(self.length), caps, language)?;
                return Ok(("flash_attn_decode_tq", nwg, vec![plan]));
            }
            Format::Packed { .. } => {
                let problem = self.packed(cache);
                let nwg = self.splits(|| problem.splits(self.length, caps, language))?;
                let context = Context::of(self.length);
                let plan = problem.plan_for(context, self.weight_floor, caps, language)?;
                ("flash_attn_vec_tq", nwg, plan)
            }
        };
        let mut plans = vec![attention];
        if nwg > 1 {
            plans.push(flash_attn_vec_reduce::Problem { head_dim }.plan(caps, language)?);
        }
        Ok((kernel, nwg, plans))
    }

    fn splits(&self, choose: impl FnOnce() -> crate::Result<u32>) -> crate::Result<u32> {
        self.nwg.map_or_else(choose, Ok)
    }

    fn dense(&self) -> flash_attn_vec::Problem {
        let (num_heads, num_kv_heads, head_dim) = self.preset.shape();
        let kv_type = flash_attn_vec::KvType::F16;
        flash_attn_vec::Problem { head_dim, kv_type, num_heads, num_kv_heads }
    }

    fn packed(&self, cache: &Cache) -> flash_attn_vec_tq::Problem {
        use crate::codec::{Bits, Codec, Rotation};
        let (num_heads, num_kv_heads, head_dim) = self.preset.shape();
        let (k_bits, v_bits) = match self.format {
            Format::Packed { k, v } => (k, v),
            Format::F16 => (Bits::B8, Bits::B8),
        };
        let codec = Codec {
            scale_factor_d512: cache.params.scale_factor_d512,
            ..Codec::new(head_dim, v_bits, Rotation::Plain)
        };
        flash_attn_vec_tq::Problem { k_bits, codec, num_heads, num_kv_heads }
    }

    fn on_matrices(&self, cache: &Cache) -> flash_attn_mat_tq::Problem {
        self.packed(cache).into()
    }

    fn whole(&self, cache: &Cache) -> flash_attn_decode_tq::Problem {
        let rotated = self.dispatches == Dispatches::OneRotated;
        flash_attn_decode_tq::Problem { rotated, ..self.packed(cache).into() }
    }

    fn launch(
        &self,
        caps: &Caps,
        language: Language,
        cache: &Cache,
        nwg: u32,
    ) -> Result<Launch, DriverError> {
        let params = FlashAttnVecTqParams { nwg, ..cache.params };
        Ok(match self.format {
            _ if self.query_tokens > 1 => tile::launch(self, cache, nwg, (caps, language))?,
            Format::F16 => {
                self.dense().launch(&FlashAttnVecParams::from(params), caps, language)?
            }
            Format::Packed { .. } if self.arithmetic == Arithmetic::F16 => {
                self.on_matrices(cache).launch(&params, caps, language)?
            }
            Format::Packed { .. } if self.dispatches != Dispatches::Two => {
                self.whole(cache).launch(&params, caps, language)?
            }
            Format::Packed { .. } => self.packed(cache).launch(&params, caps, language)?,
        })
    }

    /// Pipelines, output and bindings.
    fn call(
        &self,
        gpu: &Gpu,
        cache: &Cache,
        nwg: u32,
        plans: &[KernelPlan],
    ) -> Result<Call, DriverError> {
        let language = self.leg.language();
        let launch = self.launch(&gpu.caps, language, cache, nwg)?;
        let rows = u64::from(cache.query_tokens) * u64::from(cache.params.n_heads);
        let out = poisoned(gpu, rows * u64::from(cache.params.head_dim) * 4)?;
        // The last buffer is what a merge reads; of the kernel that merges itself, its scratch.
        let last_bytes = launch.needed.last().copied().unwrap_or(0);
        let last = if plans[0].contract.stem == flash_attn_decode_tq::CONTRACT.stem {
            vec![out.clone(), zeroed(gpu, last_bytes)?]
        } else {
            vec![if nwg > 1 { poisoned(gpu, last_bytes)? } else { out.clone() }]
        };
        let uniform = uniform(gpu, launch.uniform(0))?;
        let tables = if self.query_tokens > 1 { tile::tables(gpu, cache)? } else { Vec::new() };
        let kernel = pipeline(gpu, self.leg, &plans[0])?;
        let bind = |i: u64| {
            let whole = [&uniform, &cache.q].into_iter().chain(&tables);
            let whole = whole.map(wgpu::Buffer::as_entire_buffer_binding);
            let arrays = cache.arrays.iter().map(|a| a.copy(i));
            let last = last.iter().map(wgpu::Buffer::as_entire_buffer_binding);
            let buffers = whole.chain(arrays).chain(last);
            kernel.bind(&gpu.device, buffers.collect())
        };
        let bound = gpu.scoped(|| (0..cache.copies).map(bind).collect::<Result<_, _>>())??;
        let mut steps = vec![Step { kernel, launch, bound }];
        if let Some(merge) = plans.get(1) {
            steps.push(self.merge(gpu, cache, nwg, (merge, &last[0], &out))?);
        }
        Ok(Call { steps, out })
    }

    fn merge(
        &self,
        gpu: &Gpu,
        cache: &Cache,
        nwg: u32,
        (plan, partials, out): (&KernelPlan, &wgpu::Buffer, &wgpu::Buffer),
    ) -> Result<Step, DriverError> {
        let (_, _, head_dim) = self.preset.shape();
        let nrows = cache.query_tokens * cache.params.n_heads;
        let params = FlashAttnVecReduceParams { nrows, nwg };
        let launch = flash_attn_vec_reduce::Problem { head_dim }.launch(&params, &gpu.caps)?;
        let kernel = pipeline(gpu, self.leg, plan)?;
        let (nrows, splits) = (uniform(gpu, launch.uniform(0))?, uniform(gpu, launch.uniform(3))?);
        let buffers = [&nrows, partials, out, &splits].map(|b| b.as_entire_buffer_binding());
        let bound = gpu.scoped(|| kernel.bind(&gpu.device, buffers.to_vec()))??;
        Ok(Step { kernel, launch, bound: vec![bound] })
    }
}

impl Call {
    /// The rows of the output that the oracle has.
    fn output(&self, gpu: &Gpu, cache: &Cache) -> Result<Vec<f32>, DriverError> {
        let copy = gpu.scoped(|| {
            let copy = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("output"),
                size: self.out.size(),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let mut encoder =
                gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(&self.out, 0, &copy, 0, copy.size());
            gpu.queue.submit([encoder.finish()]);
            copy
        })?;
        let floats: Vec<f32> = bytemuck::pod_collect_to_vec(&read(gpu, &copy)?);
        let d = cache.params.head_dim as usize;
        Ok(cache.rows.iter().flat_map(|&row| &floats[row * d..][..d]).copied().collect())
    }
}

fn zeroed(gpu: &Gpu, bytes: u64) -> Result<wgpu::Buffer, DriverError> {
    filled(gpu, &vec![0; bytes as usize], wgpu::BufferUsages::STORAGE)
}

/// An output filled with a word that no kernel writes.
fn poisoned(gpu: &Gpu, bytes: u64) -> Result<wgpu::Buffer, DriverError> {
    let words = vec![POISON; (bytes / 4) as usize];
    filled(gpu, bytemuck::cast_slice(&words), wgpu::BufferUsages::STORAGE)
}
