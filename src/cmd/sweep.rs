//! `wgtq sweep`, and the registered sweep of `wgtq replay --production-faithful`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::ProgressBar;
use wgtq::codec::HeadDim;
use wgtq::driver::{DriverError, Outputs, check_writable};
use wgtq::legs::LegName;
use wgtq::sweep::audit::Audit;
use wgtq::sweep::gates::{self, Executable, GateRecord, GateStatus};
use wgtq::sweep::production::{self, Place, Plan, Progress};
use wgtq::sweep::verdict::Verdict;
use wgtq::sweep::{REGISTERED_SEED, Shape, html};

use super::{CodecArgs, GpuArgs, HostArgs, Legs};

/// Sweep lengths and positions of a shape of your own, with the data, gates and report of the
/// registered sweep (`wgtq replay --production-faithful`).
///
/// Writes `<out>/audit.json`. Exit code 2 when a gate fails or a point lies outside the band. The
/// band is registered for 4-bit K and V with norms as they are; other codecs have none.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for audit.json; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Also write a self-contained HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Query heads
    #[arg(long, default_value_t = 16)]
    num_heads: u32,
    /// KV heads; divides the query heads
    #[arg(long, default_value_t = 8)]
    num_kv_heads: u32,
    /// Coordinates of a head vector: 64, 128, 256 or 512
    #[arg(long, default_value_t = 256)]
    head_dim: u32,
    /// Slots a KV head
    #[arg(long, default_value_t = 1024)]
    kv_capacity: u32,
    /// Factor on dot(q, k)
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    scale: f32,
    /// Sweep A: lengths, all at --at-position
    #[arg(long, value_delimiter = ',', value_name = "N", default_values_t = [128, 256, 500, 512, 768, 1024])]
    lengths: Vec<u32>,
    /// Position of sweep A
    #[arg(long, default_value_t = 500)]
    at_position: u32,
    /// Sweep B: positions, all with --at-length
    #[arg(long, value_delimiter = ',', value_name = "POS", default_values_t = [50, 100, 200, 500, 1000])]
    positions: Vec<u32>,
    /// Length of sweep B
    #[arg(long, default_value_t = 500)]
    at_length: u32,
    /// Positions measured at two ring starts [default: kv_capacity and kv_capacity + 26]
    #[arg(long, value_delimiter = ',', value_name = "POS")]
    wrap_positions: Option<Vec<u32>>,
    /// Length of those [default: a quarter of kv_capacity]
    #[arg(long)]
    wrap_length: Option<u32>,
    /// Window of the sliding mask; 0 means no window
    #[arg(long, default_value_t = 1024)]
    sliding_window: u32,
    #[command(flatten)]
    codec: CodecArgs,
    /// Seeds, decimal or 0x hexadecimal; each measures every point
    #[arg(long, value_parser = super::seed, value_delimiter = ',', default_value = "0x00C25EED")]
    seeds: Vec<u64>,
    /// Name of the session in the audit
    #[arg(long, default_value = "wgtq")]
    session: String,
    /// Who executes the kernels; may be given several times
    #[arg(long, value_enum, value_delimiter = ',', default_value = "wgsl")]
    leg: Vec<LegName>,
    #[command(flatten)]
    gpu: GpuArgs,
    #[command(flatten)]
    host: HostArgs,
    /// Print the audit on stdout instead of the table
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self) -> Result<ExitCode, DriverError> {
        let cap = self.kv_capacity;
        let place = |abs_pos, kv_seq_len| Place { abs_pos, kv_seq_len };
        let wraps = self.wrap_positions.unwrap_or_else(|| [cap, cap.saturating_add(26)].to_vec());
        let wrap_length = self.wrap_length.unwrap_or(cap / 4).max(1);
        let plan = Plan {
            session: self.session,
            shape: Shape {
                num_heads: self.num_heads,
                num_kv_heads: self.num_kv_heads,
                head_dim: HeadDim::new(self.head_dim)?,
                kv_capacity: cap,
                scale: self.scale,
                codec: self.codec.into(),
            },
            sweep_a: self.lengths.iter().map(|&n| place(self.at_position, n)).collect(),
            sweep_b: self.positions.iter().map(|&p| place(p, self.at_length)).collect(),
            ring_wrap: wraps.iter().map(|&p| place(p, wrap_length)).collect(),
            sliding_window: self.sliding_window,
            ring_wrap_window: self.sliding_window,
            seeds: if self.seeds.is_empty() { vec![REGISTERED_SEED] } else { self.seeds },
        };
        let request = Request { out: &self.out, html: self.html.as_deref(), json: self.json };
        self.host.refuse_unused(&self.leg)?;
        run(&plan, &request, Legs { names: &self.leg, gpu: self.gpu, host: self.host })
    }
}

/// Where a sweep goes.
pub struct Request<'a> {
    pub out: &'a Path,
    pub html: Option<&'a Path>,
    pub json: bool,
}

