//! Gates: checks that must pass before a production sweep measures anything. Each runs in a
//! subprocess of the very binary that measures, and its outcome is recorded.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use schemars::JsonSchema;
use serde::Serialize;

use super::theory::Decoded;
use super::{multistep, verdict};
use crate::codec::{Bits, Codec, CodecSettings, Direction, HeadDim, Ring, Rotation, row};
use crate::driver::DriverError;
use crate::legs::{Leg, LegName, PackedBuffers, Recorder, Tape};
use crate::metrics::compare;
use crate::oracle::dequantize_kv::PackedRows;
use crate::oracle::quantize_kv::encode;
use crate::params::{DequantizeKvParams, QuantizeKvParams};
use crate::parity::ATTENTION_NRMSE;
use crate::rng::Gaussian;

/// A gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[cfg_attr(feature = "cli", value(rename_all = "snake_case"))]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Encode, decode and rotate 1000 vectors by the kernels: the error is the codec's, and the
    /// rotation alone is its own inverse.
    GateRoundTripIdentity,
    /// The codec's error at 4, 5 and 6 bits is the theory's.
    GateBitwidthAb,
    /// The multistep run agrees with its dequantising oracle.
    GateMultistepSelfCheck,
}

/// Every gate, in the order they run.
pub const ALL: [Gate; 3] =
    [Gate::GateRoundTripIdentity, Gate::GateBitwidthAb, Gate::GateMultistepSelfCheck];

/// Names a gate that is to fail on purpose, to see that a failure is handled.
pub const FAIL_ENV: &str = "WGTQ_FAIL_GATE";

/// Lines kept of a gate's output.
const TAIL_LINES: usize = 40;

impl Gate {
    /// Its name on the command line and in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GateRoundTripIdentity => "gate_round_trip_identity",
            Self::GateBitwidthAb => "gate_bitwidth_ab",
            Self::GateMultistepSelfCheck => "gate_multistep_self_check",
        }
    }

    /// Runs the check itself on `leg` with the codec that is to be measured. The report says what
    /// was measured; `passed` whether it holds.
    pub fn check(self, leg: &mut dyn Leg, codec: CodecSettings) -> Result<Checked, DriverError> {
        let mut checked = match self {
            Self::GateRoundTripIdentity => round_trip_identity(leg, codec)?,
            Self::GateBitwidthAb => bitwidth_ab(),
            Self::GateMultistepSelfCheck => multistep_self_check(leg, codec)?,
        };
        if std::env::var_os(FAIL_ENV).is_some_and(|v| v == self.as_str()) {
            checked.expect(&format!("{FAIL_ENV} is set"), 1.0, 0.0..=0.0);
        }
        Ok(checked)
    }
}

/// What a gate measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// Whether every value is where it must be.
    pub passed: bool,
    /// One line a value.
    pub lines: Vec<String>,
}

impl Checked {
    const fn new() -> Self {
        Self { passed: true, lines: Vec::new() }
    }

    fn expect(&mut self, what: &str, value: f64, range: std::ops::RangeInclusive<f64>) {
        let good = range.contains(&value);
        self.passed &= good;
        let shown = if value.abs() < 1e-3 { format!("{value:.2e}") } else { format!("{value:.5}") };
        self.lines.push(format!(
            "{}: {what} {shown}, must be in [{}, {}]",
            if good { "ok" } else { "FAIL" },
            range.start(),
            range.end()
        ));
    }
}

/// Relative L2 error of `got` against `want`.
fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    let want: Vec<f64> = want.iter().map(|&x| f64::from(x)).collect();
    compare(got, &want, want.len()).map_or(f64::INFINITY, |d| d.nrmse)
}

const VECTORS: u32 = 1000;

fn round_trip_identity(leg: &mut dyn Leg, settings: CodecSettings) -> Result<Checked, DriverError> {
    let mut checked = Checked::new();
    for head_dim in [HeadDim::ALL[1], HeadDim::ALL[2], HeadDim::ALL[3]] {
        let x =
            Gaussian::new(head_dim.get().into()).normals(VECTORS as usize * head_dim.as_usize());
        let mut codecs = vec![settings.k(head_dim), settings.v(head_dim)];
        codecs.dedup();
        for codec in codecs {
            let (decoded, twice) = round_trip(leg, codec, &x)?;
            let error = relative_error(&decoded, &x);
            let what = if verdict::is_registered(&settings) {
                format!("codec error at D {head_dim}")
            } else {
                format!("codec error at D {head_dim}, {} bits", codec.bits)
            };
            checked.expect(&what, error, round_trip_range(&settings, &codec));
            let error = relative_error(&twice, &x);
            checked.expect(&format!("FWHT twice at D {head_dim}"), error, 0.0..=1e-5);
        }
    }
    Ok(checked)
}

