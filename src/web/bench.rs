//! Microseconds a call of `flash_attn_vec_tq`: each shape verified against the oracle, then timed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use web_time::Instant;

use super::player::Player;
use super::session::judged;
use crate::codec::{Bits, Codec, HeadDim, Rotation};
use crate::contract::Language;
use crate::driver::DriverError;
use crate::gpu::{RawBound, RawKernel};
use crate::kernels::flash_attn_vec_tq::Problem;
use crate::legs::Tape;
use crate::legs::submit::{Uploaded, gpu_error, record};
use crate::parity::Case as _;
use crate::parity::flash_attn_vec_tq::{Case, base};
use crate::parity::report::{CaseResultReport, Status};

/// Query heads and KV heads of the benchmark.
const HEADS: (u32, u32) = (32, 4);

/// A sample is long enough when its clock's step and the cost of a submit are lost in it.
const SAMPLE_MS: f64 = 20.0;

/// Samples of a point; the median is reported.
const SAMPLES: usize = 5;

/// Most calls of a sample.
const MOST_CALLS: u32 = 4096;

/// What measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// The GPU's timestamps around one pass.
    TimestampQuery,
    /// The browser's clock from submit to read-back of one pass.
    WallClock,
}

/// Times of a kernel over lengths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchReport {
    /// The kernel, alone: neither rotation nor merge.
    pub kernel: String,
    /// Coordinates of a row.
    pub head_dim: u32,
    /// Query heads.
    pub num_heads: u32,
    /// KV heads.
    pub num_kv_heads: u32,
    /// What measured.
    pub clock: Clock,
    /// One a length.
    pub points: Vec<BenchPoint>,
}

/// One length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchPoint {
    /// Positions attended over.
    pub kv_seq_len: u32,
    /// Splits.
    pub nwg: u32,
    /// The shape against the oracle.
    pub verified: CaseResultReport,
    /// Times; null where the shape did not pass or could not be timed.
    pub timing: Option<BenchTiming>,
}

/// What was measured at one length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchTiming {
    /// Median microseconds of one call.
    pub us_per_call: f64,
    /// Shortest and longest.
    pub us_range: (f64, f64),
    /// Calls of a sample, one after the other in one pass.
    pub calls: u32,
    /// Samples.
    pub samples: usize,
}

impl BenchReport {
    /// No points yet.
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            kernel: "flash_attn_vec_tq".to_owned(),
            head_dim: codec().head_dim.get(),
            num_heads: HEADS.0,
            num_kv_heads: HEADS.1,
            clock,
            points: Vec::new(),
        }
    }
}

/// What `player`'s device offers.
pub(super) fn clock(player: &Player) -> Clock {
    if player.gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
        Clock::TimestampQuery
    } else {
        Clock::WallClock
    }
}

fn codec() -> Codec {
    Codec::new(HeadDim::ALL[1], Bits::B4, Rotation::Plain)
}

/// Verifies and times attention over a full ring of `kv_seq_len` positions.
pub(super) async fn point(player: &mut Player, kv_seq_len: u32) -> BenchPoint {
    let problem =
        Problem { codec: codec(), k_bits: codec().bits, num_heads: HEADS.0, num_kv_heads: HEADS.1 };
    let nwg = problem.splits(kv_seq_len, &player.gpu.caps, Language::Wgsl).unwrap_or(1);
    let case = Case {
        num_heads: HEADS.0,
        num_kv_heads: HEADS.1,
        kv_seq_len,
        kv_capacity: kv_seq_len,
        ring_start: kv_seq_len / 3,
        nwg,
        ..base(codec().head_dim)
    };
    let mut verified = judged(player, &case).await;
    let mut timing = None;
    if verified.status == Status::Pass {
        match time(player, &case).await {
            Ok(measured) => timing = Some(measured),
            Err(error) => verified.reason = format!("{}; not timed: {error}", verified.reason),
        }
    }
    BenchPoint { kv_seq_len, nwg, verified, timing }
}

async fn time(player: &mut Player, case: &Case) -> Result<BenchTiming, DriverError> {
    let prepared = case.prepare()?;
    let (tape, _) = prepared.tape(&player.gpu.caps, Language::Wgsl)?;
    player.compile(&tape).await?;
    let bench = Bench::new(player, &tape)?;
    let mut calls = 1;
    let mut ms = bench.sample(calls).await?;
    while ms < SAMPLE_MS && calls < MOST_CALLS {
        let wanted = 1.2 * SAMPLE_MS / ms.max(1e-6) * f64::from(calls);
        // A first call includes what happens only once: grow in steps.
        calls = (wanted as u32).clamp(calls * 2, calls * 16).min(MOST_CALLS);
        ms = bench.sample(calls).await?;
    }
    let mut us = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        us.push(bench.sample(calls).await? * 1e3 / f64::from(calls));
    }
    us.sort_by(f64::total_cmp);
    bench.uploaded.destroy();
    Ok(BenchTiming {
        us_per_call: us[SAMPLES / 2],
        us_range: (us[0], us[SAMPLES - 1]),
        calls,
        samples: SAMPLES,
    })
}

/// A tape that is uploaded and bound, to be dispatched many times.
struct Bench<'a> {
    player: &'a Player,
    tape: &'a Tape<'a>,
    kernels: Vec<&'a RawKernel>,
    uploaded: Uploaded,
    bound: Vec<RawBound>,
    /// Two timestamps, where the device has them.
    stamps: Option<wgpu::QuerySet>,
}

impl<'a> Bench<'a> {
    fn new(player: &'a Player, tape: &'a Tape<'a>) -> Result<Self, DriverError> {
        let device = &player.gpu.device;
        let kernels = player.kernels(tape);
        let uploaded = Uploaded::new(device, tape)?;
        let bound = uploaded.bind(device, tape, &kernels)?;
        let stamps = (clock(player) == Clock::TimestampQuery).then(|| {
            device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            })
        });
        Ok(Self { player, tape, kernels, uploaded, bound, stamps })
    }

    /// Milliseconds of `calls` calls.
    async fn sample(&self, calls: u32) -> Result<f64, DriverError> {
        let gpu = &self.player.gpu;
        let buffer = |usage| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: 16,
                usage,
                mapped_at_creation: false,
            })
        };
        let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        let copy = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let start = Instant::now();
        let mut encoder =
            gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.pass(&mut encoder, calls)?;
        if let Some(stamps) = &self.stamps {
            encoder.resolve_query_set(stamps, 0..2, &resolved, 0);
        }
        encoder.copy_buffer_to_buffer(&resolved, 0, &copy, 0, 16);
        gpu.queue.submit([encoder.finish()]);
        let bytes = gpu.read(&copy).await?;
        if self.stamps.is_none() {
            return Ok(start.elapsed().as_secs_f64() * 1e3);
        }
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        let elapsed = ticks[1].checked_sub(ticks[0]).ok_or_else(|| {
            gpu_error("the timestamp after the pass is before the one in front of it")
        })?;
        Ok(elapsed as f64 * f64::from(gpu.queue.get_timestamp_period()) / 1e6)
    }

    fn pass(&self, encoder: &mut wgpu::CommandEncoder, calls: u32) -> Result<(), DriverError> {
        let timestamp_writes =
            self.stamps.as_ref().map(|query_set| wgpu::ComputePassTimestampWrites {
                query_set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            });
        let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
        let mut pass = encoder.begin_compute_pass(&descriptor);
        for _ in 0..calls {
            record(&mut pass, self.tape, &self.kernels, &self.bound)?;
        }
        Ok(())
    }
}
