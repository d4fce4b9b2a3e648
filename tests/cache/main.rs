//! `KvCache` against the CPU oracles: over many steps, at different bits a layer, past a ring's
//! wrap, after going back, and through a snapshot on another device; and its refusals.
//!
//! Needs a GPU or Debian's mesa-vulkan-drivers, as the kernel tests do.

mod device;
mod pages;
mod refusals;
mod rig;
