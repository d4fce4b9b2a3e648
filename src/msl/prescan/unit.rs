//! A source as bracketed tokens, with the `[[...]]` attributes set aside.
//!
//! Attributes can stand almost anywhere. Taking them out of the token sequence leaves plain C++
//! for the passes to read; [`Unit::attributes`] finds them again by the tokens around them.

use std::ops::{Range, RangeInclusive};

use super::lexer::{self, Kind, Lines, Position, Token};
use super::{ErrorKind, PrescanError};

/// The words that place a variable or a pointee in an address space.
pub(super) const ADDRESS_SPACES: [&str; 6] =
    ["device", "constant", "threadgroup", "thread", "ray_data", "threadgroup_imageblock"];

/// Deepest nesting of brackets that is read; clang's own limit is 256 as well.
const MAX_NESTING: usize = 256;

/// One preprocessed source file.
#[derive(Debug)]
pub(super) struct Unit<'a> {
    /// The text that was read.
    pub(super) source: &'a str,
    tokens: Vec<Token<'a>>,
    /// For a bracket the index of its counterpart, for other tokens their own.
    partners: Vec<usize>,
    attributes: Vec<Attribute<'a>>,
    /// Byte ranges of the `[[...]]` groups.
    pub(super) attribute_spans: Vec<Range<usize>>,
    lines: Lines<'a>,
}

/// One attribute of a `[[...]]` group, such as `buffer(0)`.
#[derive(Debug)]
pub(super) struct Attribute<'a> {
    /// Index of the token that follows the group.
    before: usize,
    /// The attribute's name.
    pub(super) name: &'a str,
    /// The tokens between its parentheses.
    pub(super) arguments: Vec<Token<'a>>,
}

impl<'a> Unit<'a> {
    /// Reads a source, matches its brackets and sets its attributes aside.
    pub(super) fn parse(source: &'a str) -> Result<Self, PrescanError> {
        let (raw, lines) = lexer::lex(source);
        let mut unit = Self {
            source,
            tokens: Vec::with_capacity(raw.len()),
            partners: Vec::new(),
            attributes: Vec::new(),
            attribute_spans: Vec::new(),
            lines,
        };
        let mut rest = raw.as_slice();
        while let Some((token, after)) = rest.split_first() {
            if token.text == "[[" {
                rest = unit.take_attributes(token, after)?;
            } else {
                unit.tokens.push(*token);
                rest = after;
            }
        }
        unit.partners = unit.match_brackets()?;
        Ok(unit)
    }

