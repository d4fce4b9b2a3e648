//! The production-faithful sweep: RMSNorm and RoPE as a model has them, three sweeps, one audit.

use std::time::{SystemTime, UNIX_EPOCH};

use super::audit::*;
use super::gates::GateRecord;
use super::inputs::{self, RMS_NORM_EPS, ROPE_THETA, StepData};
use super::point::{self, Measured};
use super::theory::{self, Theory};
use super::verdict::{self, BAND_LOWER, BAND_UPPER, Verdict, in_band, is_registered};
use super::{REGISTERED_SEED, Shape, Step, probe, ring_start};
use crate::codec::{CodecSettings, HeadDim};
use crate::driver::DriverError;
use crate::legs::{Leg, LegName};
use crate::rng::Gaussian;

/// A position and a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the newest token.
    pub abs_pos: u32,
    /// Positions stored.
    pub kv_seq_len: u32,
}

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Name of the session.
    pub session: String,
    /// The model's shape.
    pub shape: Shape,
    /// Lengths at one position.
    pub sweep_a: Vec<Place>,
    /// Positions at one length.
    pub sweep_b: Vec<Place>,
    /// Points measured at two ring starts.
    pub ring_wrap: Vec<Place>,
    /// Window of sweeps A and B.
    pub sliding_window: u32,
    /// Window of the ring-wrap points.
    pub ring_wrap_window: u32,
    /// Seeds; each makes every point anew.
    pub seeds: Vec<u64>,
}

impl Plan {
    /// The registered sweep. Nothing alters it; with another codec it is none.
    pub fn registered(session: String) -> Self {
        let place = |abs_pos, kv_seq_len| Place { abs_pos, kv_seq_len };
        Self {
            session,
            shape: Shape {
                num_heads: 16,
                num_kv_heads: 8,
                head_dim: HeadDim::ALL[2],
                kv_capacity: 1024,
                scale: 1.0,
                codec: CodecSettings::DEFAULT,
            },
            sweep_a: [128, 256, 500, 512, 768, 1024].map(|n| place(500, n)).to_vec(),
            sweep_b: [50, 100, 200, 500, 1000].map(|pos| place(pos, 500)).to_vec(),
            ring_wrap: [1024, 1050].map(|pos| place(pos, 256)).to_vec(),
            sliding_window: 1024,
            ring_wrap_window: 512,
            seeds: vec![REGISTERED_SEED],
        }
    }

    /// Whether errors lie in the band, if one is registered for the codec.
    fn band_ok(&self, errors: &[f64]) -> Option<bool> {
        is_registered(&self.shape.codec).then(|| errors.iter().all(|&e| in_band(e)))
    }

    /// Points to measure, for a progress bar.
    pub fn points(&self) -> usize {
        self.seeds.len() * (self.sweep_a.len() + self.sweep_b.len() + self.ring_wrap.len())
    }

    /// Checks every step before anything runs.
    pub fn check(&self) -> Result<(), DriverError> {
        let (a, b) = (self.sweep_a.iter().chain(&self.sweep_b), self.ring_wrap.iter());
        let a = a.map(|p| self.step(*p, self.sliding_window));
        for step in a.chain(b.map(|p| self.step(*p, self.ring_wrap_window))) {
            if step.kv_seq_len == 0 {
                return Err(crate::Error::param("kv_seq_len", "at least 1", 0).into());
            }
            self.shape.params(&step).check()?;
        }
        if self.points() == 0 {
            return Err(crate::Error::param("points", "at least 1", 0).into());
        }
        Ok(())
    }

    fn step(&self, place: Place, sliding_window: u32) -> Step {
        Step {
            abs_pos: place.abs_pos,
            kv_seq_len: place.kv_seq_len,
            sliding_window,
            ring_start: ring_start(place.abs_pos, self.shape.kv_capacity),
        }
    }
}

/// Told which point comes next, and when one is done.
pub trait Progress {
    /// A point begins.
    fn begin(&mut self, what: &str);
    /// A point is measured; `note` is for the log when it lies outside the band.
    fn done(&mut self, note: Option<&str>);
}

