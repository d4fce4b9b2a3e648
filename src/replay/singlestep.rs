//! One decode step: the tape of each variation, the canaries, the references, the verdict.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

use super::manifest::{Input, Unquantised};
use super::report::{Entry, HeadError, SourceHash, Status, Timing};
use super::{CANARY_FACTOR, CANARY_NORM, CANARY_POSITION, Canary, Oracle, Variation};
use crate::codec::Direction;
use crate::driver::DriverError;
use crate::legs::{BufferId, Leg, PackedBuffers, Recorder, Run, Tape};
use crate::metrics::compare;
use crate::oracle::flash_attn_vec::attend_rows;
use crate::oracle::flash_attn_vec_tq::dequantizing_attention;
use crate::oracle::max_abs_score;
use crate::params::{FlashAttnVecParams, FlashAttnVecTqParams};
use crate::parity::attention_tolerance;

/// A negative control below this error has not failed as it must.
pub const CONTROL_NRMSE: f64 = 0.3;
/// How far the asymmetric canary's error may be from the predicted one: the kernel's own
/// rounding, with a margin of two.
pub const CANARY_TOLERANCE: f64 = 1e-5;

/// What to replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request {
    /// Which computation.
    pub variation: Variation,
    /// What is changed on purpose.
    pub canary: Canary,
    /// Which references.
    pub oracle: Oracle,
}

/// Everything that does not depend on the leg: checked request, norms on both sides, references.
#[derive(Debug)]
pub struct Singlestep<'a> {
    input: &'a Input,
    request: Request,
    device_k_norms: Cow<'a, [f32]>,
    device_v_norms: Cow<'a, [f32]>,
    reference: Vec<f64>,
    floor: Option<(Vec<f64>, &'static str)>,
    predicted: Option<f64>,
    max_score: f64,
    oracle_time: Duration,
}

/// A step on a tape.
struct Recorded<'t> {
    tape: Tape<'t>,
    #[cfg(feature = "msl-host")]
    q: BufferId,
    out: BufferId,
    splits: u32,
}

/// A leg's entry with its output.
#[derive(Debug)]
pub struct Replayed {
    /// The report's entry; `bin_path` is for the caller to fill.
    pub entry: Entry,
    /// f32 `[nh, D]`.
    pub output: Vec<f32>,
}

impl<'a> Singlestep<'a> {
    /// Checks the request against the input and computes the references.
    pub fn new(input: &'a Input, request: Request) -> Result<Self, DriverError> {
        check_request(input, request)?;
        let start = Instant::now();
        let (mut device_k_norms, mut device_v_norms) =
            (Cow::Borrowed(&*input.k.norms), Cow::Borrowed(&*input.v.norms));
        let mut predicted = None;
        let reference = match request.canary {
            Canary::InRange => {
                let doubled = double_canary_norm(input);
                device_k_norms = Cow::Owned(doubled.clone());
                dequant_reference(input, Some(&doubled))?
            }
            Canary::InRangeAsymmetric => {
                let doubled = double_canary_norm(input);
                let reference = dequant_reference(input, None)?;
                let mutated = dequant_reference(input, Some(&doubled))?;
                predicted = nrmse(&mutated, &reference);
                device_k_norms = Cow::Owned(doubled);
                reference
            }
            Canary::OutOfRange => {
                device_k_norms = outside_norms(input, &input.k.norms, &input.k_norms_canary)?;
                device_v_norms = outside_norms(input, &input.v.norms, &input.v_norms_canary)?;
                dequant_reference(input, None)?
            }
            Canary::None => dequant_reference(input, None)?,
        };
        let floor = match request.oracle {
            Oracle::Dequant => None,
            Oracle::IndependentFloor | Oracle::Both => floor_reference(input)?,
        };
        let rows = input.k.rows(input.params.kv_capacity, &device_k_norms);
        let score_params = FlashAttnVecParams::from(input.params);
        let max_score = max_abs_score(&score_params, &input.q, &|h, s, o| rows.decode(h, s, o))?;
        Ok(Self {
            input,
            request,
            device_k_norms,
            device_v_norms,
            reference,
            floor,
            predicted,
            max_score,
            oracle_time: start.elapsed(),
        })
    }

