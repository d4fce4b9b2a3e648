//! Snapshots as bytes: a versioned header, then the rows. No GPU types.
//!
//! All little-endian. The header is [`MAGIC`], then u32 words: [`VERSION`], the number of layers,
//! the number of tokens, and thirteen words a layer in the order of [`LayerHeader`]'s fields. The
//! rows follow, layer by layer: K `[kv_head][position][row]`, K norms `[kv_head][position][block]`
//! f32, then V's, positions oldest first. K is codes; or floats, and then it has no norms.

use super::config::slot_bytes;
use crate::codec::{Bits, HeadDim, KeyFormat, Ring, Rotation};
use crate::error::{Error, Result};

/// What every snapshot starts with.
pub const MAGIC: [u8; 8] = *b"wgtq kv\n";
/// Version of the layout. Version 1 did not say whether norms are corrected and is refused.
pub const VERSION: u32 = 2;

const FIXED_BYTES: usize = MAGIC.len() + 3 * 4;
const LAYER_WORDS: usize = 13;

fn refused(field: impl Into<String>, need: impl ToString, found: impl std::fmt::Display) -> Error {
    Error::Snapshot { field: field.into(), need: need.to_string(), found: found.to_string() }
}

/// One layer's entry in the header.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerHeader {
    /// KV heads.
    pub num_kv_heads: u32,
    /// Coordinates of a head vector.
    pub head_dim: HeadDim,
    /// How K is stored: the width of a code, or 16 or 32 for floats.
    pub k: KeyFormat,
    /// Width of a V code.
    pub v_bits: Bits,
    /// 0 plain, 1 SRHT.
    pub rotation: Rotation,
    /// Whether norms were corrected. Rows read the same either way; those that follow should be
    /// written alike.
    pub norm_correction: bool,
    /// Scale between block norm and codebook at head_dim 512, as the bits of an f32.
    pub scale_factor_d512: f32,
    /// Slots a KV head in the cache that was saved.
    pub capacity: u32,
    /// 0 linear, 1 ring.
    pub ring: bool,
    /// Newest positions that a token sees; 0 means all.
    pub sliding_window: u32,
    /// The oldest position saved.
    pub oldest: u32,
    /// Positions saved.
    pub stored: u32,
    /// Slot of the oldest position in the cache that was saved.
    pub ring_start: u32,
}

/// One of the four arrays of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Bytes of one position of one head.
    pub row: u64,
    /// Bytes of all.
    pub bytes: u64,
}

const fn format_word(format: KeyFormat) -> u32 {
    match format {
        KeyFormat::F32 => 32,
        KeyFormat::F16 => 16,
        KeyFormat::Tq(bits) => bits.get(),
    }
}

fn format_of(word: u32) -> Option<KeyFormat> {
    match word {
        32 => Some(KeyFormat::F32),
        16 => Some(KeyFormat::F16),
        bits => Bits::new(bits).ok().map(KeyFormat::Tq),
    }
}

impl LayerHeader {
    /// K rows, K norms, V codes, V norms.
    pub(super) fn parts(&self) -> [Part; 4] {
        let rows = u64::from(self.num_kv_heads) * u64::from(self.stored);
        let part = |row: u64| Part { row, bytes: rows.saturating_mul(row) };
        let [k, v] = [self.k, KeyFormat::Tq(self.v_bits)];
        let [[k, k_norms], [v, v_norms]] =
            [k, v].map(|format| slot_bytes(self.head_dim, format).map(part));
        [k, k_norms, v, v_norms]
    }

    fn bytes(&self) -> u64 {
        self.parts().iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
    }

    fn words(&self) -> [u32; LAYER_WORDS] {
        [
            self.num_kv_heads,
            self.head_dim.get(),
            format_word(self.k),
            self.v_bits.get(),
            u32::from(self.rotation == Rotation::Srht),
            self.norm_correction.into(),
            self.scale_factor_d512.to_bits(),
            self.capacity,
            self.ring.into(),
            self.sliding_window,
            self.oldest,
            self.stored,
            self.ring_start,
        ]
    }

