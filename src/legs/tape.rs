//! A list of buffers and dispatches, independent of who executes it.
//!
//! Outputs are filled with a poison word and followed by a guard region inside the binding, so a
//! value that was never written and a write past the end are both seen, on every leg.

use std::borrow::Cow;
use std::time::Duration;

use crate::contract::{Access, Launch, Plan};
use crate::driver::DriverError;
use crate::source::{Target, assemble};

/// What a word of an output holds before anything writes it: a NaN that no kernel makes.
pub const POISON: u32 = 0xffc0_beef;

/// Bytes of guard after each output.
pub const GUARD_BYTES: u64 = 256;

/// A buffer of a tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BufferId(usize);

/// A buffer's size, contents and fate.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    pub label: &'static str,
    /// Bytes without the guard.
    pub bytes: u64,
    /// Initial contents; none is poison.
    pub init: Option<Cow<'a, [u8]>>,
    pub guarded: bool,
    pub read_back: bool,
}

impl Slot<'_> {
    /// Bytes with the guard.
    pub fn bound_bytes(&self) -> u64 {
        self.bytes + if self.guarded { GUARD_BYTES } else { 0 }
    }

    /// Initial contents with the guard, written into `target` of [`Self::bound_bytes`].
    pub fn fill(&self, mut write: impl FnMut(usize, &[u8])) {
        let init = self.init.as_deref().unwrap_or(&[]);
        write(0, init);
        let rest = (self.bound_bytes() as usize - init.len()) / 4;
        let poison = POISON.to_le_bytes().repeat(rest.min(1 << 14));
        let mut at = init.len();
        while at < self.bound_bytes() as usize {
            let part = poison.len().min(self.bound_bytes() as usize - at);
            write(at, &poison[..part]);
            at += part;
        }
    }
}

/// One dispatch of a tape.
#[derive(Debug)]
pub(super) struct Step {
    pub plan: Plan,
    pub launch: Launch,
    /// The buffers of the non-uniform bindings, in binding order.
    pub buffers: Vec<BufferId>,
}

/// Buffers and dispatches, in order. Inputs are borrowed, never copied on the host.
#[derive(Debug, Default)]
pub struct Tape<'a> {
    pub(super) slots: Vec<Slot<'a>>,
    pub(super) steps: Vec<Step>,
}

impl<'a> Tape<'a> {
    fn push(&mut self, slot: Slot<'a>) -> BufferId {
        self.slots.push(slot);
        BufferId(self.slots.len() - 1)
    }

    /// A buffer that kernels only read.
    pub fn input(&mut self, label: &'static str, bytes: impl Into<Cow<'a, [u8]>>) -> BufferId {
        let init = bytes.into();
        let bytes = init.len() as u64;
        self.push(Slot { label, bytes, init: Some(init), guarded: false, read_back: false })
    }

    /// A buffer that starts with contents and is changed by kernels; guarded and read back.
    pub fn in_out(&mut self, label: &'static str, bytes: impl Into<Cow<'a, [u8]>>) -> BufferId {
        let init = bytes.into();
        let bytes = init.len() as u64;
        self.push(Slot { label, bytes, init: Some(init), guarded: true, read_back: true })
    }

    /// A buffer that kernels must write in full; poisoned, guarded and read back.
    pub fn output(&mut self, label: &'static str, bytes: u64) -> BufferId {
        self.push(Slot { label, bytes, init: None, guarded: true, read_back: true })
    }

    /// A buffer between kernels; poisoned and guarded.
    pub fn scratch(&mut self, label: &'static str, bytes: u64) -> BufferId {
        self.push(Slot { label, bytes, init: None, guarded: true, read_back: false })
    }

    /// Appends a dispatch. `buffers` are the non-uniform bindings in binding order; the uniform
    /// ones come from the launch.
    pub fn step(&mut self, plan: Plan, launch: Launch, buffers: &[BufferId]) {
        self.steps.push(Step { plan, launch, buffers: buffers.to_vec() });
    }

