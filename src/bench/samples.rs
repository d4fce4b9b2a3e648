//! Samples of a call: a warm-up, then passes of many calls each.

use crate::driver::DriverError;

/// A sample lasts at least this long, so that the clock's step is lost in it.
const SAMPLE_US: f64 = 2000.0;
/// Most calls of a sample.
const MOST_CALLS: f64 = 400.0;

/// Microseconds of a call, ascending, from passes of so many calls.
pub(super) struct Samples {
    pub us: Vec<f64>,
    pub calls: u64,
}

impl Samples {
    /// Warms up for so many milliseconds, then takes `count` samples of `pass`, which runs a number
    /// of calls; `first` is what one cold call took.
    pub fn take(
        first: f64,
        warm_up_ms: f64,
        count: usize,
        mut pass: impl FnMut(u64) -> Result<f64, DriverError>,
    ) -> Result<Self, DriverError> {
        let mut calls = (SAMPLE_US / first.max(0.1)).clamp(1.0, MOST_CALLS) as u64;
        let mut warm = 0.0;
        loop {
            let us = pass(calls)?.max(1.0);
            warm += us;
            calls = (SAMPLE_US / us * calls as f64).clamp(1.0, MOST_CALLS) as u64;
            if warm >= warm_up_ms * 1e3 {
                break;
            }
        }
        let mut us = Vec::with_capacity(count);
        for _ in 0..count {
            us.push(pass(calls)? / calls as f64);
        }
        us.sort_by(f64::total_cmp);
        Ok(Self { us, calls })
    }

    /// The time that this part of the samples is shorter than.
    pub fn at(&self, part: f64) -> f64 {
        self.us[((self.us.len() - 1) as f64 * part).round() as usize]
    }
}
