#![doc = include_str!("../README.md")]

pub mod codec;
#[cfg(feature = "driver")]
pub mod compare;
pub mod contract;
#[cfg(feature = "driver")]
pub mod driver;
mod error;
#[cfg(feature = "export")]
pub mod export;
#[cfg(feature = "wgpu")]
pub mod gpu;
pub mod kernels;
#[cfg(feature = "driver")]
pub mod legs;
pub mod metrics;
#[cfg(feature = "msl-host")]
pub mod msl;
pub mod oracle;
pub mod params;
#[cfg(feature = "driver")]
pub mod parity;
#[cfg(feature = "driver")]
pub mod replay;
#[cfg(feature = "driver")]
pub mod rng;
pub mod source;
#[cfg(feature = "driver")]
pub mod sweep;

pub use error::{Error, Result};
#[cfg(feature = "wgpu")]
pub use wgpu;
