//! Ring arithmetic: which physical slot holds which position.

use crate::error::{Error, Result};

/// `len` stored positions in a cache of `capacity` slots, the oldest at slot `start`.
///
/// Chronological position i (0 = oldest) lives at slot `(start + i) % capacity`, for every
/// `len <= capacity`, also when the ring is partly filled and starts anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    capacity: u32,
    start: u32,
    len: u32,
}

/// Largest capacity: keeps `start + i` inside u32 in every language.
pub const MAX_CAPACITY: u32 = 1 << 31;

impl Ring {
    /// Checks `0 < capacity <= 2^31`, `start < capacity` and `len <= capacity`.
    pub fn new(capacity: u32, start: u32, len: u32) -> Result<Self> {
        if capacity == 0 || capacity > MAX_CAPACITY {
            return Err(Error::param("kv_capacity", format!("1 to {MAX_CAPACITY}"), capacity));
        }
        if start >= capacity {
            return Err(Error::param(
                "ring_start",
                format!("less than kv_capacity {capacity}"),
                start,
            ));
        }
        if len > capacity {
            return Err(Error::param("kv_seq_len", format!("at most kv_capacity {capacity}"), len));
        }
        Ok(Self { capacity, start, len })
    }

    /// The ring after token number `abs_pos` (counted from 0) has been appended.
    pub fn after(abs_pos: u32, capacity: u32) -> Result<Self> {
        let stored = abs_pos.saturating_add(1);
        if stored < capacity {
            Self::new(capacity, 0, stored)
        } else {
            Self::new(capacity, stored.checked_rem(capacity).unwrap_or(0), capacity)
        }
    }

    /// Slots of the cache.
    pub const fn capacity(self) -> u32 {
        self.capacity
    }

    /// Positions stored.
    pub const fn len(self) -> u32 {
        self.len
    }

    /// Whether nothing is stored.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Slot of the oldest position.
    pub const fn start(self) -> u32 {
        self.start
    }

    /// Slot of chronological position `i`.
    pub const fn slot(self, i: u32) -> u32 {
        let s = self.start + i;
        if s >= self.capacity { s - self.capacity } else { s }
    }

    /// Slots of the stored positions, oldest first.
    pub fn slots(self) -> impl Iterator<Item = u32> {
        (0..self.len).map(move |i| self.slot(i))
    }

    /// Whether slot `s` holds a stored position.
    pub const fn holds(self, s: u32) -> bool {
        let age = if s >= self.start { s - self.start } else { s + self.capacity - self.start };
        age < self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_the_definition_for_every_small_ring() {
        for capacity in 1..7 {
            for start in 0..capacity {
                for len in 0..=capacity {
                    let ring = Ring::new(capacity, start, len).unwrap();
                    let want: Vec<u32> = (0..len).map(|i| (start + i) % capacity).collect();
                    assert_eq!(ring.slots().collect::<Vec<_>>(), want);
                    for s in 0..capacity {
                        assert_eq!(ring.holds(s), want.contains(&s), "{ring:?} slot {s}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_full_ring_starts_at_the_slot_after_the_newest() {
        assert_eq!(Ring::after(50, 1024).unwrap(), Ring::new(1024, 0, 51).unwrap());
        assert_eq!(Ring::after(1023, 1024).unwrap(), Ring::new(1024, 0, 1024).unwrap());
        assert_eq!(Ring::after(1050, 1024).unwrap(), Ring::new(1024, 27, 1024).unwrap());
    }

    #[test]
    fn bad_rings_name_the_field() {
        for (cap, start, len, field) in
            [(0, 0, 0, "kv_capacity"), (8, 8, 0, "ring_start"), (8, 0, 9, "kv_seq_len")]
        {
            let message = Ring::new(cap, start, len).unwrap_err().to_string();
            assert!(message.starts_with(field), "{message}");
        }
    }
}
