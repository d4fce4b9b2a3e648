//! `smollm2 measure`: what each pair of K and V widths costs on a text.

use std::path::{Path, PathBuf};
use std::time::Instant;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use wgtq::driver::{DriverError, Outputs};

use crate::attention::{Attention, BitPair, Coding, Exact, Kind, stored_bits};
use crate::error::{ModelError, Result};
use crate::model::Model;
use crate::score::LogProbs;
use crate::{TextArgs, chart, note, print};

/// Perplexity of a text at each pair of K and V widths, against an unquantised cache.
///
/// The text is given to the model whole, without a leading token; K and V are quantised as they are
/// written, and every prediction but the last is scored. Writes measure.json and perplexity.svg.
///
/// The model runs in f64. In f32, rounding turns codes that lie on a boundary, later layers see it,
/// and at few bits these figures would depend on the machine. --repeats shows by how much they move
/// when the input does by a millionth.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    text: TextArgs,
    /// Tokens of the text
    #[arg(long, default_value_t = 512)]
    tokens: usize,
    /// Who attends, one or more
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Oracle])]
    attention: Vec<Kind>,
    /// Pairs of K / V bits, as in 8/4,4/4; K also as f16 or f32 [default: all widths with K at
    /// least V]
    #[arg(long, value_delimiter = ',')]
    bits: Vec<BitPair>,
    /// Store norms with which decoded rows keep their length
    #[arg(long)]
    norm_correction: bool,
    /// Runs of each pair; from the second on, token embeddings are off by a millionth
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    repeats: u64,
    /// Folder for the files; made if it is not there
    #[arg(long, value_name = "DIR", default_value = "target/smollm2")]
    out: PathBuf,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The text.
    pub text: PathBuf,
    /// Tokens given to the model.
    pub tokens: usize,
    /// Predictions scored.
    pub scored: usize,
    /// Runs of each pair, of which a row has the means.
    pub repeats: u64,
    /// The unquantised cache.
    pub exact: Unquantised,
    /// One entry a measurement.
    pub rows: Vec<Row>,
}

/// The unquantised cache, its bytes those of f32.
#[derive(Debug, Serialize)]
pub struct Unquantised {
    /// Bytes of cache a token.
    pub bytes_per_token: u64,
    /// Perplexity.
    pub perplexity: f64,
    /// Seconds of the run.
    pub seconds: f64,
}

/// One pair of widths.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Who attended.
    pub attention: Kind,
    /// Bits of a coordinate of K: of a code, or 16 or 32 of a float.
    pub k_bits: u32,
    /// Bits of V.
    pub v_bits: u32,
    /// Whether norms are corrected.
    pub norm_correction: bool,
    /// Bytes of cache a token, norms included.
    pub bytes_per_token: u64,
    /// Perplexity.
    pub perplexity: f64,
    /// The same over that of the unquantised cache.
    pub ratio: f64,
    /// Standard deviation of that from run to run; null with one run.
    pub ratio_sd: Option<f64>,
    /// Mean divergence from the unquantised predictions, in nats.
    pub mean_kl: f64,
    /// Standard deviation of that from run to run; null with one run.
    pub mean_kl_sd: Option<f64>,
    /// Share of positions with the same likeliest token.
    pub top1_agreement: f64,
    /// Seconds of the run.
    pub seconds: f64,
}

impl Row {
    /// The widths as they are given.
    pub fn pair(&self) -> String {
        let float = if self.k_bits > 8 { "f" } else { "" };
        format!("{float}{}/{}", self.k_bits, self.v_bits)
    }
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self, model: &Path) -> Result<()> {
        if self.tokens < 2 {
            return Err(ModelError::Argument {
                flag: "--tokens",
                need: "at least 2, since the second is the first that is predicted".to_owned(),
                found: self.tokens.to_string(),
            });
        }
        let model = Model::open(model)?.in_f64()?;
        let tokens = model.vocabulary.encode_first(&self.text.read()?, self.tokens)?;
        let measurement = Measurement::new(&model, &tokens, self.repeats)?;
        let pairs =
            |kind: Kind| if self.bits.is_empty() { kind.pairs() } else { self.bits.clone() };
        let mut rows = Vec::new();
        for &kind in self.attention.iter().filter(|kind| **kind != Kind::Exact) {
            for bits in pairs(kind) {
                let coding = Coding { bits, norm_correction: self.norm_correction };
                rows.push(measurement.row(kind, coding)?);
                note(&format!("{} {coding}: {:.1} s", kind.name(), rows[rows.len() - 1].seconds));
            }
        }
        let report = Report {
            text: self.text.text,
            tokens: tokens.len(),
            scored: tokens.len() - 1,
            repeats: self.repeats,
            exact: measurement.exact,
            rows,
        };
        print(&format!("{}\n", table(&report)));
        write(&self.out, &report)
    }
}