    /// Reads an attribute group that `open` starts; returns the tokens behind it.
    fn take_attributes<'t>(
        &mut self,
        open: &Token<'a>,
        inside: &'t [Token<'a>],
    ) -> Result<&'t [Token<'a>], PrescanError> {
        let mut depth = 2_usize;
        let closing = inside.iter().position(|token| {
            match token.text {
                "[[" => depth += 2,
                "[" => depth += 1,
                "]" => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let unclosed = || self.error_at(open.start, ErrorKind::Unbalanced("[[".to_owned()));
        let closing = closing.ok_or_else(unclosed)?;
        let (group, after) = inside.split_at_checked(closing + 1).unwrap_or((inside, &[]));
        let end = group.last().map_or(open.end(), Token::end);
        self.attribute_spans.push(open.start..end);
        let content = group.get(..closing.saturating_sub(1)).unwrap_or_default();
        let before = self.tokens.len();
        self.attributes.extend(split_commas(content).into_iter().filter_map(|tokens| {
            let paren = tokens.iter().position(|t| t.text == "(").unwrap_or(tokens.len());
            let name = tokens.get(..paren)?.iter().rfind(|t| t.kind == Kind::Word)?.text;
            let arguments = tokens.get(paren + 1..tokens.len().saturating_sub(1));
            Some(Attribute { before, name, arguments: arguments.unwrap_or_default().to_vec() })
        }));
        Ok(after)
    }

    fn match_brackets(&self) -> Result<Vec<usize>, PrescanError> {
        let mut partners: Vec<usize> = (0..self.tokens.len()).collect();
        let mut open: Vec<(usize, &str)> = Vec::new();
        for (i, token) in self.tokens.iter().enumerate() {
            let closing = match token.text {
                "(" => Some(")"),
                "[" => Some("]"),
                "{" => Some("}"),
                _ => None,
            };
            if let Some(closing) = closing {
                open.push((i, closing));
                if open.len() > MAX_NESTING {
                    return Err(self.error(i, ErrorKind::Nesting(MAX_NESTING)));
                }
            } else if matches!(token.text, ")" | "]" | "}") {
                let Some((other, _)) = open.pop().filter(|(_, text)| *text == token.text) else {
                    return Err(self.error(i, ErrorKind::Unbalanced(token.text.to_owned())));
                };
                partners.swap(i, other);
            }
        }
        match open.pop() {
            Some((i, _)) => Err(self.error(i, ErrorKind::Unbalanced(self.text(i).to_owned()))),
            None => Ok(partners),
        }
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Text of a token, empty past the end.
    pub(super) fn text(&self, i: usize) -> &'a str {
        self.tokens.get(i).map_or("", |token| token.text)
    }

    /// Text of the token before `i`, empty at the start.
    pub(super) fn text_before(&self, i: usize) -> &'a str {
        i.checked_sub(1).map_or("", |i| self.text(i))
    }

    /// Whether a token is an identifier or keyword.
    pub(super) fn is_word(&self, i: usize) -> bool {
        self.tokens.get(i).is_some_and(|token| token.kind == Kind::Word)
    }

    /// Whether a token is one of the address-space words.
    pub(super) fn is_address_space(&self, i: usize) -> bool {
        ADDRESS_SPACES.contains(&self.text(i))
    }

    /// The bracket that belongs to the bracket at `i`, otherwise `i`.
    pub(super) fn partner(&self, i: usize) -> usize {
        self.partners.get(i).copied().unwrap_or(i)
    }

    /// The token after `i`, or after the whole group that `i` opens.
    pub(super) fn next_sibling(&self, i: usize) -> usize {
        self.partner(i).max(i) + 1
    }

    /// Index of the `>` that closes the `<` at `open`, looked for before `end`.
    pub(super) fn close_angle(&self, open: usize, end: usize) -> Option<usize> {
        let mut depth = 0_usize;
        let mut i = open;
        while i < end {
            match self.text(i) {
                "<" => depth += 1,
                ">" if depth == 1 => return Some(i),
                ">" => depth -= 1,
                ";" | "{" | ")" | "]" | "}" => return None,
                _ => {}
            }
            i = self.next_sibling(i);
        }
        None
    }

    /// Index of the `<` that the `>` at `close` closes, looked for from `start` on.
    pub(super) fn open_angle(&self, close: usize, start: usize) -> Option<usize> {
        let mut depth = 0_usize;
        for i in (start..=close).rev() {
            match self.text(i) {
                ">" => depth += 1,
                "<" if depth == 1 => return Some(i),
                "<" => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        None
    }

    /// The comma-separated parts of a token range; commas in brackets or template arguments
    /// separate nothing.
    pub(super) fn split(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let mut start = range.start;
        let mut i = range.start;
        while i < range.end {
            match self.text(i) {
                "<" => i = self.close_angle(i, range.end).unwrap_or(i),
                "," => {
                    parts.push(start..i);
                    start = i + 1;
                }
                _ => {}
            }
            i = self.next_sibling(i);
        }
        if start < range.end {
            parts.push(start..range.end);
        }
        parts
    }

    /// First token of `range` that is `text` and in no bracket within the range.
    pub(super) fn find(&self, range: Range<usize>, text: &str) -> Option<usize> {
        let mut i = range.start;
        while i < range.end {
            if self.text(i) == text {
                return Some(i);
            }
            i = self.next_sibling(i);
        }
        None
    }

    /// The attributes that stand before any token of `tokens`.
    pub(super) fn attributes(
        &self,
        tokens: RangeInclusive<usize>,
    ) -> impl Iterator<Item = &Attribute<'a>> {
        self.attributes.iter().filter(move |attribute| tokens.contains(&attribute.before))
    }

    /// The bytes that a token range covers.
    pub(super) fn span(&self, range: Range<usize>) -> Range<usize> {
        let start = self.tokens.get(range.start).map_or(self.source.len(), |t| t.start);
        let last = range.end.checked_sub(1).and_then(|i| self.tokens.get(i));
        start..last.map_or(start, Token::end).max(start)
    }

    /// Tokens on one line, as each is mapped, spaced where the source has any space.
    pub(super) fn join_with(
        &self,
        range: Range<usize>,
        map: impl Fn(&'a str) -> &'a str,
    ) -> String {
        let mut text = String::new();
        let mut previous_end = None;
        for token in self.tokens.get(range).unwrap_or_default() {
            let mapped = map(token.text);
            if mapped.is_empty() {
                continue;
            }
            if previous_end.is_some_and(|end| end != token.start) {
                text.push(' ');
            }
            text.push_str(mapped);
            previous_end = Some(token.end());
        }
        text
    }

    /// Tokens on one line, spaced where the source has any space.
    pub(super) fn join(&self, range: Range<usize>) -> String {
        self.join_with(range, |text| text)
    }

    /// Original position of a token.
    pub(super) fn position(&self, i: usize) -> Position {
        self.lines.locate(self.span(i..i + 1).start)
    }

    /// An error at a token.
    pub(super) fn error(&self, i: usize, kind: ErrorKind) -> PrescanError {
        self.error_at(self.span(i..i + 1).start, kind)
    }

    fn error_at(&self, offset: usize, kind: ErrorKind) -> PrescanError {
        let Position { file, line, column } = self.lines.locate(offset);
        PrescanError { kind, file, line, column }
    }
}

/// The parts between the commas of an attribute group that are in no parentheses.
fn split_commas<'t, 'a>(tokens: &'t [Token<'a>]) -> Vec<&'t [Token<'a>]> {
    let mut depth = 0_isize;
    tokens
        .split(|token| {
            match token.text {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            token.text == "," && depth == 0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_by_the_token_they_precede() {
        let unit = Unit::parse("f(int x [[a, b(1, 2)]], int y [[ns::c]])").unwrap();
        assert_eq!(unit.join(0..unit.len()), "f(int x , int y )");
        let names = |range| unit.attributes(range).map(|a| a.name).collect::<Vec<_>>();
        assert_eq!(names(2..=4), ["a", "b"]);
        assert_eq!(names(5..=7), ["c"]);
        assert_eq!(unit.attributes[1].arguments.len(), 3);
    }

    #[test]
    fn unbalanced_brackets_are_errors_with_a_position() {
        for (source, bracket, column) in [("f(]", "]", 3), ("a {", "{", 3), ("x [[y]", "[[", 3)] {
            let error = Unit::parse(source).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unbalanced(bracket.into()));
            assert_eq!((error.line, error.column), (1, column));
        }
    }

    #[test]
    fn commas_in_templates_and_brackets_do_not_split() {
        let unit = Unit::parse("vec<a, b<c, d>> x, f(1, 2), y").unwrap();
        let parts = unit.split(0..unit.len());
        let texts: Vec<_> = parts.into_iter().map(|part| unit.join(part)).collect();
        assert_eq!(texts, ["vec<a, b<c, d>> x", "f(1, 2)", "y"]);
    }
}
