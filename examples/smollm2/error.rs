//! What can go wrong in this program.

use std::path::PathBuf;

use wgtq::driver::DriverError;

/// An error with what was needed and what was found.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// There is no model file.
    #[error("no model at {}; fetch it: sh examples/smollm2/fetch.sh", path.display())]
    NoModel {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A key or a tensor of the GGUF file is missing or is not what this architecture has.
    #[error("GGUF: {name}: need {need}, found {found}")]
    Gguf {
        /// The key or tensor.
        name: String,
        /// The condition, in words.
        need: String,
        /// What is there.
        found: String,
    },
    /// An argument is out of range.
    #[error("{flag}: need {need}, found {found}")]
    Argument {
        /// The flag.
        flag: &'static str,
        /// The condition, in words.
        need: String,
        /// What was given.
        found: String,
    },
    /// The tokenizer failed.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] tokenizers::Error),
    /// candle failed.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
    /// The picture could not be drawn.
    #[error("chart: {0}")]
    Chart(String),
    /// A device, or a file of wgtq.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

impl From<wgtq::Error> for ModelError {
    fn from(error: wgtq::Error) -> Self {
        Self::Driver(error.into())
    }
}

impl ModelError {
    /// 2 for the GPU and what runs on it, else 1.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Driver(error) => error.exit_code(),
            _ => 1,
        }
    }
}

/// A result of this program.
pub type Result<T> = std::result::Result<T, ModelError>;