/// Both files, or none.
fn write(folder: &Path, report: &Report) -> Result<()> {
    let fail = |source| DriverError::File { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(fail)?;
    let json = serde_json::to_string_pretty(report).map_err(|e| fail(e.into()))?;
    let mut files = Outputs::default();
    files.stage(&folder.join("measure.json"), json.as_bytes())?;
    files.stage(&folder.join("perplexity.svg"), chart::draw(report)?.as_bytes())?;
    Ok(files.commit()?)
}

/// A text with the unquantised predictions that others are compared with.
pub struct Measurement<'a> {
    model: &'a Model,
    tokens: &'a [u32],
    repeats: u64,
    reference: LogProbs,
    exact: Unquantised,
}

impl<'a> Measurement<'a> {
    /// Runs the unquantised cache over `tokens`, two or more.
    pub fn new(model: &'a Model, tokens: &'a [u32], repeats: u64) -> Result<Self> {
        let start = Instant::now();
        let mut attention = Exact::new(model.shape);
        let reference = predictions(model, tokens, &mut attention)?;
        let exact = Unquantised {
            bytes_per_token: attention.bytes_per_token(),
            perplexity: reference.perplexity(&tokens[1..]),
            seconds: start.elapsed().as_secs_f64(),
        };
        Ok(Self { model, tokens, repeats, reference, exact })
    }

    /// Perplexity of the unquantised cache.
    #[cfg(test)]
    pub fn exact_perplexity(&self) -> f64 {
        self.exact.perplexity
    }

    /// Measures one pair.
    pub fn row(&self, kind: Kind, coding: impl Into<Coding>) -> Result<Row> {
        let coding @ Coding { bits, norm_correction } = coding.into();
        let start = Instant::now();
        let mut attention = kind.open(self.model.shape, coding, self.tokens.len())?;
        let mut runs = vec![self.run(self.model, attention.as_mut())?];
        for seed in 1..self.repeats {
            let mut attention = kind.open(self.model.shape, coding, self.tokens.len())?;
            runs.push(self.run(&self.model.nudged(seed)?, attention.as_mut())?);
        }
        let count = runs.len() as f64;
        let mean = |of: fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / count;
        let deviation = |of: fn(&Run) -> f64| {
            let squares = runs.iter().map(|run| (of(run) - mean(of)).powi(2)).sum::<f64>();
            (count > 1.0).then(|| (squares / (count - 1.0)).sqrt())
        };
        let perplexity = mean(|run| run.perplexity);
        Ok(Row {
            attention: kind,
            k_bits: stored_bits(bits.k),
            v_bits: bits.v.get(),
            norm_correction,
            bytes_per_token: attention.bytes_per_token(),
            perplexity,
            ratio: perplexity / self.exact.perplexity,
            ratio_sd: deviation(|run| run.perplexity).map(|sd| sd / self.exact.perplexity),
            mean_kl: mean(|run| run.mean_kl),
            mean_kl_sd: deviation(|run| run.mean_kl),
            top1_agreement: mean(|run| run.top1_agreement),
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn run(&self, model: &Model, attention: &mut dyn Attention) -> Result<Run> {
        let predicted = predictions(model, self.tokens, attention)?;
        Ok(Run {
            perplexity: predicted.perplexity(&self.tokens[1..]),
            mean_kl: self.reference.mean_kl(&predicted),
            top1_agreement: self.reference.top1_agreement(&predicted),
        })
    }
}

/// The figures of one run.
struct Run {
    perplexity: f64,
    mean_kl: f64,
    top1_agreement: f64,
}

/// What the model predicts after each token but the last.
fn predictions(model: &Model, tokens: &[u32], attention: &mut dyn Attention) -> Result<LogProbs> {
    let hidden = model.forward(tokens, 0, attention)?.narrow(0, 0, tokens.len() - 1)?;
    let logits = model.logits(&hidden)?;
    let vocabulary = logits.dim(1)?;
    Ok(LogProbs::from_logits(logits.flatten_all()?.to_vec1()?, vocabulary))
}

const HEADER: [&str; 8] =
    ["attention", "K/V bits", "bytes/token", "of f16", "perplexity", "ratio", "mean KL", "top-1"];

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_width(100).set_header(HEADER);
    let f16 = report.exact.bytes_per_token as f64 / 2.0;
    let share = |bytes: u64| format!("{:.0} %", 100.0 * bytes as f64 / f16);
    let exact = &report.exact;
    table.add_row([
        Kind::Exact.name().to_owned(),
        "f32".to_owned(),
        exact.bytes_per_token.to_string(),
        share(exact.bytes_per_token),
        format!("{:.3}", exact.perplexity),
        "1".to_owned(),
        "0".to_owned(),
        "1".to_owned(),
    ]);
    for row in &report.rows {
        table.add_row([
            row.attention.name().to_owned(),
            widths(row),
            row.bytes_per_token.to_string(),
            share(row.bytes_per_token),
            format!("{:.3}", row.perplexity),
            ratio(row),
            format!("{:.4}", row.mean_kl),
            format!("{:.3}", row.top1_agreement),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn widths(row: &Row) -> String {
    let corrected = if row.norm_correction { " corrected" } else { "" };
    format!("{}{corrected}", row.pair())
}

fn ratio(row: &Row) -> String {
    match row.ratio_sd {
        Some(sd) => format!("{:.3} +- {sd:.3}", row.ratio),
        None => format!("{:.3}", row.ratio),
    }
}
