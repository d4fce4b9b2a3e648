//! The parity suite and a short benchmark in a browser. A page opens a [`Session`], runs its cases
//! one by one and takes the report; `examples/web` is such a page.
//!
//! The leg is `wgsl-browser`: the kernels through wgpu's WebGPU backend, so with the browser's own
//! shader compiler and its checks. What comes back is judged as on every other leg.

mod bench;
mod device;
mod faults;
mod player;
mod report;
mod session;

pub use bench::{BenchPoint, BenchReport, BenchTiming, Clock};
pub use report::WebReport;
pub use session::Session;

/// Label of the leg in reports.
pub const LEG: &str = "wgsl-browser";