/// Runs the sweep on every leg; the gates have passed.
pub fn run(
    plan: &Plan,
    legs: &mut [Box<dyn Leg + Send>],
    gates: Vec<GateRecord>,
    progress: &mut dyn Progress,
) -> Result<Audit, DriverError> {
    let mut sweep = Sweep { plan, progress, a: Vec::new(), b: Vec::new(), wrap: Vec::new() };
    let mut total = 0;
    for &seed in &plan.seeds {
        let mut rng = Gaussian::new(seed);
        let literal = seed_literal(seed);
        for &place in &plan.sweep_a {
            let rows = sweep.point("sweep A", place, &literal, &mut rng, legs)?;
            sweep.a.extend(rows);
        }
        for &place in &plan.sweep_b {
            let rows = sweep.point("sweep B", place, &literal, &mut rng, legs)?;
            sweep.b.extend(rows);
        }
        for &place in &plan.ring_wrap {
            sweep.ring_wrap(place, &literal, &mut rng, legs)?;
        }
        total += rng.drawn();
    }
    let rows = Rows { a: sweep.a, b: sweep.b, wrap: sweep.wrap };
    let legs: Vec<LegReport> = legs
        .iter()
        .map(|leg| LegReport {
            leg: leg.name(),
            adapter: Some(leg.adapter().clone()),
            verdict: leg_verdict(plan, leg.name(), &rows),
        })
        .collect();
    Ok(audit(plan, gates, legs, rows, total))
}

/// The audit of a sweep whose gates did not pass: no measurement.
pub fn gate_failed(plan: &Plan, legs: &[LegName], gates: Vec<GateRecord>) -> Audit {
    let legs = legs
        .iter()
        .map(|&leg| LegReport { leg, adapter: None, verdict: Verdict::GateFailed })
        .collect();
    audit(plan, gates, legs, Rows { a: Vec::new(), b: Vec::new(), wrap: Vec::new() }, 0)
}

struct Rows {
    a: Vec<PointRow>,
    b: Vec<PointRow>,
    wrap: Vec<RingWrapRow>,
}

struct Sweep<'p> {
    plan: &'p Plan,
    progress: &'p mut dyn Progress,
    a: Vec<PointRow>,
    b: Vec<PointRow>,
    wrap: Vec<RingWrapRow>,
}

impl Sweep<'_> {
    fn point(
        &mut self,
        sweep: &str,
        place: Place,
        seed: &str,
        rng: &mut Gaussian,
        legs: &mut [Box<dyn Leg + Send>],
    ) -> Result<Vec<PointRow>, DriverError> {
        let step = self.plan.step(place, self.plan.sliding_window);
        let shape = &self.plan.shape;
        let what = format!("{sweep}: position {}, n {}", step.abs_pos, step.kv_seq_len);
        self.progress.begin(&what);
        let before = rng.drawn();
        let data = inputs::production(shape, &step, rng);
        let reference = point::reference(shape, &step, &data)?;
        let theory = theory::expect(shape, &step, &data, &reference);
        let mut rows = Vec::new();
        for leg in legs.iter_mut() {
            let m = point::measure(leg.as_mut(), shape, &step, &data, &reference)?;
            rows.push(PointRow {
                leg: leg.name(),
                seed: seed.to_owned(),
                abs_pos: step.abs_pos,
                kvl_logical: step.kv_seq_len,
                sliding_window: step.sliding_window,
                nrmse: m.floor_nrmse,
                band_ok: self.plan.band_ok(&[m.floor_nrmse]),
                rng_u64s_consumed_before: before,
                dequant_oracle_nrmse: m.dequant_nrmse,
                theory: theory.clone(),
                flipped_heads: flipped(&m),
                heads: HeadRow::rows(&m.heads),
            });
        }
        let outside = rows.iter().find(|r| r.band_ok == Some(false));
        let note = outside.map(|r| outside_note(&what, r.leg, r.nrmse, &r.theory));
        self.progress.done(note.as_deref());
        Ok(rows)
    }

    fn ring_wrap(
        &mut self,
        place: Place,
        seed: &str,
        rng: &mut Gaussian,
        legs: &mut [Box<dyn Leg + Send>],
    ) -> Result<(), DriverError> {
        let (plan, shape) = (self.plan, &self.plan.shape);
        let cap = shape.kv_capacity;
        let step = |ring_start| Step { ring_start, ..plan.step(place, plan.ring_wrap_window) };
        let next = (u64::from(place.abs_pos) + 1) % u64::from(cap);
        let (a, b) = (step(next as u32), step(place.abs_pos % cap));
        let what = format!("ring wrap: position {}, n {}", place.abs_pos, place.kv_seq_len);
        self.progress.begin(&what);

        let (before, snapshot) = (rng.drawn(), rng.clone());
        let data = inputs::production(shape, &a, rng);
        let again: StepData = inputs::production(shape, &b, &mut snapshot.clone());
        let reference = point::reference(shape, &a, &data)?;
        let theory = theory::expect(shape, &a, &data, &reference);
        for leg in legs.iter_mut() {
            let leg = leg.as_mut();
            let first = point::measure(leg, shape, &a, &data, &reference)?;
            let second = point::measure(leg, shape, &b, &again, &reference)?;
            let seen = [
                probe::positions_visited(leg, shape, &a)?,
                probe::positions_visited(leg, shape, &b)?,
            ];
            let row = RingWrapRow {
                leg: leg.name(),
                seed: seed.to_owned(),
                abs_pos: place.abs_pos,
                kvl_logical: place.kv_seq_len,
                sliding_window: a.sliding_window,
                ring_start_a: a.ring_start,
                ring_start_b: b.ring_start,
                ring_start_a_passed: first.ring_start_passed,
                ring_start_b_passed: second.ring_start_passed,
                ring_start_a_nrmse: first.floor_nrmse,
                ring_start_b_nrmse: second.floor_nrmse,
                ab_delta: (first.floor_nrmse - second.floor_nrmse).abs(),
                band_ok: plan.band_ok(&[first.floor_nrmse, second.floor_nrmse]),
                rng_u64s_consumed_before: before,
                h3_data_reuse: data == again,
                positions_visited: [seen[0].positions, seen[1].positions],
                visited_weight: [seen[0].weight, seen[1].weight],
                theory: theory.clone(),
                flipped_heads: flipped(&first),
                heads: HeadRow::rows(&first.heads),
            };
            self.wrap.push(row);
        }
        let outside = self.wrap.iter().rev().take(legs.len()).find(|r| r.band_ok == Some(false));
        let note = outside.map(|r| outside_note(&what, r.leg, r.ring_start_a_nrmse, &r.theory));
        self.progress.done(note.as_deref());
        Ok(())
    }
}

