//! Writes out loops of constant length in WGSL text.
//!
//! A local array that is indexed by a loop's variable lives in memory on drivers that do not unroll
//! the loop, and then a kernel that keeps its data in such arrays is several times slower. WGSL has
//! no way to ask for unrolling, so loops whose first line ends in `// unroll` are written out here:
//! `{ const i = 0u; body }` and so on. The text means the same before and after.

use std::collections::HashMap;

/// Ends the first line of a loop that is to be written out.
const MARK: &str = "{ // unroll";

/// A line of text, and the line of the file (counted from 1) that it comes from.
pub(crate) type Line<'a> = (std::borrow::Cow<'a, str>, u32);

/// Values of the constants in scope.
#[derive(Debug, Clone, Default)]
pub(crate) struct Constants(HashMap<String, u32>);

impl Constants {
    /// Adds the module's constants of `text` whose value is a whole number that follows from those
    /// before it.
    pub fn read(&mut self, text: &str) {
        for line in text.lines() {
            let declared = line.strip_prefix("const ").and_then(|l| l.split_once(';'));
            let Some((name, value)) = declared.and_then(|(l, _)| l.split_once(" = ")) else {
                continue;
            };
            if let Some(value) = self.evaluate(value) {
                self.0.insert(name.to_owned(), value);
            }
        }
    }

    fn with(&self, name: &str, value: u32) -> Self {
        let mut all = self.clone();
        all.0.insert(name.to_owned(), value);
        all
    }

    fn evaluate(&self, text: &str) -> Option<u32> {
        let mut parser = Parser { rest: text.trim(), constants: self };
        let value = parser.shift()?;
        parser.rest.is_empty().then_some(value)
    }
}

/// Writes out the marked loops of `text`. A loop whose bounds are not constant stays as it is.
pub(crate) fn unroll<'a>(text: &'a str, constants: &Constants) -> Vec<Line<'a>> {
    let lines: Vec<Line<'a>> = (1..).zip(text.lines()).map(|(n, l)| (l.into(), n)).collect();
    let mut out = Vec::with_capacity(lines.len());
    expand(&lines, constants, &mut out);
    out
}

fn expand<'a>(lines: &[Line<'a>], constants: &Constants, out: &mut Vec<Line<'a>>) {
    let mut at = 0;
    while let Some((line, number)) = lines.get(at) {
        let Some((body, header)) = marked(&lines[at..]).zip(Header::parse(line, constants)) else {
            out.push((line.clone(), *number));
            at += 1;
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        for value in &header.values {
            out.push((format!("{indent}{{ const {} = {value}u;", header.name).into(), *number));
            expand(&lines[at + 1..at + body], &constants.with(header.name, *value), out);
            out.push(lines[at + body].clone());
        }
        at += body + 1;
    }
}

/// Where the loop that starts at the first line ends, if it is marked: its closing brace is the
/// first one with the same indentation.
fn marked(lines: &[Line<'_>]) -> Option<usize> {
    let first = lines.first().filter(|(line, _)| line.ends_with(MARK))?;
    let indent = first.0.len() - first.0.trim_start().len();
    lines.iter().position(|(line, _)| line.len() == indent + 1 && line.ends_with('}'))
}

/// The variable of a loop and the values it takes.
struct Header<'a> {
    name: &'a str,
    values: Vec<u32>,
}

impl<'a> Header<'a> {
    /// Reads `for (var NAME = FROM; NAME < TO; STEP) {`.
    fn parse(line: &'a str, constants: &Constants) -> Option<Self> {
        let inner = line.trim().strip_prefix("for (var ")?.strip_suffix(MARK)?.trim_end();
        let mut parts = inner.strip_suffix(')')?.split("; ");
        let (name, from) = parts.next()?.split_once(" = ")?;
        let to = parts.next()?.strip_prefix(name)?.strip_prefix(" < ")?;
        let step = parts.next()?.strip_prefix(name)?;
        let next: Box<dyn Fn(u32) -> Option<u32>> = match step {
            "++" => Box::new(|x| x.checked_add(1)),
            " <<= 1u" => Box::new(|x| x.checked_mul(2).filter(|&y| y > x)),
            _ => {
                let by = constants.evaluate(step.strip_prefix(" += ")?).filter(|&by| by > 0)?;
                Box::new(move |x| x.checked_add(by))
            }
        };
        let to = constants.evaluate(to)?;
        let from = constants.evaluate(from)?;
        let values = std::iter::successors(Some(from), |&x| next(x)).take_while(|&x| x < to);
        Some(Self { name, values: values.collect() })
    }
}

