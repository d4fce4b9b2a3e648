//! `smollm2 generate`: greedy text, token by token.

use std::path::Path;
use std::time::Instant;

use candle_core::{D, Tensor};

use crate::attention::{Attention, BitPair, Kind};
use crate::error::Result;
use crate::model::Model;
use crate::{note, print};

/// Answer a prompt: prefill, then one token at a time, each the likeliest.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the user says
    #[arg(long, default_value = "What is a key-value cache, and why would one compress it?")]
    prompt: String,
    /// Most tokens to generate
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Who attends
    #[arg(long, value_enum, default_value_t = Kind::Gpu)]
    attention: Kind,
    /// Bits of K / bits of V; K also as f16 or f32
    #[arg(long, default_value = "4/4")]
    bits: BitPair,
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self, model: &Path) -> Result<()> {
        let model = Model::open(model)?;
        let prompt = model.vocabulary.turn(&self.prompt)?;
        let capacity = prompt.len() + self.tokens;
        let mut attention = self.attention.open(model.shape, self.bits, capacity)?;

        let start = Instant::now();
        let mut text = model.vocabulary.tokenizer.decode_stream(true);
        let mut first_token = None;
        let mut count = 0usize;
        for token in Greedy::new(&model, attention.as_mut(), prompt.clone()).take(self.tokens) {
            first_token.get_or_insert_with(|| start.elapsed());
            count += 1;
            if let Some(piece) = text.step(token?)? {
                print(&piece);
            }
        }
        print("\n");
        let prefill = first_token.unwrap_or_default();
        note(&format!(
            "{} prompt tokens in {prefill:.1?}; then {:.1} tokens/s; {} bytes of cache a token ({})",
            prompt.len(),
            count.saturating_sub(1) as f64 / (start.elapsed() - prefill).as_secs_f64(),
            attention.bytes_per_token(),
            self.attention.name()
        ));
        Ok(())
    }
}

/// The likeliest continuation, one token an item, up to the model's end of turn.
pub struct Greedy<'a> {
    model: &'a Model,
    attention: &'a mut dyn Attention,
    /// Tokens that have not been run yet: the prompt, then always one.
    pending: Vec<u32>,
    position: usize,
}

impl<'a> Greedy<'a> {
    /// Continues `prompt` on an empty cache.
    pub fn new(model: &'a Model, attention: &'a mut dyn Attention, prompt: Vec<u32>) -> Self {
        Self { model, attention, pending: prompt, position: 0 }
    }

    fn step(&mut self) -> Result<u32> {
        let hidden = self.model.forward(&self.pending, self.position, self.attention)?;
        let newest: Tensor = hidden.narrow(0, self.pending.len() - 1, 1)?;
        let token = self.model.logits(&newest)?.squeeze(0)?.argmax(D::Minus1)?.to_scalar()?;
        self.position += self.pending.len();
        self.pending = vec![token];
        Ok(token)
    }
}

impl Iterator for Greedy<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.step() {
            Ok(token) if token == self.model.vocabulary.end => None,
            token => Some(token),
        }
    }
}
