//! The parameters of a kernel and what the host binds to them.

use std::fmt;
use std::ops::Range;

use super::lexer::{Kind, Token};
use super::unit::{Attribute as Written, Unit};
use super::{ErrorKind, PrescanError};

/// A parameter of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgumentInfo {
    /// Its name.
    pub name: String,
    /// Where its value comes from.
    pub attribute: Attribute,
    /// Its type as written, without the name; tokens are separated by single spaces.
    pub type_text: String,
    /// Whether it is a pointer or reference to something not written as `const` or `constant`.
    pub writable: bool,
}

/// Where the value of a kernel's parameter comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// The buffer of this index.
    Buffer(u32),
    /// The buffer whose index is the constant of this name.
    BufferNamed(String),
    /// The threadgroup memory of this index.
    Threadgroup(u32),
    /// The threadgroup memory whose index is the constant of this name.
    ThreadgroupNamed(String),
    /// A value of the running thread, by the name of its attribute.
    Builtin(&'static str),
}

/// The attributes of built-in values, and the field of `msl_rt_ids` that holds each.
const BUILTINS: [(&str, &str); 20] = [
    ("thread_position_in_grid", "gpos"),
    ("thread_position_in_threadgroup", "tpos"),
    ("threadgroup_position_in_grid", "tgpos"),
    ("threads_per_threadgroup", "tgsize"),
    ("threadgroups_per_grid", "gridtg"),
    ("threads_per_grid", "grid"),
    ("grid_size", "grid"),
    ("grid_origin", "zero"),
    ("dispatch_threads_per_threadgroup", "dtgsize"),
    ("thread_index_in_threadgroup", "tid"),
    ("thread_index_in_simdgroup", "lane"),
    ("simdgroup_index_in_threadgroup", "sg"),
    ("simdgroups_per_threadgroup", "n_sg"),
    ("dispatch_simdgroups_per_threadgroup", "n_sg"),
    ("threads_per_simdgroup", "width"),
    ("thread_execution_width", "width"),
    ("thread_index_in_quadgroup", "quadlane"),
    ("quadgroup_index_in_threadgroup", "quad"),
    ("quadgroups_per_threadgroup", "n_quad"),
    ("dispatch_quadgroups_per_threadgroup", "n_quad"),
];

impl Attribute {
    /// The field of the host's `msl_rt_ids` that holds a built-in value; nothing for memory.
    ///
    /// The fields are `gpos`, `tpos`, `tgpos`, `tgsize`, `gridtg`, `grid`, `zero` and `dtgsize`
    /// with three components, and `tid`, `lane`, `sg`, `n_sg`, `width`, `quadlane`, `quad` and
    /// `n_quad` with one.
    pub fn field(&self) -> Option<&'static str> {
        let Self::Builtin(name) = self else { return None };
        BUILTINS.iter().find(|(builtin, _)| builtin == name).map(|(_, field)| *field)
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buffer(index) => write!(f, "buffer({index})"),
            Self::BufferNamed(index) => write!(f, "buffer({index})"),
            Self::Threadgroup(index) => write!(f, "threadgroup({index})"),
            Self::ThreadgroupNamed(index) => write!(f, "threadgroup({index})"),
            Self::Builtin(name) => f.write_str(name),
        }
    }
}

/// Reads the parameters between the parentheses of `parameters`.
///
/// Memory without an index gets the next one after the highest before it, as a file without
/// indices is numbered by its host.
pub(super) fn arguments(
    unit: &Unit<'_>,
    parameters: Range<usize>,
) -> Result<Vec<ArgumentInfo>, PrescanError> {
    let inside = parameters.start + 1..parameters.end.saturating_sub(1);
    let mut free = FreeIndices::default();
    unit.split(inside).into_iter().map(|tokens| argument(unit, tokens, &mut free)).collect()
}

#[derive(Default)]
struct FreeIndices {
    buffer: u32,
    threadgroup: u32,
}

