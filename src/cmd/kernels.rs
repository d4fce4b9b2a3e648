//! `wgtq kernels`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use comfy_table::ColumnConstraint;
use wgtq::codec::{Bits, HeadDim, Rotation};
use wgtq::contract::{Access, Caps, Contract};
use wgtq::driver::{DriverError, Outputs};
use wgtq::export::{Choices, KernelContract, Target, Variant, export};
use wgtq::kernels::ALL;

use super::RotationArg;

/// Use the kernels without Rust: shader text with a contract as JSON.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(List),
    Export(Box<Export>),
}

/// List the kernels with their buffers.
#[derive(Debug, clap::Args)]
struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Write the code of kernels, each with its contract, into a folder.
///
/// A contract says how to bind, fill and dispatch its kernel: bindings with sizes as expressions,
/// parameter fields with offsets, grid, limits and features. `wgtq schema kernel` prints its
/// schema.
#[derive(Debug, clap::Args)]
struct Export {
    /// What to export as
    #[arg(long, value_enum)]
    target: Target,
    /// Only these kernels; several with commas
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(ALL.iter().map(|c| c.stem)))]
    kernel: Vec<String>,
    /// Head dims
    #[arg(long, required = true, value_delimiter = ',', value_parser = super::head_dim)]
    head_dim: Vec<HeadDim>,
    /// Bits of a code, the same for K and V [default: 4]
    #[arg(
        long, value_name = "N", value_delimiter = ',', value_parser = super::bits,
        conflicts_with_all = ["k_bits", "v_bits"],
    )]
    bits: Vec<Bits>,
    /// Bits of a K code; attention is exported for each with each of --v-bits [default: 4]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = super::bits)]
    k_bits: Vec<Bits>,
    /// Bits of a V code [default: 4]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = super::bits)]
    v_bits: Vec<Bits>,
    /// Query heads a KV head
    #[arg(long, default_value = "1", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=256))]
    ratio: Vec<u32>,
    /// Rotations
    #[arg(long, value_enum, default_value = "plain", value_delimiter = ',')]
    rotation: Vec<RotationArg>,
    /// Encoders that store norms with which decoded rows keep their norm exactly
    #[arg(long)]
    norm_correction: bool,
    /// Threads that are sure to share a subgroup on every device the code will run on: a power of
    /// two from 4 to 128, or none. Without it, none, and 32 for MSL
    #[arg(long, value_parser = subgroup_size)]
    subgroup_size: Option<SubgroupSize>,
    /// Folder to write to; made if it is not there
    #[arg(long)]
    out: PathBuf,
    /// Print the contracts as one JSON array
    #[arg(long)]
    json: bool,
}

/// A subgroup size as a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SubgroupSize(Option<u32>);

fn subgroup_size(text: &str) -> Result<SubgroupSize, String> {
    match text.parse() {
        Ok(n @ (4 | 8 | 16 | 32 | 64 | 128)) => Ok(SubgroupSize(Some(n))),
        Err(_) if text == "none" => Ok(SubgroupSize(None)),
        _ => Err("need none or a power of two from 4 to 128".to_owned()),
    }
}

impl Args {
    /// Runs the sub-command.
    pub fn run(self) -> Result<ExitCode, DriverError> {
        match self.command {
            Command::List(args) => args.run(),
            Command::Export(args) => args.run(),
        }
    }
}

/// A kernel for people and scripts.
#[derive(Debug, serde::Serialize)]
struct Listed {
    kernel: &'static str,
    summary: &'static str,
    bindings: Vec<ListedBinding>,
    params: Vec<&'static str>,
}

#[derive(Debug, serde::Serialize)]
struct ListedBinding {
    name: &'static str,
    access: &'static str,
    layout: &'static str,
}

impl From<&Contract> for Listed {
    fn from(contract: &Contract) -> Self {
        let binding = |b: &wgtq::contract::Binding| ListedBinding {
            name: b.name,
            access: match b.access {
                Access::Uniform => "uniform",
                Access::Read => "read",
                Access::ReadWrite => "read-write",
            },
            layout: b.layout,
        };
        Self {
            kernel: contract.stem,
            summary: contract.summary,
            bindings: contract.bindings.iter().map(binding).collect(),
            params: contract.params.iter().map(|(name, _)| *name).collect(),
        }
    }
}