fn flipped(m: &Measured) -> usize {
    m.heads.iter().filter(|h| h.flipped()).count()
}

fn outside_note(what: &str, leg: LegName, nrmse: f64, theory: &Theory) -> String {
    format!(
        "{what}, leg {}: nrmse {nrmse:.4} is outside the band [{BAND_LOWER}, {BAND_UPPER}] (theory \
         expects {:.2} +- {:.2})",
        leg.as_str(),
        theory.expected_nrmse,
        theory.expected_nrmse_sd
    )
}

fn leg_verdict(plan: &Plan, leg: LegName, rows: &Rows) -> Verdict {
    if !is_registered(&plan.shape.codec) {
        return Verdict::NotRegistered;
    }
    let of = |rows: &[PointRow]| -> Vec<f64> {
        rows.iter().filter(|r| r.leg == leg).map(|r| r.nrmse).collect()
    };
    let others: Vec<f64> = rows
        .wrap
        .iter()
        .filter(|r| r.leg == leg)
        .flat_map(|r| [r.ring_start_a_nrmse, r.ring_start_b_nrmse])
        .collect();
    verdict::production(&of(&rows.a), &of(&rows.b), &others)
}

fn seed_literal(seed: u64) -> String {
    format!("0x{seed:08X}")
}

fn audit(
    plan: &Plan,
    regression_gates: Vec<GateRecord>,
    legs: Vec<LegReport>,
    rows: Rows,
    total_u64s_consumed: u64,
) -> Audit {
    // Any leg that falsifies the band falsifies it; otherwise the first leg's verdict.
    let falsified = legs.iter().find(|l| l.verdict == Verdict::BandPreFalsified);
    let verdict = falsified.or(legs.first()).map_or(Verdict::GateFailed, |l| l.verdict);
    let shape = &plan.shape;
    let seeds: Vec<String> = plan.seeds.iter().map(|&s| seed_literal(s)).collect();
    Audit {
        session: plan.session.clone(),
        iter: ITER,
        ran_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        verdict,
        verdict_reason: reason(verdict, &shape.codec, &rows),
        legs,
        band: is_registered(&shape.codec).then(|| Band {
            lower: BAND_LOWER,
            upper: BAND_UPPER,
            registration: "constants of the program, inclusive, fixed before any measurement"
                .into(),
        }),
        regression_gates,
        regime: Regime {
            rmsnorm_weights: "unit_fallback".into(),
            rms_norm_eps: RMS_NORM_EPS,
            rope_theta: ROPE_THETA,
            rope_convention: "neox half-split: pairs (i, i + head_dim / 2)".into(),
            scale: shape.scale,
            mask_type: crate::params::MASK_SLIDING,
            softcap: 0.0,
            rotation: shape.codec.rotation.name().into(),
            k_bits: shape.codec.k_bits.get(),
            v_bits: shape.codec.v_bits.get(),
            norm_correction: shape.codec.norm_correction,
            shapes: Shapes {
                num_heads: shape.num_heads,
                num_kv_heads: shape.num_kv_heads,
                head_dim: shape.head_dim.get(),
                kv_capacity: shape.kv_capacity,
            },
            dense_floor_reference: "attention in f64 on the unquantised K and V".into(),
            v_norm_policy: "RMSNorm without weights, no RoPE".into(),
            ring_wrap_kvl_reason: wrap_reason(plan),
        },
        intersection_check: intersection(&rows),
        csv_equivalent: csv(&rows),
        sweep_a: rows.a,
        sweep_b: rows.b,
        ring_wrap: rows.wrap,
        rng: RngReport {
            seed_literal: seeds.join(","),
            algorithm: "xoshiro256** seeded by splitmix64, Box-Muller".into(),
            single_instance: plan.seeds.len() == 1,
            total_u64s_consumed,
        },
    }
}