    fn parse(index: usize, words: [u32; LAYER_WORDS], len: u32) -> Result<Self> {
        let [
            kv_heads,
            head_dim,
            k,
            v,
            rotation,
            corrected,
            scale,
            capacity,
            ring,
            window,
            oldest,
            stored,
            start,
        ] = words;
        let field = |name: &str| format!("layer {index}, {name}");
        let flag = |name: &str, word: u32| match word {
            0 | 1 => Ok(word == 1),
            _ => Err(refused(field(name), "0 or 1", word)),
        };
        let of = |e: Error| match e {
            Error::Param { name, need, found } => refused(field(name), need, found),
            other => other,
        };
        let layer = Self {
            num_kv_heads: kv_heads,
            head_dim: HeadDim::new(head_dim).map_err(of)?,
            k: format_of(k).ok_or_else(|| {
                refused(field("K bits"), "2, 3, 4, 5, 6 or 8, or 16 or 32 for floats", k)
            })?,
            v_bits: Bits::new(v).map_err(of)?,
            rotation: if flag("rotation", rotation)? { Rotation::Srht } else { Rotation::Plain },
            norm_correction: flag("norm_correction", corrected)?,
            scale_factor_d512: f32::from_bits(scale),
            capacity,
            ring: flag("ring", ring)?,
            sliding_window: window,
            oldest,
            stored,
            ring_start: start,
        };
        Ring::new(capacity, start, stored).map_err(of)?;
        if oldest % capacity != start {
            return Err(refused(field("ring_start"), oldest % capacity, start));
        }
        if !layer.ring && oldest != 0 {
            return Err(refused(field("oldest"), "0 in a linear layer", oldest));
        }
        if u64::from(oldest) + u64::from(stored) != u64::from(len) {
            let need = format!("positions up to token {len}");
            return Err(refused(field("stored"), need, format!("{stored} from {oldest}")));
        }
        Ok(layer)
    }

    /// Checks that rows of this layer mean the same in a layer `of` a cache, and fit it.
    pub(super) fn check_fits(&self, index: usize, of: &Self) -> Result<()> {
        let names = [
            "num_kv_heads",
            "head_dim",
            "K bits",
            "V bits",
            "rotation",
            "norm_correction",
            "scale_factor_d512",
            "capacity",
            "ring",
            "sliding_window",
        ];
        for ((name, found), need) in names.iter().zip(self.words()).zip(of.words()) {
            if found != need && *name != "capacity" {
                return Err(refused(format!("layer {index}, {name}"), need, found));
            }
        }
        if self.stored > of.capacity {
            let need = format!("at most {}", of.capacity);
            return Err(refused(format!("layer {index}, stored"), need, self.stored));
        }
        Ok(())
    }
}

/// What a snapshot holds, and where its rows lie.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotHeader {
    /// Tokens in the cache.
    pub len: u32,
    /// Each layer.
    pub layers: Vec<LayerHeader>,
}

impl SnapshotHeader {
    /// Bytes of the rows: what [`snapshot`](super::KvCache::snapshot) copies.
    pub fn body_bytes(&self) -> u64 {
        self.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.bytes()))
    }

    /// The portable form, given the mapped contents of the buffer that the rows were copied to.
    pub fn encode(&self, body: &[u8]) -> Result<Vec<u8>> {
        let needed = self.body_bytes();
        let body = usize::try_from(needed).ok().and_then(|n| body.get(..n)).ok_or_else(|| {
            refused("rows", format!("{needed} bytes"), format!("{} bytes", body.len()))
        })?;
        let words = [VERSION, self.layers.len() as u32, self.len];
        let words = words.into_iter().chain(self.layers.iter().flat_map(LayerHeader::words));
        let mut bytes = MAGIC.to_vec();
        bytes.extend(words.flat_map(u32::to_le_bytes));
        bytes.extend_from_slice(body);
        Ok(bytes)
    }
}

/// A snapshot that has been read.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot<'a> {
    /// Its header.
    pub header: SnapshotHeader,
    body: &'a [u8],
}

/// One layer's rows of a [`Snapshot`], positions oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerRows<'a> {
    /// `[kv_head][position][row]`, codes or floats.
    pub k: &'a [u8],
    /// f32 `[kv_head][position][block]`; nothing where K is floats.
    pub k_norms: &'a [u8],
    /// `[kv_head][position][row]`.
    pub v_packed: &'a [u8],
    /// f32 `[kv_head][position][block]`.
    pub v_norms: &'a [u8],
}

