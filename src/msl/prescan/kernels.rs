//! The kernels of a source and the names that the host knows them by.

use std::collections::HashMap;
use std::ops::Range;

use super::arguments::{ArgumentInfo, arguments};
use super::edit::Edit;
use super::lexer::Kind;
use super::outline::{Item, ItemKind};
use super::unit::Unit;
use super::{ErrorKind, KernelInfo, PrescanError};

/// A kernel template or function.
struct Definition {
    scope: String,
    arguments: Vec<ArgumentInfo>,
}

/// Lists the kernels, and the edits that blank the explicit instantiations among them and rename
/// kernels whose name a helper has too: the registration needs the address of one function.
///
/// A template is only listed under the names of its explicit instantiations.
pub(super) fn kernels(
    unit: &Unit<'_>,
    items: &[Item],
) -> Result<(Vec<KernelInfo>, Vec<Edit>), PrescanError> {
    let mut kernels = Vec::new();
    let mut edits = Vec::new();
    let mut definitions = HashMap::new();
    for item in items.iter().filter(|item| item.kind == ItemKind::Function && is_kernel(unit, item))
    {
        let (Some(name), Some(parameters)) = (item.name(unit), item.parameters.clone()) else {
            continue;
        };
        let arguments = arguments(unit, parameters)?;
        if !item.is_template {
            let mut function = format!("{}{}", item.scope, unit.text(name));
            if shares_its_name(unit, items, item, name) {
                edits.push(Edit {
                    span: unit.span(name..name + 1),
                    text: format!("{}{OWN}", unit.text(name)),
                });
                function.push_str(OWN);
            }
            let host_name = host_name(unit, item).unwrap_or_else(|| unit.text(name).to_owned());
            kernels.push(kernel(unit, name, host_name, function, arguments.clone()));
        }
        let definition = Definition { scope: item.scope.clone(), arguments };
        definitions.entry(unit.text(name)).or_insert(definition);
    }
    for item in items.iter().filter(|item| is_instantiation(unit, item)) {
        let (name, definition, named) = instantiated(unit, item, &definitions)
            .ok_or_else(|| unit.error(item.tokens.start, ErrorKind::Instantiation))?;
        let function = format!("{}{}", definition.scope, unit.join_with(named, erase_space));
        let host_name = host_name(unit, item).unwrap_or_else(|| function.clone());
        kernels.push(kernel(unit, name, host_name, function, definition.arguments.clone()));
        edits.push(Edit::blank(unit.span(item.tokens.clone())));
    }
    Ok((kernels, edits))
}

/// What tells a kernel from a helper of its name.
const OWN: &str = "__kernel";

/// Whether another function beside `item` has its name, which is token `name`.
fn shares_its_name(unit: &Unit<'_>, items: &[Item], item: &Item, name: usize) -> bool {
    let mut functions = items.iter().filter(|other| other.kind == ItemKind::Function);
    functions.any(|other| {
        let its_name = other.name(unit).filter(|at| *at != name);
        other.scope == item.scope && its_name.is_some_and(|at| unit.text(at) == unit.text(name))
    })
}

fn kernel(
    unit: &Unit<'_>,
    at: usize,
    host_name: String,
    function: String,
    arguments: Vec<ArgumentInfo>,
) -> KernelInfo {
    let position = unit.position(at);
    KernelInfo { host_name, function, arguments, file: position.file, line: position.line }
}

/// Whether the word or the attribute `kernel` is in a declaration's head.
fn is_kernel(unit: &Unit<'_>, item: &Item) -> bool {
    unit.find(item.head.clone(), "kernel").is_some()
        || unit.attributes(item.head.start..=item.head.end).any(|a| a.name == "kernel")
}

/// Whether a declaration is `template ... f<...>...;` for a kernel.
fn is_instantiation(unit: &Unit<'_>, item: &Item) -> bool {
    item.kind == ItemKind::Statement
        && !item.is_template
        && unit.text(item.head.start) == "template"
        && (is_kernel(unit, item) || host_name(unit, item).is_some())
}

/// The string of a declaration's `host_name` attribute; adjacent literals are one string.
fn host_name(unit: &Unit<'_>, item: &Item) -> Option<String> {
    let mut written = unit.attributes(item.head.start..=item.head.end);
    let attribute = written.find(|attribute| attribute.name == "host_name")?;
    let literals = attribute.arguments.iter().filter(|token| token.kind == Kind::Quoted);
    Some(literals.map(|token| token.text.trim_matches('"')).collect())
}

/// The kernel that an explicit instantiation names: its name's token, its definition, and the
/// tokens of the name with template arguments.
fn instantiated<'d>(
    unit: &Unit<'_>,
    item: &Item,
    definitions: &'d HashMap<&str, Definition>,
) -> Option<(usize, &'d Definition, Range<usize>)> {
    let mut i = item.head.start;
    while i < item.head.end {
        if let Some(definition) = definitions.get(unit.text(i)).filter(|_| unit.text(i + 1) == "<")
        {
            let close = unit.close_angle(i + 1, item.head.end)?;
            // Elsewhere the name may be part of the type, as in `decltype`.
            if matches!(unit.text(close + 1), "(" | ";") {
                return Some((i, definition, i..close + 1));
            }
        }
        i = unit.next_sibling(i);
    }
    None
}

/// The host's word for an address space.
fn erase_space(word: &str) -> &str {
    match word {
        "device" | "thread" | "threadgroup" => "",
        "constant" => "const",
        word => word,
    }
}

#[cfg(test)]
mod tests {
    use super::super::outline::outline;
    use super::*;

    fn names(source: &str) -> Result<Vec<(String, String)>, PrescanError> {
        let unit = Unit::parse(source)?;
        let (kernels, _) = kernels(&unit, &outline(&unit))?;
        Ok(kernels.into_iter().map(|k| (k.host_name, k.function)).collect())
    }

    #[test]
    fn every_spelling_is_found() {
        let listed = names(
            "kernel void a() {} [[kernel, max_total_threads_per_threadgroup(8)]] void b() {}\
             [[host_name(\"see\")]] kernel void c() {} namespace n { kernel void d() {} }\
             kernel void a2();\
             template <class T> [[kernel]] void e(device T *x) {}\
             template [[host_name(\"e_\" \"f\")]] [[kernel]] decltype(e<float>) e<float>;\
             template [[host_name(\"e_v\")]] kernel void e<vec<constant int*, 4>>(device V *);\
             template void helper<3>(int);",
        );
        let expected = [
            ("a", "a"),
            ("b", "b"),
            ("see", "c"),
            ("d", "n::d"),
            ("e_f", "e<float>"),
            ("e_v", "e<vec<const int*, 4>>"),
        ];
        assert_eq!(listed, Ok(expected.map(|(h, f)| (h.to_owned(), f.to_owned())).to_vec()));
    }

    #[test]
    fn a_helper_may_have_the_name_of_a_kernel() {
        let source = "template <int N> float sum(float x) { return x; }\nkernel void sum() {}";
        assert_eq!(names(source), Ok(vec![("sum".to_owned(), "sum__kernel".to_owned())]));
        let elsewhere = "namespace n { float sum(float x) { return x; } }\nkernel void sum() {}";
        assert_eq!(names(elsewhere), Ok(vec![("sum".to_owned(), "sum".to_owned())]));
    }

    #[test]
    fn an_instantiation_of_nothing_is_an_error() {
        let error = names("int x;\ntemplate [[host_name(\"a\")]] kernel void f<2>();").unwrap_err();
        assert_eq!((error.kind, error.line), (ErrorKind::Instantiation, 2));
    }
}
