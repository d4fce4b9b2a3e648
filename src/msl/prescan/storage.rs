//! Variables whose storage C++ has no words for: function constants and `threadgroup` variables.

use std::ops::Range;

use super::edit::Edit;
use super::outline::{Item, ItemKind};
use super::unit::Unit;
use super::{ErrorKind, PrescanError};

/// Replaces `constant type name [[function_constant(index)]];`.
pub(super) fn function_constants(
    unit: &Unit<'_>,
    items: &[Item],
) -> Result<Vec<Edit>, PrescanError> {
    // A declaration with parameters may have the attribute on one of these.
    let statements =
        items.iter().filter(|item| item.kind == ItemKind::Statement && item.parameters.is_none());
    let mut edits = Vec::new();
    for item in statements {
        let mut written = unit.attributes(item.head.start..=item.head.end);
        let Some(attribute) = written.find(|a| a.name == "function_constant") else { continue };
        let index = attribute.arguments.iter().map(|t| t.text).collect::<Vec<_>>().join(" ");
        let type_start = unit.find(item.head.clone(), "constant").map(|i| i + 1);
        let name = item.head.end.saturating_sub(1);
        let Some(type_start) = type_start.filter(|start| *start < name && unit.is_word(name))
        else {
            return Err(unit.error(item.head.start, ErrorKind::FunctionConstant));
        };
        let type_text = unit.join(type_start..name);
        let text = format!("MSL_FC({type_text}, {}, {index})", unit.text(name));
        edits.push(Edit { span: unit.span(item.tokens.clone()), text });
    }
    Ok(edits)
}

/// Replaces the `threadgroup` variables in function bodies.
pub(super) fn threadgroup_variables(unit: &Unit<'_>, items: &[Item]) -> Vec<Edit> {
    let bodies = items.iter().filter(|item| item.kind == ItemKind::Function).map(Item::body);
    let mut edits = Vec::new();
    let mut count = 0;
    for i in bodies.flatten().filter(|i| unit.text(*i) == "threadgroup") {
        let Some((statement, declarators)) = variables(unit, i) else { continue };
        let text = declarators.into_iter().map(|Declarator { type_text, name, dimensions }| {
            count += 1;
            format!(
                "typedef {type_text} msl_tgt_{name}_{count}{dimensions}; MSL_TG({count}, {name}); "
            )
        });
        edits.push(Edit { span: unit.span(statement), text: text.collect() });
    }
    edits
}

struct Declarator<'a> {
    type_text: String,
    name: &'a str,
    dimensions: String,
}

/// The statement around the `threadgroup` at `word` and its variables, if it declares any.
///
/// A pointer or reference to threadgroup memory is a plain variable to the host.
fn variables<'a>(unit: &Unit<'a>, word: usize) -> Option<(Range<usize>, Vec<Declarator<'a>>)> {
    let start = statement_start(unit, word)?;
    let end = unit.find(word..unit.len(), ";")?;
    let top_level = |text: &str| unit.find(word..end, text).is_some();
    if ["*", "&", "&&", "=", "}"].into_iter().any(top_level) {
        return None;
    }
    let parts = unit.split(word + 1..end);
    let (first_name, _) = declarator(unit, parts.first()?.clone())?;
    let type_text = unit.join(word + 1..first_name);
    if type_text.is_empty() {
        return None;
    }
    let declarators = parts.into_iter().map(|part| {
        let (name, dimensions) = declarator(unit, part)?;
        let dimensions = unit.join(dimensions);
        Some(Declarator { type_text: type_text.clone(), name: unit.text(name), dimensions })
    });
    Some((start..end + 1, declarators.collect::<Option<_>>()?))
}

/// Start of the statement whose first words are qualifiers and the word at `word`.
fn statement_start(unit: &Unit<'_>, word: usize) -> Option<usize> {
    let mut start = word;
    while matches!(unit.text_before(start), "const" | "volatile" | "static") {
        start = start.checked_sub(1)?;
    }
    matches!(unit.text_before(start), ";" | "{" | "}" | ")" | ":").then_some(start)
}

/// Name and array dimensions of the last tokens of a declaration's part.
fn declarator(unit: &Unit<'_>, part: Range<usize>) -> Option<(usize, Range<usize>)> {
    let dimensions = unit.find(part.clone(), "[").unwrap_or(part.end);
    let name = dimensions.checked_sub(1)?;
    (name >= part.start && unit.is_word(name)).then_some((name, dimensions..part.end))
}

#[cfg(test)]
mod tests {
    use super::super::outline::outline;
    use super::*;

    fn variable_edits(body: &str) -> Vec<String> {
        let source = format!("void f() {{ {body} }}");
        let unit = Unit::parse(&source).unwrap();
        let edits = threadgroup_variables(&unit, &outline(&unit));
        edits.into_iter().map(|edit| edit.text).collect()
    }

    #[test]
    fn shared_variables_are_found_and_pointers_left() {
        assert_eq!(
            variable_edits(
                "x(); const threadgroup vec<float, 4> a[2][N + 1], b; threadgroup int c;"
            ),
            [
                "typedef vec<float, 4> msl_tgt_a_1[2][N + 1]; MSL_TG(1, a); \
                 typedef vec<float, 4> msl_tgt_b_2; MSL_TG(2, b); ",
                "typedef int msl_tgt_c_3; MSL_TG(3, c); ",
            ]
        );
        let none: [&str; 0] = [];
        assert_eq!(variable_edits("threadgroup float *p = s; g((threadgroup int *)x);"), none);
        assert_eq!(variable_edits("for (threadgroup int &r : s) {} threadgroup auto q = s;"), none);
    }

    #[test]
    fn function_constants_take_any_index() {
        let source = "static constant uint n [[function_constant(K + 1)]]; constant int m = 3; \
            template void f<3>(device int *p [[function_constant(n)]]);";
        let unit = Unit::parse(source).unwrap();
        let edits = function_constants(&unit, &outline(&unit)).unwrap();
        assert_eq!(edits.len(), 1);
        assert_eq!(edits[0].text, "MSL_FC(uint, n, K + 1)");
    }
}