    /// The plans of the steps, in order.
    #[cfg(feature = "web")]
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.steps.iter().map(|s| &s.plan)
    }

    /// Stem and SHA-256 of every distinct source text that the tape runs.
    pub fn source_hashes(&self, target: Target) -> Vec<(String, String)> {
        let mut hashes: Vec<(String, String)> = Vec::new();
        for step in &self.steps {
            let entry = (step.plan.label.clone(), sha256(&assemble(&step.plan, target).text));
            if !hashes.contains(&entry) {
                hashes.push(entry);
            }
        }
        hashes
    }

    /// What `id` starts with; nothing if that is poison.
    #[cfg(feature = "msl-host")]
    pub(super) fn initial(&self, id: BufferId) -> &[u8] {
        self.slots[id.0].init.as_deref().unwrap_or(&[])
    }

    /// The kernel that last writes `id`, for messages.
    fn writer(&self, id: BufferId) -> &'static str {
        let writes = |step: &&Step| {
            let storage = step.plan.contract.bindings.iter();
            let mut storage = storage.filter(|b| b.access != Access::Uniform).zip(&step.buffers);
            storage.any(|(b, &buffer)| b.access == Access::ReadWrite && buffer == id)
        };
        self.steps.iter().rev().find(writes).map_or("tape", |s| s.plan.contract.stem)
    }

    /// Checks guard and poison of what came back for `id` and returns the buffer's own bytes.
    pub(super) fn accept(&self, id: BufferId, mut bytes: Vec<u8>) -> Result<Vec<u8>, DriverError> {
        let slot = &self.slots[id.0];
        let fail =
            |message| DriverError::Output { kernel: self.writer(id), buffer: slot.label, message };
        let poisoned = |word: &[u8]| word == POISON.to_le_bytes();
        let guard = bytes.split_off(slot.bytes as usize);
        if let Some(at) = guard.chunks_exact(4).position(|w| !poisoned(w)) {
            let at = slot.bytes + 4 * at as u64;
            return Err(fail(format!("byte {at} past the end ({}) was written", slot.bytes)));
        }
        if slot.init.is_none()
            && let Some(at) = bytes.chunks_exact(4).position(poisoned)
        {
            return Err(fail(format!("byte {} of {} was never written", 4 * at, slot.bytes)));
        }
        Ok(bytes)
    }
}

/// SHA-256 of a text in hexadecimal.
pub(crate) fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

impl BufferId {
    pub(super) fn index(self) -> usize {
        self.0
    }

    pub(super) fn all(tape: &Tape<'_>) -> impl Iterator<Item = Self> {
        (0..tape.slots.len()).map(Self)
    }
}

/// What came out of a tape.
#[derive(Debug, Default)]
pub struct Run {
    pub(crate) outputs: Vec<(BufferId, Vec<u8>)>,
    /// Making pipelines; zero when all were cached.
    pub compile: Duration,
    /// Upload, dispatches and read-back, as the host saw them.
    pub execute: Duration,
}

impl Run {
    /// The bytes of an output.
    pub fn bytes(&self, id: BufferId) -> &[u8] {
        self.outputs.iter().find(|(i, _)| *i == id).map_or(&[], |(_, bytes)| bytes)
    }

    /// An output as floats.
    pub fn floats(&self, id: BufferId) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(self.bytes(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(tape: &Tape<'_>, id: BufferId) -> Vec<u8> {
        let slot = &tape.slots[id.0];
        let mut bytes = vec![0; slot.bound_bytes() as usize];
        slot.fill(|at, part| bytes[at..at + part.len()].copy_from_slice(part));
        bytes
    }

    #[test]
    fn an_output_that_nothing_wrote_is_rejected() {
        let mut tape = Tape::default();
        let out = tape.output("out", 16);
        let mut bytes = filled(&tape, out);
        bytes[..12].fill(0);
        let error = tape.accept(out, bytes.clone()).unwrap_err().to_string();
        assert!(error.contains("byte 12 of 16 was never written"), "{error}");
        bytes[..16].fill(0);
        assert_eq!(tape.accept(out, bytes).unwrap(), [0; 16]);
    }

    #[test]
    fn a_write_past_the_end_is_rejected() {
        let mut tape = Tape::default();
        let io = tape.in_out("io", vec![1u8; 8]);
        let mut bytes = filled(&tape, io);
        bytes[8] ^= 1;
        let error = tape.accept(io, bytes).unwrap_err().to_string();
        assert!(error.contains("byte 8 past the end"), "{error}");
    }
}
