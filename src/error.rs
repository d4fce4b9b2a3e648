//! The one error type of the library levels.

/// What can go wrong between a caller's numbers and a recorded dispatch.
///
/// Every variant carries what was needed and what was found; no function of this crate
/// panics on a value that a caller passes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape, count or scalar is outside what the kernel is defined for.
    #[error("{name}: need {need}, found {found}")]
    Param {
        /// The field's name, as in the parameter block or manifest.
        name: &'static str,
        /// The condition, in words.
        need: String,
        /// The value found.
        found: String,
    },
    /// A slice or binding is smaller than the launch reads or writes.
    #[error("{kernel}: buffer `{buffer}` needs {needed} bytes, found {found}")]
    BufferTooSmall {
        /// Kernel stem.
        kernel: &'static str,
        /// Binding name of the contract.
        buffer: &'static str,
        /// Bytes the launch touches.
        needed: u64,
        /// Bytes bound.
        found: u64,
    },
    /// A binding's offset does not satisfy the device's alignment.
    #[error("{kernel}: offset of `{buffer}` needs to be a multiple of {alignment}, found {offset}")]
    Misaligned {
        /// Kernel stem.
        kernel: &'static str,
        /// Binding name of the contract.
        buffer: &'static str,
        /// Required alignment in bytes.
        alignment: u64,
        /// Offset found in bytes.
        offset: u64,
    },
    /// A buffer was created without a usage that its binding needs.
    #[error("{kernel}: buffer `{buffer}` needs usage {needed}, found {found}")]
    Usage {
        /// Kernel stem.
        kernel: &'static str,
        /// Binding name of the contract.
        buffer: &'static str,
        /// Usage needed.
        needed: &'static str,
        /// Usages found, as wgpu prints them.
        found: String,
    },
    /// The device allows less than the plan needs.
    #[error("{kernel}: needs {limit} of {needed}, the device allows {found}")]
    Limit {
        /// Kernel stem.
        kernel: &'static str,
        /// wgpu's name of the limit.
        limit: &'static str,
        /// Value needed.
        needed: u64,
        /// Value allowed.
        found: u64,
    },
    /// The device lacks a feature that the plan was made for.
    #[error("{kernel}: needs the device feature {feature}, which is not enabled")]
    Feature {
        /// Kernel stem.
        kernel: &'static str,
        /// wgpu's name of the feature.
        feature: &'static str,
    },
    /// A cache was asked for something at the wrong moment.
    #[cfg(feature = "wgpu")]
    #[error("KvCache: {0}")]
    Cache(#[from] crate::cache::Misuse),
    /// A snapshot cannot be read, or does not fit the cache.
    #[error("snapshot: {field}: need {need}, found {found}")]
    Snapshot {
        /// The header's field, or the part.
        field: String,
        /// The condition, in words.
        need: String,
        /// What is there.
        found: String,
    },
    /// The shader did not compile; the message is mapped to the file's own lines.
    #[error("{kernel}: shader rejected: {message}")]
    Shader {
        /// Kernel stem.
        kernel: &'static str,
        /// The compiler's message.
        message: String,
    },
}

impl Error {
    /// A [`Error::Param`] from displayable parts.
    pub fn param(
        name: &'static str,
        need: impl Into<String>,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::Param { name, need: need.into(), found: found.to_string() }
    }
}

/// Result of the library levels.
pub type Result<T, E = Error> = std::result::Result<T, E>;
