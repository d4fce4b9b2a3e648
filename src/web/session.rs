//! What a page calls. Everything passes as JSON, so that the page's script needs no types.

use serde::{Deserialize, Serialize};
use wasm_bindgen::JsError;
use wasm_bindgen::prelude::wasm_bindgen;
use web_time::Instant;

use super::device::WebGpu;
use super::faults::Fault;
use super::player::Player;
use super::{BenchReport, LEG, WebReport, bench};
use crate::contract::Language;
use crate::driver::DriverError;
use crate::parity::report::{
    CaseReport, CaseResultReport, LegReport, Report, RunTiming, SCHEMA, Summary,
};
use crate::parity::selection::{head_dim, select};
use crate::parity::{Case, html, suite};

/// What the page asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Name of the adapter, where wgpu finds none.
    adapter: String,
    /// The browser and its machine.
    machine: String,
    /// One of how many cases.
    every: u32,
    /// Whether to use subgroup operations where they exist.
    subgroups: bool,
    /// A kernel to put a fault into.
    broken: Option<String>,
}

/// A case, as the page lists it.
#[derive(Debug, Serialize)]
struct Listed {
    kernel: &'static str,
    head_dim: String,
    case: String,
}

/// The suite on the visitor's GPU.
#[wasm_bindgen]
pub struct Session {
    player: Player,
    machine: String,
    leg: LegReport,
    cases: Vec<Box<dyn Case>>,
    results: Vec<CaseReport>,
    bench: Option<BenchReport>,
    start: Instant,
}

#[wasm_bindgen]
impl Session {
    /// Opens the GPU. `options` is a JSON object of `adapter`, `machine`, `every`, `subgroups`
    /// and `broken`.
    pub async fn open(options: String) -> Result<Session, JsError> {
        let options: Options = serde_json::from_str(&options)?;
        let fault = options.broken.as_deref().map(Fault::of).transpose()?;
        let mut gpu = WebGpu::open(options.subgroups).await?;
        if gpu.report.name.is_empty() {
            gpu.report.name = options.adapter;
        }
        let leg = LegReport {
            label: LEG.to_owned(),
            available: true,
            reason: None,
            adapter: Some(gpu.report.clone()),
        };
        Ok(Self {
            player: Player::new(gpu, fault),
            machine: options.machine,
            leg,
            cases: select(suite::cases(), options.every),
            results: Vec::new(),
            bench: None,
            start: Instant::now(),
        })
    }

    /// The leg with its adapter, as in the report.
    pub fn leg(&self) -> Result<String, JsError> {
        Ok(serde_json::to_string(&self.leg)?)
    }

    /// The cases that will run: `kernel`, `head_dim` and `case` of each.
    pub fn cases(&self) -> Result<String, JsError> {
        let listed: Vec<Listed> = self
            .cases
            .iter()
            .map(|case| Listed {
                kernel: case.kernel(),
                head_dim: head_dim(&case.id()),
                case: case.id(),
            })
            .collect();
        Ok(serde_json::to_string(&listed)?)
    }

    /// Runs case `index` and returns its report.
    pub async fn run_case(&mut self, index: usize) -> Result<String, JsError> {
        let Some(case) = self.cases.get(index) else {
            let need = format!("an index below {}", self.cases.len());
            let found = index.to_string();
            return Err(DriverError::Argument { flag: "case", need, found }.into());
        };
        let result = judged(&mut self.player, case.as_ref()).await;
        let report =
            CaseReport { kernel: case.kernel().to_owned(), case: case.id(), results: vec![result] };
        let json = serde_json::to_string(&report)?;
        self.results.push(report);
        Ok(json)
    }

    /// Verifies and times attention over `kv_seq_len` positions; returns the benchmark so far.
    pub async fn bench(&mut self, kv_seq_len: u32) -> Result<String, JsError> {
        let point = bench::point(&mut self.player, kv_seq_len).await;
        let clock = bench::clock(&self.player);
        let report = self.bench.get_or_insert_with(|| BenchReport::new(clock));
        report.points.push(point);
        Ok(serde_json::to_string(report)?)
    }

    /// The report of everything that has run. `ran_at` is the time in UTC as RFC 3339.
    pub fn report(&self, ran_at: String) -> Result<String, JsError> {
        let report = WebReport { report: self.parity(ran_at), bench: self.bench.clone() };
        Ok(serde_json::to_string_pretty(&report)?)
    }

    /// The report as a page of its own.
    pub fn page(&self, ran_at: String) -> String {
        html::page(&self.parity(ran_at))
    }
}

impl Session {
    fn parity(&self, ran_at: String) -> Report {
        Report {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: self.machine.clone(),
            legs: vec![self.leg.clone()],
            summary: Summary::of(&self.results),
            cases: self.results.clone(),
            sources: self.player.sources.clone(),
            ran_at,
            timing: RunTiming { total_s: self.start.elapsed().as_secs_f64() },
        }
    }
}

/// Plays `case` and judges it.
pub(super) async fn judged(player: &mut Player, case: &dyn Case) -> CaseResultReport {
    let prepared = match case.prepare() {
        Ok(prepared) => prepared,
        Err(error) => return suite::not_prepared(LEG, &error),
    };
    let run = match prepared.tape(&player.gpu.caps, Language::Wgsl) {
        Ok((tape, outputs)) => player.play(&tape).await.map(|run| (run, outputs)),
        Err(error) => Err(error),
    };
    suite::judge_run(LEG, prepared.as_ref(), run)
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console)]
    fn error(message: &str);
}

/// A panic would else be a bare "unreachable executed".
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|info| error(&info.to_string())));
}
