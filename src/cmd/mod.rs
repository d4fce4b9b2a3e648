//! The sub-commands, and what they share on the terminal. Results go to stdout, everything else
//! to stderr; colours only where a terminal reads them.

pub mod adapters;
pub mod bench;
pub mod compare;
pub mod doctor;
pub mod gate;
pub mod kernels;
mod machine;
pub mod msl;
mod multistep;
pub mod parity;
pub mod replay;
pub mod schema;
pub mod sweep;
pub mod synth;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use wgtq::codec::{Bits, CodecSettings, HeadDim, Rotation};
use wgtq::driver::DriverError;
use wgtq::gpu::device::{Backend, Selection};
use wgtq::legs::{Leg, LegName, MslHostLeg};

/// Columns of a terminal that everything fits.
pub const WIDTH: usize = 100;

/// Flags that choose a GPU.
#[derive(Debug, Clone, clap::Args)]
pub struct GpuArgs {
    /// Only adapters whose name contains this
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Only adapters of this backend
    #[arg(long)]
    backend: Option<Backend>,
}

impl From<GpuArgs> for Selection {
    fn from(args: GpuArgs) -> Self {
        Self { backend: args.backend, adapter: args.adapter }
    }
}

impl GpuArgs {
    /// The same choice as flags, for a subprocess.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        if let Some(adapter) = &self.adapter {
            flags.extend(["--adapter".to_owned(), adapter.clone()]);
        }
        if let Some(backend) = self.backend.as_ref().and_then(ValueEnum::to_possible_value) {
            flags.extend(["--backend".to_owned(), backend.get_name().to_owned()]);
        }
        flags
    }
}

/// The flag that chooses whose Metal kernels leg `msl-host` runs.
#[derive(Debug, Clone, clap::Args)]
pub struct MslArgs {
    /// Run the original Metal files of this folder, found by their published entry points, in place
    /// of this project's (leg msl-host)
    #[arg(long, value_name = "DIR")]
    msl_dir: Option<PathBuf>,
}

impl MslArgs {
    /// The folder.
    pub fn folder(&self) -> Option<&Path> {
        self.msl_dir.as_deref()
    }
}

/// What leg `msl-host` runs, and how it and `wgsl-naga-msl` run it.
#[derive(Debug, Clone, clap::Args)]
pub struct HostArgs {
    #[command(flatten)]
    msl: MslArgs,
    /// Check every access of legs msl-host and wgsl-naga-msl, in both orders of lanes and in
    /// lockstep: a finding, or bits that differ between these, is an error
    #[arg(long, conflicts_with = "msl_dir")]
    check: bool,
}

impl HostArgs {
    /// Refuses flags where no leg would use them.
    pub fn refuse_unused(&self, legs: &[LegName]) -> Result<(), DriverError> {
        let unused = |flag, need: &str| {
            let found: Vec<&str> = legs.iter().map(|l| l.as_str()).collect();
            let found = format!("--leg {}", found.join(","));
            Err(DriverError::Argument { flag, need: need.to_owned(), found })
        };
        let host = legs.contains(&LegName::MslHost);
        if self.msl.msl_dir.is_some() && !host {
            return unused("--msl-dir", "--leg msl-host");
        }
        if self.check && !host && !legs.contains(&LegName::WgslNagaMsl) {
            return unused("--check", "--leg msl-host or --leg wgsl-naga-msl");
        }
        Ok(())
    }

    /// Opens a leg.
    pub fn open(
        &self,
        name: LegName,
        selection: &Selection,
    ) -> Result<Box<dyn Leg + Send>, DriverError> {
        if self.check && matches!(name, LegName::MslHost | LegName::WgslNagaMsl) {
            let mut leg = MslHostLeg::open(name)?;
            leg.every_way = true;
            return Ok(Box::new(leg));
        }
        name.open_with(selection, self.msl.folder())
    }

    /// The same choices as flags for `leg`.
    fn flags(&self, leg: LegName) -> Vec<String> {
        let folder = self.msl.folder().filter(|_| leg == LegName::MslHost);
        let folder = folder.iter().flat_map(|f| ["--msl-dir".to_owned(), f.display().to_string()]);
        let check = self.check && matches!(leg, LegName::MslHost | LegName::WgslNagaMsl);
        folder.chain(check.then(|| "--check".to_owned())).collect()
    }
}

/// The legs of a run, as flags name them.
pub struct Legs<'a> {
    pub names: &'a [LegName],
    pub gpu: GpuArgs,
    pub host: HostArgs,
}

impl Legs<'_> {
    /// Opens every leg that is named, once each.
    pub fn open(&self) -> Result<Vec<Box<dyn Leg + Send>>, DriverError> {
        let selection = Selection::from(self.gpu.clone());
        let mut legs: Vec<Box<dyn Leg + Send>> = Vec::new();
        for name in self.names {
            if legs.iter().all(|leg| leg.name() != *name) {
                let leg = self.host.open(*name, &selection)?;
                note(&format!("leg {} on {}", name.as_str(), leg.adapter().line()));
                legs.push(leg);
            }
        }
        Ok(legs)
    }

    /// The same choices as flags, for a subprocess that runs one leg.
    pub fn flags(&self, leg: LegName) -> Vec<String> {
        let mut flags = self.gpu.flags();
        flags.extend(self.host.flags(leg));
        flags
    }
}

/// A rotation as a flag.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum RotationArg {
    /// FWHT(x)
    #[default]
    Plain,
    /// FWHT(signs . x)
    Srht,
}

impl From<RotationArg> for Rotation {
    fn from(arg: RotationArg) -> Self {
        match arg {
            RotationArg::Plain => Self::Plain,
            RotationArg::Srht => Self::Srht,
        }
    }
}

