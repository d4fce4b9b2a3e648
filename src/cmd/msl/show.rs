//! Findings for people: the place, the source line with a mark under the column, both sites of a
//! race, who and where. Fits a terminal of 100 columns.

use wgtq::msl::findings::Finding;

use super::Report;
use crate::cmd::{WIDTH, note, print, wrap};

/// Columns of a source line that are shown, beside the number.
const SOURCE_WIDTH: usize = WIDTH - 8;

/// Prints a report: results on stdout, the rest on stderr.
pub(super) fn show(report: &Report) {
    for finding in &report.findings {
        print(&text_of(finding));
    }
    for l in &report.lint {
        print(&format!("{}:{}:{}: {}", l.file, l.line, l.column, l.message));
    }
    match &report.message {
        Some(message) => print(&format!("{}: {message}", report.status)),
        None => match report.findings.len() {
            0 => print(report.status),
            1 => print("1 finding"),
            n => print(&format!("{n} findings")),
        },
    }
    for output in &report.outputs {
        note(&format!("wrote {}", output.file));
    }
    if let Some(t) = &report.timing {
        let (compile, run, cpu) = (t.compile_ms, t.run_ms, t.cpu_ms);
        note(&format!("compiled in {compile:.0} ms, ran in {run:.0} ms ({cpu:.1} ms of CPU time)"));
    }
}

fn text_of(f: &Finding) -> String {
    let (what, details) = match f.message.split_once(": ") {
        Some((what, details)) => (what, details),
        None => (&*f.message, ""),
    };
    let place = place(f.file.as_deref(), f.line, f.column);
    let head = format!("{}: {}: {what}", place.as_ref().unwrap_or(&f.kernel), f.kind);
    let mut out = wrap(&head, "  ");
    out += &source_line(f.file.as_deref(), f.line, f.column);
    if let Some(other) = self::place(f.other_file.as_deref(), f.other_line, f.other_column) {
        out += &wrap(&format!("  other site: {other}"), "  ");
        out += &source_line(f.other_file.as_deref(), f.other_line, f.other_column);
    }
    if !details.is_empty() {
        out += &wrap(&format!("  {details}"), "  ");
    }
    out += &wrap(
        &format!("  kernel {}, threadgroup {:?}, thread {:?}", f.kernel, f.threadgroup, f.thread),
        "  ",
    );
    out + "\n"
}

fn place(file: Option<&str>, line: Option<u32>, column: Option<u32>) -> Option<String> {
    let column = column.map(|column| format!(":{column}")).unwrap_or_default();
    Some(format!("{}:{}{column}", file?, line?))
}

/// The line of the file with a mark under the column; nothing if there is no such file.
fn source_line(file: Option<&str>, line: Option<u32>, column: Option<u32>) -> String {
    let text = file.and_then(|file| std::fs::read_to_string(file).ok());
    let (Some(text), Some(line)) = (text, line) else { return String::new() };
    let Some(source) = text.lines().nth(line as usize - 1) else { return String::new() };
    marked(source, line, column)
}

fn marked(source: &str, line: u32, column: Option<u32>) -> String {
    let source = source.replace('\t', " ");
    let at = column.map_or(0, |column| column.saturating_sub(1) as usize);
    // A long line is cut so that the mark stays in view.
    let skipped = if at < SOURCE_WIDTH { 0 } else { at - SOURCE_WIDTH / 2 };
    let shown: String = source.chars().skip(skipped).take(SOURCE_WIDTH).collect();
    let mut out = format!("{line:>5} | {}\n", shown.trim_end());
    if column.is_some() {
        out += &format!("      | {:>1$}\n", "^", at - skipped + 1);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_under_the_column_also_of_a_long_line() {
        assert_eq!(marked("\ta = b;", 7, Some(6)), "    7 |  a = b;\n      |      ^\n");
        let long = format!("{}!{}", "x".repeat(150), "y".repeat(150));
        let text = marked(&long, 7, Some(151));
        let (source, mark) = text.split_once('\n').unwrap();
        assert_eq!(source.find('!'), mark.find('^'));
        assert!(text.lines().all(|l| l.len() <= WIDTH), "{text}");
        assert_eq!(marked("a", 7, None), "    7 | a\n");
    }
}
