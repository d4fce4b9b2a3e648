//! `wgtq bench`.

mod rows;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::ValueEnum;

use wgtq::bench::report::{PointReport, Report, RowReport, SCHEMA};
use wgtq::bench::{Arithmetic, Dispatches, Format, Measured, Plan, Preset, Subject, chart, run};
use wgtq::contract::{Caps, Language};
use wgtq::driver::{DriverError, Outputs};
use wgtq::gpu::device::{Gpu, Selection};
use wgtq::legs::LegName;

use super::{GpuArgs, machine};

/// Time kernels on this GPU: attention over packed caches and dense f16, and the row kernels.
///
/// Every point is verified before it is timed, against the f64 oracle and on the same buffers: the
/// last KV head of attention, a sample of rows. Times are GPU timestamps round a pass of many
/// calls, merge included, over their number.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kernels
    #[arg(long, value_delimiter = ',', default_value = "attention,rows")]
    kernel: Vec<Subject>,
    /// Shapes
    #[arg(long, value_delimiter = ',', default_value = "G,L,X,S")]
    preset: Vec<Preset>,
    /// Positions
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_values_t = [1024, 2048, 4096, 8192, 16384, 32768, 65536, 131_072],
        value_parser = clap::value_parser!(u32).range(1..=1 << 24)
    )]
    kv_seq_len: Vec<u32>,
    /// Query tokens of attention: the newest ones; above 1 by flash_attn_tile or flash_attn_mat_tile
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_values_t = [1],
        value_parser = clap::value_parser!(u32).range(1..=1 << 24)
    )]
    query_tokens: Vec<u32>,
    /// Tokens of the row kernels
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_values_t = [1, 512, 4096, 16384, 65536],
        value_parser = clap::value_parser!(u32).range(1..=1 << 24)
    )]
    tokens: Vec<u32>,
    /// Formats: f16, or bits of K and V such as 8/4
    #[arg(long, value_name = "K/V", value_delimiter = ',', default_value = "f16,4/4,8/4,8/8")]
    format: Vec<Format>,
    /// Arithmetic of packed attention
    #[arg(long, value_enum, default_value = "f32")]
    arithmetic: Arithmetic,
    /// Dispatches of packed attention
    #[arg(long, value_enum, default_value = "two")]
    dispatches: Dispatches,
    /// Skip rows of V whose weight is under this for every query head; 0 skips none
    #[arg(long, value_name = "WEIGHT", default_value = "0", value_parser = weight)]
    weight_floor: f32,
    /// Legs: wgsl, wgsl-trusted, wgsl-spirv, msl; by default the WGSL ones, and msl on Metal
    #[arg(long, value_delimiter = ',')]
    leg: Vec<LegName>,
    /// Numbers of splits to try, in place of the kernel's own choice
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=256))]
    splits: Vec<u32>,
    /// Multiprocessors, or GPU cores, that splits are to fill; wgpu does not tell
    #[arg(long, value_name = "N", default_value_t = Caps::MULTIPROCESSORS, value_parser = clap::value_parser!(u32).range(1..=4096))]
    multiprocessors: u32,
    /// Read one cache again and again, so that small ones stay in the device's cache
    #[arg(long)]
    hot: bool,
    /// A few seconds: shape L, 1024 and 8192 positions, 1 and 512 tokens, fewer samples
    #[arg(long, conflicts_with_all = ["preset", "kv_seq_len", "tokens"])]
    quick: bool,
    /// Seed of the data
    #[arg(long, default_value = "1", value_parser = super::seed)]
    seed: u64,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write a picture of time against length
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self) -> Result<ExitCode, DriverError> {
        for path in self.out.iter().chain(&self.svg) {
            wgtq::driver::check_writable(path)?;
        }
        self.check_legs()?;
        self.check_dispatches()?;
        self.check_query_tokens()?;
        let mut gpu = Gpu::open(&Selection::from(self.gpu.clone()))?;
        gpu.caps = gpu.caps.with_multiprocessors(self.multiprocessors);
        super::note(&format!("on {}", gpu.report.line()));
        let plan = self.plan(&gpu);
        check_device(&gpu, &plan)?;
        let bar = super::bar(plan.count() as u64);
        let Measured { environment, points, rows } = run(&gpu, &plan, |point| {
            bar.set_message(point.to_owned());
            bar.inc(1);
        })?;
        bar.finish_and_clear();
        let report = Report {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: format!("{}, {}", machine::system(), machine::processor()),
            environment,
            hot: plan.hot,
            seed: plan.seed,
            points,
            rows,
            ran_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        };
        self.write(&report)?;
        let good = report.points.iter().all(|p| p.verified);
        let good = good && !report.rows.iter().any(RowReport::is_wrong);
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(2) })
    }

    fn check_legs(&self) -> Result<(), DriverError> {
        let timed = [LegName::Wgsl, LegName::WgslTrusted, LegName::WgslSpirv, LegName::Msl];
        if let Some(leg) = self.leg.iter().find(|leg| !timed.contains(leg)) {
            return Err(DriverError::Argument {
                flag: "--leg",
                need: "wgsl, wgsl-trusted, wgsl-spirv or msl".to_owned(),
                found: leg.as_str().to_owned(),
            });
        }
        Ok(())
    }

    fn check_dispatches(&self) -> Result<(), DriverError> {
        let plain = (self.dispatches, self.arithmetic) == (Dispatches::Two, Arithmetic::F32);
        if self.weight_floor > 0.0 && !plain {
            return Err(DriverError::Argument {
                flag: "--weight-floor",
                need: "0 with --dispatches one or one-rotated, or --arithmetic f16".to_owned(),
                found: self.weight_floor.to_string(),
            });
        }
        if self.dispatches != Dispatches::Two && self.arithmetic == Arithmetic::F16 {
            return Err(DriverError::Argument {
                flag: "--dispatches",
                need: "two with --arithmetic f16".to_owned(),
                found: name(self.dispatches),
            });
        }
        Ok(())
    }

    fn check_query_tokens(&self) -> Result<(), DriverError> {
        let most = self.query_tokens.iter().copied().max().unwrap_or(1);
        let need = |need: String| {
            Err(DriverError::Argument { flag: "--query-tokens", need, found: most.to_string() })
        };
        if most > 1 && (self.dispatches != Dispatches::Two || self.weight_floor > 0.0) {
            return need("1 with --dispatches one or one-rotated, or --weight-floor".to_owned());
        }
        match self.lengths().into_iter().min() {
            Some(least) if most > least => need(format!("no more than the {least} positions")),
            _ => Ok(()),
        }
    }

    fn lengths(&self) -> Vec<u32> {
        if self.quick { vec![1024, 8192] } else { self.kv_seq_len.clone() }
    }

    fn plan(&self, gpu: &Gpu) -> Plan {
        let mut legs = self.leg.clone();
        if legs.is_empty() {
            legs = vec![LegName::Wgsl, LegName::WgslTrusted];
            if gpu.report.backend == "metal" {
                legs.push(LegName::Msl);
            }
        }
        let (presets, tokens) = if self.quick {
            (vec![Preset::L], vec![1, 512])
        } else {
            (self.preset.clone(), self.tokens.clone())
        };
        Plan {
            subjects: self.kernel.clone(),
            presets,
            lengths: self.lengths(),
            query_tokens: self.query_tokens.clone(),
            tokens,
            formats: self.format.clone(),
            arithmetic: self.arithmetic,
            dispatches: self.dispatches,
            weight_floor: self.weight_floor,
            legs,
            splits: self.splits.clone(),
            hot: self.hot,
            warm_up_ms: if self.quick { 20.0 } else { 100.0 },
            wake_up_ms: if self.quick { 100.0 } else { 1000.0 },
            samples: if self.quick { 5 } else { 15 },
            seed: self.seed,
        }
    }

    fn write(&self, report: &Report) -> Result<(), DriverError> {
        let json = super::pretty(report)?;
        let mut outputs = Outputs::default();
        if let Some(path) = &self.out {
            outputs.stage(path, json.as_bytes())?;
        }
        if let Some(path) = &self.svg {
            let picture = chart::svg(report).map_err(|message| DriverError::Gpu { message })?;
            outputs.stage(path, picture.as_bytes())?;
        }
        outputs.commit()?;
        if self.json {
            super::print(&json);
        } else {
            show(report);
        }
        Ok(())
    }
}

