//! The llama architecture on the CPU, in f32 or f64 from dequantised weights; attention and its
//! cache are somebody else's.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{D, DType, Device, Tensor};
use wgtq::codec::HeadDim;
use wgtq::driver::DriverError;
use wgtq::params::check_heads;
use wgtq::rng::Gaussian;

use crate::attention::{Attention, Shape};
use crate::error::{ModelError, Result};
use crate::rope::Rope;
use crate::vocabulary::Vocabulary;

/// Where fetch.sh puts the model.
pub fn default_path() -> Result<PathBuf> {
    const NAME: &str = "wgtq/SmolLM2-135M-Instruct.Q4_1.gguf";
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let folder = cache.ok_or_else(|| ModelError::Argument {
        flag: "--model",
        need: "a file, where neither XDG_CACHE_HOME nor HOME is set".to_owned(),
        found: "none".to_owned(),
    })?;
    Ok(folder.join(NAME))
}

/// A value of the GGUF file's header.
fn metadata<'a>(content: &'a Content, key: &str) -> Result<&'a Value> {
    content.metadata.get(key).ok_or_else(|| ModelError::Gguf {
        name: key.to_owned(),
        need: "a value".to_owned(),
        found: "none".to_owned(),
    })
}

/// The same as `T`.
pub fn typed<T>(
    content: &Content,
    key: &str,
    need: &str,
    convert: impl Fn(&Value) -> candle_core::Result<T>,
) -> Result<T> {
    let value = metadata(content, key)?;
    convert(value).map_err(|_| ModelError::Gguf {
        name: key.to_owned(),
        need: need.to_owned(),
        found: format!("{value:?}"),
    })
}

/// Weights `[out, in]`.
#[derive(Debug, Clone)]
struct Layer {
    attn_norm: Tensor,
    attn_q: Tensor,
    attn_k: Tensor,
    attn_v: Tensor,
    attn_output: Tensor,
    ffn_norm: Tensor,
    ffn_gate: Tensor,
    ffn_up: Tensor,
    ffn_down: Tensor,
}

/// A model in memory.
#[derive(Debug, Clone)]
pub struct Model {
    /// What its attention looks like.
    pub shape: Shape,
    /// Its tokenizer.
    pub vocabulary: Vocabulary,
    embedding: Tensor,
    layers: Vec<Layer>,
    output_norm: Tensor,
    output: Tensor,
    epsilon: f64,
    rope: Rope,
}

fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    Ok(x.matmul(&weight.t()?)?)
}

