//! What the checker found, as a reader wants it: addresses become lines of the .metal file, and
//! what says the same twice is said once.

use std::path::Path;

use addr2line::Loader;
use serde::{Deserialize, Serialize};

use crate::driver::DriverError;

/// A defect that the checker found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// out_of_bounds, readonly_write, uninitialized_read, data_race, missing_fence,
    /// lockstep_reliance, divergent_barrier, divergent_simd, misaligned or undefined_arithmetic.
    pub kind: String,
    /// In words.
    pub message: String,
    /// Source file.
    pub file: Option<String>,
    /// Line in it.
    pub line: Option<u32>,
    /// Column in it.
    pub column: Option<u32>,
    /// Kernel.
    pub kernel: String,
    /// Position of the threadgroup.
    pub threadgroup: [u32; 3],
    /// Position of the thread in it.
    pub thread: [u32; 3],
    /// Buffer index.
    pub buffer: Option<i64>,
    /// Byte offset in the buffer or the threadgroup memory.
    pub offset: Option<i64>,
    /// For a race: the file of the other access.
    pub other_file: Option<String>,
    /// For a race or two barriers: the line of the other.
    pub other_line: Option<u32>,
    /// For a race or two barriers: the column of the other.
    pub other_column: Option<u32>,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let (Some(file), Some(line)) = (&self.file, self.line) {
            write!(f, "{file}:{line}: ")?;
        }
        write!(f, "{} in {}: {}", self.kind, self.kernel, self.message)
    }
}

/// A finding as the host tells it. Lines and addresses are 0 where they are not known.
#[derive(Debug, Deserialize)]
pub(super) struct Seen {
    kind: String,
    message: String,
    file: Option<String>,
    line: u32,
    column: u32,
    pc: u64,
    other_pc: u64,
    other_line: u32,
    other_column: u32,
    kernel: String,
    threadgroup: [u32; 3],
    thread: [u32; 3],
    buffer: Option<i64>,
    offset: Option<i64>,
}

#[derive(Debug, Default)]
struct Place {
    file: Option<String>,
    line: Option<u32>,
    column: Option<u32>,
}

/// Looks the addresses up in the line table of `object`. The shim lies beside the program `host`.
pub(super) fn resolve(
    seen: Vec<Seen>,
    host: &Path,
    object: &Path,
) -> Result<Vec<Finding>, DriverError> {
    if seen.is_empty() {
        return Ok(Vec::new());
    }
    let loader = Loader::new(object).map_err(|e| DriverError::Msl {
        message: format!("{}: cannot read its line table: {e}", object.display()),
    })?;
    let lines = Lines { loader, shim: host.parent().unwrap_or(host) };
    Ok(distinct(seen.into_iter().map(|s| lines.finding(s)).collect()))
}

struct Lines<'a> {
    loader: Loader,
    shim: &'a Path,
}

impl Lines<'_> {
    fn finding(&self, seen: Seen) -> Finding {
        let told = |file: &Option<String>, line: u32, column: u32| Place {
            file: file.clone(),
            line: (line > 0).then_some(line),
            column: (column > 0).then_some(column),
        };
        let told_here = seen.line > 0 && seen.file.as_ref().is_some_and(|f| !self.in_shim(f));
        let place =
            if told_here { told(&seen.file, seen.line, seen.column) } else { self.place(seen.pc) };
        let other = match seen.other_line {
            0 => self.place(seen.other_pc),
            line => told(&seen.file, line, seen.other_column),
        };
        Finding {
            kind: seen.kind,
            message: seen.message,
            file: place.file,
            line: place.line,
            column: place.column,
            kernel: seen.kernel,
            threadgroup: seen.threadgroup,
            thread: seen.thread,
            buffer: seen.buffer,
            offset: seen.offset,
            other_file: other.file,
            other_line: other.line,
            other_column: other.column,
        }
    }

    /// The innermost of the inlined frames at `pc` that is not the shim's: the author's line.
    fn place(&self, pc: u64) -> Place {
        let Some(mut frames) = (pc > 0).then(|| self.loader.find_frames(pc).ok()).flatten() else {
            return Place::default();
        };
        while let Ok(Some(frame)) = frames.next() {
            let Some(location) = frame.location else { continue };
            let (Some(file), Some(line)) = (location.file, location.line) else { continue };
            if line > 0 && !self.in_shim(file) {
                // Objects are compiled with `.` as their folder.
                let file = file.strip_prefix("./").unwrap_or(file).to_owned();
                let column = location.column.filter(|column| *column > 0);
                return Place { file: Some(file), line: Some(line), column };
            }
        }
        Place::default()
    }

    fn in_shim(&self, file: &str) -> bool {
        self.shim.file_name().is_some_and(|name| Path::new(file).iter().any(|part| part == name))
    }
}

/// Findings that tell something new, in their order.
///
/// An unrolled loop has one access at several addresses. A pair of lines that race is one defect,
/// whichever came second; and where they race between simdgroups, that lanes of one simdgroup do
/// so too is no news.
fn distinct(findings: Vec<Finding>) -> Vec<Finding> {
    let mut kept: Vec<Finding> = Vec::new();
    for finding in &findings {
        let implied = finding.kind == "lockstep_reliance"
            && findings.iter().any(|f| {
                matches!(&*f.kind, "data_race" | "missing_fence") && sites(f) == sites(finding)
            });
        if !implied && !kept.iter().any(|k| same_defect(k, finding)) {
            kept.push(finding.clone());
        }
    }
    kept
}

fn same_defect(a: &Finding, b: &Finding) -> bool {
    if a.kind != b.kind || a.line.is_none() {
        return false;
    }
    // Two instruments look for misaligned accesses; they disagree about columns.
    (a.kind == "misaligned" && (&a.file, a.line) == (&b.file, b.line)) || sites(a) == sites(b)
}

type Site<'a> = (&'a Option<String>, Option<u32>, Option<u32>);

/// Both places of a finding, in an order of their own.
fn sites(f: &Finding) -> [Site<'_>; 2] {
    let mut sites = [(&f.file, f.line, f.column), (&f.other_file, f.other_line, f.other_column)];
    sites.sort();
    sites
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(kind: &str, line: u32, other_line: Option<u32>) -> Finding {
        Finding {
            kind: kind.to_owned(),
            message: String::new(),
            file: Some("k.metal".to_owned()),
            line: Some(line),
            column: Some(1),
            kernel: "k".to_owned(),
            threadgroup: [0; 3],
            thread: [0; 3],
            buffer: None,
            offset: None,
            other_file: other_line.map(|_| "k.metal".to_owned()),
            other_line,
            other_column: other_line.map(|_| 1),
        }
    }

    #[test]
    fn a_pair_of_lines_is_one_defect_and_lockstep_is_implied_by_a_race() {
        let race = finding("data_race", 3, Some(5));
        let elsewhere = finding("lockstep_reliance", 3, Some(7));
        let all = vec![
            finding("lockstep_reliance", 5, Some(3)),
            race.clone(),
            finding("data_race", 5, Some(3)),
            elsewhere.clone(),
        ];
        assert_eq!(distinct(all), [race, elsewhere]);
    }

    #[test]
    fn different_kinds_and_unknown_lines_stay() {
        let mut unknown = finding("out_of_bounds", 0, None);
        unknown.line = None;
        let all = vec![
            finding("out_of_bounds", 3, None),
            finding("misaligned", 3, None),
            unknown.clone(),
            unknown,
        ];
        assert_eq!(distinct(all.clone()), all);
    }
}
