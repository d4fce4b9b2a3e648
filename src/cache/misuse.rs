//! What an engine can ask of a cache at the wrong moment.

/// A call that a [`KvCache`](super::KvCache) refuses. Nothing was recorded or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// Recording outside a step.
    #[error("need an open step, found none")]
    NoStep,
    /// What cannot be done inside a step.
    #[error("need no open step, found one of {tokens} tokens")]
    StepOpen {
        /// Its tokens.
        tokens: u32,
    },
    /// Every parameter slot belongs to a step that may not have been submitted.
    #[error("need at most {most} steps before a submit, found {most} and submitted() not called")]
    NotSubmitted {
        /// Steps that fit one submit.
        most: u32,
    },
    /// A step of no tokens, or of more than the cache was made for.
    #[error("tokens of a step: need 1 to {most}, found {found}")]
    Tokens {
        /// Most tokens of a step.
        most: u32,
        /// Tokens asked for.
        found: u32,
    },
    /// The cache is full.
    #[error("layer {layer}: need room for {needed} positions, found {found}")]
    NoRoom {
        /// The first layer that is too small.
        layer: usize,
        /// Positions after the step.
        needed: u64,
        /// The layer's capacity.
        found: u32,
    },
    /// Appending in a step that only reads.
    #[error("layer {layer}: need a step that appends, found one that only reads")]
    ReadOnly {
        /// The layer.
        layer: usize,
    },
    /// Reading without appending where a window counts from the newest position.
    #[error("layer {layer}: need no sliding window to read without appending, found {window}")]
    WindowedRead {
        /// The first such layer.
        layer: usize,
        /// Its window.
        window: u32,
    },
    /// A second append of a layer.
    #[error("layer {layer}: need one append a step, found a second")]
    AppendedTwice {
        /// The layer.
        layer: usize,
    },
    /// A second attend of a layer; the first one rotated q in place.
    #[error("layer {layer}: need one attend a step, found a second")]
    AttendedTwice {
        /// The layer.
        layer: usize,
    },
    /// A layer without this step's rows.
    #[error("layer {layer}: need the step's append, found none")]
    NotAppended {
        /// The layer.
        layer: usize,
    },
    /// A layer number past the last.
    #[error("layer: need less than {layers}, found {found}")]
    NoLayer {
        /// Layers of the cache.
        layers: usize,
        /// The number found.
        found: usize,
    },
    /// Buffers that another cache bound.
    #[error("layer {layer}: need buffers bound by this cache, found another's")]
    Foreign {
        /// The layer that they were bound for.
        layer: usize,
    },
    /// q and the output in one buffer, which one dispatch reads and writes.
    #[error("layer {layer}: need q and out in different buffers, found one")]
    SharedBuffer {
        /// The layer.
        layer: usize,
    },
    /// Truncation to more than there is.
    #[error("length: need at most {len}, found {found}")]
    Longer {
        /// Tokens in the cache.
        len: u32,
        /// The length asked for.
        found: u32,
    },
    /// Truncation so far back that a ring has overwritten what its window would show.
    #[error(
        "layer {layer}: need a length of at least {needed}, since older rows are overwritten, found {found}"
    )]
    Overwritten {
        /// The first such layer.
        layer: usize,
        /// The shortest length it can go back to.
        needed: u32,
        /// The length asked for.
        found: u32,
    },
}
