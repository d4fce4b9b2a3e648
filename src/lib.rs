#![doc = include_str!("../README.md")]

#[cfg(feature = "driver")]
pub mod bench;
#[cfg(feature = "wgpu")]
pub mod cache;
pub mod codec;
#[cfg(feature = "driver")]
pub mod compare;
pub mod contract;
#[cfg(feature = "suite")]
pub mod driver;
mod error;
#[cfg(feature = "export")]
pub mod export;
#[cfg(feature = "wgpu")]
pub mod gpu;
pub mod kernels;
#[cfg(feature = "suite")]
pub mod legs;
pub mod metrics;
#[cfg(feature = "msl-host")]
pub mod msl;
pub mod oracle;
pub mod params;
#[cfg(feature = "suite")]
pub mod parity;
#[cfg(feature = "driver")]
pub mod replay;
#[cfg(feature = "suite")]
pub mod rng;
pub mod source;
#[cfg(feature = "driver")]
pub mod sweep;
mod unroll;
#[cfg(feature = "web")]
pub mod web;

pub use error::{Error, Result};
#[cfg(feature = "wgpu")]
pub use wgpu;