/// Whole-number expressions of names, `+ - * / % << >>`, `min`, `max` and parentheses.
struct Parser<'a> {
    rest: &'a str,
    constants: &'a Constants,
}

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest.strip_prefix(token);
        if let Some(rest) = found {
            self.rest = rest.trim_start();
        }
        found.is_some()
    }

    fn shift(&mut self) -> Option<u32> {
        let mut value = self.sum()?;
        loop {
            value = if self.eat("<<") {
                value.checked_shl(self.sum()?)?
            } else if self.eat(">>") {
                value.checked_shr(self.sum()?)?
            } else {
                return Some(value);
            };
        }
    }

    fn sum(&mut self) -> Option<u32> {
        let mut value = self.product()?;
        loop {
            value = if self.eat("+") {
                value.checked_add(self.product()?)?
            } else if self.eat("-") {
                value.checked_sub(self.product()?)?
            } else {
                return Some(value);
            };
        }
    }

    fn product(&mut self) -> Option<u32> {
        let mut value = self.atom()?;
        loop {
            value = if self.eat("*") {
                value.checked_mul(self.atom()?)?
            } else if self.eat("/") {
                value.checked_div(self.atom()?)?
            } else if self.eat("%") {
                value.checked_rem(self.atom()?)?
            } else {
                return Some(value);
            };
        }
    }

    fn atom(&mut self) -> Option<u32> {
        if self.eat("(") {
            let value = self.shift()?;
            return self.eat(")").then_some(value);
        }
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest.trim_start();
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return word.trim_end_matches('u').parse().ok();
        }
        let choose = match word {
            "min" => u32::min,
            "max" => u32::max,
            _ => return self.constants.0.get(word).copied(),
        };
        if !self.eat("(") {
            return None;
        }
        let (a, comma) = (self.shift()?, self.eat(","));
        let (b, close) = (self.shift()?, self.eat(")"));
        (comma && close).then(|| choose(a, b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constants(text: &str) -> Constants {
        let mut constants = Constants::default();
        constants.read(text);
        constants
    }

    fn unrolled(text: &str, given: &str) -> String {
        let lines = unroll(text, &constants(given));
        lines.iter().map(|(l, _)| l.trim()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_marked_loop_is_written_out() {
        let text = "for (var i = 0u; i < N / 2u; i++) { // unroll\n    a[i] += 1u;\n}\nb();\n";
        assert_eq!(
            unrolled(text, "const N = 4u;\n"),
            "{ const i = 0u; a[i] += 1u; } { const i = 1u; a[i] += 1u; } b();"
        );
    }

    #[test]
    fn the_bound_of_an_inner_loop_may_be_the_outer_variable() {
        let text = "for (var s = 1u; s < 8u; s <<= 1u) { // unroll\n  for (var j = 0u; j < 4u / s; j += 2u) { // unroll\n    f(s, j);\n  }\n}\n";
        let calls = unrolled(text, "").matches("f(s, j);").count();
        assert_eq!(calls, 2 + 1 + 1);
    }

    #[test]
    fn what_is_not_constant_or_not_marked_stays() {
        for text in [
            "for (var i = 0u; i < params.n; i++) { // unroll\n    f();\n}",
            "for (var i = 0u; i < N; i++) {\n    f();\n}",
            "for (var i = 0u; i < N; i += 0u) { // unroll\n    f();\n}",
        ] {
            let same = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
            assert_eq!(unrolled(text, "const N = 4u;\n"), same);
        }
    }

    #[test]
    fn a_loop_without_iterations_vanishes() {
        assert_eq!(unrolled("for (var i = 4u; i < 4u; i++) { // unroll\n    f();\n}", ""), "");
    }

    #[test]
    fn constants_follow_from_those_before_them() {
        let c = constants(
            "const A = 6u;\nconst B = (A + 2u) * 3u - A / 4u % 5u;\nconst C = max(1u, min(B, 8u) / A) << 2u;\nconst F = 1.5f;\nconst T = true;\nconst D = 1u - 2u;\n",
        );
        let value = |name: &str| c.evaluate(name);
        assert_eq!((value("A"), value("B"), value("C")), (Some(6), Some(23), Some(4)));
        assert_eq!(
            (value("F"), value("T"), value("D"), value("1u / 0u")),
            (None, None, None, None)
        );
    }

    #[test]
    fn lines_remember_where_they_come_from() {
        let lines =
            unroll("a\nfor (var i = 0u; i < 2u; i++) { // unroll\nb\n}\nc", &Constants::default());
        let numbers: Vec<u32> = lines.iter().map(|(_, n)| *n).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 2, 3, 4, 5]);
    }
}
