//! Turns preprocessed Metal source into C++ that a host compiler takes, and lists its kernels.
//!
//! The input is what `clang++ -E -x c++` prints, line markers included, with `metal_stdlib`
//! found as an empty header. Nearly all of the Metal language is C++ that a header can support
//! with classes, functions and macros. What a header cannot do is done here:
//!
//! * `[[...]]` attributes are recorded, where they matter, and blanked;
//! * explicit instantiations of kernels become registrations, and so do plain kernels;
//! * `threadgroup` variables in function bodies get storage that the threads share;
//! * function constants get a value at load time;
//! * of declarations that differ only in address spaces, one stays;
//! * the swizzles in use are listed for the vector classes.
//!
//! Every line keeps its place, so the compiler's messages name the lines that the author wrote.
//!
//! # What the C++ refers to
//!
//! The output is made of three parts.
//!
//! 1. `#define MSL_SWZ_V2 ...`, then `MSL_SWZ_V3` and `MSL_SWZ_V4`: for the vector class of each
//!    size, an item `MSL_SW2(name, i, j)`, `MSL_SW3(name, i, j, k)` or `MSL_SW4(name, i, j, k, l)`
//!    for each swizzle in use whose components `i`.. the size has, in the alphabetical order of
//!    names and separated by spaces. Then `#define MSL_HAS_UNION` if the source has a union, and
//!    `#include "shim.h"`.
//! 2. The source, edited. The header must define the macros
//!    * `device`, `thread`, `threadgroup` and `kernel` as nothing, and `constant` as `const`;
//!    * `MSL_FC(type, name, index)`, in place of a function constant with its semicolon: a
//!      definition of `name` and of what `is_function_constant_defined(name)` needs;
//!    * `MSL_TG(id, name)`, in place of a `threadgroup` variable: a definition of the reference
//!      `name` to shared storage. A semicolon follows, and
//!      `typedef type msl_tgt_<name>_<id>[dimensions];` goes before. Ids count from 1 in a file.
//! 3. `#undef` of the five words, `#line 1 "<msl registration>"`, and for the n-th kernel,
//!    counted from 0 (plain kernels, then instantiations, both in source order):
//!
//!    ```text
//!    #define MSL_FN_n <function>
//!    MSL_REGISTER(n, "<host name>", "<function>", <argument count>, <arguments>)
//!    ```
//!
//!    where `<function>` is the name with scope and template arguments, so that `&MSL_FN_n` is
//!    the function's address, and each argument is
//!    `{"<attribute>", "<name>", "<type>", 0, <index>, 0, 0, 0}, ` with a final comma and space.
//!    The attribute reads `buffer(0)`, `threadgroup(0)` or as the built-in value is named. The
//!    index is the number in the parentheses or, of a built-in value,
//!    `(int)offsetof(msl_rt_ids, <field>)`; the fields are those of [`Attribute::field`]. The four
//!    zeros are for the kind, element size, alignment and writability, which the header
//!    fills in from the function's type.

mod arguments;
mod edit;
mod emit;
mod kernels;
mod lexer;
mod lint;
mod outline;
mod overloads;
mod storage;
mod unit;

use std::fmt;

pub use arguments::{ArgumentInfo, Attribute};
pub use lint::{Lint, LintKind};

use unit::Unit;

/// What a source comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// The C++ to compile.
    pub cpp: String,
    /// The kernels, in the order of their registration.
    pub kernels: Vec<KernelInfo>,
    /// What Apple's compiler would refuse and the host's lets pass, in source order.
    pub lint: Vec<Lint>,
}

/// A kernel that a host can ask for by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelInfo {
    /// The name to ask for.
    pub host_name: String,
    /// The function with its scope and template arguments, as C++ without address spaces.
    pub function: String,
    /// The parameters in order.
    pub arguments: Vec<ArgumentInfo>,
    /// File of the definition or explicit instantiation.
    pub file: String,
    /// Line of the definition or explicit instantiation, from 1.
    pub line: u32,
}

/// Why a source could not be read, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrescanError {
    /// What is wrong.
    pub kind: ErrorKind,
    /// File, as its line marker names it; empty before the first marker.
    pub file: String,
    /// Line in the file, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

