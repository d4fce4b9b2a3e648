//! What Apple's compiler refuses although it is good C++.
//!
//! The host's compiler finds what is no C++. It accepts more than Metal does, so the rules below
//! look for the difference, word by word. They know nothing of types: a name declared elsewhere
//! may hide a pointer from them, and where a reading is in doubt they stay silent.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use super::lexer::Position;
use super::outline::{Item, ItemKind};
use super::unit::Unit;

/// A construct that Apple's compiler refuses.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Lint {
    /// The rule it breaks.
    pub kind: LintKind,
    /// What was found, in words.
    pub message: String,
    /// File.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LintKind {
    /// A pointer or reference names the address space of what it points to.
    AddressSpace,
    /// There is no `double`.
    Double,
    /// There is no `goto`.
    Goto,
    /// There are no `static` variables in functions, save constants.
    StaticLocal,
    /// There is no `new` and no `delete`.
    Allocation,
    /// There are no virtual functions.
    Virtual,
    /// There are no exceptions.
    Exception,
    /// No function calls itself.
    Recursion,
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// Applies every rule; the findings are in source order.
pub(super) fn lint(unit: &Unit<'_>, items: &[Item]) -> Vec<Lint> {
    let mut findings = Findings { unit, list: Vec::new() };
    for i in 0..unit.len() {
        findings.word(i);
    }
    let functions: Vec<_> = items.iter().filter(|i| i.kind == ItemKind::Function).collect();
    for function in &functions {
        findings.parameters(function);
        findings.block(function.body());
    }
    findings.recursion(&functions);
    findings.list.sort_by_key(|(at, _)| *at);
    findings.list.into_iter().map(|(_, lint)| lint).collect()
}

struct Findings<'u, 'a> {
    unit: &'u Unit<'a>,
    /// Each with its token.
    list: Vec<(usize, Lint)>,
}

impl Findings<'_, '_> {
    fn push(&mut self, at: usize, kind: LintKind, message: String) {
        let Position { file, line, column } = self.unit.position(at);
        self.list.push((at, Lint { kind, message, file, line, column }));
    }

    /// Words that are enough by themselves.
    fn word(&mut self, i: usize) {
        let unit = self.unit;
        let before = unit.text_before(i);
        let kind = match unit.text(i) {
            "double" => LintKind::Double,
            "goto" => LintKind::Goto,
            "virtual" => LintKind::Virtual,
            "try" | "throw" | "catch" => LintKind::Exception,
            "new" if before != "operator" => LintKind::Allocation,
            // `= delete` removes a function and frees nothing.
            "delete" if !matches!(before, "operator" | "=") => LintKind::Allocation,
            _ => return,
        };
        self.push(i, kind, format!("`{}` is not part of Metal", unit.text(i)));
    }

    fn parameters(&mut self, function: &Item) {
        let unit = self.unit;
        let Some(parentheses) = &function.parameters else { return };
        let inside = parentheses.start + 1..parentheses.end.saturating_sub(1);
        for part in unit.split(inside) {
            let declared = part.start..unit.find(part.clone(), "=").unwrap_or(part.end);
            if let Some(star) = bare_pointer(unit, declared) {
                self.push(star, LintKind::AddressSpace, bare_message(unit, star, "parameter"));
            }
        }
    }

    /// Reads the statements of a block.
    fn block(&mut self, range: Range<usize>) {
        let unit = self.unit;
        let mut i = range.start;
        let mut starts_statement = true;
        while i < range.end {
            if starts_statement {
                self.statement(i, range.end, &["=", ";", "["]);
            }
            match unit.text(i) {
                "{" => self.block(i + 1..unit.partner(i)),
                // The later clauses of a `for` are expressions.
                "(" if matches!(unit.text_before(i), "for" | "if" | "while" | "switch") => {
                    self.statement(i + 1, unit.partner(i), &["=", ":"]);
                }
                _ => {}
            }
            starts_statement = matches!(unit.text(i), ";" | "{");
            i = unit.next_sibling(i);
        }
    }

    /// Checks what may be a declaration at `start`; `ends` are the tokens that can follow a name.
    fn statement(&mut self, start: usize, end: usize, ends: &[&str]) {
        let unit = self.unit;
        let specifiers = start..(start..end).find(|i| !is_specifier(unit, *i)).unwrap_or(end);
        let has = |word: &str| specifiers.clone().any(|i| unit.text(i) == word);
        if has("static") && !has("constant") && !has("constexpr") {
            let message = "a variable in a function cannot be `static`".to_owned();
            self.push(start, LintKind::StaticLocal, message);
        }
        let Some(name) = pointer_name(unit, start..end) else { return };
        if ends.contains(&unit.text(name + 1))
            && let Some(star) = bare_pointer(unit, start..name)
        {
            self.push(star, LintKind::AddressSpace, bare_message(unit, star, "variable"));
        }
    }

