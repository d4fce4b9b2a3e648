//! The parity suite: every kernel's cases on every leg, each leg against the oracle and WGSL
//! against native MSL.

use super::outcome::Outcome;
use super::report::{
    CaseReport, CaseResultReport, ORACLE, Report, RunTiming, SCHEMA, SourceReport, Status, Summary,
    Timing, WayReport,
};
use super::{
    Case, CaseResult, Prepared, dequantize_kv, flash_attn_decode_tq, flash_attn_mat_tile,
    flash_attn_mat_tq, flash_attn_tile, flash_attn_vec, flash_attn_vec_reduce, flash_attn_vec_tq,
    fwht, quantize_k_and_v, quantize_kv, store_kv,
};
#[cfg(feature = "msl-host")]
use super::{originals, run_prepared};
use crate::contract::Language;
use crate::driver::DriverError;
#[cfg(feature = "msl-host")]
use crate::legs::MslHostLeg;
#[cfg(feature = "web")]
use crate::legs::Run;
use crate::legs::{BufferId, CheckerFinding, Leg, Played};

/// Every case of every kernel, in the order of [`crate::kernels::ALL`].
pub fn cases() -> Vec<Box<dyn Case>> {
    fn boxed<C: Case + 'static>(cases: Vec<C>) -> impl Iterator<Item = Box<dyn Case>> {
        cases.into_iter().map(|case| Box::new(case) as Box<dyn Case>)
    }
    boxed(fwht::cases())
        .chain(boxed(quantize_kv::cases()))
        .chain(boxed(quantize_k_and_v::cases()))
        .chain(boxed(dequantize_kv::cases()))
        .chain(boxed(flash_attn_vec_tq::cases()))
        .chain(boxed(flash_attn_vec::cases()))
        .chain(boxed(flash_attn_vec_reduce::cases()))
        .chain(boxed(flash_attn_tile::cases()))
        .chain(boxed(store_kv::cases()))
        .collect()
}

/// The same of [`crate::kernels::NATIVE`]; legs without what these need skip them.
pub fn native_cases() -> Vec<Box<dyn Case>> {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    cases.extend(flash_attn_mat_tq::cases().into_iter().map(|c| Box::new(c) as Box<dyn Case>));
    cases.extend(flash_attn_decode_tq::cases().into_iter().map(|c| Box::new(c) as Box<dyn Case>));
    cases.extend(flash_attn_mat_tile::cases().into_iter().map(|c| Box::new(c) as Box<dyn Case>));
    cases
}

/// A leg under its name in a report.
pub struct OpenLeg {
    /// The name.
    pub label: String,
    /// Who plays.
    pub player: Player,
    /// Shader texts that have run on it.
    pub sources: Vec<SourceReport>,
}

/// Who plays, and by what its results are judged.
pub enum Player {
    /// By the contract.
    Contract(Box<dyn Leg + Send>),
    /// Original Metal files: by the contract and their known limits.
    #[cfg(feature = "msl-host")]
    Originals(Box<MslHostLeg>),
}

/// What a leg makes of a case.
enum Plays {
    Outputs(Vec<Outputs>),
    /// Judged where it was played, since the limits depend on what was played.
    #[cfg(feature = "msl-host")]
    Judged(Box<CaseResultReport>),
}

impl OpenLeg {
    /// A leg under its own name.
    pub fn new(leg: Box<dyn Leg + Send>) -> Self {
        let label = leg.name().as_str().to_owned();
        Self { label, player: Player::Contract(leg), sources: Vec::new() }
    }

    /// The original Metal files of `folder`, as leg `msl-host`.
    #[cfg(feature = "msl-host")]
    pub fn originals(folder: &std::path::Path) -> Result<Self, DriverError> {
        let leg = MslHostLeg::with_originals(folder)?;
        let label = leg.name().as_str().to_owned();
        Ok(Self { label, player: Player::Originals(Box::new(leg)), sources: Vec::new() })
    }

    /// The leg.
    pub fn leg(&mut self) -> &mut dyn Leg {
        match &mut self.player {
            Player::Contract(leg) => leg.as_mut(),
            #[cfg(feature = "msl-host")]
            Player::Originals(leg) => leg.as_mut(),
        }
    }