/// What can be wrong with a source.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A bracket without its counterpart.
    Unbalanced(String),
    /// More brackets within brackets than this.
    Nesting(usize),
    /// An explicit instantiation that names no kernel of the source.
    Instantiation,
    /// A kernel's parameter without a name.
    NamelessArgument,
    /// A kernel's parameter that is no pointer and has no attribute that is known.
    UnknownArgument {
        /// The parameter's name.
        name: String,
        /// The names of its attributes.
        attributes: String,
    },
    /// A function constant that is not of the form `constant type name`.
    FunctionConstant,
    /// A buffer or threadgroup index that is neither a number nor a name.
    Index(String),
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbalanced(bracket) => write!(f, "`{bracket}` has no counterpart"),
            Self::Nesting(limit) => write!(f, "more than {limit} nested brackets"),
            Self::Instantiation => f.write_str("explicit instantiation of no known kernel"),
            Self::NamelessArgument => f.write_str("a kernel's parameter has no name"),
            Self::UnknownArgument { name, attributes } if attributes.is_empty() => {
                write!(f, "parameter `{name}` is no pointer and has no attribute")
            }
            Self::UnknownArgument { name, attributes } => {
                write!(f, "parameter `{name}` has no known attribute, only {attributes}")
            }
            Self::FunctionConstant => f.write_str("a function constant is `constant type name`"),
            Self::Index(text) => write!(f, "index `{text}` is neither a number nor a name"),
        }
    }
}

impl fmt::Display for PrescanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.kind)
    }
}

impl std::error::Error for PrescanError {}

/// Translates one preprocessed source file.
///
/// # Errors
///
/// A source whose brackets do not match, or with a kernel whose arguments cannot be told.
pub fn prescan(preprocessed: &str) -> Result<Scanned, PrescanError> {
    let unit = Unit::parse(preprocessed)?;
    let mut items = outline::outline(&unit);
    let lint = lint::lint(&unit, &items);

    let mut edits: Vec<_> = unit.attribute_spans.iter().cloned().map(edit::Edit::blank).collect();
    edits.extend(overloads::remove_duplicates(&unit, &mut items));
    edits.extend(overloads::unify_qualifiers(&unit, &items));
    let (kernels, instantiations) = kernels::kernels(&unit, &items)?;
    edits.extend(instantiations);
    edits.extend(storage::function_constants(&unit, &items)?);
    edits.extend(storage::threadgroup_variables(&unit, &items));

    let cpp = emit::emit(&unit, edits, &kernels);
    Ok(Scanned { cpp, kernels, lint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_comes_out_as_documented() {
        let source = "# 1 \"a.metal\"\n\
            constant bool fast [[function_constant(3)]];\n\
            template <int N>\n\
            kernel void f(device float *x [[buffer(0)]], uint i [[thread_index_in_simdgroup]]) {\n\
            threadgroup float s[N], t;\n\
            x[i] = v.xw.y;\n\
            }\n\
            template [[host_name(\"f_2\")]]\n\
            kernel void f<2>(device float *, uint);\n";
        let scanned = prescan(source).unwrap();
        let expected = "#define MSL_SWZ_V2 \n#define MSL_SWZ_V3 \n#define MSL_SWZ_V4 MSL_SW2(xw, 0, 3)\n\
            #include \"shim.h\"\n# 1 \"a.metal\"\n\
            MSL_FC(bool, fast, 3)\n\
            template <int N>\n\
            kernel void f(device float *x , uint i ) {\n\
            typedef float msl_tgt_s_1[N]; MSL_TG(1, s); typedef float msl_tgt_t_2; MSL_TG(2, t); \n\
            x[i] = v.xw.y;\n}\n\n\n\n\
            #undef device\n#undef thread\n#undef constant\n#undef threadgroup\n#undef kernel\n\
            #line 1 \"<msl registration>\"\n\
            #define MSL_FN_0 f<2>\n\
            MSL_REGISTER(0, \"f_2\", \"f<2>\", 2, {\"buffer(0)\", \"x\", \"device float *\", 0, 0, 0, 0, 0}, \
            {\"thread_index_in_simdgroup\", \"i\", \"uint\", 0, (int)offsetof(msl_rt_ids, lane), 0, 0, 0}, )\n";
        assert_eq!(scanned.cpp, expected);
        assert_eq!((scanned.kernels[0].file.as_str(), scanned.kernels[0].line), ("a.metal", 8));
        assert_eq!(scanned.lint, []);
    }

    #[test]
    fn errors_name_the_place() {
        let source = "# 5 \"k.metal\"\nkernel void f(uint i [[stage_in]]) {}";
        let error = prescan(source).unwrap_err();
        assert_eq!(
            error.to_string(),
            "k.metal:5:15: parameter `i` has no known attribute, only stage_in"
        );
    }

    #[test]
    fn truncated_sources_are_no_panic() {
        let source = "template <int N> kernel void f(device float (&x)[N] [[buffer(0)]]) \
            { threadgroup float s[N]; } template [[host_name(\"a\")]] kernel void f<(1 > 2)>(T); \
            struct S { T operator()(int) const constant; }; constant int c [[function_constant(0)]];";
        for end in 0..source.len() {
            let _ = prescan(&source[..end]);
            let _ = prescan(&source[end..]);
        }
    }
}
