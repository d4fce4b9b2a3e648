//! SmolLM2-135M-Instruct with its attention and KV cache on wgtq: what a K/V bit width costs a real
//! model, text from it, and captured decode steps for `wgtq replay`.

mod attention;
mod capture;
mod chart;
mod error;
#[cfg(test)]
mod fixture;
mod generate;
mod measure;
mod model;
mod rope;
mod score;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use wgtq::driver::{DriverError, one_line};

use error::ModelError;

/// SmolLM2-135M-Instruct with its attention and KV cache on wgtq.
///
/// `sh examples/smollm2/fetch.sh` puts the model where it is looked for. Exit codes: 0 success; 1 a
/// bad argument or file; 2 no GPU, or a GPU error.
#[derive(Debug, Parser)]
#[command(name = "smollm2", max_term_width = 100)]
struct Cli {
    /// The GGUF file [default: where fetch.sh puts it]
    #[arg(long, global = true, value_name = "FILE")]
    model: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Generate(generate::Args),
    Measure(measure::Args),
    Capture(capture::Args),
}

fn main() -> ExitCode {
    quiet_software_vulkan();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let result =
        cli.model.map_or_else(model::default_path, Ok).and_then(|path| match cli.command {
            Command::Generate(args) => args.run(&path),
            Command::Measure(args) => args.run(&path),
            Command::Capture(args) => args.run(&path),
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("error: {}", one_line(&error.to_string())));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Prints a result. A reader that has gone away is not an error.
fn print(text: &str) {
    let mut out = anstream::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints a note for people.
fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// The text that a command works on.
#[derive(Debug, clap::Args)]
struct TextArgs {
    /// Text whose first tokens are used
    #[arg(long, value_name = "FILE", default_value = "/usr/share/common-licenses/GPL-3")]
    text: PathBuf,
}

impl TextArgs {
    fn read(&self) -> Result<String, ModelError> {
        std::fs::read_to_string(&self.text)
            .map_err(|source| DriverError::File { path: self.text.clone(), source }.into())
    }
}

/// Mesa's software Vulkan prints an error line at start-up when this variable is unset, although
/// it needs no window system.
fn quiet_software_vulkan() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: the program has a single thread here.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir()) };
    }
}
