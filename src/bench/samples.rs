//! Samples of a call: a warm-up, then passes of many calls each.

use super::Plan;
use crate::driver::DriverError;

/// A sample lasts at least this long, so that the clock's step is lost in it.
const SAMPLE_US: f64 = 2000.0;
/// Most calls of a sample.
const MOST_CALLS: f64 = 400.0;

/// Times of a call in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Samples {
    /// Ascending.
    us: Vec<f64>,
    /// Calls of a sample.
    pub calls: u64,
}

impl Samples {
    /// Takes `plan.samples` of them; `pass` runs that many calls and says how long they took
    /// together, `first` is what one cold call took. `idle`: the GPU has to raise its clock first.
    pub fn take(
        plan: &Plan,
        idle: bool,
        first: f64,
        mut pass: impl FnMut(u64) -> Result<f64, DriverError>,
    ) -> Result<Self, DriverError> {
        let mut calls = (SAMPLE_US / first.max(0.1)).clamp(1.0, MOST_CALLS) as u64;
        let mut warm = 0.0;
        let least = if idle { plan.wake_up_ms } else { plan.warm_up_ms };
        while warm < least * 1e3 {
            let us = pass(calls)?.max(1.0);
            warm += us;
            calls = (SAMPLE_US / us * calls as f64).clamp(1.0, MOST_CALLS) as u64;
        }
        let mut us = Vec::with_capacity(plan.samples);
        for _ in 0..plan.samples {
            us.push(pass(calls)? / calls as f64);
        }
        us.sort_by(f64::total_cmp);
        Ok(Self { us, calls })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.us.len()
    }

    /// The time that this part of the samples is shorter than.
    pub fn at(&self, part: f64) -> f64 {
        self.us[((self.us.len() - 1) as f64 * part).round() as usize]
    }
}
