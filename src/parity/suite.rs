//! The parity suite: every kernel's cases on every leg, each leg against the oracle and WGSL
//! against native MSL.

use super::outcome::Outcome;
use super::report::{
    CaseReport, CaseResultReport, ORACLE, SourceReport, Status, Timing, WayReport,
};
use super::{
    Case, CaseResult, Prepared, dequantize_kv, flash_attn_vec, flash_attn_vec_reduce,
    flash_attn_vec_tq, fwht, quantize_kv,
};
use crate::contract::Language;
use crate::driver::DriverError;
use crate::legs::{CheckerFinding, Leg, Played};

/// Every case of every kernel, in the order of [`crate::kernels::ALL`].
pub fn cases() -> Vec<Box<dyn Case>> {
    fn boxed<C: Case + 'static>(cases: Vec<C>) -> impl Iterator<Item = Box<dyn Case>> {
        cases.into_iter().map(|case| Box::new(case) as Box<dyn Case>)
    }
    boxed(fwht::cases())
        .chain(boxed(quantize_kv::cases()))
        .chain(boxed(dequantize_kv::cases()))
        .chain(boxed(flash_attn_vec_tq::cases()))
        .chain(boxed(flash_attn_vec::cases()))
        .chain(boxed(flash_attn_vec_reduce::cases()))
        .collect()
}

/// A leg under its name in a report.
pub struct OpenLeg {
    /// The name.
    pub label: String,
    /// The leg.
    pub leg: Box<dyn Leg + Send>,
    /// Shader texts that have run on it.
    pub sources: Vec<SourceReport>,
}

impl OpenLeg {
    /// A leg under its own name.
    pub fn new(leg: Box<dyn Leg + Send>) -> Self {
        Self { label: leg.name().as_str().to_owned(), leg, sources: Vec::new() }
    }

    fn language(&self) -> Language {
        self.leg.name().language()
    }

    /// Plays the case in every way that the leg has.
    fn play(&mut self, case: &dyn Prepared) -> Result<Vec<Outputs>, DriverError> {
        let language = self.language();
        let (tape, outputs) = case.tape(&self.leg.caps(), language)?;
        for (label, sha256) in self.leg.source_hashes(&tape)? {
            let source = SourceReport { leg: self.label.clone(), label, sha256 };
            if !self.sources.contains(&source) {
                self.sources.push(source);
            }
        }
        let own = |played: Played| Outputs {
            bytes: outputs.iter().map(|&id| played.run.bytes(id).to_vec()).collect(),
            played,
        };
        Ok(self.leg.play(&tape)?.into_iter().map(own).collect())
    }
}

/// The outputs of one way of playing.
struct Outputs {
    played: Played,
    bytes: Vec<Vec<u8>>,
}

impl Outputs {
    fn slices(&self) -> Vec<&[u8]> {
        self.bytes.iter().map(Vec::as_slice).collect()
    }
}

/// Runs `case` on all legs at once and judges it.
pub fn run_case(case: &dyn Case, legs: &mut [OpenLeg]) -> CaseReport {
    let (kernel, name) = (case.kernel().to_owned(), case.id());
    let prepared = match case.prepare() {
        Ok(prepared) => prepared,
        Err(e) => {
            let results = legs.iter().map(|l| refused(&l.label, ORACLE, &e)).collect();
            return CaseReport { kernel, case: name, results };
        }
    };
    let prepared = &*prepared;
    let played: Vec<Result<Vec<Outputs>, DriverError>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            legs.iter_mut().map(|leg| scope.spawn(|| leg.play(prepared))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| {
                Err(DriverError::Gpu { message: "the leg's thread panicked".to_owned() })
            })
        };
        threads.into_iter().map(join).collect()
    });
    let mut results: Vec<CaseResultReport> = legs
        .iter()
        .zip(&played)
        .map(|(leg, played)| against_oracle(&leg.label, played, prepared))
        .collect();
    for (left, right) in pairs(legs) {
        if let (Ok(a), Ok(b)) = (&played[left], &played[right]) {
            let outcome = prepared.judge_pair(&a[0].slices(), &b[0].slices());
            results.push(result((&legs[left].label, &legs[right].label), &[("", outcome)]));
        }
    }
    CaseReport { kernel, case: name, results }
}