/// Where the codec's error must lie: in the registered range, else within 5 % of what theory
/// expects.
fn round_trip_range(settings: &CodecSettings, codec: &Codec) -> std::ops::RangeInclusive<f64> {
    if verdict::is_registered(settings) {
        return 0.085..=0.11;
    }
    let expected = Decoded::by(codec).mse().sqrt();
    let digits = |x: f64| (x * 1e5).round() / 1e5;
    digits(0.95 * expected)..=digits(1.05 * expected)
}

/// The vectors encoded and decoded by the kernels, and rotated back and forth.
fn round_trip(
    leg: &mut dyn Leg,
    codec: Codec,
    x: &[f32],
) -> Result<(Vec<f32>, Vec<f32>), DriverError> {
    let d = codec.head_dim.get();
    let mut tape = Tape::default();
    let src = tape.input("src", bytemuck::cast_slice::<f32, u8>(x));
    let packed =
        tape.output("packed", u64::from(VECTORS) * row::row_bytes(codec.head_dim, codec.bits));
    let norms =
        tape.output("norms", u64::from(VECTORS) * u64::from(codec.head_dim.norms_per_pos()) * 4);
    let decoded = tape.output("decoded", x.len() as u64 * 4);
    let twice = tape.in_out("twice", bytemuck::cast_slice::<f32, u8>(x));

    let side = PackedBuffers { bits: codec.bits, packed, norms };
    let mut recorder = Recorder::new(&mut tape, leg, codec);
    let params = QuantizeKvParams {
        head_dim: d,
        num_kv_heads: 1,
        write_pos: 0,
        cache_capacity: VECTORS,
        is_sliding: 0,
        scale_factor_d512: 1.0,
        rms_probe_enabled: 0,
        num_tokens: VECTORS,
    };
    recorder.quantize(&params, src, side)?;
    let params = DequantizeKvParams {
        head_dim: d,
        num_kv_heads: 1,
        read_pos: 0,
        cache_capacity: VECTORS,
        norms_per_pos: codec.head_dim.norms_per_pos(),
        scale_factor_d512: 1.0,
        num_tokens: VECTORS,
        dst_token_stride: d,
        dst_head_stride: d,
    };
    recorder.dequantize(&params, side, decoded)?;
    recorder.rotate(decoded, Direction::Inverse, VECTORS)?;
    recorder.rotate(twice, Direction::Forward, VECTORS)?;
    recorder.rotate(twice, Direction::Inverse, VECTORS)?;
    let run = leg.run(&tape)?;
    Ok((run.floats(decoded), run.floats(twice)))
}

/// The codec itself at three widths, by the oracle: whatever the kernels do, the codebooks are
/// right.
fn bitwidth_ab() -> Checked {
    let mut checked = Checked::new();
    let head_dim = HeadDim::ALL[2];
    let d = head_dim.as_usize();
    for (bits, range) in [
        (Bits::B4, 0.0975 - 0.005..=0.0975 + 0.005),
        (Bits::B5, 0.047..=0.056),
        (Bits::B6, 0.024..=0.032),
    ] {
        let codec = Codec::new(head_dim, bits, Rotation::Plain);
        let x = Gaussian::new(bits.get().into()).normals(VECTORS as usize * d);
        let mut decoded = Vec::with_capacity(x.len());
        let mut packed = vec![0; row::row_bytes(head_dim, bits) as usize];
        let mut out = vec![0.0; d];
        for x in x.chunks_exact(d) {
            let encoded = encode(&codec, x);
            row::pack(bits, &encoded.codes, &mut packed);
            let norms: Vec<f32> = encoded.norms.iter().map(|&n| n as f32).collect();
            PackedRows { codec, capacity: 1, packed: &packed, norms: &norms }
                .decode(0, 0, &mut out);
            decoded.extend(out.iter().map(|&x| x as f32));
        }
        let error = relative_error(&decoded, &x);
        checked.expect(&format!("codec error at {} bits", bits.get()), error, range);
    }
    checked
}

/// Rounding at logits with a standard deviation of 16: four times the bound of ordinary ones.
const SHARP_NRMSE: f64 = 4.0 * ATTENTION_NRMSE;

