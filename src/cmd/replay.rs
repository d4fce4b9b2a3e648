//! `wgtq replay`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstyle::AnsiColor;
use wgtq::driver::{DriverError, Outputs, check_writable};
use wgtq::gpu::device::Selection;
use wgtq::legs::LegName;
use wgtq::replay::manifest::Input;
use wgtq::replay::report::{Entry, Report, SCHEMA, ShapeReport};
use wgtq::replay::singlestep::{Request, Singlestep};
use wgtq::replay::{Canary, Oracle, Variation};
use wgtq::sweep::REGISTERED_SEED;
use wgtq::sweep::production::Plan;

use super::{CodecArgs, GpuArgs, HostArgs};

/// Replay decode steps through the kernels and compare them with the f64 oracles.
///
/// Singlestep (the default) replays captured inputs and writes `<out>.json` and
/// `<out>_sdpa_out.bin` (f32 `[heads, head_dim]`; further legs add `.<leg>.bin`). Multistep and
/// production-faithful make their own data; their verdicts are registered for the default codec, with
/// another one they print what theory expects. A flag that the mode would ignore is an error.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("mode").args(["singlestep", "multistep", "production_faithful"])))]
pub struct Args {
    /// Replay one captured decode step (the default)
    #[arg(long)]
    singlestep: bool,
    /// Four positions of a generated cache, two past the ring's wrap; writes `<out>.json` and
    /// `<out>.md`
    #[arg(long)]
    multistep: bool,
    /// The registered sweep over generated inputs with RMSNorm and RoPE; writes `<out>/audit.json`
    #[arg(long)]
    production_faithful: bool,
    /// Captured inputs: a JSON manifest (singlestep)
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Which computation (singlestep) [default: A]
    #[arg(long, value_enum, ignore_case = true)]
    variation: Option<Variation>,
    /// Change a norm on purpose: in-range (bare), out-of-range; any other value, such as 1e9, is
    /// out-of-range (singlestep)
    #[arg(long, value_name = "WHERE", num_args = 0..=1, default_missing_value = "in-range")]
    canary: Option<String>,
    /// Change the in-range norm on the device only, so that the error must jump (singlestep)
    #[arg(long, requires = "canary")]
    canary_asymmetric: bool,
    /// Which references to compare with (singlestep) [default: dequant]
    #[arg(long, value_enum)]
    oracle: Option<Oracle>,
    /// Seed of the data, decimal or 0x hexadecimal (multistep) [default: 0x00C25EED]
    #[arg(long, value_parser = super::seed)]
    seed: Option<u64>,
    /// Name of the session in the audit (production-faithful) [default: wgtq]
    #[arg(long)]
    session: Option<String>,
    /// Also write a self-contained HTML page (production-faithful)
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    codec: CodecArgs,
    /// Where to write; a trailing .json is dropped to make the stem
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Who executes the kernels; may be given several times
    #[arg(long, value_enum, value_delimiter = ',', default_value = "wgsl")]
    leg: Vec<LegName>,
    #[command(flatten)]
    gpu: GpuArgs,
    #[command(flatten)]
    host: HostArgs,
    /// Print the JSON report on stdout instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Singlestep,
    Multistep,
    ProductionFaithful,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Singlestep => "singlestep",
            Self::Multistep => "multistep",
            Self::ProductionFaithful => "production-faithful",
        }
    }
}

impl Args {
    fn canary(&self) -> Result<Canary, DriverError> {
        let asymmetric = self.canary_asymmetric
            || std::env::var("HF2Q_REPLAY_CANARY_ASYMMETRIC").is_ok_and(|v| v == "1");
        match self.canary.as_deref() {
            None => Ok(Canary::None),
            Some("in-range") if asymmetric => Ok(Canary::InRangeAsymmetric),
            Some("in-range") => Ok(Canary::InRange),
            Some(other) if self.canary_asymmetric => Err(DriverError::Argument {
                flag: "--canary-asymmetric",
                need: "--canary in-range".to_owned(),
                found: format!("--canary {other}"),
            }),
            Some(_) => Ok(Canary::OutOfRange),
        }
    }

