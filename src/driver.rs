//! What the drivers share: their error type, and writing files whole or not at all.

#[cfg(feature = "driver")]
mod files;

use std::path::PathBuf;

#[cfg(feature = "driver")]
pub use files::{Outputs, cache_folder, check_writable};

/// What can go wrong in a driver. `exit_code` tells a bad argument from a bad machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// Flags that do not go together, or a value out of range.
    #[error("{flag}: need {need}, found {found}")]
    Argument {
        /// The flag.
        flag: &'static str,
        /// The condition, in words.
        need: String,
        /// What was given.
        found: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A manifest is not JSON, or a field is missing or of the wrong type.
    #[error("{}: {field}: {message}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The field's path in it.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// A field or a value in a file is out of range.
    #[error("{}: {name}: need {need}, found {found}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The field, or which value of a data file.
        name: String,
        /// The condition, in words.
        need: String,
        /// The value found.
        found: String,
    },
    /// A data file has the wrong size.
    #[error("{}: {field}: need {needed} bytes, found {found}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// The manifest's field that names it.
        field: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes found.
        found: u64,
    },
    /// No device, or the device failed.
    #[error("GPU: {message}")]
    Gpu {
        /// What happened.
        message: String,
    },
    /// No adapter at all.
    #[error(
        "GPU: no GPU adapter found; on Debian or Ubuntu without a GPU driver: \
         apt-get install mesa-vulkan-drivers (Vulkan in software)"
    )]
    NoAdapter,
    /// A kernel wrote outside its output, or left a part of it unwritten.
    #[error("{kernel}: output `{buffer}`: {message}")]
    Output {
        /// The kernel.
        kernel: &'static str,
        /// The buffer.
        buffer: &'static str,
        /// What was found.
        message: String,
    },
    /// MSL that its compiler refuses.
    #[error("{message}")]
    MslSource {
        /// The first error, with its place.
        message: String,
    },
    /// There is no compiler for MSL on this machine, or its host failed.
    #[error("{message}")]
    Msl {
        /// What happened.
        message: String,
    },
    /// An original Metal file lacks a kernel, or its argument table does not fit the contract.
    #[error("{}: {entry}: {argument}: need {needed}, found {found}", file.display())]
    Original {
        /// The file, or the folder that was searched.
        file: PathBuf,
        /// The published entry point.
        entry: String,
        /// The argument, by index and name.
        argument: String,
        /// What the contract needs.
        needed: String,
        /// What the file has.
        found: String,
    },
    /// No original was ever published for what was asked.
    #[error("{kernel}: published for {published} only, found {found}")]
    Unpublished {
        /// The kernel.
        kernel: &'static str,
        /// What it is published for.
        published: &'static str,
        /// What was asked.
        found: String,
    },
    /// A kernel on the host did not end.
    #[error("{kernel}: still running after {seconds} s")]
    MslTimeout {
        /// The kernel.
        kernel: String,
        /// The limit.
        seconds: u64,
    },
    /// Dawn, Node.js or a driver for it is not there.
    #[error("{reason}; {hint}")]
    NoDawn {
        /// What is missing.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// Dawn's process ended, or its device failed.
    #[error("Dawn: {message}")]
    Dawn {
        /// What happened.
        message: String,
    },
    /// Dawn did not answer.
    #[error("Dawn: {what}: no answer after {seconds} s")]
    DawnTimeout {
        /// The kernel, or what else it was asked for.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// The library refused a plan, a launch or a buffer.
    #[error("{0}")]
    Library(#[from] crate::Error),
}

impl DriverError {
    /// 1 for an argument, file or manifest; 2 for the GPU and what runs on it.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Argument { .. }
            | Self::File { .. }
            | Self::Manifest { .. }
            | Self::Value { .. }
            | Self::Size { .. } => 1,
            Self::Library(crate::Error::Param { .. }) => 1,
            Self::Gpu { .. }
            | Self::NoAdapter
            | Self::Output { .. }
            | Self::Msl { .. }
            | Self::MslSource { .. }
            | Self::Original { .. }
            | Self::Unpublished { .. }
            | Self::MslTimeout { .. }
            | Self::NoDawn { .. }
            | Self::Dawn { .. }
            | Self::DawnTimeout { .. }
            | Self::Library(_) => 2,
        }
    }
}

/// A message on one line, as errors are printed.
pub fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
