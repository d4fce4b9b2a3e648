//! Tokens of preprocessed source, with byte offsets and the original lines.

/// A place in the file that the author wrote, before preprocessing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// File name of the line marker in force.
    pub(super) file: String,
    /// Line, from 1.
    pub(super) line: u32,
    /// Column, from 1. Exact unless a macro was expanded earlier on the line.
    pub(super) column: u32,
}

/// What a token is, as far as the passes care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Identifier or keyword.
    Word,
    /// Number with its suffix.
    Number,
    /// String or character literal with its quotes.
    Quoted,
    /// Operator or bracket.
    Punctuation,
}

/// A token and where its text starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    /// What it is.
    pub(super) kind: Kind,
    /// Its text.
    pub(super) text: &'a str,
    /// Byte offset in the preprocessed source.
    pub(super) start: usize,
}

impl Token<'_> {
    /// Byte offset just past the token.
    pub(super) fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

/// The line markers of a preprocessed source.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    source: &'a str,
    markers: Vec<Marker<'a>>,
}

/// From `offset` on, the text is that of `file` from `line` on.
#[derive(Debug)]
struct Marker<'a> {
    offset: usize,
    line: u32,
    file: &'a str,
}

impl Lines<'_> {
    /// The original position of a byte offset.
    pub(super) fn locate(&self, offset: usize) -> Position {
        let known = self.markers.partition_point(|m| m.offset <= offset);
        let marker = known.checked_sub(1).and_then(|i| self.markers.get(i));
        let (from, first_line, file) = marker.map_or((0, 1, ""), |m| (m.offset, m.line, m.file));
        let before = self.source.get(from..offset).unwrap_or_default();
        let breaks = before.matches('\n').count();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        Position {
            file: file.to_owned(),
            line: first_line.saturating_add(small(breaks)),
            column: small(column).saturating_add(1),
        }
    }
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Operators of more than one character that must not be read as several.
///
/// `>>` and `<<` are absent on purpose: as single characters they close and open template
/// argument lists, and nothing here needs to know a shift.
const OPERATORS: [&str; 22] = [
    "<<=", ">>=", "::", "->", "[[", "&&", "||", "++", "--", "-=", "+=", "*=", "/=", "%=", "&=",
    "|=", "^=", "!=", "==", "<=", ">=", "##",
];

/// Splits a preprocessed source into tokens; white space, comments and directives are no tokens.
pub(super) fn lex(source: &str) -> (Vec<Token<'_>>, Lines<'_>) {
    let mut tokens = Vec::new();
    let mut markers = Vec::new();
    let mut at = 0;
    let mut line_start = true;
    while let Some(rest) = source.get(at..).filter(|rest| !rest.is_empty()) {
        if line_start && rest.trim_start_matches([' ', '\t']).starts_with('#') {
            let directive = rest.split('\n').next().unwrap_or_default();
            let offset = at + directive.len() + 1;
            markers.extend(line_marker(directive).map(|(line, file)| Marker {
                offset,
                line,
                file,
            }));
            at += directive.len();
            line_start = false;
            continue;
        }
        let (kind, length) = next_token(rest);
        let text = rest.get(..length).unwrap_or(rest);
        tokens.extend(kind.map(|kind| Token { kind, text, start: at }));
        line_start = text.ends_with('\n');
        at += text.len();
    }
    (tokens, Lines { source, markers })
}

/// Line and file of `# 12 "file" 1` or `#line 12 "file"`; nothing for other directives.
fn line_marker(directive: &str) -> Option<(u32, &str)> {
    let rest = directive.trim().strip_prefix('#')?.trim_start();
    let rest = rest.strip_prefix("line").unwrap_or(rest).trim_start();
    let (line, rest) = rest.split_once(' ')?;
    let file = rest.split('"').nth(1)?;
    Some((line.parse().ok()?, file))
}

/// Kind and length in bytes of what `rest` starts with; no kind for what is skipped.
fn next_token(rest: &str) -> (Option<Kind>, usize) {
    let mut chars = rest.chars();
    let first = chars.next().unwrap_or_default();
    let second = chars.next().unwrap_or_default();
    match first {
        // White space ends with its line, so that a directive is seen at the start of the next.
        '\n' => (None, 1),
        c if c.is_whitespace() => (None, run(rest, |c| c.is_whitespace() && c != '\n')),
        '/' if second == '/' => (None, run(rest, |c| c != '\n')),
        '/' if second == '*' => (None, rest.find("*/").map_or(rest.len(), |i| i + 2)),
        '"' | '\'' => (Some(Kind::Quoted), quoted(rest, first)),
        c if is_word(c) && !c.is_ascii_digit() => (Some(Kind::Word), run(rest, is_word)),
        c if c.is_ascii_digit() || (c == '.' && second.is_ascii_digit()) => {
            (Some(Kind::Number), number(rest))
        }
        c => {
            let operator = OPERATORS.iter().find(|operator| rest.starts_with(**operator));
            (Some(Kind::Punctuation), operator.map_or(c.len_utf8(), |operator| operator.len()))
        }
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Bytes of the longest start of `text` whose characters all satisfy `inside`.
fn run(text: &str, inside: impl Fn(char) -> bool) -> usize {
    text.find(|c| !inside(c)).unwrap_or(text.len())
}

/// Bytes of the literal that `text` starts with; one that does not end on its line ends there.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return i,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// Bytes of the number that `text` starts with: a sign belongs to it after an exponent letter.
fn number(text: &str) -> usize {
    let hex = text.starts_with("0x") || text.starts_with("0X");
    let mut previous = ' ';
    for (i, c) in text.char_indices() {
        let exponent = matches!(previous, 'p' | 'P') || (!hex && matches!(previous, 'e' | 'E'));
        let inside = is_word(c) || matches!(c, '.' | '\'') || (matches!(c, '+' | '-') && exponent);
        if !inside {
            return i;
        }
        previous = c;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<&str> {
        lex(source).0.iter().map(|t| t.text).collect()
    }

    #[test]
    fn splits_numbers_literals_and_nested_templates() {
        assert_eq!(
            texts("a<b<1.5e-3h>>x->y /* c */ \"s\\\"\" 0xe+1 // d"),
            ["a", "<", "b", "<", "1.5e-3h", ">", ">", "x", "->", "y", "\"s\\\"\"", "0xe", "+", "1"]
        );
    }

    #[test]
    fn markers_map_offsets_to_original_lines() {
        let source = "# 1 \"a.metal\"\nx\n  # 40 \"b.h\" 1\n\n  y";
        let (tokens, lines) = lex(source);
        let at = |i: usize| lines.locate(tokens[i].start);
        assert_eq!(at(0), Position { file: "a.metal".into(), line: 1, column: 1 });
        assert_eq!(at(1), Position { file: "b.h".into(), line: 41, column: 3 });
    }

    #[test]
    fn unfinished_and_foreign_text_ends_quietly() {
        assert_eq!(texts("\"abc\n/* never"), ["\"abc"]);
        assert_eq!(texts("é €"), ["é", "€"]);
        assert!(texts("").is_empty());
    }
}
