//! K and V apart: K decides which positions win and wants more bits than V.

use std::fmt;
use std::str::FromStr;

use super::{Bits, Codec, HeadDim, Rotation};
use crate::error::{Error, Result};

/// How K is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyFormat {
    /// f32, not rotated.
    F32,
    /// f16, not rotated.
    F16,
    /// Codes of this width, in the basis of the codec's rotation.
    Tq(Bits),
}

impl fmt::Display for KeyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::Tq(bits) => bits.fmt(f),
        }
    }
}

/// The formats of K and V, written `k8v4` or `kf16v4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvFormat {
    /// K.
    pub k: KeyFormat,
    /// Width of a V code.
    pub v: Bits,
}

impl KvFormat {
    /// The codec of a cache in these formats.
    pub const fn codec(self, head_dim: HeadDim, rotation: Rotation) -> KvCodec {
        KvCodec { k: self.k, v: Codec::new(head_dim, self.v, rotation) }
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k{}v{}", self.k, self.v)
    }
}

impl FromStr for KvFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let need = "k<f32, f16 or bits>v<bits>, bits 2, 3, 4, 5, 6 or 8, such as k8v4 or kf16v4";
        let refused = || Error::param("KV format", need, text);
        let width = |word: &str| Bits::ALL.into_iter().find(|b| b.to_string() == word);
        let (k, v) =
            text.strip_prefix('k').and_then(|rest| rest.split_once('v')).ok_or_else(refused)?;
        let k = match k {
            "f32" => KeyFormat::F32,
            "f16" => KeyFormat::F16,
            word => KeyFormat::Tq(width(word).ok_or_else(refused)?),
        };
        Ok(Self { k, v: width(v).ok_or_else(refused)? })
    }
}

/// The codec of a whole cache. Head dim and rotation are one setting of K and V, so K adds nothing
/// to V's codec but its format.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvCodec {
    /// K.
    pub k: KeyFormat,
    /// V.
    pub v: Codec,
}

impl KvCodec {
    /// The codec of K, or none where K is dense: then q is not rotated for the scores.
    pub const fn key_codec(&self) -> Option<Codec> {
        match self.k {
            KeyFormat::Tq(bits) => Some(Codec { bits, ..self.v }),
            KeyFormat::F32 | KeyFormat::F16 => None,
        }
    }

    /// The formats alone.
    pub const fn format(&self) -> KvFormat {
        KvFormat { k: self.k, v: self.v.bits }
    }
}

/// What is chosen of the codec of a cache of codes, in the manifest's words; the head dim is the
/// model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodecSettings {
    /// The rotation of K and V.
    pub rotation: Rotation,
    /// Width of a K code.
    pub k_bits: Bits,
    /// Width of a V code.
    pub v_bits: Bits,
    /// Whether norms are corrected, see [`Codec::norm_correction`].
    pub norm_correction: bool,
}

impl CodecSettings {
    /// Where nothing is said: the plain rotation, 4 bits for K and V, no norm correction.
    pub const DEFAULT: Self = Self {
        rotation: Rotation::Plain,
        k_bits: Bits::B4,
        v_bits: Bits::B4,
        norm_correction: false,
    };

    /// K's codec.
    pub const fn k(&self, head_dim: HeadDim) -> Codec {
        self.of(head_dim, self.k_bits)
    }

    /// V's codec.
    pub const fn v(&self, head_dim: HeadDim) -> Codec {
        self.of(head_dim, self.v_bits)
    }

    const fn of(&self, head_dim: HeadDim, bits: Bits) -> Codec {
        let norm_correction = self.norm_correction;
        Codec { norm_correction, ..Codec::new(head_dim, bits, self.rotation) }
    }
}

impl Default for CodecSettings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_reads_back_from_its_text() {
        let keys = [KeyFormat::F32, KeyFormat::F16].into_iter();
        for k in keys.chain(Bits::ALL.map(KeyFormat::Tq)) {
            for v in Bits::ALL {
                let format = KvFormat { k, v };
                assert_eq!(format.to_string().parse(), Ok(format));
            }
        }
        assert_eq!("k8v4".parse(), Ok(KvFormat { k: KeyFormat::Tq(Bits::B8), v: Bits::B4 }));
        assert_eq!("kf16v4".parse(), Ok(KvFormat { k: KeyFormat::F16, v: Bits::B4 }));
    }

    #[test]
    fn other_texts_are_refused_with_what_was_found() {
        for text in [
            "", "k", "8v4", "k8", "k8v", "kv4", "k7v4", "k8v7", "k8vf16", "K8v4", "k08v4", "k+8v4",
            "k8v4 ", "kf64v4", "k8v4v4",
        ] {
            let error = text.parse::<KvFormat>().unwrap_err().to_string();
            assert!(error.starts_with("KV format: need k<"), "{error}");
            assert!(error.ends_with(&format!("found {text}")), "{error}");
        }
    }

    #[test]
    fn k_differs_from_v_in_its_format_only() {
        let format: KvFormat = "k8v3".parse().unwrap();
        let codec = format.codec(HeadDim::ALL[3], Rotation::Srht);
        let want = Codec { bits: Bits::B8, ..codec.v };
        assert_eq!((codec.key_codec(), codec.format()), (Some(want), format));
        let dense =
            KvFormat { k: KeyFormat::F16, ..format }.codec(HeadDim::ALL[0], Rotation::Plain);
        assert_eq!(dense.key_codec(), None);
    }
}