/// What of WGSL not every device has; native MSL brings its own.
fn check_device(gpu: &Gpu, plan: &Plan) -> Result<(), DriverError> {
    let wgsl = plan.legs.iter().any(|leg| leg.language() == Language::Wgsl);
    if plan.dispatches != Dispatches::Two && wgsl && !gpu.caps.storage_fence {
        return Err(DriverError::Argument {
            flag: "--dispatches",
            need: format!(
                "two on {}, which cannot order workgroups (MEMORY_DECORATION_COHERENT)",
                gpu.report.backend
            ),
            found: name(plan.dispatches),
        });
    }
    if plan.arithmetic == Arithmetic::F16 && wgsl && gpu.caps.matrices.is_none() {
        return Err(DriverError::Argument {
            flag: "--arithmetic",
            need: format!("f32 on {}, which has no matrices for it", gpu.report.name),
            found: "f16".to_owned(),
        });
    }
    Ok(())
}

/// What the command line calls a choice.
fn name(choice: impl ValueEnum) -> String {
    choice.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn weight(text: &str) -> Result<f32, String> {
    let weight = text.parse().ok().filter(|weight| (0.0..=1.0).contains(weight));
    weight.ok_or_else(|| format!("need a number from 0 to 1, found {text}"))
}

fn show(report: &Report) {
    let environment = &report.environment;
    super::print(&format!(
        "{}\ncopy {:.0} GB/s read plus written, read {:.0} GB/s, an empty dispatch {:.1} us; {} caches",
        environment.adapter.line(),
        environment.copy_gb_s,
        environment.read_gb_s,
        environment.dispatch_us,
        if report.hot { "hot" } else { "cold" }
    ));
    if !report.points.is_empty() {
        show_attention(report);
    }
    if !report.rows.is_empty() {
        rows::show(report);
    }
}

fn show_attention(report: &Report) {
    let msl = report.points.iter().any(|p| p.leg == LegName::Msl.as_str());
    let several = report.points.iter().any(|p| p.query_tokens > 1);
    let shape = if several { "shape, n, q" } else { "shape, n" };
    let speed = if several { "TFLOP/s" } else { "GB/s, %" };
    let mut header =
        vec![shape, "K/V", "leg", "nwg", "us", "p10..p90", "attn+merge", speed, "x f16"];
    header.push(if msl { "/ MSL" } else { "/ trusted" });
    let mut table = super::table(&header);
    for point in &report.points {
        table.add_row(cells(point, several, msl));
    }
    super::print(&table.to_string());
    let (tokens, speed) = if several {
        (", q: query tokens", "TFLOP/s: multiplications and additions of both products")
    } else {
        ("", "GB/s of the stored cache, and per cent of copy speed")
    };
    super::print(&format!(
        "n: positions, in nwg splits{tokens}. us: median of a call, merge included;\nattn+merge: each \
         dispatch alone; {speed};\nx f16: time of dense f16 on the same leg over this one; / MSL, / \
         trusted: this time over that leg's."
    ));
    super::print(&verified(report));
}

/// How near to its bound the worst point is.
fn verified(report: &Report) -> String {
    let error = |p: &PointReport| p.error.map(|error| (error / p.tolerance, error, p.tolerance));
    let worst = report.points.iter().filter_map(error).max_by(|a, b| a.0.total_cmp(&b.0));
    let verified = "The last KV head was verified at every point";
    match worst {
        Some((_, error, tolerance)) => {
            format!("{verified}: NRMSE at most {error:.1e} where {tolerance:.1e} is allowed.")
        }
        None => format!("{verified}."),
    }
}

/// Digits behind the point of microseconds, no more than a table has room for.
fn digits(us: f64) -> usize {
    usize::from(us < 1000.0)
}

fn micros(us: f64) -> String {
    format!("{us:.*}", digits(us))
}

/// GB/s, and per cent of copy speed.
fn speed(gb_s: f64, of_copy: Option<f64>) -> String {
    let per_cent = of_copy.map_or(String::new(), |x| format!(", {:.0}", 100.0 * x));
    format!("{gb_s:.*}{per_cent}", if gb_s < 10.0 { 2 } else { 0 })
}

fn cells(point: &PointReport, several: bool, msl: bool) -> Vec<String> {
    let tokens = if several { format!(" {}", point.query_tokens) } else { String::new() };
    let mut cells = vec![
        format!("{} {}{tokens}", point.preset, point.kv_seq_len),
        point.format.clone(),
        point.leg.clone(),
        point.nwg.to_string(),
    ];
    let Some(timing) = &point.timing else {
        cells.extend(["WRONG".to_owned(), point.detail.clone()]);
        return cells;
    };
    let ratio = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.2}"));
    cells.extend([
        micros(timing.us),
        format!("{}..{}", micros(timing.us_p10), micros(timing.us_p90)),
        match timing.merge_us {
            Some(merge) => {
                let digits = digits(timing.attention_us);
                format!("{:.digits$}+{merge:.digits$}", timing.attention_us)
            }
            None => "-".to_owned(),
        },
        if several {
            format!("{:.*}", if timing.tflop_s < 10.0 { 3 } else { 0 }, timing.tflop_s)
        } else {
            speed(timing.gb_s, timing.of_copy)
        },
        ratio(timing.f16_ratio),
        ratio(if msl { timing.msl_ratio } else { timing.trusted_ratio }),
    ]);
    cells
}