    fn mode(&self) -> Mode {
        match (self.multistep, self.production_faithful) {
            (true, _) => Mode::Multistep,
            (_, true) => Mode::ProductionFaithful,
            _ => Mode::Singlestep,
        }
    }

    /// Refuses flags that the mode would ignore.
    fn check_flags(&self) -> Result<(), DriverError> {
        use Mode::{Multistep, ProductionFaithful, Singlestep};
        let mode = self.mode();
        for (flag, given, wanted_by) in [
            ("--manifest", self.manifest.is_some(), Singlestep),
            ("--variation", self.variation.is_some(), Singlestep),
            ("--canary", self.canary.is_some(), Singlestep),
            ("--canary-asymmetric", self.canary_asymmetric, Singlestep),
            ("--oracle", self.oracle.is_some(), Singlestep),
            ("--seed", self.seed.is_some(), Multistep),
            ("--session", self.session.is_some(), ProductionFaithful),
            ("--html", self.html.is_some(), ProductionFaithful),
        ] {
            if given && mode != wanted_by {
                return Err(DriverError::Argument {
                    flag,
                    need: format!("mode {}", wanted_by.name()),
                    found: format!("mode {}", mode.name()),
                });
            }
        }
        match self.codec.given() {
            Some(flag) if mode == Singlestep => Err(DriverError::Argument {
                flag,
                need: "mode multistep or production-faithful".to_owned(),
                found: format!("mode {}, whose manifest names the codec", mode.name()),
            }),
            _ => Ok(()),
        }
    }

    /// Runs the sub-command.
    pub fn run(self) -> Result<ExitCode, DriverError> {
        self.check_flags()?;
        self.host.refuse_unused(&self.leg)?;
        match self.mode() {
            Mode::Singlestep => self.run_singlestep(),
            Mode::Multistep => {
                let seed = self.seed.unwrap_or(REGISTERED_SEED);
                let legs = super::Legs { names: &self.leg, gpu: self.gpu, host: self.host };
                super::multistep::run(&self.out, seed, self.codec.into(), legs, self.json)
            }
            Mode::ProductionFaithful => {
                let session = self.session.unwrap_or_else(|| "wgtq".to_owned());
                let mut plan = Plan::registered(session);
                plan.shape.codec = self.codec.into();
                let request = super::sweep::Request {
                    out: &self.out,
                    html: self.html.as_deref(),
                    json: self.json,
                };
                let legs = super::Legs { names: &self.leg, gpu: self.gpu, host: self.host };
                super::sweep::run(&plan, &request, legs)
            }
        }
    }

    fn run_singlestep(self) -> Result<ExitCode, DriverError> {
        let Some(manifest) = &self.manifest else {
            return Err(DriverError::Argument {
                flag: "--manifest",
                need: "a file".to_owned(),
                found: "none".to_owned(),
            });
        };
        let files = Files::new(&self.out);
        check_writable(&files.json)?;
        let bar = super::spinner();
        bar.set_message("reading");
        let input = Input::load(manifest)?;
        bar.set_message("computing the f64 references");
        let request = Request {
            variation: self.variation.unwrap_or_default(),
            canary: self.canary()?,
            oracle: self.oracle.unwrap_or_default(),
        };
        let single = Singlestep::new(&input, request)?;

        let selection = Selection::from(self.gpu);
        let mut bins = Vec::new();
        let mut entries: Vec<Entry> = Vec::new();
        for &name in &self.leg {
            if entries.iter().any(|e| e.leg == name) {
                continue;
            }
            bar.set_message(format!("running leg {}", name.as_str()));
            let mut leg = self.host.open(name, &selection)?;
            let replayed = single.run(leg.as_mut())?;
            let bin = files.bin(name, entries.is_empty());
            entries.push(Entry { bin_path: bin.display().to_string(), ..replayed.entry });
            bins.push((bin, replayed.output));
        }
        bar.finish_and_clear();

        let report = report(&input, entries)?;
        let json = super::pretty(&report)?;
        let mut outputs = Outputs::default();
        for (path, output) in &bins {
            outputs.stage(path, bytemuck::cast_slice(output))?;
        }
        outputs.stage(&files.json, json.as_bytes())?;
        outputs.commit()?;
        if self.json {
            super::print(&json);
        } else {
            show(&report, &files.json);
        }
        Ok(if report.legs.iter().all(|e| e.status.good()) {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(2)
        })
    }
}

