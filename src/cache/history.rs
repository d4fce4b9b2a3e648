//! Which positions a layer still holds, and where. No GPU types.
//!
//! Position p (counted from the first token) lives at slot `p % capacity`, so a rolled-back
//! position is simply written again.

use super::config::{LayerConfig, Storage};
use super::misuse::Misuse;
use crate::codec::Ring;
use crate::error::Result;

/// The positions of equal layers. How many tokens there are is the cache's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct History {
    capacity: u32,
    window: u32,
    ring: bool,
    /// The oldest position that has not been overwritten.
    oldest: u32,
}

impl History {
    pub fn new(layer: &LayerConfig) -> Self {
        Self {
            capacity: layer.capacity,
            window: layer.sliding_window,
            ring: layer.storage == Storage::Ring,
            oldest: 0,
        }
    }

    pub fn oldest(&self) -> u32 {
        self.oldest
    }

    pub fn is_ring(&self) -> bool {
        self.ring
    }

    /// The slots that hold positions of the first `len` tokens.
    pub fn slots(&self, len: u32) -> Result<Ring> {
        Ring::new(self.capacity, self.oldest % self.capacity, len.saturating_sub(self.oldest))
    }

    /// Slot of the token after `len`.
    pub fn write_pos(&self, len: u32) -> u32 {
        len % self.capacity
    }

    /// The same after the cache has grown to `len` tokens; none where they do not fit.
    pub fn grown_to(&self, len: u64) -> Option<Self> {
        let last = if self.ring { u32::MAX } else { self.capacity };
        let len = u32::try_from(len).ok().filter(|&len| len <= last)?;
        Some(Self { oldest: self.oldest.max(len.saturating_sub(self.capacity)), ..*self })
    }

    /// The same after going back to `len` tokens.
    ///
    /// The next token sees from `len + 1 - window` on; those rows must be there.
    pub fn truncated_to(&self, layer: usize, len: u32) -> Result<Self, Misuse> {
        let seen =
            if self.window == 0 { 0 } else { len.saturating_add(1).saturating_sub(self.window) };
        if seen < len && seen < self.oldest {
            let needed = self.oldest.saturating_add(self.window - 1);
            return Err(Misuse::Overwritten { layer, needed, found: len });
        }
        Ok(Self { oldest: self.oldest.min(len), ..*self })
    }

    /// The same with `oldest` as in a snapshot.
    pub fn with_oldest(&self, oldest: u32) -> Self {
        Self { oldest, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(capacity: u32, window: u32) -> History {
        History { capacity, window, ring: true, oldest: 0 }
    }

    /// Against a model that keeps the position of every slot.
    #[test]
    fn a_ring_knows_what_its_slots_hold() {
        let mut slots = [None; 7];
        let mut history = ring(7, 4);
        let mut len = 0u32;
        for (tokens, back) in [(3, 0), (1, 1), (4, 2), (3, 0), (2, 3), (1, 1), (4, 0), (4, 2)] {
            history = history.grown_to(u64::from(len + tokens)).unwrap();
            for position in len..len + tokens {
                slots[history.write_pos(position) as usize] = Some(position);
            }
            len += tokens;
            if let Ok(shorter) = history.truncated_to(0, len - back) {
                (history, len) = (shorter, len - back);
            }
            for (position, slot) in (history.oldest()..len).zip(history.slots(len).unwrap().slots())
            {
                assert_eq!(slots[slot as usize], Some(position), "{history:?}, {len} tokens");
            }
            let seen = (len + 1).saturating_sub(4);
            assert!(history.oldest() <= seen, "{history:?}, {len} tokens");
        }
    }

    #[test]
    fn a_ring_goes_back_as_far_as_its_window_is_whole() {
        let full = ring(10, 4).grown_to(23).unwrap();
        assert_eq!(full.oldest(), 13);
        assert_eq!(full.truncated_to(0, 16).unwrap().slots(16).unwrap().len(), 3);
        let refused = full.truncated_to(2, 15).unwrap_err();
        assert_eq!(refused, Misuse::Overwritten { layer: 2, needed: 16, found: 15 });
        assert_eq!(full.truncated_to(0, 0).unwrap().oldest(), 0);
    }

    #[test]
    fn a_linear_layer_is_full_at_its_capacity() {
        let linear = History { capacity: 5, window: 0, ring: false, oldest: 0 };
        assert!(linear.grown_to(5).is_some());
        assert_eq!(linear.grown_to(6), None);
        assert_eq!(ring(5, 2).grown_to(1 << 32), None);
    }
}
