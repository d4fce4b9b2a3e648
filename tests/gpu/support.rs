//! The legs under test, and how a case is judged.

use std::sync::{Mutex, OnceLock};

use wgtq::contract::Caps;
use wgtq::gpu::device::{AdapterReport, Gpu, Selection};
use wgtq::legs::{Leg, LegName, Run, Tape, WgpuLeg};
use wgtq::parity::{Case, Outcome};

/// A WGSL leg that plans as if the device had no subgroup operations.
struct WithoutSubgroups(WgpuLeg);

impl Leg for WithoutSubgroups {
    fn name(&self) -> LegName {
        self.0.name()
    }
    fn caps(&self) -> Caps {
        self.0.caps().with_subgroup_size(None)
    }
    fn adapter(&self) -> &AdapterReport {
        self.0.adapter()
    }
    fn run(&mut self, tape: &Tape<'_>) -> Result<Run, wgtq::driver::DriverError> {
        self.0.run(tape)
    }
}

/// Legs by label, opened once. Several devices on one adapter are fine.
struct Legs(Vec<(&'static str, Box<dyn Leg + Send>)>);

fn open() -> Legs {
    let selection = Selection::default();
    let gpu = || Gpu::open(&selection).expect("a GPU, or WGTQ_GPU=none to leave these tests out");
    let first = gpu();
    eprintln!("adapter: {}", first.report.line());
    let mut legs: Vec<(&'static str, Box<dyn Leg + Send>)> = vec![
        ("wgsl", Box::new(WgpuLeg::on(LegName::Wgsl, first))),
        ("wgsl-trusted", Box::new(WgpuLeg::on(LegName::WgslTrusted, gpu()))),
        ("wgsl without subgroups", Box::new(WithoutSubgroups(WgpuLeg::on(LegName::Wgsl, gpu())))),
    ];
    let native = if cfg!(target_vendor = "apple") { LegName::Msl } else { LegName::WgslSpirv };
    legs.push((native.as_str(), Box::new(WgpuLeg::on(native, gpu()))));
    Legs(legs)
}

/// Whether the run was told to do without a GPU.
pub fn without_gpu() -> bool {
    std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none")
}

/// Runs each case on WGSL with checks and on one of the other legs, which take turns: most of the
/// time goes into compiling pipelines. `wgtq parity` runs every case on every leg.
pub fn check_each(cases: &[impl Case]) {
    for (i, case) in cases.iter().enumerate() {
        check_on(case, |leg| leg == 0 || leg == 1 + i % 3);
    }
}

/// Runs a case on every leg.
pub fn check(case: &impl Case) {
    check_on(case, |_| true);
}

/// Runs a case on the legs of these numbers and fails with the case, the leg and the worst element.
fn check_on(case: &impl Case, wanted: impl Fn(usize) -> bool) {
    if without_gpu() {
        return;
    }
    static LEGS: OnceLock<Mutex<Legs>> = OnceLock::new();
    let mut legs = LEGS
        .get_or_init(|| Mutex::new(open()))
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    for (_, (label, leg)) in legs.0.iter_mut().enumerate().filter(|(i, _)| wanted(*i)) {
        match case.run(leg.as_mut()) {
            Ok(o) => assert!(
                o.pass(),
                "leg {label}: error {:.3e} over tolerance {:.3e}: {}\n{case:#?}",
                o.error,
                o.tolerance,
                o.detail
            ),
            // A leg that lacks the fence must name it; no other refusal is right.
            Err(e) if !leg.caps().storage_fence && e.to_string().contains("storage barrier") => {}
            Err(e) => panic!("leg {label}: {e}\n{case:#?}"),
        }
    }
}

/// What WGSL with checks makes of `case`.
pub fn outcome(case: &impl Case) -> Option<Outcome> {
    if without_gpu() {
        return None;
    }
    let gpu = Gpu::open(&Selection::default()).expect("a GPU, or WGTQ_GPU=none");
    Some(case.run(&mut WgpuLeg::on(LegName::Wgsl, gpu)).expect("a case that runs"))
}

/// The first output of `case` on WGSL planned for subgroups of `width`, where the device's are
/// narrower; none where they are not.
pub fn output_planned_for(case: &impl Case, width: u32) -> Option<Vec<f32>> {
    if without_gpu() {
        return None;
    }
    let gpu = Gpu::open(&Selection::default()).expect("a GPU, or WGTQ_GPU=none");
    let mut leg = WgpuLeg::on(LegName::Wgsl, gpu);
    let caps = leg.caps();
    // Sixteen lanes a row are the most that any plan asks for.
    if caps.subgroup_size.is_none_or(|measured| measured >= 16) {
        return None;
    }
    let prepared = case.prepare().expect("a case that runs");
    let caps = caps.with_subgroup_size(Some(width));
    let (tape, outputs) = prepared.tape(&caps, LegName::Wgsl.language()).expect("a plan");
    Some(leg.run(&tape).expect("a run").floats(outputs[0]))
}

/// Runs each case on WGSL with and without checks where the device has cooperative matrices. Where it
/// has none, each must be refused for exactly that.
pub fn check_where_matrices_are(cases: &[impl Case]) {
    if without_gpu() {
        return;
    }
    for leg in [LegName::Wgsl, LegName::WgslTrusted] {
        let gpu = Gpu::open(&Selection::default()).expect("a GPU, or WGTQ_GPU=none");
        let mut leg = WgpuLeg::on(leg, gpu);
        let matrices = leg.caps().matrices.is_some();
        for case in cases {
            match case.run(&mut leg) {
                Ok(o) => assert!(
                    o.pass(),
                    "{:.3e} of {:.3e}: {}\n{case:#?}",
                    o.error,
                    o.tolerance,
                    o.detail
                ),
                Err(e) => assert!(
                    !matrices && e.to_string().contains("EXPERIMENTAL_COOPERATIVE_MATRIX"),
                    "{e}\n{case:#?}"
                ),
            }
        }
    }
}
