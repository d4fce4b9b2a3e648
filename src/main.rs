//! The `wgtq` program: one file a sub-command under `src/cmd`.

mod cmd;

use std::process::ExitCode;

use clap::Parser;

/// TurboQuant KV-cache kernels in WGSL and MSL: replay real attention inputs and judge them.
///
/// Exit codes: 0 success; 1 a bad argument, file or manifest; 2 no GPU, a GPU error, NaN or
/// infinity in an output, or an output that is not what it must be.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Replay(cmd::replay::Args),
    Sweep(cmd::sweep::Args),
    Parity(cmd::parity::Args),
    Bench(cmd::bench::Args),
    Compare(cmd::compare::Args),
    Adapters(cmd::adapters::Args),
    Doctor(cmd::doctor::Args),
    Synth(cmd::synth::Args),
    Msl(cmd::msl::Args),
    Kernels(cmd::kernels::Args),
    Schema(cmd::schema::Args),
    #[command(hide = true)]
    Gate(cmd::gate::Args),
}

fn main() -> ExitCode {
    quiet_software_vulkan();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cmd::usage(&error),
    };
    let result = match cli.command {
        Command::Replay(args) => args.run(),
        Command::Adapters(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::Synth(args) => args.run(),
        Command::Sweep(args) => args.run(),
        Command::Parity(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Compare(args) => args.run(),
        Command::Msl(args) => args.run(),
        Command::Kernels(args) => args.run(),
        Command::Schema(args) => args.run(),
        Command::Gate(args) => args.run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            cmd::complain(&error.to_string());
            ExitCode::from(error.exit_code())
        }
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