/// Gates, then the sweep, then the artefacts.
pub fn run(plan: &Plan, request: &Request<'_>, on: Legs<'_>) -> Result<ExitCode, DriverError> {
    plan.check()?;
    let fail = |path: &Path, source| DriverError::File { path: path.to_owned(), source };
    let audit_path = request.out.join("audit.json");
    std::fs::create_dir_all(request.out).map_err(|e| fail(request.out, e))?;
    check_writable(&audit_path)?;
    if let Some(html) = request.html {
        check_writable(html)?;
    }
    let mut names: Vec<LegName> = Vec::new();
    on.names.iter().for_each(|leg| {
        if !names.contains(leg) {
            names.push(*leg);
        }
    });
    // A leg that this machine lacks is an error of the command, not a failed gate.
    let mut legs = on.open()?;

    let bar = super::bar(plan.points() as u64);
    let gates = run_gates(&names, &on, &CodecArgs::flags(&plan.shape.codec), &bar)?;
    let passed = gates.iter().all(|g| g.status == GateStatus::Pass);
    let audit = if passed {
        production::run(plan, &mut legs, gates, &mut Bar(&bar))?
    } else {
        production::gate_failed(plan, &names, gates)
    };
    bar.finish_and_clear();

    let json = super::pretty(&audit)?;
    let mut outputs = Outputs::default();
    outputs.stage(&audit_path, json.as_bytes())?;
    if let Some(html) = request.html {
        outputs.stage(html, html::page(&audit).as_bytes())?;
    }
    outputs.commit()?;
    if request.json {
        super::print(&json);
    } else {
        show(&audit);
    }
    let also = request.html.map_or(String::new(), |h| format!(", {}", h.display()));
    super::note(&format!("wrote {}{also}", audit_path.display()));
    Ok(match audit.verdict {
        Verdict::BandPreFalsified | Verdict::GateFailed => ExitCode::from(2),
        _ => ExitCode::SUCCESS,
    })
}

fn run_gates(
    legs: &[LegName],
    on: &Legs<'_>,
    codec: &[String],
    bar: &ProgressBar,
) -> Result<Vec<GateRecord>, DriverError> {
    let executable = Executable::current()?;
    let mut records = Vec::new();
    for &leg in legs {
        for gate in gates::ALL {
            bar.set_message(gate.as_str());
            let record = executable.run(gate, leg, &[&on.flags(leg), codec].concat())?;
            let word = if record.status == GateStatus::Pass { "PASS" } else { "FAIL" };
            let line =
                format!("{word} {} on {} ({} ms)", gate.as_str(), leg.as_str(), record.duration_ms);
            bar.suspend(|| super::note(&line));
            if record.status == GateStatus::Fail {
                let lines = [&record.stdout_tail[..], &record.stderr_tail[..]].concat();
                bar.suspend(|| super::note(&lines.join("\n")));
            }
            records.push(record);
        }
    }
    Ok(records)
}

struct Bar<'a>(&'a ProgressBar);

impl Progress for Bar<'_> {
    fn begin(&mut self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    fn done(&mut self, note: Option<&str>) {
        self.0.inc(1);
        if let Some(note) = note {
            self.0.suspend(|| super::note(note));
        }
    }
}

fn show(audit: &Audit) {
    let mut table = super::table(&[
        "sweep", "leg", "pos", "n", "nrmse", "expected", "sigma", "flipped", "kernel", "band",
    ]);
    let band = |ok: Option<bool>| ok.map_or("-", |ok| if ok { "in" } else { "OUT" }).to_owned();
    let points =
        audit.sweep_a.iter().map(|r| ("A", r)).chain(audit.sweep_b.iter().map(|r| ("B", r)));
    for (sweep, r) in points {
        table.add_row([
            sweep.to_owned(),
            r.leg.as_str().to_owned(),
            r.abs_pos.to_string(),
            r.kvl_logical.to_string(),
            format!("{:.4}", r.nrmse),
            format!("{:.2} +- {:.2}", r.theory.expected_nrmse, r.theory.expected_nrmse_sd),
            format!("{:.1}", r.theory.logit_sigma),
            format!("{}/{}", r.flipped_heads, r.heads.len()),
            format!("{:.1e}", r.dequant_oracle_nrmse),
            band(r.band_ok),
        ]);
    }
    for r in &audit.ring_wrap {
        table.add_row([
            format!("wrap {}|{}", r.ring_start_a, r.ring_start_b),
            r.leg.as_str().to_owned(),
            r.abs_pos.to_string(),
            r.kvl_logical.to_string(),
            format!("{:.4}", r.ring_start_a_nrmse),
            format!("{:.2} +- {:.2}", r.theory.expected_nrmse, r.theory.expected_nrmse_sd),
            format!("{:.1}", r.theory.logit_sigma),
            format!("{}/{}", r.flipped_heads, r.heads.len()),
            format!("a-b {:.0e}", r.ab_delta),
            band(r.band_ok),
        ]);
    }
    if table.row_count() > 0 {
        super::print(&table.to_string());
    }
    for r in &audit.ring_wrap {
        super::print(&format!(
            "ring wrap at position {}, {}: visited {:?} of {} positions",
            r.abs_pos,
            r.leg.as_str(),
            r.positions_visited,
            r.kvl_logical
        ));
    }
    super::print(&format!("\n{}: {}", audit.verdict.as_str(), audit.verdict_reason));
    if audit.verdict == Verdict::BandPreFalsified {
        super::print(
            "nrmse: what the codec costs; expected: the codec's theory at this logit spread; flipped: \
             heads whose\nlargest score moved to another position; kernel: what the kernel itself adds. \
             The band is never widened.",
        );
    }
}
