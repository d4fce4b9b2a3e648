//! Binds a tape's buffers to one dispatch of an original Metal kernel.

use super::tape::{BufferId, POISON, Step};
use crate::contract::Access;
use crate::msl::dispatch::Buffer;
use crate::msl::original::{Call, Found, Token};

/// The buffers of a dispatch, and where their contents go afterwards, in the same order.
pub(super) struct Bound {
    pub buffers: Vec<Buffer>,
    pub places: Vec<Place>,
}

/// Where a buffer's contents go.
pub(super) enum Place {
    /// Nowhere: parameters, scratch, a window of an input.
    Nowhere,
    /// Back to the tape's buffer.
    Whole(BufferId),
    /// The rows of one token of the tape's buffer.
    Rows(BufferId, Token),
}

impl Bound {
    /// Takes whole buffers out of `memory`; [`Place::keep`] puts them back.
    pub fn new(found: &Found, call: &Call, step: &Step, memory: &mut [Vec<u8>]) -> Self {
        let mut bound = Self { buffers: Vec::new(), places: Vec::new() };
        let mut storage = step.buffers.iter().copied();
        for (index, binding) in (0u32..).zip(step.plan.contract.bindings) {
            let id = if binding.access == Access::Uniform { None } else { storage.next() };
            let (bytes, place) = match (id, binding.name, call.token) {
                (None, ..) => (uniform(found, call, index), Place::Nowhere),
                (Some(id), "src", Some(token)) => {
                    let window = token.at..token.at + token.rows * token.row;
                    let bytes = memory[id.index()].get(window).unwrap_or(&[]);
                    (bytes.to_vec(), Place::Nowhere)
                }
                (Some(id), "dst", Some(token)) => {
                    let words = token.rows * token.row / 4;
                    (POISON.to_le_bytes().repeat(words), Place::Rows(id, token))
                }
                (Some(id), ..) => (std::mem::take(&mut memory[id.index()]), Place::Whole(id)),
            };
            let writable = binding.access == Access::ReadWrite;
            bound.buffers.push(Buffer { index, writable, bytes });
            bound.places.push(place);
        }
        if let Some(index) = found.arguments.scratch {
            // A probe's buffer: one float a coordinate.
            let bytes = call.token.map_or(4, |t| t.rows * t.row);
            bound.buffers.push(Buffer { index, writable: true, bytes: vec![0; bytes] });
            bound.places.push(Place::Nowhere);
        }
        bound
    }
}

/// Contents of a parameter buffer, as long as the file's block: blocks only grow at their end.
fn uniform(found: &Found, call: &Call, index: u32) -> Vec<u8> {
    let length = found.arguments.uniform_bytes.iter().find(|(i, _)| *i == index);
    let contents = call.uniforms.iter().find(|(i, _)| *i == index);
    let mut bytes = contents.map_or_else(Vec::new, |(_, bytes)| bytes.clone());
    bytes.truncate(length.map_or(0, |(_, bytes)| *bytes as usize));
    bytes
}

impl Place {
    /// Puts a buffer's contents where they belong.
    pub fn keep(&self, bytes: Vec<u8>, memory: &mut [Vec<u8>]) {
        match self {
            Self::Nowhere => {}
            Self::Whole(id) => memory[id.index()] = bytes,
            Self::Rows(id, token) => {
                let target = &mut memory[id.index()];
                for (i, row) in bytes.chunks_exact(token.row).enumerate() {
                    let at = token.at + i * token.stride;
                    if let Some(target) = target.get_mut(at..at + token.row) {
                        target.copy_from_slice(row);
                    }
                }
            }
        }
    }
}
