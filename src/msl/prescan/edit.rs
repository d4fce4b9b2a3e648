//! Replacements in the source that leave its lines where they are.

use std::ops::Range;

/// Bytes to replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    /// The bytes of the source.
    pub(super) span: Range<usize>,
    /// What to put there, on one line.
    pub(super) text: String,
}

impl Edit {
    /// An edit that leaves nothing but line breaks.
    pub(super) fn blank(span: Range<usize>) -> Self {
        Self { span, text: String::new() }
    }
}

/// Applies edits; of overlapping ones, the one that starts first and reaches furthest counts.
pub(super) fn apply(source: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| (edit.span.start, usize::MAX - edit.span.end));
    let mut out = String::with_capacity(source.len());
    let mut done = 0;
    for edit in edits.iter().filter(|edit| !edit.span.is_empty()) {
        if edit.span.start < done {
            continue;
        }
        out.push_str(source.get(done..edit.span.start).unwrap_or_default());
        out.push_str(&edit.text);
        push_lines(&mut out, source.get(edit.span.clone()).unwrap_or_default());
        done = edit.span.end;
    }
    out.push_str(source.get(done..).unwrap_or_default());
    out
}

/// Pushes the line breaks and directives of a replaced text, so that what follows keeps its
/// line, even if a line marker was in between.
fn push_lines(out: &mut String, replaced: &str) {
    for line in replaced.split('\n').skip(1) {
        out.push('\n');
        if line.trim_start().starts_with('#') {
            out.push_str(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_markers_survive() {
        let source = "a b\n# 7 \"f\"\nc d";
        let edits =
            vec![Edit { span: 12..13, text: "no".into() }, Edit { span: 2..13, text: "X".into() }];
        assert_eq!(apply(source, edits), "a X\n# 7 \"f\"\n d");
    }
}
