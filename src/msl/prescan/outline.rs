//! The declarations of a source: functions, records and statements outside function bodies.
//!
//! This is no C++ parser. It follows namespaces and records, and tells a function definition
//! from the rest by its braces; that is all the passes need, and what the compiler that reads
//! the result cannot be asked for.

use std::ops::Range;

use super::unit::Unit;

/// What a declaration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ItemKind {
    /// A function with its body.
    Function,
    /// A struct, class or union with its members.
    Record,
    /// Anything that ends with a semicolon.
    Statement,
}

/// A declaration at namespace or record scope. All numbers are token indices.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// What it is.
    pub(super) kind: ItemKind,
    /// All of its tokens, the template head and the final brace or semicolon included.
    pub(super) tokens: Range<usize>,
    /// The tokens before the body or the semicolon.
    pub(super) head: Range<usize>,
    /// Whether it starts with `template <`.
    pub(super) is_template: bool,
    /// The parentheses around the parameters, where there are any.
    pub(super) parameters: Option<Range<usize>>,
    /// The namespaces and records around it, each followed by `::`.
    pub(super) scope: String,
}

impl Item {
    /// Tokens between the braces of a function's body.
    pub(super) fn body(&self) -> Range<usize> {
        self.head.end + 1..self.tokens.end.saturating_sub(1).max(self.head.end + 1)
    }

    /// Index of the function's name: the last word before its parameters or, for an explicit
    /// specialisation, before their template arguments.
    pub(super) fn name(&self, unit: &Unit<'_>) -> Option<usize> {
        let mut before = self.parameters.as_ref()?.start.checked_sub(1)?;
        if unit.text(before) == ">" {
            before = unit.open_angle(before, self.head.start)?.checked_sub(1)?;
        }
        Some(before).filter(|name| unit.is_word(*name))
    }

    /// Whether this declares a constructor of the record around it.
    pub(super) fn is_constructor(&self, unit: &Unit<'_>) -> bool {
        let record = self.scope.trim_end_matches("::").rsplit("::").next();
        let record = record.and_then(|record| record.split_once(RECORD_MARK));
        let name = self.name(unit).map(|name| unit.text(name));
        name.is_some_and(|name| record.is_some_and(|(record, _)| record == name))
    }
}

/// Stands between a record's name and its place in [`Item::scope`].
const RECORD_MARK: char = '@';

/// Lists the declarations in source order, a record before its members.
pub(super) fn outline(unit: &Unit<'_>) -> Vec<Item> {
    let mut walk = Walk { unit, items: Vec::new() };
    walk.scope(0..unit.len(), "");
    walk.items
}

struct Walk<'u, 'a> {
    unit: &'u Unit<'a>,
    items: Vec<Item>,
}

/// What was seen of a declaration so far.
#[derive(Debug, Clone)]
struct Head {
    start: usize,
    is_template: bool,
    is_record: bool,
    is_namespace: bool,
    parameters: Option<Range<usize>>,
}

impl Head {
    fn new(start: usize) -> Self {
        let (is_template, is_record, is_namespace) = (false, false, false);
        Self { start, is_template, is_record, is_namespace, parameters: None }
    }
}

impl Walk<'_, '_> {
    /// Walks the declarations of a namespace or record.
    fn scope(&mut self, range: Range<usize>, scope: &str) {
        let unit = self.unit;
        let mut head = Head::new(range.start);
        let mut i = range.start;
        while i < range.end {
            match unit.text(i) {
                "template" if unit.text(i + 1) == "<" => {
                    head.is_template = true;
                    i = unit.close_angle(i + 1, range.end).unwrap_or(i);
                }
                "struct" | "class" | "union" => head.is_record = true,
                "namespace" => head.is_namespace = true,
                "extern" if unit.text(i + 1).starts_with('"') => head.is_namespace = true,
                "public" | "private" | "protected" if unit.text(i + 1) == ":" => {
                    i += 1;
                    head = Head::new(i + 1);
                }
                "(" if head.parameters.is_none() && opens_parameters(unit, i) => {
                    head.parameters = Some(i..unit.next_sibling(i));
                }
                // An initialiser may hold any bracket, and ends with the statement.
                "=" if unit.text_before(i) != "operator" => {
                    i = unit.find(i..range.end, ";").unwrap_or(range.end);
                    continue;
                }
                ";" => {
                    self.push(ItemKind::Statement, &head, i, i + 1, scope);
                    head = Head::new(i + 1);
                }
                "{" => {
                    if let Some(next) = self.block(&head, i, scope) {
                        head = Head::new(next);
                        i = next;
                        continue;
                    }
                }
                _ => {}
            }
            i = unit.next_sibling(i);
        }
    }