/// Names of the files, all from one stem.
struct Files {
    stem: String,
    json: PathBuf,
}

impl Files {
    fn new(out: &Path) -> Self {
        let stem = super::stem(out);
        let json = PathBuf::from(format!("{stem}.json"));
        Self { stem, json }
    }

    fn bin(&self, leg: LegName, first: bool) -> PathBuf {
        let stem = &self.stem;
        PathBuf::from(if first {
            format!("{stem}_sdpa_out.bin")
        } else {
            format!("{stem}_sdpa_out.{}.bin", leg.as_str())
        })
    }
}

fn report(input: &Input, legs: Vec<Entry>) -> Result<Report, DriverError> {
    let p = &input.params;
    let first = legs.first().cloned().ok_or_else(|| DriverError::Argument {
        flag: "--leg",
        need: "at least one".to_owned(),
        found: "none".to_owned(),
    })?;
    Ok(Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        manifest: input.path.display().to_string(),
        params: ShapeReport {
            num_heads: p.n_heads,
            num_kv_heads: p.n_kv_heads,
            head_dim: p.head_dim,
            kv_seq_len: p.kv_seq_len,
            kv_capacity: p.kv_capacity,
            scale: p.scale,
            mask_type: p.mask_type,
            sliding_window: p.sliding_window,
            softcap: p.softcap,
            ring_start: p.ring_start,
        },
        codec: input.codec.into(),
        first,
        legs,
    })
}

fn show(report: &Report, json: &Path) {
    let p = &report.params;
    super::print(&format!(
        "{}\n{} query heads, {} KV heads, head_dim {}, {} of {} positions from slot {}, {}, {}/{} bits{}",
        report.manifest,
        p.num_heads,
        p.num_kv_heads,
        p.head_dim,
        p.kv_seq_len,
        p.kv_capacity,
        p.ring_start,
        report.codec.rotation,
        report.codec.k_bits,
        report.codec.v_bits,
        if report.codec.norm_correction { ", norms corrected" } else { "" },
    ));
    for e in &report.legs {
        let number = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.2e}"));
        let color =
            if e.status.good() { AnsiColor::Green } else { AnsiColor::Red }.on_default().bold();
        let mut lines = vec![
            format!("\nleg {} on {}", e.leg.as_str(), e.adapter.line()),
            format!("  {color}{}{color:#}  {}", e.status.word(), e.reason),
            format!(
                "  nrmse {} from the dequantising oracle, largest difference {}",
                number(e.dequant_oracle_nrmse),
                number(e.max_abs_diff)
            ),
        ];
        lines.extend(e.findings.iter().map(|f| format!("  finding: {f}")));
        if let Some(identical) = e.canary_bit_identical {
            let word = if identical { "bit for bit" } else { "NOT" };
            lines.push(format!("  output {word} that of the run without the canary"));
        }
        if let Some(source) = e.independent_floor_source {
            let what = match source {
                "full" => "unquantised K and V",
                _ => "K and V with only the newest row unquantised",
            };
            lines.push(format!(
                "  nrmse {} from {what}: what the codec costs",
                number(e.independent_floor_nrmse)
            ));
        }
        lines.push(format!(
            "  {} split{}, pipelines {:.0} ms, run {:.1} ms",
            e.splits,
            if e.splits == 1 { "" } else { "s" },
            e.timing.compile_ms,
            e.timing.execute_ms
        ));
        super::print(&lines.join("\n"));
    }
    let bins: Vec<&str> = report.legs.iter().map(|e| e.bin_path.as_str()).collect();
    super::note(&format!("\nwrote {}, {}", json.display(), bins.join(", ")));
}