impl<'a> Snapshot<'a> {
    /// Reads the portable form. Whether it fits a cache is up to
    /// [`restore`](super::KvCache::restore).
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let magic = &bytes[..bytes.len().min(MAGIC.len())];
        if magic != MAGIC {
            return Err(refused("magic", MAGIC.escape_ascii(), magic.escape_ascii()));
        }
        let short = |needed: usize| {
            refused("length", format!("{needed} bytes"), format!("{} bytes", bytes.len()))
        };
        let words = |at: usize, count: usize| -> Result<Vec<u32>> {
            let end = at.saturating_add(count.saturating_mul(4));
            let part = bytes.get(at..end).ok_or_else(|| short(end))?;
            Ok(part.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        };
        let version = words(MAGIC.len(), 1)?[0];
        if version != VERSION {
            return Err(refused("version", VERSION, version));
        }
        let fixed = words(MAGIC.len() + 4, 2)?;
        let (count, len) = (fixed[0] as usize, fixed[1]);
        let layers = words(FIXED_BYTES, count.saturating_mul(LAYER_WORDS))?
            .as_chunks::<LAYER_WORDS>()
            .0
            .iter()
            .enumerate()
            .map(|(index, words)| LayerHeader::parse(index, *words, len))
            .collect::<Result<Vec<_>>>()?;
        let header = SnapshotHeader { len, layers };
        let body = &bytes[FIXED_BYTES + count * LAYER_WORDS * 4..];
        if body.len() as u64 != header.body_bytes() {
            let need = format!("{} bytes", header.body_bytes());
            return Err(refused("rows", need, format!("{} bytes", body.len())));
        }
        Ok(Self { header, body })
    }

