//! A model of the same architecture, small enough to make in a test: GGUF in memory.

use std::collections::BTreeMap;
use std::io::Cursor;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::error::Result;
use crate::model::Model;

const WIDTH: usize = 128;
const INNER: usize = 96;
const LAYERS: usize = 2;

/// Header and tensors, to be changed before they are written.
pub struct Gguf {
    pub metadata: BTreeMap<&'static str, Value>,
    /// Dimensions by name.
    pub tensors: BTreeMap<String, Vec<usize>>,
}

impl Gguf {
    /// Two layers, two query heads over one KV head of 64 coordinates.
    pub fn new() -> Self {
        let vocabulary = vocabulary();
        let mut tensors = BTreeMap::from([
            ("token_embd.weight".to_owned(), vec![vocabulary.len(), WIDTH]),
            ("output_norm.weight".to_owned(), vec![WIDTH]),
        ]);
        for layer in 0..LAYERS {
            let mut put = |part: &str, dims: &[usize]| {
                tensors.insert(format!("blk.{layer}.{part}.weight"), dims.to_vec());
            };
            put("attn_norm", &[WIDTH]);
            put("attn_q", &[128, WIDTH]);
            put("attn_k", &[64, WIDTH]);
            put("attn_v", &[64, WIDTH]);
            put("attn_output", &[WIDTH, 128]);
            put("ffn_norm", &[WIDTH]);
            put("ffn_gate", &[INNER, WIDTH]);
            put("ffn_up", &[INNER, WIDTH]);
            put("ffn_down", &[WIDTH, INNER]);
        }
        Self { metadata: header(&vocabulary), tensors }
    }

    /// Writes the file and reads the model back. Weights are a fixed wave, small enough that no
    /// layer drowns another.
    pub fn model(&self) -> Result<Model> {
        let mut phase = 0.0f32;
        let mut weights = Vec::new();
        for (name, dims) in &self.tensors {
            let norm = name.ends_with("norm.weight");
            let values: Vec<f32> = (0..dims.iter().product())
                .map(|_| {
                    phase += 1.618_034;
                    if norm { 1.0 } else { (phase * phase).sin() * 0.15 }
                })
                .collect();
            let tensor = Tensor::from_vec(values, dims.as_slice(), &Device::Cpu)?;
            weights.push((name.as_str(), QTensor::quantize(&tensor, GgmlDType::F32)?));
        }
        let weights: Vec<_> = weights.iter().map(|(name, weight)| (*name, weight)).collect();
        let metadata: Vec<_> = self.metadata.iter().map(|(key, value)| (*key, value)).collect();
        let mut file = Cursor::new(Vec::new());
        gguf_file::write(&mut file, &metadata, &weights)?;
        file.set_position(0);
        Model::read(&mut file)
    }
}

/// Three special tokens, every byte, two merged pairs.
fn vocabulary() -> Vec<String> {
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned);
    let merged = ["he", "\u{120}t"].map(str::to_owned);
    special.into_iter().chain(bytes.iter().map(char::to_string)).chain(merged).collect()
}

fn header(vocabulary: &[String]) -> BTreeMap<&'static str, Value> {
    let strings = |all: &[String]| Value::Array(all.iter().cloned().map(Value::String).collect());
    let kinds = (0..vocabulary.len()).map(|i| Value::I32(if i < 3 { 3 } else { 1 })).collect();
    BTreeMap::from([
        ("llama.block_count", Value::U32(LAYERS as u32)),
        ("llama.embedding_length", Value::U32(WIDTH as u32)),
        ("llama.feed_forward_length", Value::U32(INNER as u32)),
        ("llama.attention.head_count", Value::U32(2)),
        ("llama.attention.head_count_kv", Value::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(100_000.0)),
        ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::String("smollm".to_owned())),
        ("tokenizer.ggml.tokens", strings(vocabulary)),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.merges", strings(&["h e".to_owned(), "\u{120} t".to_owned()])),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
    ])
}