impl List {
    fn run(self) -> Result<ExitCode, DriverError> {
        let kernels: Vec<Listed> = ALL.iter().map(|c| Listed::from(*c)).collect();
        if self.json {
            super::print(&super::pretty(&kernels)?);
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = super::table(&["kernel", "computes", "buffers"]);
        for k in &kernels {
            let names: Vec<&str> = k.bindings.iter().map(|b| b.name).collect();
            table.add_row([k.kernel.to_owned(), k.summary.to_owned(), names.join(", ")]);
        }
        super::print(&table.to_string());
        Ok(ExitCode::SUCCESS)
    }
}

impl Export {
    fn run(self) -> Result<ExitCode, DriverError> {
        let caps = self.caps()?;
        std::fs::create_dir_all(&self.out)
            .map_err(|source| DriverError::File { path: self.out.clone(), source })?;
        let mut outputs = Outputs::default();
        let mut contracts = Vec::new();
        for contract in self.contracts() {
            for variant in Variant::all(contract, &self.choices()) {
                let exported = export(&variant, self.target, &caps)?;
                let code = self.out.join(&exported.contract.file);
                outputs.stage(&code, &exported.code)?;
                let json = super::pretty(&exported.contract)? + "\n";
                outputs.stage(&code.with_extension("json"), json.as_bytes())?;
                contracts.push(exported.contract);
            }
        }
        outputs.commit()?;
        self.report(&contracts)
    }

    /// What plans may use. The limits are WebGPU's, or Metal's for MSL.
    fn caps(&self) -> Result<Caps, DriverError> {
        if self.target != Target::Msl {
            let size = self.subgroup_size.and_then(|s| s.0);
            return Ok(Caps::WEBGPU.with_subgroup_size(size));
        }
        match self.subgroup_size {
            None | Some(SubgroupSize(Some(32))) => Ok(Caps::APPLE),
            Some(SubgroupSize(other)) => Err(DriverError::Argument {
                flag: "--subgroup-size",
                need: "32 for MSL".to_owned(),
                found: other.map_or("none".to_owned(), |n| n.to_string()),
            }),
        }
    }

    fn contracts(&self) -> impl Iterator<Item = &'static Contract> {
        let wanted =
            |c: &&Contract| self.kernel.is_empty() || self.kernel.iter().any(|stem| stem == c.stem);
        ALL.iter().copied().filter(wanted)
    }

    /// The pairs of K and V widths.
    fn widths(&self) -> Vec<[Bits; 2]> {
        if !self.bits.is_empty() {
            return self.bits.iter().map(|&bits| [bits; 2]).collect();
        }
        let or_4 =
            |widths: &[Bits]| if widths.is_empty() { vec![Bits::B4] } else { widths.to_vec() };
        let (k_bits, v_bits) = (or_4(&self.k_bits), or_4(&self.v_bits));
        k_bits.iter().flat_map(|&k| v_bits.iter().map(move |&v| [k, v])).collect()
    }

    fn choices(&self) -> Choices {
        Choices {
            head_dims: self.head_dim.clone(),
            bits: self.widths(),
            ratios: self.ratio.clone(),
            rotations: self.rotation.iter().map(|&r| Rotation::from(r)).collect(),
            norm_correction: self.norm_correction,
        }
    }

    fn report(&self, contracts: &[KernelContract]) -> Result<ExitCode, DriverError> {
        if self.json {
            super::print(&super::pretty(&contracts)?);
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = super::table(&["file", "threads", "workgroup", "needs"]);
        for c in contracts {
            table.add_row([
                c.file.clone(),
                c.workgroup_size[0].to_string(),
                format!("{} B", c.limits.workgroup_bytes),
                if c.features.is_empty() { "-".to_owned() } else { c.features.join(", ") },
            ]);
        }
        // Names of files are for copying: only the needs are broken into lines.
        if let Some(file) = table.column_mut(0) {
            file.set_constraint(ColumnConstraint::ContentWidth);
        }
        super::print(&table.to_string());
        super::note(&format!("{} kernels in {}", contracts.len(), self.out.display()));
        Ok(ExitCode::SUCCESS)
    }
}
