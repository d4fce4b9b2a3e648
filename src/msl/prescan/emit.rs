//! Puts the C++ together; the format is described at the top of the module.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::KernelInfo;
use super::arguments::{ArgumentInfo, Attribute};
use super::edit::{self, Edit};
use super::unit::Unit;

/// The words that are macros in the source and must be none in the registrations.
const ERASED: [&str; 5] = ["device", "thread", "constant", "threadgroup", "kernel"];

/// The whole output.
pub(super) fn emit(unit: &Unit<'_>, edits: Vec<Edit>, kernels: &[KernelInfo]) -> String {
    let mut out = swizzle_macros(unit);
    if (0..unit.len()).any(|i| unit.text(i) == "union") {
        out.push_str("#define MSL_HAS_UNION\n");
    }
    out.push_str("#include \"shim.h\"\n");
    out.push_str(&edit::apply(unit.source, edits));
    out.push('\n');
    for word in ERASED {
        out.push_str("#undef ");
        out.push_str(word);
        out.push('\n');
    }
    out.push_str("#line 1 \"<msl registration>\"\n");
    for (n, kernel) in kernels.iter().enumerate() {
        out.push_str(&registration(n, kernel));
    }
    out
}

fn registration(n: usize, kernel: &KernelInfo) -> String {
    let KernelInfo { host_name, function, arguments, .. } = kernel;
    let rows: String = arguments.iter().map(argument_row).collect();
    format!(
        "#define MSL_FN_{n} {function}\nMSL_REGISTER({n}, {}, {}, {}, {rows})\n",
        literal(host_name),
        literal(function),
        arguments.len(),
    )
}

fn argument_row(argument: &ArgumentInfo) -> String {
    let ArgumentInfo { name, attribute, type_text, .. } = argument;
    let index = match attribute {
        Attribute::Buffer(n) | Attribute::Threadgroup(n) => n.to_string(),
        Attribute::BufferNamed(index) | Attribute::ThreadgroupNamed(index) => index.clone(),
        Attribute::Builtin(_) => {
            format!("(int)offsetof(msl_rt_ids, {})", attribute.field().unwrap_or_default())
        }
    };
    let attribute = literal(&attribute.to_string());
    let (name, type_text) = (literal(name), literal(type_text));
    format!("{{{attribute}, {name}, {type_text}, 0, {index}, 0, 0, 0}}, ")
}

fn literal(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The lists of swizzles for vectors of 2, 3 and 4 components.
fn swizzle_macros(unit: &Unit<'_>) -> String {
    let after_dot = (1..unit.len()).filter(|i| matches!(unit.text_before(*i), "." | "->"));
    let swizzles: BTreeSet<_> =
        after_dot.filter_map(|i| Some((unit.text(i), components(unit.text(i))?))).collect();
    let mut out = String::new();
    for size in 2..=4 {
        let fitting = swizzles.iter().filter(|(_, indices)| indices.iter().all(|i| *i < size));
        let items: Vec<_> = fitting.map(|(name, indices)| swizzle_item(name, indices)).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "#define MSL_SWZ_V{size} {}", items.join(" "));
    }
    out
}

fn swizzle_item(name: &str, indices: &[usize]) -> String {
    let indices_text: Vec<_> = indices.iter().map(usize::to_string).collect();
    format!("MSL_SW{}({name}, {})", indices.len(), indices_text.join(", "))
}

/// The component indices of a swizzle of two to four components.
fn components(word: &str) -> Option<Vec<usize>> {
    let all_in = |set: &str| word.chars().map(|c| set.find(c)).collect::<Option<Vec<_>>>();
    all_in("xyzw").or_else(|| all_in("rgba")).filter(|indices| (2..=4).contains(&indices.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_union_is_announced_to_the_shim() {
        for (source, has_union) in [("union U { int i; };", true), ("int my_union;", false)] {
            let cpp = emit(&Unit::parse(source).unwrap(), Vec::new(), &[]);
            assert_eq!(cpp.contains("#define MSL_HAS_UNION\n"), has_union, "{source}");
        }
    }

    #[test]
    fn swizzles_are_listed_where_the_vector_has_the_components() {
        let unit = Unit::parse("a.xy + b->zyx + c.x + d.xr + e.rgba + xy.size + a.xy").unwrap();
        let expected = "#define MSL_SWZ_V2 MSL_SW2(xy, 0, 1)\n\
            #define MSL_SWZ_V3 MSL_SW2(xy, 0, 1) MSL_SW3(zyx, 2, 1, 0)\n\
            #define MSL_SWZ_V4 MSL_SW4(rgba, 0, 1, 2, 3) MSL_SW2(xy, 0, 1) MSL_SW3(zyx, 2, 1, 0)\n";
        assert_eq!(swizzle_macros(&unit), expected);
    }
}