    /// Handles the braces at `open`; returns where the next declaration starts, or nothing if
    /// the braces are inside a declaration that goes on.
    fn block(&mut self, head: &Head, open: usize, scope: &str) -> Option<usize> {
        let unit = self.unit;
        let after = unit.next_sibling(open);
        let inside = open + 1..after.saturating_sub(1);
        let end = if unit.text(after) == ";" { after + 1 } else { after };
        if head.is_namespace {
            self.scope(inside, &inner_scope(unit, head.start..open, scope));
            return Some(after);
        }
        if head.is_record && !ends_with_parameters(unit, head.start..open) {
            self.push(ItemKind::Record, head, open, end, scope);
            // Unlike a namespace, a record is not continued elsewhere: its place is part of its
            // scope, so that specialisations do not share one.
            let name = record_name(unit, head.start..open);
            self.scope(inside, &format!("{scope}{name}{RECORD_MARK}{open}::"));
            return Some(end);
        }
        if head.parameters.is_some() {
            self.push(ItemKind::Function, head, open, after, scope);
            return Some(end);
        }
        None
    }

    fn push(&mut self, kind: ItemKind, head: &Head, head_end: usize, end: usize, scope: &str) {
        self.items.push(Item {
            kind,
            tokens: head.start..end,
            head: head.start..head_end,
            is_template: head.is_template,
            parameters: head.parameters.clone(),
            scope: scope.to_owned(),
        });
    }
}

/// Scope inside `namespace name {`; a nameless namespace and `extern "C"` add nothing.
fn inner_scope(unit: &Unit<'_>, head: Range<usize>, scope: &str) -> String {
    let name = unit.find(head.clone(), "namespace").map(|i| unit.join(i + 1..head.end));
    match name.filter(|name| !name.is_empty()) {
        Some(name) => format!("{scope}{name}::"),
        None => scope.to_owned(),
    }
}

/// The first word after `struct`, `class` or `union` that is no specifier.
fn record_name<'a>(unit: &Unit<'a>, head: Range<usize>) -> &'a str {
    let keyword = |i: &usize| matches!(unit.text(*i), "struct" | "class" | "union");
    let mut i = head.clone().rfind(keyword).map_or(head.end, |i| i + 1);
    while unit.text(i + 1) == "(" {
        i = unit.next_sibling(i + 1);
    }
    if i < head.end { unit.text(i) } else { "" }
}

/// Whether the parenthesis at `open` can start a parameter list, rather than belong to a
/// specifier or to the name `operator()`.
fn opens_parameters(unit: &Unit<'_>, open: usize) -> bool {
    !matches!(
        unit.text_before(open),
        "" | "__attribute__" | "__declspec" | "alignas" | "decltype" | "operator" | "static_assert"
    )
}

/// Whether a head ends like that of a function: with `)` and qualifiers.
fn ends_with_parameters(unit: &Unit<'_>, head: Range<usize>) -> bool {
    let qualifier =
        |i: &usize| unit.is_address_space(*i) || matches!(unit.text(*i), "const" | "noexcept");
    head.rev().find(|i| !qualifier(i)).is_some_and(|i| unit.text(i) == ")")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_records_and_statements_are_told_apart() {
        let source = "using namespace metal; constant float t[2] = {1, 2}; enum { A, B }; \
            namespace n { struct alignas(16) S { float x; float f(int) const { return x; } }; } \
            template <int N = 2> __attribute__((a)) void g(int (&x)[N]) { if (x) { ; } } \
            template void g<3>(int (&)[3]); struct S h() { }";
        let unit = Unit::parse(source).unwrap();
        let items = outline(&unit);
        let heads: Vec<_> =
            items.iter().map(|item| (item.kind, unit.join(item.head.clone()))).collect();
        use ItemKind::{Function, Record, Statement};
        let expected = [
            (Statement, "using namespace metal"),
            (Statement, "constant float t[2] = {1, 2}"),
            (Statement, "enum { A, B }"),
            (Record, "struct alignas(16) S"),
            (Statement, "float x"),
            (Function, "float f(int) const"),
            (Function, "template <int N = 2> __attribute__((a)) void g(int (&x)[N])"),
            (Statement, "template void g<3>(int (&)[3])"),
            (Function, "struct S h()"),
        ];
        assert_eq!(heads, expected.map(|(kind, text)| (kind, text.to_owned())));
        assert!(items[4].scope.starts_with("n::S@"));
        assert!(items[6].is_template && !items[7].is_template);
        assert_eq!(items[6].name(&unit).map(|i| unit.text(i)), Some("g"));
        assert_eq!(unit.join(items[6].body()), "if (x) { ; }");
    }
}