    fn language(&self) -> Language {
        match &self.player {
            Player::Contract(leg) => leg.name().language(),
            #[cfg(feature = "msl-host")]
            Player::Originals(leg) => leg.name().language(),
        }
    }

    /// Plays the case in every way that the leg has.
    fn play(&mut self, case: &dyn Prepared) -> Result<Plays, DriverError> {
        let label = self.label.clone();
        let language = self.language();
        let leg = self.leg();
        let (tape, outputs) = case.tape(&leg.caps(), language)?;
        let hashes = leg.source_hashes(&tape)?;
        for (name, sha256) in hashes {
            let source = SourceReport { leg: label.clone(), label: name, sha256 };
            if !self.sources.contains(&source) {
                self.sources.push(source);
            }
        }
        match &mut self.player {
            Player::Contract(leg) => {
                let own = |played| Outputs::of(played, &outputs);
                Ok(Plays::Outputs(leg.play(&tape)?.into_iter().map(own).collect()))
            }
            #[cfg(feature = "msl-host")]
            Player::Originals(leg) => {
                drop(tape);
                Ok(Plays::Judged(Box::new(judge_original(&label, leg, case)?)))
            }
        }
    }
}

/// Plays the case on originals and judges it by the contract and by their limits.
#[cfg(feature = "msl-host")]
fn judge_original(
    label: &str,
    leg: &mut MslHostLeg,
    case: &dyn Prepared,
) -> Result<CaseResultReport, DriverError> {
    leg.findings.clear();
    let judged = originals::run(|leg| run_prepared(case, leg), leg);
    let findings: Vec<_> = leg.findings.iter().map(CheckerFinding::from).collect();
    let judged = match judged {
        Ok(judged) => judged,
        // An access out of bounds ends a dispatch; it is the kernel's defect, not the host's.
        Err(e) if !findings.is_empty() => {
            let mut report = blank((label, ORACLE), Status::Finding, e.to_string());
            report.findings = Some(findings);
            return Ok(report);
        }
        Err(e) => return Err(e),
    };
    let mut report = result((label, ORACLE), &[("", Ok(judged.contract))]);
    report.status = match judged.status {
        originals::Status::Pass => Status::Pass,
        originals::Status::ExpectedDifference => Status::ExpectedDifference,
        originals::Status::Mismatch => Status::Mismatch,
    };
    if let (originals::Status::ExpectedDifference, Some(limited)) = (judged.status, judged.limited)
    {
        report.limits = judged.limits.iter().map(|l| l.as_str().to_owned()).collect();
        let limits = originals::names(&judged.limits);
        let (error, tolerance) = (limited.error, limited.tolerance);
        report.reason = format!(
            "{}; with {limits} in the oracle {error:.2e}, within {tolerance:.2e}",
            report.reason
        );
    }
    report.note_findings(Some(findings));
    Ok(report)
}

/// The outputs of one way of playing.
struct Outputs {
    played: Played,
    bytes: Vec<Vec<u8>>,
}

impl Outputs {
    fn of(played: Played, outputs: &[BufferId]) -> Self {
        let bytes = outputs.iter().map(|&id| played.run.bytes(id).to_vec()).collect();
        Self { played, bytes }
    }

    fn slices(&self) -> Vec<&[u8]> {
        self.bytes.iter().map(Vec::as_slice).collect()
    }
}

