//! What a cache takes.

/// Bytes on the device. Pipelines and bind groups are the driver's and not counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes {
    /// Codes and norms of each layer, all slots.
    pub layers: Vec<u64>,
    /// Codes and norms of one token in all layers.
    pub per_token: u64,
    /// Partials of split contexts, shared by all layers.
    pub partials: u64,
    /// What attention in one dispatch keeps between its workgroups, for each distinct layer.
    pub scratch: u64,
    /// Parameter slots.
    pub parameters: u64,
}

impl Bytes {
    /// All buffers together.
    pub fn total(&self) -> u64 {
        self.layers.iter().sum::<u64>() + self.partials + self.scratch + self.parameters
    }
}
