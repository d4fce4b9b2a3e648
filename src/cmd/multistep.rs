//! `wgtq replay --multistep`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use wgtq::codec::CodecSettings;
use wgtq::driver::{DriverError, Outputs, check_writable};
use wgtq::sweep::multistep;

/// Runs the four positions on every leg; writes `<out>.json` and `<out>.md`.
pub fn run(
    out: &Path,
    seed: u64,
    codec: CodecSettings,
    legs: super::Legs<'_>,
    json_out: bool,
) -> Result<ExitCode, DriverError> {
    let stem = super::stem(out);
    let (json, markdown) =
        (PathBuf::from(format!("{stem}.json")), PathBuf::from(format!("{stem}.md")));
    check_writable(&json)?;
    check_writable(&markdown)?;
    let mut legs = legs.open()?;
    let bar = super::spinner();
    let report = multistep::run(&mut legs, seed, codec, |what| bar.set_message(what.to_owned()))?;
    bar.finish_and_clear();

    let (text, table) = (super::pretty(&report)?, report.markdown());
    let mut outputs = Outputs::default();
    outputs.stage(&json, text.as_bytes())?;
    outputs.stage(&markdown, table.as_bytes())?;
    outputs.commit()?;
    super::print(if json_out { &text } else { &table });
    super::note(&format!("wrote {}, {}", json.display(), markdown.display()));
    Ok(if report.kernels_are_right() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}