/// Places of every leg authored in WGSL with every leg authored in MSL.
fn pairs(legs: &[OpenLeg]) -> Vec<(usize, usize)> {
    let of = |language| (0..legs.len()).filter(move |&i| legs[i].language() == language);
    of(Language::Wgsl).flat_map(|w| of(Language::Msl).map(move |m| (w, m))).collect()
}

fn against_oracle(
    label: &str,
    played: &Result<Vec<Outputs>, DriverError>,
    case: &dyn Prepared,
) -> CaseResultReport {
    let played = match played {
        Ok(played) => played,
        Err(e) => return refused(label, ORACLE, e),
    };
    let outcomes: Vec<(&str, CaseResult)> =
        played.iter().map(|p| (p.played.way, case.judge(&p.slices()))).collect();
    let mut report = result((label, ORACLE), &outcomes);
    let milliseconds = |f: fn(&Outputs) -> std::time::Duration| {
        played.iter().map(f).sum::<std::time::Duration>().as_secs_f64() * 1e3
    };
    report.timing = Some(Timing {
        compile_ms: milliseconds(|p| p.played.run.compile),
        execute_ms: milliseconds(|p| p.played.run.execute),
    });
    report.findings = findings(played);
    if let Some([first, ..]) = report.findings.as_deref()
        && report.status == Status::Pass
    {
        report.status = Status::Finding;
        report.reason = format!(
            "{} at {}: {}",
            first.kind,
            first.place.as_deref().unwrap_or("?"),
            first.message
        );
    }
    report
}

/// What the checker found in any way of playing, each defect once.
fn findings(played: &[Outputs]) -> Option<Vec<CheckerFinding>> {
    let mut all: Option<Vec<CheckerFinding>> = None;
    for finding in played.iter().filter_map(|p| p.played.findings.as_ref()) {
        let all = all.get_or_insert_default();
        for f in finding {
            if !all.iter().any(|known| (&known.kind, &known.place) == (&f.kind, &f.place)) {
                all.push(f.clone());
            }
        }
    }
    all
}

/// The report of a comparison made in several ways: the worst of them.
fn result(sides: (&str, &str), outcomes: &[(&str, CaseResult)]) -> CaseResultReport {
    let mut worst: Option<&Outcome> = None;
    for (_, outcome) in outcomes {
        match outcome {
            Err(e) => return refused(sides.0, sides.1, e),
            // A NaN is worse than anything.
            Ok(o) if worst.is_none_or(|w| o.error.is_nan() || o.error > w.error) => worst = Some(o),
            Ok(_) => {}
        }
    }
    let Some(worst) = worst else {
        return blank(sides, Status::RuntimeError, "the leg played nothing".to_owned());
    };
    let finite = |x: f64| x.is_finite().then_some(x);
    let way = |(way, outcome): &(&str, CaseResult)| WayReport {
        way: (*way).to_owned(),
        error: outcome.as_ref().ok().and_then(|o| finite(o.error)),
    };
    CaseResultReport {
        metric: Some(worst.metric),
        error: finite(worst.error),
        tolerance: Some(worst.tolerance),
        worst: worst.worst.clone(),
        histogram: worst.histogram.clone(),
        ways: if outcomes.len() > 1 { outcomes.iter().map(way).collect() } else { Vec::new() },
        ..blank(
            sides,
            if worst.pass() { Status::Pass } else { Status::Mismatch },
            worst.detail.clone(),
        )
    }
}

fn refused(leg: &str, against: &str, error: &DriverError) -> CaseResultReport {
    blank((leg, against), status_of(error), error.to_string())
}

fn blank(sides: (&str, &str), status: Status, reason: String) -> CaseResultReport {
    CaseResultReport {
        leg: sides.0.to_owned(),
        against: sides.1.to_owned(),
        status,
        reason,
        metric: None,
        error: None,
        tolerance: None,
        worst: None,
        histogram: Vec::new(),
        ways: Vec::new(),
        findings: None,
        timing: None,
    }
}

/// A device that lacks what a plan needs skips the case; a stray or missing write is a mismatch.
fn status_of(error: &DriverError) -> Status {
    use crate::Error;
    match error {
        DriverError::Library(Error::Limit { .. } | Error::Feature { .. }) => Status::Skipped,
        DriverError::Library(Error::Shader { .. }) | DriverError::MslSource { .. } => {
            Status::CompileError
        }
        DriverError::Output { .. } => Status::Mismatch,
        _ => Status::RuntimeError,
    }
}
