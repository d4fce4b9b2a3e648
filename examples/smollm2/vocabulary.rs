//! The tokenizer, from the vocabulary inside the GGUF file.

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::processors::PostProcessorWrapper;

use crate::error::{ModelError, Result};
use crate::model::typed;

/// Text to tokens and back.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// The tokenizer, for streams.
    pub tokenizer: Tokenizer,
    /// The token that ends a turn.
    pub end: u32,
}

impl Vocabulary {
    /// Reads the vocabulary and the merges. Only the pre-tokenizer that this model was trained with
    /// is known here: `smollm`, bytes with every digit a piece of its own.
    pub fn load(content: &Content) -> Result<Self> {
        let pre = typed(content, "tokenizer.ggml.pre", "a text", |v| v.to_string().cloned())?;
        if pre != "smollm" {
            return Err(ModelError::Gguf {
                name: "tokenizer.ggml.pre".to_owned(),
                need: "smollm".to_owned(),
                found: pre,
            });
        }
        let mut tokenizer = Tokenizer::from_gguf(content)?;
        tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
            Digits::new(true).into(),
            ByteLevel::new(false, true, true).into(),
        ])));
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        let end = typed(content, "tokenizer.ggml.eos_token_id", "a u32", Value::to_u32)?;
        Ok(Self { tokenizer, end })
    }

    /// Tokens of `text`; names of special tokens in it become those.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text, false)?.get_ids().to_vec())
    }

    /// The first `count` tokens of `text`.
    pub fn encode_first(&self, text: &str, count: usize) -> Result<Vec<u32>> {
        let mut tokens = self.encode(text)?;
        if count == 0 || tokens.len() < count {
            return Err(ModelError::Argument {
                flag: "--tokens",
                need: format!("1 to the text's {}", tokens.len()),
                found: count.to_string(),
            });
        }
        tokens.truncate(count);
        Ok(tokens)
    }

    /// One user turn as the model was trained to read it, up to where its answer starts.
    pub fn turn(&self, prompt: &str) -> Result<Vec<u32>> {
        self.encode(&format!(
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging \
             Face<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        ))
    }
}
