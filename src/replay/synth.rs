//! Synthetic inputs: a manifest with its files from a seed and a shape, including the full
//! unquantised K and V.

use std::path::Path;

use rayon::prelude::*;
use serde_json::json;

use super::report::CodecReport;
use crate::codec::{Codec, CodecSettings, HeadDim, Ring, row};
use crate::driver::{DriverError, Outputs};
use crate::oracle::quantize_kv::encode;
use crate::params::FlashAttnVecTqParams;
use crate::rng::Gaussian;

/// What to synthesise: q, K and V are N(0, 1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Synth {
    /// Shape; one split.
    pub params: FlashAttnVecTqParams,
    /// Codec of K and V.
    pub codec: CodecSettings,
    /// Seed.
    pub seed: u64,
}

/// Most f32 values that a synthetic input may hold, so that it fits a small machine's memory.
const MAX_VALUES: u64 = 1 << 30;

impl Synth {
    /// Checks the shape.
    pub fn check(&self) -> Result<Ring, DriverError> {
        let p = &self.params;
        if p.kv_seq_len == 0 {
            return Err(crate::Error::param("kv_seq_len", "at least 1", 0).into());
        }
        p.check()?;
        let values = u64::from(p.n_kv_heads) * u64::from(p.kv_capacity) * u64::from(p.head_dim)
            + u64::from(p.n_heads) * u64::from(p.head_dim);
        if values > MAX_VALUES {
            let need = format!("num_kv_heads x kv_capacity x head_dim at most {MAX_VALUES}");
            return Err(crate::Error::param("kv_capacity", need, values).into());
        }
        Ok(Ring::new(p.kv_capacity, p.ring_start, p.kv_seq_len)?)
    }

    /// Writes `manifest.json` and its data files into `folder`, all of them or none.
    pub fn write(&self, folder: &Path) -> Result<(), DriverError> {
        let ring = self.check()?;
        let p = &self.params;
        let head_dim = HeadDim::new(p.head_dim)?;
        let mut rng = Gaussian::new(self.seed);
        let values = p.n_kv_heads as usize * p.kv_seq_len as usize * p.head_dim as usize;
        let k = rng.normals(values);
        let v = rng.normals(values);
        let q = rng.normals(p.n_heads as usize * p.head_dim as usize);

        std::fs::create_dir_all(folder)
            .map_err(|source| DriverError::File { path: folder.to_owned(), source })?;
        let mut files = Outputs::default();
        let mut put = |name: &str, bytes: &[u8]| files.stage(&folder.join(name), bytes);
        for (side, rows, codec) in
            [("k", &k, self.codec.k(head_dim)), ("v", &v, self.codec.v(head_dim))]
        {
            let (packed, norms) = self.encode(&codec, ring, rows, &mut rng);
            put(&format!("{side}_packed.u8.bin"), &packed)?;
            put(&format!("{side}_norms.f32.bin"), bytemuck::cast_slice(&norms))?;
            put(&format!("{side}_full.f32.bin"), bytemuck::cast_slice(rows))?;
        }
        put("q.f32.bin", bytemuck::cast_slice(&q))?;
        put("manifest.json", self.manifest().as_bytes())?;
        files.commit()
    }

    /// Rows `[nkv, n, D]` in their slots. Slots that hold no position get random codes and large
    /// norms, so that a kernel that reads one shows it.
    fn encode(
        &self,
        codec: &Codec,
        ring: Ring,
        rows: &[f32],
        rng: &mut Gaussian,
    ) -> (Vec<u8>, Vec<f32>) {
        let (d, n) = (codec.head_dim.as_usize(), ring.len() as usize);
        let bytes = row::row_bytes(codec.head_dim, codec.bits) as usize;
        let npp = codec.head_dim.norms_per_pos() as usize;
        let cap = ring.capacity() as usize;
        let slots = self.params.n_kv_heads as usize * cap;
        let mut packed = Vec::with_capacity(slots * bytes + 8);
        while packed.len() < slots * bytes {
            packed.extend_from_slice(&rng.bits().to_le_bytes());
        }
        packed.truncate(slots * bytes);
        let mut norms = vec![1e3f32; slots * npp];
        let encoded: Vec<_> = rows.par_chunks_exact(d).map(|x| encode(codec, x)).collect();
        for (i, e) in encoded.iter().enumerate() {
            let at = i / n * cap + ring.slot((i % n) as u32) as usize;
            row::pack(codec.bits, &e.codes, &mut packed[at * bytes..(at + 1) * bytes]);
            for (b, &norm) in e.norms.iter().enumerate() {
                norms[at * npp + b] = norm as f32;
            }
        }
        (packed, norms)
    }

    fn manifest(&self) -> String {
        let p = &self.params;
        let manifest = json!({
            "params": {
                "num_heads": p.n_heads,
                "num_kv_heads": p.n_kv_heads,
                "head_dim": p.head_dim,
                "kv_seq_len": p.kv_seq_len,
                "kv_capacity": p.kv_capacity,
                "scale": p.scale,
                "mask_type": p.mask_type,
                "sliding_window": p.sliding_window,
                "softcap": p.softcap,
                "ring_start": p.ring_start,
            },
            "codec": CodecReport::from(self.codec),
            "seed": self.seed,
            "dump_paths": {
                "k_packed_padded": "k_packed.u8.bin",
                "v_packed_padded": "v_packed.u8.bin",
                "k_norms_padded": "k_norms.f32.bin",
                "v_norms_padded": "v_norms.f32.bin",
                "q_natural": "q.f32.bin",
                "k_pre_quant_full": "k_full.f32.bin",
                "v_pre_quant_full": "v_full.f32.bin",
            },
        });
        format!("{manifest:#}\n")
    }
}