    /// The rows of each layer.
    pub fn layers(&self) -> impl Iterator<Item = LayerRows<'a>> {
        let mut rest = self.body;
        self.header.layers.iter().map(move |layer| {
            let [k, k_norms, v_packed, v_norms] = layer.parts().map(|part| {
                let (rows, after) = rest.split_at(part.bytes as usize);
                rest = after;
                rows
            });
            LayerRows { k, k_norms, v_packed, v_norms }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SnapshotHeader {
        let layer = LayerHeader {
            num_kv_heads: 2,
            head_dim: HeadDim::ALL[0],
            k: KeyFormat::Tq(Bits::B8),
            v_bits: Bits::B4,
            rotation: Rotation::Srht,
            norm_correction: true,
            scale_factor_d512: 1.0,
            capacity: 8,
            ring: true,
            sliding_window: 5,
            oldest: 3,
            stored: 6,
            ring_start: 3,
        };
        let linear =
            LayerHeader { ring: false, oldest: 0, stored: 9, ring_start: 0, capacity: 9, ..layer };
        SnapshotHeader { len: 9, layers: vec![layer, linear] }
    }

    fn bytes() -> Vec<u8> {
        let header = header();
        let body: Vec<u8> = (0..header.body_bytes()).map(|i| (i * 7) as u8).collect();
        header.encode(&body).unwrap()
    }

    #[test]
    fn a_snapshot_reads_back() {
        let bytes = bytes();
        let snapshot = Snapshot::parse(&bytes).unwrap();
        assert_eq!(snapshot.header, header());
        let sizes: Vec<_> = snapshot
            .layers()
            .map(|l| [l.k, l.k_norms, l.v_packed, l.v_norms].map(<[u8]>::len))
            .collect();
        assert_eq!(sizes, [[12 * 64, 12 * 4, 12 * 32, 12 * 4], [18 * 64, 18 * 4, 18 * 32, 18 * 4]]);
        let second = snapshot.layers().nth(1).unwrap();
        assert_eq!(second.v_norms, &bytes[bytes.len() - 72..]);
    }

    #[test]
    fn floats_have_rows_of_their_own_length_and_no_norms() {
        let codes = header().layers[1];
        let layers = [KeyFormat::F16, KeyFormat::F32].map(|k| LayerHeader { k, ..codes });
        let header = SnapshotHeader { len: 9, layers: layers.to_vec() };
        let bytes = header.encode(&vec![7; header.body_bytes() as usize]).unwrap();
        let snapshot = Snapshot::parse(&bytes).unwrap();
        assert_eq!(snapshot.header, header);
        let sizes = |l: LayerRows<'_>| [l.k.len(), l.k_norms.len(), l.v_packed.len()];
        let sizes: Vec<_> = snapshot.layers().map(sizes).collect();
        assert_eq!(sizes, [[18 * 128, 0, 18 * 32], [18 * 256, 0, 18 * 32]]);
    }

    #[test]
    fn every_damage_is_named_with_need_and_found() {
        let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = bytes();
            change(&mut bytes);
            Snapshot::parse(&bytes).unwrap_err().to_string()
        };
        let word = |at: usize, value: u32| {
            damaged(&|b| b[at..at + 4].copy_from_slice(&value.to_le_bytes()))
        };
        let layer = |field: usize, value: u32| word(FIXED_BYTES + field * 4, value);
        let total = bytes().len();
        for (message, want) in [
            (damaged(&|b| b[0] = b'W'), r"magic: need wgtq kv\n, found Wgtq kv\n"),
            (damaged(&|b| b.truncate(3)), r"magic: need wgtq kv\n, found wgt"),
            (damaged(&|b| b.clear()), r"magic: need wgtq kv\n, found "),
            (word(8, 1), "version: need 2, found 1"),
            (word(8, 3), "version: need 2, found 3"),
            (damaged(&|b| b.truncate(10)), "length: need 12 bytes, found 10 bytes"),
            (damaged(&|b| b.truncate(90)), "length: need 124 bytes, found 90 bytes"),
            (layer(1, 96), "layer 0, head_dim: need 64, 128, 256 or 512, found 96"),
            (
                layer(2, 7),
                "layer 0, K bits: need 2, 3, 4, 5, 6 or 8, or 16 or 32 for floats, found 7",
            ),
            (layer(3, 16), "layer 0, bits: need 2, 3, 4, 5, 6 or 8, found 16"),
            (layer(4, 2), "layer 0, rotation: need 0 or 1, found 2"),
            (layer(5, 2), "layer 0, norm_correction: need 0 or 1, found 2"),
            (layer(8, 9), "layer 0, ring: need 0 or 1, found 9"),
            (layer(7, 0), "layer 0, kv_capacity: need 1 to 2147483648, found 0"),
            (layer(12, 4), "layer 0, ring_start: need 3, found 4"),
            (layer(8, 0), "layer 0, oldest: need 0 in a linear layer, found 3"),
            (layer(11, 5), "layer 0, stored: need positions up to token 9, found 5 from 3"),
        ] {
            assert_eq!(message, format!("snapshot: {want}"));
        }
        let cut = damaged(&|b| b.truncate(total - 1));
        assert!(cut.starts_with("snapshot: rows: need 3120 bytes, found 3119"), "{cut}");
        let longer = damaged(&|b| b.push(0));
        assert!(longer.starts_with("snapshot: rows: need 3120 bytes, found 3121"), "{longer}");
        let heads = layer(0, u32::MAX);
        assert!(heads.starts_with("snapshot: rows: need"), "{heads}");
        let layers = word(12, u32::MAX);
        assert!(layers.starts_with("snapshot: length: need"), "{layers}");
        let body = header().encode(&[0; 10]).unwrap_err().to_string();
        assert_eq!(body, "snapshot: rows: need 3120 bytes, found 10 bytes");
    }

    #[test]
    fn rows_fit_a_layer_of_the_same_format_only() {
        let saved = header().layers[0];
        let larger = LayerHeader { capacity: 100, ..saved };
        assert_eq!(saved.check_fits(3, &larger), Ok(()));
        for (cache, want) in [
            (
                LayerHeader { k: KeyFormat::Tq(Bits::B4), ..saved },
                "layer 3, K bits: need 4, found 8",
            ),
            (LayerHeader { k: KeyFormat::F16, ..saved }, "layer 3, K bits: need 16, found 8"),
            (
                LayerHeader { rotation: Rotation::Plain, ..saved },
                "layer 3, rotation: need 0, found 1",
            ),
            (
                LayerHeader { norm_correction: false, ..saved },
                "layer 3, norm_correction: need 0, found 1",
            ),
            (LayerHeader { num_kv_heads: 1, ..saved }, "layer 3, num_kv_heads: need 1, found 2"),
            (LayerHeader { ring: false, ..saved }, "layer 3, ring: need 0, found 1"),
            (LayerHeader { capacity: 5, ..saved }, "layer 3, stored: need at most 5, found 6"),
        ] {
            let message = saved.check_fits(3, &cache).unwrap_err().to_string();
            assert_eq!(message, format!("snapshot: {want}"));
        }
    }
}
