//! Rows out of a cache and back in.

use super::config::Storage;
use super::kv_cache::KvCache;
use super::misuse::Misuse;
use super::snapshot::{LayerHeader, Part, Snapshot, SnapshotHeader};
use crate::codec::{KvCodec, Ring};
use crate::error::{Error, Result};

/// Contiguous bytes of one array: in a layer's buffer, and in the rows of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    slot: u64,
    row: u64,
    bytes: u64,
}

/// The segments of an array of `heads` heads whose positions lie at `slots`: one a head, or two
/// where the ring wraps.
fn segments(part: Part, heads: u32, slots: Ring) -> impl Iterator<Item = Segment> {
    let before = slots.len().min(slots.capacity() - slots.start());
    let runs = [(slots.start(), 0, before), (0, before, slots.len() - before)];
    let heads = if part.row == 0 { 0 } else { heads };
    (0..heads).flat_map(move |head| {
        let at = move |count: u32, index: u32| {
            (u64::from(head) * u64::from(count) + u64::from(index)) * part.row
        };
        runs.into_iter().filter(|run| run.2 > 0).map(move |(slot, row, count)| Segment {
            slot: at(slots.capacity(), slot),
            row: at(slots.len(), row),
            bytes: u64::from(count) * part.row,
        })
    })
}

impl KvCache {
    /// Bytes that [`Self::snapshot`] copies at the present length.
    pub fn snapshot_bytes(&self) -> Result<u64> {
        Ok(self.header()?.body_bytes())
    }

    /// Records copies of every stored row into `readback`, from its start, and returns the header
    /// that makes a portable snapshot of them: [`SnapshotHeader::encode`], once the buffer is mapped.
    ///
    /// `readback` needs `COPY_DST` and [`Self::snapshot_bytes`]. Steps must be submitted no later
    /// than the copies.
    pub fn snapshot(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        readback: &wgpu::Buffer,
    ) -> Result<SnapshotHeader> {
        self.check_closed()?;
        let header = self.header()?;
        let (kernel, buffer, needed) = ("KvCache", "readback", header.body_bytes());
        if readback.size() < needed {
            let found = readback.size();
            return Err(Error::BufferTooSmall { kernel, buffer, needed, found });
        }
        if !readback.usage().contains(wgpu::BufferUsages::COPY_DST) {
            let found = format!("{:?}", readback.usage());
            return Err(Error::Usage { kernel, buffer, needed: "COPY_DST", found });
        }
        let mut base = 0;
        for (index, layer) in header.layers.iter().enumerate() {
            let slots = Ring::new(layer.capacity, layer.ring_start, layer.stored)?;
            for (part, buffer) in layer.parts().into_iter().zip(self.arrays(index)) {
                for Segment { slot, row, bytes } in segments(part, layer.num_kv_heads, slots) {
                    encoder.copy_buffer_to_buffer(buffer, slot, readback, base + row, bytes);
                }
                base += part.bytes;
            }
        }
        Ok(header)
    }

    /// Replaces the contents by those of `snapshot`, through `queue`: the rows land before what is
    /// submitted next. Layers must be equal in heads, head dim, formats, rotation, norm correction,
    /// window and storage; the capacity may be another one.
    ///
    /// Fails, with nothing changed, where the snapshot does not fit, and while a step is open or
    /// unsubmitted.
    pub fn restore(&mut self, queue: &wgpu::Queue, snapshot: &Snapshot<'_>) -> Result<()> {
        self.check_closed()?;
        if self.unsubmitted() > 0 {
            return Err(Misuse::NotSubmitted { most: self.unsubmitted() }.into());
        }
        let (found, own) = (&snapshot.header, self.header()?);
        if found.layers.len() != own.layers.len() {
            return Err(Error::Snapshot {
                field: "layers".to_owned(),
                need: own.layers.len().to_string(),
                found: found.layers.len().to_string(),
            });
        }
        for (index, (layer, own)) in found.layers.iter().zip(&own.layers).enumerate() {
            layer.check_fits(index, own)?;
        }
        for (index, (layer, rows)) in found.layers.iter().zip(snapshot.layers()).enumerate() {
            let capacity = own.layers[index].capacity;
            let slots = Ring::new(capacity, layer.oldest % capacity, layer.stored)?;
            let rows = [rows.k, rows.k_norms, rows.v_packed, rows.v_norms];
            let arrays = layer.parts().into_iter().zip(self.arrays(index)).zip(rows);
            for ((part, buffer), rows) in arrays {
                for Segment { slot, row, bytes } in segments(part, layer.num_kv_heads, slots) {
                    queue.write_buffer(buffer, slot, &rows[row as usize..][..bytes as usize]);
                }
            }
        }
        // Equal layers share a history: all of them hold what the shortest holds.
        let histories = (0..self.kinds.len()).map(|kind| {
            let of_kind = self.layers.iter().zip(&found.layers).filter(|(l, _)| l.kind == kind);
            let oldest = of_kind.map(|(_, layer)| layer.oldest).max().unwrap_or(0);
            self.kinds[kind].history.with_oldest(oldest)
        });
        let histories = histories.collect();
        self.set(found.len, histories);
        Ok(())
    }

    /// The header of the present contents.
    fn header(&self) -> Result<SnapshotHeader> {
        let layer = |layer: &super::kv_cache::Layer| {
            let kind = &self.kinds[layer.kind];
            let KvCodec { k, v } = kind.config.codec();
            let slots = kind.history.slots(self.len())?;
            Ok(LayerHeader {
                num_kv_heads: kind.config.num_kv_heads,
                head_dim: kind.config.head_dim,
                k,
                v_bits: v.bits,
                rotation: kind.config.rotation,
                norm_correction: kind.config.norm_correction,
                scale_factor_d512: v.scale_factor_d512,
                capacity: slots.capacity(),
                ring: kind.config.storage == Storage::Ring,
                sliding_window: kind.config.sliding_window,
                oldest: kind.history.oldest(),
                stored: slots.len(),
                ring_start: slots.start(),
            })
        };
        let layers = self.layers.iter().map(layer).collect::<Result<_>>()?;
        Ok(SnapshotHeader { len: self.len(), layers })
    }

    /// The buffers of a layer in the order of a snapshot's parts. A part without bytes has any.
    fn arrays(&self, layer: usize) -> [&wgpu::Buffer; 4] {
        let own = &self.layers[layer].buffers;
        [&own.k, own.k_norms.as_ref().unwrap_or(&own.k), &own.v_packed, &own.v_norms]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_ring_is_two_segments_a_head() {
        let part = Part { row: 4, bytes: 40 };
        let wrapped = segments(part, 2, Ring::new(7, 5, 5).unwrap());
        let want = [(20, 0, 8), (0, 8, 12), (48, 20, 8), (28, 28, 12)]
            .map(|(slot, row, bytes)| Segment { slot, row, bytes });
        assert_eq!(wrapped.collect::<Vec<_>>(), want);
        let whole = segments(part, 1, Ring::new(7, 2, 5).unwrap());
        assert_eq!(whole.collect::<Vec<_>>(), [Segment { slot: 8, row: 0, bytes: 20 }]);
        assert_eq!(segments(part, 3, Ring::new(7, 2, 0).unwrap()).count(), 0);
        let none = Part { row: 0, bytes: 0 };
        assert_eq!(segments(none, 3, Ring::new(7, 2, 5).unwrap()).count(), 0);
    }
}