impl Model {
    /// Reads the model at `path` and turns its weights into f32.
    pub fn open(path: &Path) -> Result<Self> {
        let file = match File::open(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(ModelError::NoModel { path: path.to_owned() });
            }
            file => file.map_err(|source| DriverError::File { path: path.to_owned(), source })?,
        };
        Self::read(&mut BufReader::new(file)).map_err(|error| match error {
            ModelError::Candle(source) => {
                let source = std::io::Error::other(source);
                DriverError::File { path: path.to_owned(), source }.into()
            }
            named => named,
        })
    }

    /// The same from any reader.
    pub fn read<R: Read + Seek>(reader: &mut R) -> Result<Self> {
        let content = Content::read(reader)?;
        let mut weights = Weights { content: &content, reader };
        let number = |key: &str| typed(&content, &format!("llama.{key}"), "a u32", Value::to_u32);
        let real = |key: &str| typed(&content, &format!("llama.{key}"), "an f32", Value::to_f32);

        let (embedding_length, feed_forward) =
            (number("embedding_length")? as usize, number("feed_forward_length")? as usize);
        let (num_heads, num_kv_heads) =
            (number("attention.head_count")?, number("attention.head_count_kv")?);
        check_heads(num_heads, num_kv_heads)?;
        let head_dim = HeadDim::new(embedding_length as u32 / num_heads)?;
        let layers = number("block_count")? as usize;
        let shape = Shape { layers, num_heads, num_kv_heads, head_dim };
        let vocabulary = Vocabulary::load(&content)?;

        let entries = vocabulary.tokenizer.get_vocab_size(true);
        let embedding = weights.matrix("token_embd.weight", entries, embedding_length)?;
        let output = if content.tensor_infos.contains_key("output.weight") {
            weights.matrix("output.weight", entries, embedding_length)?
        } else {
            embedding.clone()
        };
        Ok(Self {
            shape,
            vocabulary,
            embedding,
            layers: (0..layers)
                .map(|l| weights.layer(l, &shape, embedding_length, feed_forward))
                .collect::<Result<_>>()?,
            output_norm: weights.vector("output_norm.weight", embedding_length)?,
            output,
            epsilon: real("attention.layer_norm_rms_epsilon")?.into(),
            rope: Rope { head_dim: head_dim.as_usize(), base: real("rope.freq_base")?.into() },
        })
    }

    /// The same model in f64 from the embedding to the logits. Rounding then turns next to no
    /// codes of a quantised cache, so a measurement hardly depends on the order in which a machine
    /// adds up.
    pub fn in_f64(&self) -> Result<Self> {
        let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64);
        let layer = |layer: &Layer| -> Result<Layer> {
            Ok(Layer {
                attn_norm: wide(&layer.attn_norm)?,
                attn_q: wide(&layer.attn_q)?,
                attn_k: wide(&layer.attn_k)?,
                attn_v: wide(&layer.attn_v)?,
                attn_output: wide(&layer.attn_output)?,
                ffn_norm: wide(&layer.ffn_norm)?,
                ffn_gate: wide(&layer.ffn_gate)?,
                ffn_up: wide(&layer.ffn_up)?,
                ffn_down: wide(&layer.ffn_down)?,
            })
        };
        Ok(Self {
            embedding: wide(&self.embedding)?,
            layers: self.layers.iter().map(layer).collect::<Result<_>>()?,
            output_norm: wide(&self.output_norm)?,
            output: wide(&self.output)?,
            ..self.clone()
        })
    }

    /// The same model with token embeddings that are off by about one part in a million: what
    /// another order of additions or another machine would change.
    pub fn nudged(&self, seed: u64) -> Result<Self> {
        let width = self.embedding.dim(1)?;
        let factors: Vec<f32> =
            Gaussian::new(seed).normals(width).iter().map(|x| 1.0 + 1e-6 * x).collect();
        let factors = Tensor::from_vec(factors, width, &Device::Cpu)?;
        let factors = factors.to_dtype(self.embedding.dtype())?;
        Ok(Self { embedding: self.embedding.broadcast_mul(&factors)?, ..self.clone() })
    }

    /// Runs `tokens`, the first of which is at position `first`; returns the last hidden states
    /// `[T, embedding_length]`.
    pub fn forward(
        &self,
        tokens: &[u32],
        first: usize,
        attention: &mut dyn Attention,
    ) -> Result<Tensor> {
        let ids = Tensor::new(tokens, &Device::Cpu)?;
        let mut x = self.embedding.index_select(&ids, 0)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = self.norm(&x, &layer.attn_norm)?;
            let attended = self.attend(layer, index, &normed, first, attention)?;
            x = (x + linear(&attended, &layer.attn_output)?)?;
            let normed = self.norm(&x, &layer.ffn_norm)?;
            let gate = linear(&normed, &layer.ffn_gate)?.silu()?;
            let inner = (gate * linear(&normed, &layer.ffn_up)?)?;
            x = (x + linear(&inner, &layer.ffn_down)?)?;
        }
        self.norm(&x, &self.output_norm)
    }

    /// Logits `[T, vocabulary]`, f32, of hidden states `[T, embedding_length]`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(linear(hidden, &self.output)?.to_dtype(DType::F32)?)
    }

    fn attend(
        &self,
        layer: &Layer,
        index: usize,
        x: &Tensor,
        first: usize,
        attention: &mut dyn Attention,
    ) -> Result<Tensor> {
        let heads = |weight: &Tensor, heads: u32| -> Result<Tensor> {
            let shape = (x.dim(0)?, heads as usize, self.shape.head_dim.as_usize());
            Ok(linear(x, weight)?.reshape(shape)?)
        };
        let q = self.rope.apply(&heads(&layer.attn_q, self.shape.num_heads)?, first)?;
        let k = self.rope.apply(&heads(&layer.attn_k, self.shape.num_kv_heads)?, first)?;
        let v = heads(&layer.attn_v, self.shape.num_kv_heads)?;
        attention.append_and_attend(index, &q, &k, &v)
    }

    /// RMSNorm.
    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let rms = x.sqr()?.mean_keepdim(D::Minus1)?.affine(1.0, self.epsilon)?.sqrt()?;
        Ok(x.broadcast_div(&rms)?.broadcast_mul(weight)?)
    }
}

/// Tensors of a GGUF file by name.
struct Weights<'a, R> {
    content: &'a Content,
    reader: &'a mut R,
}

impl<R: Read + Seek> Weights<'_, R> {
    fn layer(&mut self, index: usize, shape: &Shape, width: usize, inner: usize) -> Result<Layer> {
        let rows = |heads: u32| heads as usize * shape.head_dim.as_usize();
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let (q, kv) = (rows(shape.num_heads), rows(shape.num_kv_heads));
        Ok(Layer {
            attn_norm: self.vector(&name("attn_norm"), width)?,
            attn_q: self.matrix(&name("attn_q"), q, width)?,
            attn_k: self.matrix(&name("attn_k"), kv, width)?,
            attn_v: self.matrix(&name("attn_v"), kv, width)?,
            attn_output: self.matrix(&name("attn_output"), width, q)?,
            ffn_norm: self.vector(&name("ffn_norm"), width)?,
            ffn_gate: self.matrix(&name("ffn_gate"), inner, width)?,
            ffn_up: self.matrix(&name("ffn_up"), inner, width)?,
            ffn_down: self.matrix(&name("ffn_down"), width, inner)?,
        })
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Tensor> {
        self.tensor(name, &[rows, columns])
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor> {
        self.tensor(name, &[len])
    }

    fn tensor(&mut self, name: &str, dims: &[usize]) -> Result<Tensor> {
        let wrong = |found: String| ModelError::Gguf {
            name: name.to_owned(),
            need: format!("a tensor {dims:?}"),
            found,
        };
        let info = self.content.tensor_infos.get(name).ok_or_else(|| wrong("none".to_owned()))?;
        if info.shape.dims() != dims {
            return Err(wrong(format!("{:?}", info.shape.dims())));
        }
        Ok(self.content.tensor(self.reader, name, &Device::Cpu)?.dequantize(&Device::Cpu)?)
    }
}