/// Flags that choose how K and V are encoded.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct CodecArgs {
    /// Bits of a code of K and V: 2, 3, 4, 5, 6 or 8 [default: 4]
    #[arg(long, value_name = "N", value_parser = bits, conflicts_with_all = ["k_bits", "v_bits"])]
    bits: Option<Bits>,
    /// Bits of a K code [default: 4]
    #[arg(long, value_name = "N", value_parser = bits)]
    k_bits: Option<Bits>,
    /// Bits of a V code [default: 4]
    #[arg(long, value_name = "N", value_parser = bits)]
    v_bits: Option<Bits>,
    /// Rotation of the codec [default: plain]
    #[arg(long, value_enum)]
    rotation: Option<RotationArg>,
    /// Store norms with which decoded rows keep their norm exactly
    #[arg(long)]
    norm_correction: bool,
}

impl CodecArgs {
    /// The first of these flags that was given.
    pub fn given(&self) -> Option<&'static str> {
        [
            ("--bits", self.bits.is_some()),
            ("--k-bits", self.k_bits.is_some()),
            ("--v-bits", self.v_bits.is_some()),
            ("--rotation", self.rotation.is_some()),
            ("--norm-correction", self.norm_correction),
        ]
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
    }

    /// The same choice as flags, for a subprocess.
    pub fn flags(codec: &CodecSettings) -> Vec<String> {
        if *codec == CodecSettings::DEFAULT {
            return Vec::new();
        }
        let mut flags = vec![
            format!("--k-bits={}", codec.k_bits),
            format!("--v-bits={}", codec.v_bits),
            format!("--rotation={}", codec.rotation.name()),
        ];
        if codec.norm_correction {
            flags.push("--norm-correction".to_owned());
        }
        flags
    }
}

impl From<CodecArgs> for CodecSettings {
    fn from(args: CodecArgs) -> Self {
        Self {
            rotation: args.rotation.unwrap_or_default().into(),
            k_bits: args.bits.or(args.k_bits).unwrap_or(Self::DEFAULT.k_bits),
            v_bits: args.bits.or(args.v_bits).unwrap_or(Self::DEFAULT.v_bits),
            norm_correction: args.norm_correction,
        }
    }
}

/// Bits of a code as a flag's value.
pub fn bits(text: &str) -> Result<Bits, String> {
    let width = |bits: &Bits| bits.to_string() == text;
    let refused = || "need 2, 3, 4, 5, 6 or 8".to_owned();
    Bits::ALL.into_iter().find(width).ok_or_else(refused)
}

/// Coordinates of a head vector as a flag's value.
pub fn head_dim(text: &str) -> Result<HeadDim, String> {
    let number = text.parse().map_err(|_| "need 64, 128, 256 or 512".to_owned())?;
    HeadDim::new(number).map_err(|e| e.to_string())
}

/// The output path less one trailing `.json`.
pub fn stem(out: &Path) -> String {
    let text = out.to_string_lossy();
    text.strip_suffix(".json").unwrap_or(&text).to_owned()
}

/// JSON for people and machines.
pub fn pretty(value: &impl serde::Serialize) -> Result<String, DriverError> {
    serde_json::to_string_pretty(value)
        .map_err(|e| DriverError::File { path: "JSON".into(), source: e.into() })
}

/// Prints a result. A reader that has gone away is not an error.
pub fn print(text: &str) {
    let _ = writeln!(anstream::stdout(), "{}", text.trim_end());
}

/// Prints a note for people.
pub fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Prints an error on one line.
pub fn complain(message: &str) {
    let red = anstyle::AnsiColor::Red.on_default().bold();
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    note(&format!("{red}error{red:#}: {line}"));
}

/// Help and version as clap prints them; a wrong command line as one line and exit code 1.
pub fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let useful = text.split("\nUsage:").next().unwrap_or_default();
    let useful = useful.split("\nFor more information").next().unwrap_or_default();
    complain(useful.trim_start_matches("error:"));
    ExitCode::from(1)
}

/// A table that fits a terminal of 100 columns.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH as u16)
        .set_header(header);
    table
}

/// Breaks a text at spaces; the lines after the first start with `indent`.
pub fn wrap(text: &str, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let last = lines.last().map_or("", String::as_str);
        let width = last.chars().count() + word.trim_end().chars().count();
        // A word that is too long by itself gets a line of its own.
        if width > WIDTH && !last.trim().is_empty() {
            lines.push(indent.to_owned());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(word);
        }
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A spinner on stderr that appears once work takes longer than a moment.
pub fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A progress bar on stderr, of `length` steps.
pub fn bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {eta} left  {msg}") {
        bar.set_style(style);
    }
    bar
}

/// Reads a JSON report; an error names the file and the field.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, DriverError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| DriverError::File { path: path.to_owned(), source })?;
    let mut json = serde_json::Deserializer::from_str(&text);
    serde_path_to_error::deserialize(&mut json).map_err(|e| DriverError::Manifest {
        path: path.to_owned(),
        field: e.path().to_string(),
        message: e.into_inner().to_string(),
    })
}

/// A seed in decimal or 0x hexadecimal.
pub fn seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(&hex.replace('_', ""), 16),
        None => text.replace('_', "").parse(),
    };
    parsed.map_err(|_| "need a u64, decimal or 0x hexadecimal".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_broken_at_spaces_and_keep_their_indent() {
        let text = format!("  {}", "word ".repeat(40));
        let lines: Vec<String> = wrap(&text, "  ").lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|l| l.starts_with("  word") && l.len() <= WIDTH), "{lines:?}");
        assert_eq!(wrap(&"x".repeat(120), "  ").lines().last(), Some(&*"x".repeat(120)));
    }
}