fn argument(
    unit: &Unit<'_>,
    tokens: Range<usize>,
    free: &mut FreeIndices,
) -> Result<ArgumentInfo, PrescanError> {
    let name_at = name(unit, tokens.clone())
        .ok_or_else(|| unit.error(tokens.start, ErrorKind::NamelessArgument))?;
    let name = unit.text(name_at).to_owned();
    let words = tokens.clone().filter(|i| *i != name_at).map(|i| unit.text(i));
    let type_text = words.collect::<Vec<_>>().join(" ");
    let star = tokens.clone().find(|i| matches!(unit.text(*i), "*" | "&" | "["));
    let pointee = tokens.start..star.unwrap_or(tokens.start);

    // A group behind the parameter stands before the comma or parenthesis that ends it.
    let written: Vec<_> = unit.attributes(tokens.start..=tokens.end).collect();
    let by_name = |name: &str| written.iter().find(|attribute| attribute.name == name);
    let in_threadgroup = unit.find(pointee.clone(), "threadgroup").is_some();
    let attribute = if let Some(buffer) = by_name("buffer") {
        number(unit, tokens.start, buffer)?.map_or_else(Attribute::BufferNamed, Attribute::Buffer)
    } else if let Some(threadgroup) = by_name("threadgroup") {
        number(unit, tokens.start, threadgroup)?
            .map_or_else(Attribute::ThreadgroupNamed, Attribute::Threadgroup)
    } else if in_threadgroup {
        Attribute::Threadgroup(free.threadgroup)
    } else if star.is_some() {
        Attribute::Buffer(free.buffer)
    } else {
        builtin(&written).ok_or_else(|| {
            let attributes = written.iter().map(|a| a.name).collect::<Vec<_>>().join(", ");
            let name = name.clone();
            unit.error(tokens.start, ErrorKind::UnknownArgument { name, attributes })
        })?
    };
    match attribute {
        Attribute::Buffer(n) => free.buffer = free.buffer.max(n.saturating_add(1)),
        Attribute::Threadgroup(n) => free.threadgroup = free.threadgroup.max(n.saturating_add(1)),
        _ => {}
    }
    let writable = star.is_some() && !has_const(unit, pointee);
    Ok(ArgumentInfo { name, attribute, type_text, writable })
}

/// The last word of a parameter, before its array dimensions and not among its type's words.
fn name(unit: &Unit<'_>, tokens: Range<usize>) -> Option<usize> {
    let end = unit.find(tokens.clone(), "[").unwrap_or(tokens.end);
    let mut last = end.checked_sub(1)?;
    // `T (&name)[N]`
    if unit.text(last) == ")" {
        last = last.checked_sub(1)?;
    }
    Some(last).filter(|last| *last > tokens.start && unit.is_word(*last))
}

/// Whether `const` or `constant` stands outside template arguments.
fn has_const(unit: &Unit<'_>, tokens: Range<usize>) -> bool {
    let mut i = tokens.start;
    while i < tokens.end {
        match unit.text(i) {
            "const" | "constant" => return true,
            "<" => i = unit.close_angle(i, tokens.end).unwrap_or(i),
            _ => {}
        }
        i = unit.next_sibling(i);
    }
    false
}

fn builtin(written: &[&Written<'_>]) -> Option<Attribute> {
    written.iter().find_map(|attribute| {
        let known = BUILTINS.iter().find(|(name, _)| *name == attribute.name);
        known.map(|(name, _)| Attribute::Builtin(name))
    })
}

/// The index of an attribute: a number or, as the error side of the inner result, a name.
fn number(
    unit: &Unit<'_>,
    at: usize,
    attribute: &Written<'_>,
) -> Result<Result<u32, String>, PrescanError> {
    if let [Token { kind: Kind::Word, text, .. }] = attribute.arguments.as_slice() {
        return Ok(Err((*text).to_owned()));
    }
    let text = attribute.arguments.iter().map(|token| token.text).collect::<String>();
    let digits = text.trim_end_matches(['u', 'U', 'l', 'L']);
    digits.parse().map(Ok).map_err(|_| unit.error(at, ErrorKind::Index(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str) -> Result<Vec<ArgumentInfo>, PrescanError> {
        let unit = Unit::parse(source).unwrap();
        arguments(&unit, 0..unit.len())
    }

    #[test]
    fn attributes_types_and_constness_are_read() {
        let list = read(
            "(constant P &p [[buffer(2)]], device const vec<float, 4> *q, device float *const r,\
             device float const (&x)[1] [[buffer(1u)]], threadgroup float *s [[threadgroup(1)]],\
             threadgroup A<const int> *t, device int *u [[buffer(K), function_constant(c)]],\
             uint3 g [[metal::thread_position_in_grid]],\
             coherent(device) device float4 *h [[buffer(7)]])",
        )
        .unwrap();
        let rows: Vec<_> =
            list.iter().map(|a| (a.name.as_str(), a.attribute.to_string(), a.writable)).collect();
        let expected = [
            ("p", "buffer(2)", false),
            ("q", "buffer(3)", false),
            ("r", "buffer(4)", true),
            ("x", "buffer(1)", false),
            ("s", "threadgroup(1)", true),
            ("t", "threadgroup(2)", true),
            ("u", "buffer(K)", true),
            ("g", "thread_position_in_grid", false),
            ("h", "buffer(7)", true),
        ];
        assert_eq!(rows, expected.map(|(n, a, w)| (n, a.to_owned(), w)));
        assert_eq!(list[0].type_text, "constant P &");
        assert_eq!(list[3].type_text, "device float const ( & ) [ 1 ]");
        assert_eq!(list[7].attribute.field(), Some("gpos"));
    }

    #[test]
    fn an_index_must_be_a_number_or_a_name() {
        let error = read("(device int *x [[buffer(1 + 1)]])").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Index("1+1".into()));
        assert_eq!(read("(int)").unwrap_err().kind, ErrorKind::NamelessArgument);
        assert_eq!(read("()"), Ok(vec![]));
    }
}