fn multistep_self_check(leg: &mut dyn Leg, codec: CodecSettings) -> Result<Checked, DriverError> {
    use super::{Shape, Step, inputs, point, probe};
    let mut checked = Checked::new();
    let shape = Shape { codec, ..multistep::SHAPE };
    for abs_pos in multistep::POSITIONS {
        let step = multistep::step(abs_pos);
        let data = inputs::multistep(&shape, &step, super::REGISTERED_SEED);
        let reference = point::reference(&shape, &step, &data)?;
        let measured = point::measure(leg, &shape, &step, &data, &reference)?;
        let what = format!("nrmse from the dequantising oracle at position {abs_pos}");
        checked.expect(&what, measured.dequant_nrmse, 0.0..=SHARP_NRMSE);
        let visited = probe::positions_visited(leg, &shape, &step)?;
        let all = f64::from(Ring::new(shape.kv_capacity, step.ring_start, step.kv_seq_len)?.len());
        let what = format!("positions visited at position {abs_pos}");
        checked.expect(&what, f64::from(visited.positions), all..=all);
    }
    // The rings above are full or start at slot 0: a kernel that ignores ring_start passes them.
    let partly = Step { kv_seq_len: 256, ..multistep::step(1050) };
    let visited = probe::positions_visited(leg, &shape, &partly)?;
    let what = format!("positions visited, 256 stored from slot {}", partly.ring_start);
    checked.expect(&what, f64::from(visited.positions), 256.0..=256.0);
    Ok(checked)
}

/// How a gate went, as the audit records it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct GateRecord {
    /// The gate.
    pub name: Gate,
    /// The leg it ran on.
    pub leg: LegName,
    /// Exit code of the subprocess; null if a signal ended it.
    pub exit_code: Option<i32>,
    /// PASS or FAIL, from the exit code.
    pub status: GateStatus,
    /// How long it took.
    pub duration_ms: u64,
    /// Last 40 lines of its standard output.
    pub stdout_tail: Vec<String>,
    /// Last 40 lines of its standard error.
    pub stderr_tail: Vec<String>,
    /// What was run.
    pub command: Vec<String>,
    /// The executable: the one that measures.
    pub executable: String,
    /// SHA-256 of the executable.
    pub executable_sha256: String,
}

/// PASS or FAIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the words themselves")]
pub enum GateStatus {
    Pass,
    Fail,
}

/// The running executable and its hash.
#[derive(Debug, Clone)]
pub struct Executable {
    path: std::path::PathBuf,
    sha256: String,
}

impl Executable {
    /// Reads and hashes the running executable.
    pub fn current() -> Result<Self, DriverError> {
        use sha2::{Digest, Sha256};
        let fail = |path: &Path, source| DriverError::File { path: path.to_owned(), source };
        let path = std::env::current_exe().map_err(|e| fail(Path::new("current executable"), e))?;
        let bytes = std::fs::read(&path).map_err(|e| fail(&path, e))?;
        let sha256 = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        Ok(Self { path, sha256 })
    }

    /// Runs `gate` on `leg` in a subprocess; `extra` are flags that choose the adapter.
    pub fn run(
        &self,
        gate: Gate,
        leg: LegName,
        extra: &[String],
    ) -> Result<GateRecord, DriverError> {
        let mut arguments = vec![
            "gate".to_owned(),
            gate.as_str().to_owned(),
            "--leg".to_owned(),
            leg.as_str().to_owned(),
        ];
        arguments.extend_from_slice(extra);
        let start = Instant::now();
        let output = Command::new(&self.path)
            .args(&arguments)
            .output()
            .map_err(|source| DriverError::File { path: self.path.clone(), source })?;
        let tail = |bytes: &[u8]| -> Vec<String> {
            let text = String::from_utf8_lossy(bytes);
            let lines: Vec<&str> = text.lines().collect();
            let first = lines.len().saturating_sub(TAIL_LINES);
            lines[first..].iter().map(|l| (*l).to_owned()).collect()
        };
        let executable = self.path.display().to_string();
        let mut command = vec![executable.clone()];
        command.extend(arguments);
        Ok(GateRecord {
            name: gate,
            leg,
            exit_code: output.status.code(),
            status: if output.status.success() { GateStatus::Pass } else { GateStatus::Fail },
            duration_ms: start.elapsed().as_millis() as u64,
            stdout_tail: tail(&output.stdout),
            stderr_tail: tail(&output.stderr),
            command,
            executable,
            executable_sha256: self.sha256.clone(),
        })
    }
}