    /// Plays the step on `leg` and judges it.
    pub fn run(&self, leg: &mut dyn Leg) -> Result<Replayed, DriverError> {
        let step = self.tape(leg, &self.device_k_norms, &self.device_v_norms)?;
        let run = leg.run(&step.tape)?;
        let output = run.floats(step.out);
        let bit_identical = match self.request.canary {
            Canary::OutOfRange => {
                let clean = self.tape(leg, &self.input.k.norms, &self.input.v.norms)?;
                Some(leg.run(&clean.tape)?.bytes(clean.out) == run.bytes(step.out))
            }
            _ => None,
        };
        let sources = leg
            .source_hashes(&step.tape)?
            .into_iter()
            .map(|(label, sha256)| SourceHash { label, sha256 })
            .collect();
        let entry = self.judge(leg, &output, &run, bit_identical, step.splits, sources);
        #[cfg(feature = "msl-host")]
        let entry = if leg.runs_originals() {
            self.apply_limits(entry, &output, &run.floats(step.q))?
        } else {
            entry
        };
        Ok(Replayed { entry, output })
    }

    /// Gives a difference from the contract its name, where the known limits of original kernels
    /// make all of it. `q` is the query as the attention kernel got it.
    #[cfg(feature = "msl-host")]
    fn apply_limits(
        &self,
        mut entry: Entry,
        output: &[f32],
        q: &[f32],
    ) -> Result<Entry, DriverError> {
        // A canary is judged by what it predicts, and by nothing else.
        let canary = self.predicted.is_some() || entry.canary_bit_identical == Some(false);
        if !canary && matches!(entry.status, Status::Mismatch | Status::RuntimeError) {
            let step = super::originals::Step {
                input: self.input,
                k_norms: &self.device_k_norms,
                v_norms: &self.device_v_norms,
                variation: self.request.variation,
            };
            if let Some((limits, outcome)) = step.limited(output, q)? {
                entry.limited_oracle_nrmse = Some(outcome.error).filter(|e| e.is_finite());
                entry.expected_differences = limits.iter().map(|l| l.as_str()).collect();
                if outcome.pass() {
                    entry.status = Status::ExpectedDifference;
                    entry.exit_status = "expected_difference";
                    entry.reason = format!(
                        "the limits {}: error from the oracle with these {:.2e}, at most {:.2e}",
                        entry.expected_differences.join(", "),
                        outcome.error,
                        outcome.tolerance
                    );
                }
            }
        }
        Ok(entry)
    }

