//! `smollm2 capture`: one decode step of one layer as a manifest for `wgtq replay`.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde_json::json;
use wgtq::codec::{Codec, Ring, row};
use wgtq::driver::{DriverError, Outputs};
use wgtq::oracle::quantize_kv::quantize_kv;
use wgtq::params::{MASK_CAUSAL, QuantizeKvParams};

use crate::attention::{Attention, BitPair, Coding, Exact, Shape};
use crate::error::{ModelError, Result};
use crate::model::Model;
use crate::{TextArgs, print};

/// Write q, K and V of one layer, after so many tokens of a text, as a manifest with its files.
///
/// The model runs unquantised up to there; the packed K and V are made by the codec's oracle, and the
/// full unquantised K and V lie beside them. Slots that hold no token are zeros.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    text: TextArgs,
    /// Layer, counted from 0
    #[arg(long)]
    layer: usize,
    /// Tokens stored; q is the last one's
    #[arg(long, default_value_t = 200)]
    tokens: usize,
    /// Slots a KV head [default: the tokens]
    #[arg(long)]
    kv_capacity: Option<u32>,
    /// Slot of the oldest token
    #[arg(long, default_value_t = 0)]
    ring_start: u32,
    /// Bits of K / bits of V
    #[arg(long, default_value = "4/4")]
    bits: BitPair,
    /// Folder to write into; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self, model: &Path) -> Result<()> {
        let model = Model::open(model)?;
        let tokens = model.vocabulary.encode_first(&self.text.read()?, self.tokens)?;
        let step = Step::record(&model, &tokens, self.layer)?;
        let stored = tokens.len() as u32;
        let ring = Ring::new(self.kv_capacity.unwrap_or(stored), self.ring_start, stored)?;
        step.write(&self.out, ring, self.bits)?;
        print(&format!("{}\n", self.out.join("manifest.json").display()));
        Ok(())
    }
}

/// What one layer's attention gets in one decode step.
#[derive(Debug)]
pub struct Step {
    /// The model's.
    pub shape: Shape,
    /// The newest token's, `[nh, D]`.
    pub q: Vec<f32>,
    /// Every token's, `[n, nkv, D]`.
    pub k: Tensor,
    /// Every token's, `[n, nkv, D]`.
    pub v: Tensor,
}

/// An unquantised cache that keeps what one layer was given.
struct Recording {
    exact: Exact,
    layer: usize,
    seen: Option<[Tensor; 3]>,
}

impl Attention for Recording {
    fn append_and_attend(
        &mut self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor> {
        if layer == self.layer {
            self.seen = Some([q, k, v].map(Tensor::clone));
        }
        self.exact.append_and_attend(layer, q, k, v)
    }

    fn bytes_per_token(&self) -> u64 {
        self.exact.bytes_per_token()
    }
}

impl Step {
    /// Runs `tokens`, one or more, on an unquantised cache and keeps what `layer` was given.
    pub fn record(model: &Model, tokens: &[u32], layer: usize) -> Result<Self> {
        let shape = model.shape;
        let mut recording = Recording { exact: Exact::new(shape), layer, seen: None };
        model.forward(tokens, 0, &mut recording)?;
        let [q, k, v] = recording.seen.ok_or_else(|| ModelError::Argument {
            flag: "--layer",
            need: format!("less than {}", shape.layers),
            found: layer.to_string(),
        })?;
        let q = q.narrow(0, tokens.len() - 1, 1)?.flatten_all()?.to_vec1()?;
        Ok(Self { shape, q, k, v })
    }

    /// Writes the manifest and its data files into `folder`, all of them or none.
    pub fn write(&self, folder: &Path, ring: Ring, bits: BitPair) -> Result<()> {
        let fail = |source| DriverError::File { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(fail)?;
        let mut files = Outputs::default();
        let mut put = |name: &str, bytes: &[u8]| files.stage(&folder.join(name), bytes);
        let codec = Coding::from(bits).codec(self.shape.head_dim);
        let k_codec = codec.key_codec().ok_or_else(|| ModelError::Argument {
            flag: "--bits",
            need: "K of 2, 3, 4, 5, 6 or 8 bits, which a manifest can hold".to_owned(),
            found: bits.to_string(),
        })?;
        let v_codec = codec.v;
        for (side, rows, codec) in [("k", &self.k, k_codec), ("v", &self.v, v_codec)] {
            let (packed, norms) = self.encode(rows, &codec, ring)?;
            put(&format!("{side}_packed.u8.bin"), &packed)?;
            put(&format!("{side}_norms.f32.bin"), bytemuck::cast_slice(&norms))?;
            let full: Vec<f32> = rows.transpose(0, 1)?.flatten_all()?.to_vec1()?;
            put(&format!("{side}_full.f32.bin"), bytemuck::cast_slice(&full))?;
        }
        put("q.f32.bin", bytemuck::cast_slice(&self.q))?;
        put("manifest.json", self.manifest(ring, &[k_codec, v_codec]).as_bytes())?;
        Ok(files.commit()?)
    }

    /// Packed rows and norms in their slots.
    fn encode(&self, rows: &Tensor, codec: &Codec, ring: Ring) -> Result<(Vec<u8>, Vec<f32>)> {
        let slots = self.shape.num_kv_heads as usize * ring.capacity() as usize;
        let mut packed = vec![0; slots * row::row_bytes(codec.head_dim, codec.bits) as usize];
        let mut norms = vec![0.0; slots * codec.head_dim.norms_per_pos() as usize];
        let params = QuantizeKvParams {
            head_dim: codec.head_dim.get(),
            num_kv_heads: self.shape.num_kv_heads,
            write_pos: ring.start(),
            cache_capacity: ring.capacity(),
            is_sliding: 1,
            scale_factor_d512: 1.0,
            rms_probe_enabled: 0,
            num_tokens: ring.len(),
        };
        let rows: Vec<f32> = rows.flatten_all()?.to_vec1()?;
        quantize_kv(codec, &params, &rows, &mut packed, &mut norms)?;
        Ok((packed, norms))
    }

    fn manifest(&self, ring: Ring, [k, v]: &[Codec; 2]) -> String {
        let manifest = json!({
            "params": {
                "num_heads": self.shape.num_heads,
                "num_kv_heads": self.shape.num_kv_heads,
                "head_dim": self.shape.head_dim.get(),
                "kv_seq_len": ring.len(),
                "kv_capacity": ring.capacity(),
                "scale": self.shape.scale(),
                "mask_type": MASK_CAUSAL,
                "sliding_window": 0,
                "softcap": 0.0,
                "ring_start": ring.start(),
            },
            "codec": {
                "rotation": k.rotation.name(),
                "k_bits": k.bits.get(),
                "v_bits": v.bits.get(),
            },
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