/// One report of several: their legs, side by side on the same cases. A leg whose label is
/// taken already gets a number behind it.
pub fn merge(reports: Vec<Report>) -> Report {
    let mut all = Report {
        schema: SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: String::new(),
        legs: Vec::new(),
        summary: Summary::default(),
        cases: Vec::new(),
        sources: Vec::new(),
        ran_at: String::new(),
        timing: RunTiming { total_s: 0.0 },
    };
    for (number, mut report) in reports.into_iter().enumerate() {
        let taken: Vec<String> = all.legs.iter().map(|l| l.label.clone()).collect();
        let rename = |label: &mut String| {
            if taken.contains(label) {
                *label = format!("{label} #{}", number + 1);
            }
        };
        report.legs.iter_mut().for_each(|l| rename(&mut l.label));
        report.sources.iter_mut().for_each(|s| rename(&mut s.leg));
        for result in report.cases.iter_mut().flat_map(|c| &mut c.results) {
            rename(&mut result.leg);
            rename(&mut result.against);
        }
        for case in report.cases {
            let same = |c: &&mut CaseReport| (&c.kernel, &c.case) == (&case.kernel, &case.case);
            match all.cases.iter_mut().find(same) {
                Some(known) => known.results.extend(case.results),
                None => all.cases.push(case),
            }
        }
        let separator = if all.machine.is_empty() { "" } else { "; " };
        all.machine += &format!("{separator}{}", report.machine);
        all.legs.extend(report.legs);
        all.sources.extend(report.sources);
        all.ran_at = all.ran_at.max(report.ran_at);
        all.timing.total_s += report.timing.total_s;
    }
    all.summary = Summary::of(&all.cases);
    all
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
    let played: Vec<Result<Plays, DriverError>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            legs.iter_mut().map(|leg| scope.spawn(|| leg.play(prepared))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| {
                Err(DriverError::Gpu { message: "the leg's thread panicked".to_owned() })
            })
        };
        threads.into_iter().map(join).collect()
    });
    let judge = |(leg, played): (&OpenLeg, &_)| against_oracle(&leg.label, played, prepared);
    let mut results: Vec<CaseResultReport> = legs.iter().zip(&played).map(judge).collect();
    for (left, right) in pairs(legs) {
        if let (Ok(Plays::Outputs(a)), Ok(Plays::Outputs(b))) = (&played[left], &played[right]) {
            let outcome = prepared.judge_pair(&a[0].slices(), &b[0].slices());
            results.push(result((&legs[left].label, &legs[right].label), &[("", outcome)]));
        }
    }
    CaseReport { kernel, case: name, results }
}

/// The result of a case that was played elsewhere, once: for a leg that cannot block.
#[cfg(feature = "web")]
pub(crate) fn judge_run(
    label: &str,
    case: &dyn Prepared,
    run: Result<(Run, Vec<BufferId>), DriverError>,
) -> CaseResultReport {
    let played = run.map(|(run, outputs)| {
        let played = Played { way: "", run, findings: None };
        Plays::Outputs(vec![Outputs::of(played, &outputs)])
    });
    against_oracle(label, &played, case)
}

/// The result of a case that could not be prepared.
#[cfg(feature = "web")]
pub(crate) fn not_prepared(label: &str, error: &DriverError) -> CaseResultReport {
    refused(label, ORACLE, error)
}

/// Places of every leg authored in WGSL with every leg authored in MSL.
fn pairs(legs: &[OpenLeg]) -> Vec<(usize, usize)> {
    let of = |language| (0..legs.len()).filter(move |&i| legs[i].language() == language);
    of(Language::Wgsl).flat_map(|w| of(Language::Msl).map(move |m| (w, m))).collect()
}

fn against_oracle(
    label: &str,
    played: &Result<Plays, DriverError>,
    case: &dyn Prepared,
) -> CaseResultReport {
    let played = match played {
        Ok(Plays::Outputs(played)) => played,
        #[cfg(feature = "msl-host")]
        Ok(Plays::Judged(report)) => return (**report).clone(),
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
    report.note_findings(findings(played));
    report
}

impl CaseResultReport {
    /// Takes over what the checker found; numbers that pass do not excuse a defect.
    fn note_findings(&mut self, findings: Option<Vec<CheckerFinding>>) {
        if let Some([first, ..]) = findings.as_deref()
            && self.status.good()
        {
            self.status = Status::Finding;
            let place = first.place.as_deref().unwrap_or("an unknown place");
            self.reason = format!("{} at {place}: {}; {}", first.kind, first.message, self.reason);
        }
        self.findings = findings;
    }
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
        limits: Vec::new(),
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
        DriverError::Unpublished { .. } => Status::Skipped,
        _ => Status::RuntimeError,
    }
}