fn wrap_reason(plan: &Plan) -> String {
    let lengths: Vec<String> = plan.ring_wrap.iter().map(|p| p.kv_seq_len.to_string()).collect();
    format!(
        "kvl_logical {} is under kv_capacity {}: in a partly filled ring a kernel that takes slots for \
         positions loses some, in a full one it loses none",
        lengths.join(", "),
        plan.shape.kv_capacity
    )
}

fn reason(verdict: Verdict, codec: &CodecSettings, rows: &Rows) -> String {
    let points = rows.a.iter().chain(&rows.b).map(|r| (r.band_ok, r.nrmse, &r.theory));
    let wraps = rows.wrap.iter().map(|r| (r.band_ok, r.ring_start_a_nrmse, &r.theory));
    let all: Vec<(Option<bool>, f64, &Theory)> = points.chain(wraps).collect();
    let outside = all.iter().filter(|(ok, ..)| *ok == Some(false)).count();
    let expected = all.iter().filter(|(_, _, theory)| !in_band(theory.expected_nrmse)).count();
    match verdict {
        Verdict::GateFailed => "a gate failed; nothing was measured".into(),
        Verdict::BandPreFalsified => format!(
            "{outside} of {} points lie outside the registered band; the codec's own theory puts \
             {expected} of them outside: the band, not the kernel, is what these data falsify",
            all.len()
        ),
        Verdict::LengthEffectConfirmed => "the error grows with length, not with position".into(),
        Verdict::PhaseEffectConfirmed => "the error moves with position, not with length".into(),
        Verdict::FloorIsPhysicsConsistent => "every point is in the band, without a trend".into(),
        Verdict::NotRegistered => format!(
            "the band is registered for 4-bit K and V with norms as they are, and K at {} and V at {} \
             bits{} have none; the largest difference of a point from what theory expects is {:.0} %",
            codec.k_bits,
            codec.v_bits,
            if codec.norm_correction { " with norm correction" } else { "" },
            100.0
                * all
                    .iter()
                    .map(|(_, e, t)| (e / t.expected_nrmse - 1.0).abs())
                    .fold(0.0, f64::max)
        ),
    }
}

/// The first leg's point that both sweeps hold, by position and length.
fn intersection(rows: &Rows) -> Option<Intersection> {
    let (a, b) = rows.a.iter().find_map(|a| {
        let same = |b: &&PointRow| {
            (b.leg, b.abs_pos, b.kvl_logical, &b.seed) == (a.leg, a.abs_pos, a.kvl_logical, &a.seed)
        };
        rows.b.iter().find(same).map(|b| (a, b))
    })?;
    let absdiff = (a.nrmse - b.nrmse).abs();
    let matches = absdiff < 5e-8;
    Some(Intersection {
        abs_pos: a.abs_pos,
        kvl_logical: a.kvl_logical,
        sweep_a_nrmse: a.nrmse,
        sweep_b_nrmse: b.nrmse,
        match_to_7_decimal_places: matches,
        absdiff,
        band_ok: a.band_ok.zip(b.band_ok).map(|(a, b)| a && b),
        note: format!(
            "measured on different draws ({} and {} words in), so the two {}",
            a.rng_u64s_consumed_before,
            b.rng_u64s_consumed_before,
            if matches { "agree by chance" } else { "differ, as they should" }
        ),
    })
}

fn csv(rows: &Rows) -> String {
    let mut lines =
        vec!["sweep,leg,seed,abs_pos,kvl_logical,sliding_window,ring_start,nrmse".to_owned()];
    let mut row = |sweep: &str, r: &PointRow| {
        lines.push(format!(
            "{sweep},{},{},{},{},{},,{}",
            r.leg.as_str(),
            r.seed,
            r.abs_pos,
            r.kvl_logical,
            r.sliding_window,
            r.nrmse
        ));
    };
    rows.a.iter().for_each(|r| row("A", r));
    rows.b.iter().for_each(|r| row("B", r));
    for r in &rows.wrap {
        for (start, nrmse) in
            [(r.ring_start_a, r.ring_start_a_nrmse), (r.ring_start_b, r.ring_start_b_nrmse)]
        {
            lines.push(format!(
                "ring_wrap,{},{},{},{},{},{start},{nrmse}",
                r.leg.as_str(),
                r.seed,
                r.abs_pos,
                r.kvl_logical,
                r.sliding_window
            ));
        }
    }
    lines.join("\n") + "\n"
}
