//! `wgtq synth`.

use std::path::PathBuf;
use std::process::ExitCode;

use wgtq::driver::DriverError;
use wgtq::params::FlashAttnVecTqParams;
use wgtq::replay::synth::Synth;

use super::CodecArgs;

/// Write a synthetic input of any shape: a manifest with its files, from a seed.
///
/// q, K and V are N(0, 1). The full unquantised K and V are included; slots that hold no position
/// are filled with garbage.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to write into; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Coordinates of a head vector: 64, 128, 256 or 512
    #[arg(long, default_value_t = 128)]
    head_dim: u32,
    /// Query heads
    #[arg(long, default_value_t = 8)]
    num_heads: u32,
    /// KV heads; divides the query heads
    #[arg(long, default_value_t = 2)]
    num_kv_heads: u32,
    /// Positions stored
    #[arg(long, default_value_t = 300)]
    kv_seq_len: u32,
    /// Slots a KV head [default: kv_seq_len]
    #[arg(long)]
    kv_capacity: Option<u32>,
    /// Slot of the oldest position
    #[arg(long, default_value_t = 0)]
    ring_start: u32,
    /// 0 none, 1 causal, 2 sliding window [default: 2 with a window, else 1]
    #[arg(long)]
    mask_type: Option<u32>,
    /// Newest positions that are visible with mask 2; 0 means no window
    #[arg(long, default_value_t = 0)]
    sliding_window: u32,
    /// c tanh(score / c); 0 is off
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    softcap: f32,
    /// Factor on dot(q, k) [default: 1 / sqrt(head_dim)]
    #[arg(long, allow_negative_numbers = true)]
    scale: Option<f32>,
    #[command(flatten)]
    codec: CodecArgs,
    /// Seed, decimal or 0x hexadecimal
    #[arg(long, value_parser = super::seed, default_value = "0x00C25EED")]
    seed: u64,
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self) -> Result<ExitCode, DriverError> {
        let default_mask = if self.sliding_window > 0 { 2 } else { 1 };
        let synth = Synth {
            params: FlashAttnVecTqParams {
                n_heads: self.num_heads,
                n_kv_heads: self.num_kv_heads,
                head_dim: self.head_dim,
                kv_seq_len: self.kv_seq_len,
                kv_capacity: self.kv_capacity.unwrap_or(self.kv_seq_len),
                scale: self.scale.unwrap_or(1.0 / (self.head_dim as f32).sqrt()),
                mask_type: self.mask_type.unwrap_or(default_mask),
                sliding_window: self.sliding_window,
                softcap: self.softcap,
                nwg: 1,
                ring_start: self.ring_start,
                scale_factor_d512: 1.0,
            },
            codec: self.codec.into(),
            seed: self.seed,
        };
        let bar = super::spinner();
        bar.set_message("encoding");
        synth.write(&self.out)?;
        bar.finish_and_clear();
        super::print(&self.out.join("manifest.json").display().to_string());
        Ok(ExitCode::SUCCESS)
    }
}
