//! The manifest: one JSON file that names shapes and raw little-endian data files.
//!
//! Every size and every value that a kernel relies on is checked here; errors name the file, the
//! field, what was needed and what was found.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::codec::{Bits, Codec, CodecSettings, HeadDim, Ring, Rotation, row};
use crate::driver::DriverError;
use crate::error::Error;
use crate::oracle::dequantize_kv::PackedRows;
use crate::params::FlashAttnVecTqParams;

/// The JSON file. Unknown keys are ignored.
#[derive(Debug, Deserialize)]
struct File {
    params: Params,
    #[serde(alias = "inputs")]
    dump_paths: DumpPaths,
    #[serde(default)]
    compact_sources: CompactSources,
    #[serde(default)]
    codec: CodecFields,
}

#[derive(Debug, Deserialize)]
struct Params {
    num_heads: u32,
    num_kv_heads: u32,
    head_dim: u32,
    kv_seq_len: u32,
    kv_capacity: u32,
    scale: f32,
    mask_type: u32,
    sliding_window: u32,
    softcap: f32,
    ring_start: u32,
}

#[derive(Debug, Deserialize)]
struct DumpPaths {
    #[serde(alias = "k_packed_post_quant")]
    k_packed_padded: String,
    #[serde(alias = "v_packed_post_quant")]
    v_packed_padded: String,
    #[serde(alias = "k_norms_post_quant")]
    k_norms_padded: String,
    #[serde(alias = "v_norms_post_quant")]
    v_norms_padded: String,
    q_natural: String,
    k_norms_canary: Option<String>,
    v_norms_canary: Option<String>,
    k_pre_quant: Option<String>,
    v_pre_quant: Option<String>,
    k_pre_quant_full: Option<String>,
    v_pre_quant_full: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CompactSources {
    k_packed_compact: String,
    v_packed_compact: String,
    k_norms_compact: String,
    v_norms_compact: String,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct CodecFields {
    rotation: RotationName,
    k_bits: u32,
    v_bits: u32,
    norm_correction: bool,
}

impl Default for CodecFields {
    fn default() -> Self {
        Self { rotation: RotationName::Plain, k_bits: 4, v_bits: 4, norm_correction: false }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RotationName {
    Plain,
    Srht,
}

/// One side of a cache, K or V.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedSide {
    /// How it was encoded.
    pub codec: Codec,
    /// `[nkv, slots, row]`.
    pub packed: Vec<u8>,
    /// `[nkv, slots, norms_per_pos]`.
    pub norms: Vec<f32>,
}

/// Unquantised K and V, where a manifest has them.
#[derive(Debug, Clone, PartialEq)]
pub enum Unquantised {
    /// Neither.
    None,
    /// The newest token only, `[nkv, D]` each.
    NewestRow {
        /// K.
        k: Vec<f32>,
        /// V.
        v: Vec<f32>,
    },
    /// Every position, `[nkv, n, D]` each, chronological.
    Full {
        /// K.
        k: Vec<f32>,
        /// V.
        v: Vec<f32>,
    },
}

/// A loaded and checked manifest. Each input is in memory once.
#[derive(Debug)]
pub struct Input {
    /// The manifest's path.
    pub path: PathBuf,
    /// Shape, with one split.
    pub params: FlashAttnVecTqParams,
    /// Coordinates of a head vector.
    pub head_dim: HeadDim,
    /// How K and V were encoded.
    pub codec: CodecSettings,
    /// K in its slots.
    pub k: PackedSide,
    /// V in its slots.
    pub v: PackedSide,
    /// `[nh, D]`, not rotated.
    pub q: Vec<f32>,
    /// K norms of the out-of-range canary.
    pub k_norms_canary: Option<Vec<f32>>,
    /// V norms of the out-of-range canary.
    pub v_norms_canary: Option<Vec<f32>>,
    /// What the independent floor is computed from.
    pub unquantised: Unquantised,
    /// K and V by position instead of slot, for the oracle only.
    pub compact: Option<(PackedSide, PackedSide)>,
}

impl PackedSide {
    /// As the oracles read it.
    pub fn rows<'a>(&'a self, capacity: u32, norms: &'a [f32]) -> PackedRows<'a> {
        PackedRows { codec: self.codec, capacity, packed: &self.packed, norms }
    }
}

impl Input {
    /// Reads and checks the manifest at `path` and every file it names.
    pub fn load(path: &Path) -> Result<Self, DriverError> {
        let text = std::fs::read(path)
            .map_err(|source| DriverError::File { path: path.to_owned(), source })?;
        let mut json = serde_json::Deserializer::from_slice(&text);
        let file: File = serde_path_to_error::deserialize(&mut json).map_err(|e| {
            let field = match e.path().to_string() {
                root if root == "." => "manifest".to_owned(),
                field => field,
            };
            DriverError::Manifest { path: path.to_owned(), field, message: e.inner().to_string() }
        })?;
        json.end().map_err(|e| DriverError::Manifest {
            path: path.to_owned(),
            field: "manifest".to_owned(),
            message: e.to_string(),
        })?;
        Loader { path, file: &file }.load()
    }

    /// The ring of the cache.
    pub fn ring(&self) -> Result<Ring, Error> {
        Ring::new(self.params.kv_capacity, self.params.ring_start, self.params.kv_seq_len)
    }
}

struct Loader<'a> {
    path: &'a Path,
    file: &'a File,
}

impl Loader<'_> {
    fn load(&self) -> Result<Input, DriverError> {
        let (params, head_dim) = self.shape()?;
        let codec = self.codec()?;
        let (k_codec, v_codec) = (codec.k(head_dim), codec.v(head_dim));
        let paths = &self.file.dump_paths;
        let ring = Ring::new(params.kv_capacity, params.ring_start, params.kv_seq_len)?;
        let heads = u64::from(params.n_kv_heads);
        let slots = heads * u64::from(params.kv_capacity);
        let stored = heads * u64::from(params.kv_seq_len);

        let k = self.side(
            k_codec,
            slots,
            ("dump_paths.k_packed_padded", &paths.k_packed_padded),
            ("dump_paths.k_norms_padded", &paths.k_norms_padded),
        )?;
        let v = self.side(
            v_codec,
            slots,
            ("dump_paths.v_packed_padded", &paths.v_packed_padded),
            ("dump_paths.v_norms_padded", &paths.v_norms_padded),
        )?;
        self.finite_norms(&paths.k_norms_padded, &k, ring)?;
        self.finite_norms(&paths.v_norms_padded, &v, ring)?;
        let q_values = u64::from(params.n_heads) * u64::from(params.head_dim);
        let q = self.floats("dump_paths.q_natural", &paths.q_natural, q_values)?;
        self.finite(&paths.q_natural, &q)?;

        let norms = slots * u64::from(head_dim.norms_per_pos());
        let canary = |field, path: &Option<String>| {
            path.as_ref().map(|p| self.floats(field, p, norms)).transpose()
        };
        let k_norms_canary = canary("dump_paths.k_norms_canary", &paths.k_norms_canary)?;
        let v_norms_canary = canary("dump_paths.v_norms_canary", &paths.v_norms_canary)?;
        let unquantised = self.unquantised(heads, stored, head_dim)?;
        let compact = self.compact([k_codec, v_codec], stored)?;
        Ok(Input {
            path: self.path.to_owned(),
            params,
            head_dim,
            codec,
            k,
            v,
            q,
            k_norms_canary,
            v_norms_canary,
            unquantised,
            compact,
        })
    }

    fn shape(&self) -> Result<(FlashAttnVecTqParams, HeadDim), DriverError> {
        let p = &self.file.params;
        let params = FlashAttnVecTqParams {
            n_heads: p.num_heads,
            n_kv_heads: p.num_kv_heads,
            head_dim: p.head_dim,
            kv_seq_len: p.kv_seq_len,
            kv_capacity: p.kv_capacity,
            scale: p.scale,
            mask_type: p.mask_type,
            sliding_window: p.sliding_window,
            softcap: p.softcap,
            nwg: 1,
            ring_start: p.ring_start,
            scale_factor_d512: 1.0,
        };
        if p.kv_seq_len == 0 {
            return Err(self.value("params.kv_seq_len", "at least 1".into(), 0));
        }
        let head_dim = params.check().map_err(|e| self.in_manifest("params.", e))?;
        Ok((params, head_dim))
    }

    fn codec(&self) -> Result<CodecSettings, DriverError> {
        let fields = &self.file.codec;
        let width = |name: &str, bits| match Bits::new(bits) {
            Err(Error::Param { need, found, .. }) => Err(self.value(name, need, found)),
            checked => Ok(checked?),
        };
        Ok(CodecSettings {
            rotation: match fields.rotation {
                RotationName::Plain => Rotation::Plain,
                RotationName::Srht => Rotation::Srht,
            },
            k_bits: width("codec.k_bits", fields.k_bits)?,
            v_bits: width("codec.v_bits", fields.v_bits)?,
            norm_correction: fields.norm_correction,
        })
    }

    /// Unquantised K and V: both or neither, and the full ones before the newest row.
    fn unquantised(
        &self,
        heads: u64,
        stored: u64,
        head_dim: HeadDim,
    ) -> Result<Unquantised, DriverError> {
        let paths = &self.file.dump_paths;
        let d = u64::from(head_dim.get());
        let pair = |names: [&'static str; 2], k: &Option<String>, v: &Option<String>, values| {
            let (k, v) = match (k, v) {
                (Some(k), Some(v)) => (k, v),
                (None, None) => return Ok(None),
                (Some(_), None) => {
                    return Err(self.value(names[1], "both or neither".into(), "K only"));
                }
                (None, Some(_)) => {
                    return Err(self.value(names[0], "both or neither".into(), "V only"));
                }
            };
            let (k_path, v_path) = (k, v);
            let (k, v) = (self.floats(names[0], k, values)?, self.floats(names[1], v, values)?);
            self.finite(k_path, &k)?;
            self.finite(v_path, &v)?;
            Ok(Some((k, v)))
        };
        let full = ["dump_paths.k_pre_quant_full", "dump_paths.v_pre_quant_full"];
        let newest = ["dump_paths.k_pre_quant", "dump_paths.v_pre_quant"];
        let full = pair(full, &paths.k_pre_quant_full, &paths.v_pre_quant_full, stored * d)?;
        let newest = pair(newest, &paths.k_pre_quant, &paths.v_pre_quant, heads * d)?;
        Ok(match (full, newest) {
            (Some((k, v)), _) => Unquantised::Full { k, v },
            (None, Some((k, v))) => Unquantised::NewestRow { k, v },
            (None, None) => Unquantised::None,
        })
    }

    /// Rows by position: all four files, or none (empty strings).
    fn compact(
        &self,
        [k_codec, v_codec]: [Codec; 2],
        stored: u64,
    ) -> Result<Option<(PackedSide, PackedSide)>, DriverError> {
        let c = &self.file.compact_sources;
        let names =
            [&c.k_packed_compact, &c.v_packed_compact, &c.k_norms_compact, &c.v_norms_compact];
        match names.iter().filter(|name| name.is_empty()).count() {
            4 => return Ok(None),
            0 => {}
            missing => {
                let need = "all four files or none".into();
                return Err(self.value("compact_sources", need, format!("{missing} missing")));
            }
        }
        let k = self.side(
            k_codec,
            stored,
            ("compact_sources.k_packed_compact", &c.k_packed_compact),
            ("compact_sources.k_norms_compact", &c.k_norms_compact),
        )?;
        let v = self.side(
            v_codec,
            stored,
            ("compact_sources.v_packed_compact", &c.v_packed_compact),
            ("compact_sources.v_norms_compact", &c.v_norms_compact),
        )?;
        self.finite(&c.k_norms_compact, &k.norms)?;
        self.finite(&c.v_norms_compact, &v.norms)?;
        Ok(Some((k, v)))
    }

    fn side(
        &self,
        codec: Codec,
        rows: u64,
        packed: (&'static str, &str),
        norms: (&'static str, &str),
    ) -> Result<PackedSide, DriverError> {
        let bytes = rows * row::row_bytes(codec.head_dim, codec.bits);
        let norm_count = rows * u64::from(codec.head_dim.norms_per_pos());
        Ok(PackedSide {
            codec,
            packed: self.bytes(packed.0, packed.1, bytes)?,
            norms: self.floats(norms.0, norms.1, norm_count)?,
        })
    }

    /// A data file's place: relative to the manifest's folder, else to the working folder.
    fn resolve(&self, name: &str) -> PathBuf {
        let beside = self.path.parent().unwrap_or(Path::new("")).join(name);
        if beside.exists() || !Path::new(name).exists() { beside } else { PathBuf::from(name) }
    }

    fn bytes(&self, field: &'static str, name: &str, needed: u64) -> Result<Vec<u8>, DriverError> {
        let path = self.resolve(name);
        let fail = |source| DriverError::File { path: path.clone(), source };
        let meta = std::fs::metadata(&path).map_err(fail)?;
        if !meta.is_file() {
            let source = std::io::Error::other(format!("{field}: need a file, found none"));
            return Err(fail(source));
        }
        let found = meta.len();
        if found != needed {
            return Err(DriverError::Size { path, field, needed, found });
        }
        std::fs::read(&path).map_err(fail)
    }

    fn floats(&self, field: &'static str, name: &str, count: u64) -> Result<Vec<f32>, DriverError> {
        Ok(bytemuck::pod_collect_to_vec(&self.bytes(field, name, count * 4)?))
    }

    fn finite(&self, name: &str, values: &[f32]) -> Result<(), DriverError> {
        match values.iter().position(|x| !x.is_finite()) {
            Some(i) => Err(DriverError::Value {
                path: self.resolve(name),
                name: format!("value {i}"),
                need: "a finite number".to_owned(),
                found: values[i].to_string(),
            }),
            None => Ok(()),
        }
    }

    /// Norms of stored positions must be finite and not negative; other slots hold anything.
    fn finite_norms(&self, name: &str, side: &PackedSide, ring: Ring) -> Result<(), DriverError> {
        let npp = side.codec.head_dim.norms_per_pos() as usize;
        let cap = ring.capacity() as usize;
        let bad = side.norms.iter().enumerate().find(|(i, norm)| {
            ring.holds((i / npp % cap) as u32) && !(norm.is_finite() && **norm >= 0.0)
        });
        match bad {
            Some((i, norm)) => Err(DriverError::Value {
                path: self.resolve(name),
                name: format!("norm of KV head {}, slot {}", i / npp / cap, i / npp % cap),
                need: "a finite number, 0 or above".to_owned(),
                found: norm.to_string(),
            }),
            None => Ok(()),
        }
    }

    fn value(&self, name: &str, need: String, found: impl ToString) -> DriverError {
        DriverError::Value {
            path: self.path.to_owned(),
            name: name.to_owned(),
            need,
            found: found.to_string(),
        }
    }

    fn in_manifest(&self, prefix: &str, error: Error) -> DriverError {
        match error {
            Error::Param { name, need, found } => {
                self.value(&format!("{prefix}{name}"), need, found)
            }
            other => other.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::synth::Synth;

    #[test]
    fn the_codec_is_read_back_from_a_written_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let head_dim = HeadDim::ALL[0];
        let rotation = Rotation::Srht;
        for (k_bits, v_bits, norm_correction) in
            [(Bits::B8, Bits::B3, false), (Bits::B2, Bits::B6, true)]
        {
            let codec = CodecSettings { rotation, k_bits, v_bits, norm_correction };
            let params = FlashAttnVecTqParams {
                n_heads: 1,
                n_kv_heads: 1,
                head_dim: head_dim.get(),
                kv_seq_len: 3,
                kv_capacity: 3,
                scale: 0.125,
                mask_type: 1,
                sliding_window: 0,
                softcap: 0.0,
                nwg: 1,
                ring_start: 0,
                scale_factor_d512: 1.0,
            };
            Synth { params, codec, seed: 1 }.write(folder.path()).unwrap();
            let input = Input::load(&folder.path().join("manifest.json")).unwrap();
            assert_eq!(input.codec, codec);
            assert_eq!((input.k.codec.bits, input.v.codec.bits), (k_bits, v_bits));
        }
    }

    #[test]
    fn fields_that_a_manifest_leaves_out_have_their_defaults() {
        let fields: CodecFields = serde_json::from_str("{\"rotation\": \"srht\"}").unwrap();
        assert_eq!((fields.k_bits, fields.v_bits, fields.norm_correction), (4, 4, false));
    }
}
