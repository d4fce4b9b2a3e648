//! Metal without a Mac: MSL executed and checked on the host.

mod compiler;
pub mod dispatch;
pub mod findings;
pub mod naga_msl;
pub mod original;
pub mod prescan;
pub mod spec;
pub mod toolchain;