    /// Finds functions that call themselves. With several functions of a name, or a template, a
    /// call may mean another one, so these are left alone.
    fn recursion(&mut self, functions: &[&Item]) {
        let unit = self.unit;
        let mut by_name: HashMap<_, Vec<&Item>> = HashMap::new();
        for function in functions {
            let Some(name) = function.name(unit) else { continue };
            by_name.entry(unit.text(name)).or_default().push(function);
        }
        for (name, list) in by_name {
            let [function] = list.as_slice() else { continue };
            let is_call = |i: &usize| {
                unit.text(*i) == name
                    && unit.text(*i + 1) == "("
                    && !matches!(unit.text_before(*i), "." | "->" | "::")
            };
            if let Some(call) = function.body().find(is_call).filter(|_| !function.is_template) {
                self.push(call, LintKind::Recursion, format!("`{name}` calls itself"));
            }
        }
    }
}

fn is_specifier(unit: &Unit<'_>, i: usize) -> bool {
    unit.is_address_space(i)
        || matches!(unit.text(i), "const" | "constexpr" | "volatile" | "static" | "inline")
}

/// The first `*`, `&` or `&&` of a declaration that has no word for an address space.
///
/// One word is enough for several levels, although each level should have its own: which word
/// belongs to which level is for the compiler to say.
fn bare_pointer(unit: &Unit<'_>, declaration: Range<usize>) -> Option<usize> {
    let mut star = None;
    let mut i = declaration.start;
    while i < declaration.end {
        match unit.text(i) {
            "*" | "&" | "&&" => star = star.or(Some(i)),
            // `T (&name)[N]`
            "(" if matches!(unit.text(i + 1), "*" | "&" | "&&") => star = star.or(Some(i + 1)),
            "<" => i = unit.close_angle(i, declaration.end)?,
            _ if unit.is_address_space(i) => return None,
            _ => {}
        }
        i = unit.next_sibling(i);
    }
    star
}

/// The name that a declaration of a pointer or reference would declare: the word behind
/// `type *`, where `type` is made of words, scopes and template arguments only.
fn pointer_name(unit: &Unit<'_>, range: Range<usize>) -> Option<usize> {
    let mut i = range.start;
    let mut type_words = 0;
    while !matches!(unit.text(i), "*" | "&" | "&&") {
        match unit.text(i) {
            "::" => {}
            "<" => i = unit.close_angle(i, range.end)?,
            "return" | "else" | "case" | "goto" | "delete" | "throw" | "typedef" | "using" => {
                return None;
            }
            _ if is_specifier(unit, i) => {}
            _ if unit.is_word(i) => type_words += 1,
            _ => return None,
        }
        i += 1;
    }
    let qualifier = |i: usize| matches!(unit.text(i), "*" | "&" | "&&") || is_specifier(unit, i);
    let name = (i..range.end).find(|i| !qualifier(*i))?;
    (type_words > 0 && unit.is_word(name)).then_some(name)
}

fn bare_message(unit: &Unit<'_>, star: usize, what: &str) -> String {
    let sort = if unit.text(star) == "*" { "pointer" } else { "reference" };
    format!("this {what} is a {sort} without an address space")
}

#[cfg(test)]
mod tests {
    use super::super::outline::outline;
    use super::*;

    fn kinds(source: &str) -> Vec<(LintKind, u32)> {
        let unit = Unit::parse(source).unwrap();
        lint(&unit, &outline(&unit)).into_iter().map(|l| (l.kind, l.column)).collect()
    }

    #[test]
    fn pointers_without_address_space_are_found() {
        use LintKind::AddressSpace;
        assert_eq!(kinds("void f(const float *p) {}"), [(AddressSpace, 20)]);
        assert_eq!(kinds("void f(float (&p)[4], int) {}"), [(AddressSpace, 15)]);
        assert_eq!(kinds("void f() { const float *p = q; }"), [(AddressSpace, 24)]);
        assert_eq!(kinds("void f() { for (m::V<int> &p : q) {} }"), [(AddressSpace, 27)]);
    }

    #[test]
    fn good_metal_is_left_alone() {
        for source in [
            "void f(device const float *p, thread float (&x)[4], int n = 2 * 3) { x[0] *= *p; }",
            "void f() { device auto &p = q[1]; a = b * c; for (; a && b; i++) {} if (a & b) {} }",
            "void f() { return a * b; static constexpr constant int t[] = {a & b}; }",
            "struct S { S(const thread S &) = delete; }; float f(float x) { return metal::f(x); }",
            "template <int N> int f() { return f<N - 1>(); } int g(int x) { return g.g(x); }",
            "int f(int x) { return f(half(x)); } int f(half x) { return 1; }",
        ] {
            assert_eq!(kinds(source), [], "{source}");
        }
    }

    #[test]
    fn words_and_structure_are_found() {
        use LintKind::{Allocation, Double, Exception, Goto, Recursion, StaticLocal, Virtual};
        assert_eq!(
            kinds("int f(int x) { static int n; goto e; delete p; return f(x - 1); }"),
            [(StaticLocal, 16), (Goto, 30), (Allocation, 38), (Recursion, 55)]
        );
        assert_eq!(
            kinds("struct S { virtual double f(); }; void g() { try { throw 1; } catch (...) {} }"),
            [(Virtual, 12), (Double, 20), (Exception, 46), (Exception, 52), (Exception, 63)]
        );
    }
}