    /// The variation's dispatches over the given norms.
    fn tape<'t>(
        &'t self,
        leg: &dyn Leg,
        k_norms: &'t [f32],
        v_norms: &'t [f32],
    ) -> Result<Recorded<'t>, DriverError> {
        let input = self.input;
        let params = &input.params;
        let mut tape = Tape::default();
        // The query is rotated in place, so it is an in-out buffer even where nothing changes it.
        let q = tape.in_out("q", bytemuck::cast_slice::<f32, u8>(&input.q));
        let k = PackedBuffers {
            bits: input.codec.k_bits,
            packed: tape.input("k_packed", &*input.k.packed),
            norms: tape.input("k_norms", bytemuck::cast_slice::<f32, u8>(k_norms)),
        };
        let v = PackedBuffers {
            bits: input.codec.v_bits,
            packed: tape.input("v_packed", &*input.v.packed),
            norms: tape.input("v_norms", bytemuck::cast_slice::<f32, u8>(v_norms)),
        };
        let out = tape.output("out", input.q.len() as u64 * 4);
        let mut recorder = Recorder::new(&mut tape, leg, input.v.codec);
        let splits = match self.request.variation {
            Variation::A => {
                recorder.rotate(q, Direction::Forward, params.n_heads)?;
                let passed = recorder.attend_packed(params, q, [k, v], out)?;
                recorder.rotate(out, Direction::Inverse, params.n_heads)?;
                passed.nwg
            }
            Variation::B => recorder.attend_packed(params, q, [k, v], out)?.nwg,
            Variation::C => {
                let k = recorder.decode(params, k, "k decoded")?;
                let v = recorder.decode(params, v, "v decoded")?;
                let shape = FlashAttnVecParams::from(*params);
                let shape =
                    FlashAttnVecParams { kv_capacity: params.kv_seq_len, ring_start: 0, ..shape };
                recorder.attend_dense(&shape, [q, k, v], out)?
            }
        };
        Ok(Recorded {
            tape,
            #[cfg(feature = "msl-host")]
            q,
            out,
            splits,
        })
    }

    fn judge(
        &self,
        leg: &dyn Leg,
        output: &[f32],
        run: &Run,
        bit_identical: Option<bool>,
        splits: u32,
        sources: Vec<SourceHash>,
    ) -> Entry {
        let d = self.input.head_dim.as_usize();
        let difference = compare(output, &self.reference, d);
        let floor = self.floor.as_ref().map(|(reference, _)| compare(output, reference, d));
        let nan_inf = output.iter().any(|x| !x.is_finite());
        let tolerance = match self.request.variation {
            Variation::B => None,
            _ => Some(attention_tolerance(self.max_score)),
        };
        let failed = difference.as_ref().err().or(floor.as_ref().and_then(|f| f.as_ref().err()));
        let (status, reason) = match failed {
            Some(error) => (Status::RuntimeError, error.to_string()),
            None if self.request.oracle == Oracle::IndependentFloor => {
                (Status::NotJudged, "only the floor was asked for".to_owned())
            }
            None => self.verdict(
                difference.as_ref().map_or(f64::NAN, |d| d.nrmse),
                tolerance,
                bit_identical,
            ),
        };
        let dequant = difference.ok().filter(|_| self.request.oracle != Oracle::IndependentFloor);
        Entry {
            leg: leg.name(),
            variation: self.request.variation,
            canary: self.request.canary,
            ran_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            status,
            reason,
            dequant_oracle_nrmse: dequant.as_ref().map(|d| d.nrmse),
            tolerance,
            expected_differences: Vec::new(),
            limited_oracle_nrmse: None,
            findings: leg.findings(),
            max_abs_diff: dequant.as_ref().map(|d| d.max_abs),
            per_head_max_abs_diff: dequant.map_or_else(Vec::new, |d| {
                let heads = d.per_row.into_iter().enumerate();
                heads.map(|(head, max_abs_diff)| HeadError { head, max_abs_diff }).collect()
            }),
            max_abs_score: self.max_score,
            predicted_canary_nrmse: self.predicted,
            canary_bit_identical: bit_identical,
            independent_floor_nrmse: floor.and_then(Result::ok).map(|d| d.nrmse),
            independent_floor_source: self.floor.as_ref().map(|(_, source)| *source),
            any_nan_inf_in_gpu_output: nan_inf,
            exit_status: match status {
                Status::Pass | Status::NotJudged => "ok",
                Status::ExpectedDifference => "expected_difference",
                Status::Mismatch => "mismatch",
                Status::RuntimeError if nan_inf => "nan_inf",
                Status::RuntimeError => "error",
            },
            bin_path: String::new(),
            splits,
            adapter: leg.adapter().clone(),
            sources,
            timing: Timing {
                compile_ms: run.compile.as_secs_f64() * 1e3,
                execute_ms: run.execute.as_secs_f64() * 1e3,
                oracle_ms: self.oracle_time.as_secs_f64() * 1e3,
            },
        }
    }

    /// Whether the error is what this variation and canary must show.
    fn verdict(
        &self,
        nrmse: f64,
        tolerance: Option<f64>,
        identical: Option<bool>,
    ) -> (Status, String) {
        let (good, reason) = match (tolerance, self.predicted) {
            (None, _) => (
                nrmse > CONTROL_NRMSE,
                format!("negative control: error must be over {CONTROL_NRMSE}"),
            ),
            (Some(_), Some(predicted)) if predicted <= 2.0 * CANARY_TOLERANCE => {
                let reason =
                    format!("canary: its predicted effect {predicted:.1e} is too small to see");
                return (Status::NotJudged, reason);
            }
            (Some(_), Some(predicted)) => (
                (nrmse - predicted).abs() <= CANARY_TOLERANCE,
                format!(
                    "canary: error must be the predicted {predicted:.3e}, to {CANARY_TOLERANCE:e}"
                ),
            ),
            (Some(tolerance), None) => {
                (nrmse <= tolerance, format!("error must be at most {tolerance:.2e}"))
            }
        };
        match identical {
            Some(false) => {
                (Status::Mismatch, "canary: norms of empty slots changed the output".to_owned())
            }
            _ if good => (Status::Pass, reason),
            _ => (Status::Mismatch, reason),
        }
    }
}

fn check_request(input: &Input, request: Request) -> Result<(), DriverError> {
    let p = &input.params;
    match request.canary {
        Canary::InRange | Canary::InRangeAsymmetric if p.kv_seq_len <= CANARY_POSITION => {
            Err(DriverError::Argument {
                flag: "--canary in-range",
                need: format!("position {CANARY_POSITION} to be stored"),
                found: format!("kv_seq_len {}", p.kv_seq_len),
            })
        }
        Canary::OutOfRange if p.kv_seq_len == p.kv_capacity => Err(DriverError::Argument {
            flag: "--canary out-of-range",
            need: "a slot that holds no position".to_owned(),
            found: format!("kv_seq_len = kv_capacity = {}", p.kv_capacity),
        }),
        _ if request.oracle == Oracle::IndependentFloor
            && input.unquantised == Unquantised::None =>
        {
            Err(DriverError::Argument {
                flag: "--oracle independent-floor",
                need: "k_pre_quant and v_pre_quant, or the full ones, in the manifest".to_owned(),
                found: "neither".to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// K norms with the in-range canary's norm doubled (both blocks at head_dim 512).
fn double_canary_norm(input: &Input) -> Vec<f32> {
    let mut norms = input.k.norms.clone();
    let npp = input.head_dim.norms_per_pos() as usize;
    if let Ok(ring) = input.ring()
        && CANARY_POSITION < ring.len()
    {
        let slot = ring.slot(CANARY_POSITION) as usize;
        norms[slot * npp..(slot + 1) * npp].iter_mut().for_each(|n| *n *= CANARY_FACTOR);
    }
    norms
}

/// Norms with every slot that holds no position set to 1e9, or the manifest's canary file.
fn outside_norms<'a>(
    input: &Input,
    norms: &[f32],
    file: &'a Option<Vec<f32>>,
) -> Result<Cow<'a, [f32]>, DriverError> {
    if let Some(file) = file {
        return Ok(Cow::Borrowed(file));
    }
    let (ring, npp) = (input.ring()?, input.head_dim.norms_per_pos() as usize);
    let mut norms = norms.to_vec();
    for (i, norm) in norms.iter_mut().enumerate() {
        if !ring.holds((i / npp % ring.capacity() as usize) as u32) {
            *norm = CANARY_NORM;
        }
    }
    Ok(Cow::Owned(norms))
}

/// The dequantising oracle, on the compact rows where the manifest has them. `k_norms` replaces
/// the K norms, by slot.
fn dequant_reference(input: &Input, k_norms: Option<&[f32]>) -> Result<Vec<f64>, DriverError> {
    let p = input.params;
    let Some((k, v)) = &input.compact else {
        let k = input.k.rows(p.kv_capacity, k_norms.unwrap_or(&input.k.norms));
        let v = input.v.rows(p.kv_capacity, &input.v.norms);
        return Ok(dequantizing_attention(&p, &input.q, k, v)?);
    };
    let mut norms = Cow::Borrowed(&*k.norms);
    if k_norms.is_some() {
        let npp = input.head_dim.norms_per_pos() as usize;
        let at = CANARY_POSITION as usize * npp;
        norms.to_mut()[at..at + npp].iter_mut().for_each(|n| *n *= CANARY_FACTOR);
    }
    let compact = FlashAttnVecTqParams { kv_capacity: p.kv_seq_len, ring_start: 0, ..p };
    let k = k.rows(p.kv_seq_len, &norms);
    let v = v.rows(p.kv_seq_len, &v.norms);
    Ok(dequantizing_attention(&compact, &input.q, k, v)?)
}

/// Attention on unquantised K and V, and which positions were unquantised.
fn floor_reference(input: &Input) -> Result<Option<(Vec<f64>, &'static str)>, DriverError> {
    let p = FlashAttnVecParams::from(input.params);
    let (n, d) = (p.kv_seq_len, input.head_dim.as_usize());
    let copy = |from: &[f32], out: &mut [f64]| {
        out.iter_mut().zip(from).for_each(|(o, &x)| *o = f64::from(x));
    };
    Ok(match &input.unquantised {
        Unquantised::None => None,
        Unquantised::Full { k, v } => {
            let chronological = FlashAttnVecParams { kv_capacity: n, ring_start: 0, ..p };
            let row = |all: &[f32], h: u32, i: u32, out: &mut [f64]| {
                copy(&all[(h as usize * n as usize + i as usize) * d..][..d], out);
            };
            let out =
                attend_rows(&chronological, &input.q, &|h, i, o| row(k, h, i, o), &|h, i, o| {
                    row(v, h, i, o)
                })?;
            Some((out, "full"))
        }
        Unquantised::NewestRow { k, v } => {
            let newest = input.ring()?.slot(n - 1);
            let k_rows = input.k.rows(p.kv_capacity, &input.k.norms);
            let v_rows = input.v.rows(p.kv_capacity, &input.v.norms);
            let out = attend_rows(
                &p,
                &input.q,
                &|h, s, o| {
                    if s == newest {
                        copy(&k[h as usize * d..][..d], o)
                    } else {
                        k_rows.decode(h, s, o)
                    }
                },
                &|h, s, o| {
                    if s == newest {
                        copy(&v[h as usize * d..][..d], o)
                    } else {
                        v_rows.decode(h, s, o)
                    }
                },
            )?;
            Some((out, "newest_row"))
        }
    })
}

/// `sqrt(sum d^2 / sum ref^2)` of two references; none if the second is zero.
fn nrmse(a: &[f64], reference: &[f64]) -> Option<f64> {
    let power: f64 = reference.iter().map(|r| r * r).sum();
    let error: f64 = a.iter().zip(reference).map(|(a, r)| (a - r).powi(2)).sum();
    (power > 0.0).then(|| (error / power).sqrt())
}
