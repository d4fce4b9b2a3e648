//! Shader text: generated constants, shared pieces, the file itself. Of WGSL, loops marked
//! `// unroll` are written out; nothing else is rewritten, so every line of the result is a line of
//! a file.

use crate::contract::{Constant, Language, Plan, Value};
use crate::unroll::{Constants, unroll};

/// Who compiles the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// WGSL for wgpu on a native backend; naga knows no `enable subgroups;`.
    WgslNative,
    /// WGSL for a browser or Dawn, which insist on `enable subgroups;`.
    WgslBrowser,
    /// MSL for Metal.
    Msl,
}

impl Target {
    /// The native target of a language.
    pub const fn of(language: Language) -> Self {
        match language {
            Language::Wgsl => Self::WgslNative,
            Language::Msl => Self::Msl,
        }
    }
}

/// Assembled shader text with the origin of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The text.
    pub text: String,
    /// Runs of lines, ascending.
    runs: Vec<Run>,
}

/// Consecutive lines of the text that are consecutive lines of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    /// First line in the text, counted from 1.
    first: u32,
    file: String,
    /// First line in the file, counted from 1.
    origin: u32,
}

impl Source {
    /// File and line that line `line` (counted from 1) of the text comes from.
    pub fn locate(&self, line: u32) -> (&str, u32) {
        let run = self.runs.iter().rev().find(|run| run.first <= line);
        run.map_or(("<generated>", line), |run| (&run.file, line - run.first + run.origin))
    }
}

macro_rules! piece {
    ($name:literal, wgsl) => {
        ($name, include_str!(concat!("../wgsl/shared/", $name, ".wgsl")), "")
    };
    ($name:literal, msl) => {
        ($name, "", include_str!(concat!("../msl/shared/", $name, ".h")))
    };
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../wgsl/shared/", $name, ".wgsl")),
            include_str!(concat!("../msl/shared/", $name, ".h")),
        )
    };
}
/// The shared pieces, each as (name, WGSL text, MSL text).
const PIECES: &[(&str, &str, &str)] = &[
    piece!("rotate"),
    piece!("codebook"),
    piece!("octets"),
    piece!("scores"),
    piece!("attention"),
    piece!("merge_memory", wgsl),
    piece!("look_up_plain", wgsl),
    piece!("look_up_table", wgsl),
    piece!("look_up_pairs", wgsl),
    piece!("look_up_singles", wgsl),
    piece!("attend"),
    piece!("row_sum_subgroup", wgsl),
    piece!("row_sum_workgroup", wgsl),
    piece!("k_words", wgsl),
    piece!("k_pairs", wgsl),
    piece!("k_vectors", wgsl),
    piece!("v_words", wgsl),
    piece!("v_pairs", wgsl),
    piece!("v_vectors", wgsl),
    piece!("matrices_8", wgsl),
    piece!("matrices_16", wgsl),
    piece!("encode"),
    piece!("exchange", msl),
    piece!("exchange_subgroup", wgsl),
    piece!("exchange_workgroup", wgsl),
    piece!("kv_f32"),
    piece!("kv_f16"),
];

/// Puts a plan's text together for `target`.
pub fn assemble(plan: &Plan, target: Target) -> Source {
    let language = if target == Target::Msl { Language::Msl } else { Language::Wgsl };
    let extension = if language == Language::Msl { "h" } else { "wgsl" };
    let mut source = Source { text: String::new(), runs: Vec::new() };
    source.push("<generated>", &header(plan, target));
    let mut constants = Constants::default();
    constants.read(&source.text);
    for text in wgsl_texts(plan) {
        constants.read(text);
    }
    let mut push = |name: &str, text: &str| match language {
        Language::Wgsl => source.push_unrolled(name, text, &constants),
        Language::Msl => source.push(name, text),
    };
    for &name in &plan.pieces {
        if let Some((_, wgsl, msl)) = PIECES.iter().find(|p| p.0 == name) {
            let text = if language == Language::Msl { msl } else { wgsl };
            let folder = if language == Language::Msl { "msl" } else { "wgsl" };
            push(&format!("{folder}/shared/{name}.{extension}"), text);
        }
    }
    let stem = plan.contract.stem;
    match language {
        Language::Wgsl => push(&format!("wgsl/{stem}.wgsl"), plan.contract.wgsl),
        Language::Msl => push(&format!("msl/{stem}.metal"), plan.contract.msl),
    }
    source
}

/// The WGSL of a plan, piece by piece.
fn wgsl_texts(plan: &Plan) -> impl Iterator<Item = &'static str> {
    let named = |name: &&str| PIECES.iter().find(|p| p.0 == *name).map(|p| p.1);
    plan.pieces.iter().filter_map(named).chain([plan.contract.wgsl])
}

impl Source {
    fn push_unrolled(&mut self, name: &str, text: &str, constants: &Constants) {
        let next = self.text.lines().count() as u32 + 1;
        let mut previous = None;
        for (first, (line, origin)) in (next..).zip(unroll(text, constants)) {
            if previous.is_none_or(|p| p + 1 != origin) {
                self.runs.push(Run { first, file: name.to_owned(), origin });
            }
            self.text.push_str(&line);
            self.text.push('\n');
            previous = Some(origin);
        }
    }

    fn push(&mut self, name: &str, text: &str) {
        let first = self.text.lines().count() as u32 + 1;
        self.runs.push(Run { first, file: name.to_owned(), origin: 1 });
        self.text.push_str(text);
        if !text.is_empty() && !text.ends_with('\n') {
            self.text.push('\n');
        }
    }
}

/// Parses and validates the WGSL of a plan; errors carry the file's own line.
#[cfg(feature = "driver")]
pub(crate) fn parse_wgsl(plan: &Plan) -> crate::Result<(naga::Module, naga::valid::ModuleInfo)> {
    use naga::valid::{Capabilities, SubgroupOperationSet, ValidationFlags, Validator};

    let source = assemble(plan, Target::WgslNative);
    let reject = |message: String| crate::Error::Shader { kernel: plan.contract.stem, message };
    let module = naga::front::wgsl::parse_str(&source.text).map_err(|e| {
        let line = e.location(&source.text).map_or(1, |l| l.line_number);
        let (file, line) = source.locate(line);
        reject(format!("{file}:{line}: {}", e.message()))
    })?;
    let mut capabilities = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    if plan.storage_fence {
        capabilities |= Capabilities::MEMORY_DECORATION_COHERENT;
    }
    if plan.matrices {
        capabilities |= Capabilities::SHADER_FLOAT16
            | Capabilities::SUBGROUP_BARRIER
            | Capabilities::COOPERATIVE_MATRIX;
    }
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|e| reject(crate::driver::one_line(&e.emit_to_string(&source.text))))?;
    Ok((module, info))
}

fn header(plan: &Plan, target: Target) -> String {
    let mut lines = match target {
        // What subgroupAny returns is the same in all of a subgroup; the analysis does not know it.
        Target::WgslBrowser if plan.subgroups => {
            vec!["enable subgroups;".into(), "diagnostic(off, subgroup_uniformity);".into()]
        }
        Target::WgslNative if plan.matrices => {
            vec!["enable f16;".to_owned(), "enable wgpu_cooperative_matrix;".to_owned()]
        }
        Target::Msl => vec!["#include <metal_stdlib>".into(), "using namespace metal;".into()],
        _ => Vec::new(),
    };
    for constant in &plan.constants {
        lines.push(if target == Target::Msl { msl_line(constant) } else { wgsl_line(constant) });
    }
    lines.push(String::new());
    lines.join("\n")
}

fn join<T>(items: &[T], print: impl Fn(&T) -> String) -> String {
    items.iter().map(print).collect::<Vec<_>>().join(", ")
}

fn wgsl_line(Constant { name, value }: &Constant) -> String {
    match value {
        Value::Bool(b) => format!("const {name} = {b};"),
        Value::U32(u) => format!("const {name} = {u}u;"),
        Value::F32(x) => format!("const {name} = {x:?}f;"),
        Value::F32s(xs) => {
            let items = join(xs, |x| format!("{x:?}f"));
            format!("const {name} = array<f32, {}>({items});", xs.len())
        }
        Value::U32s(xs) => {
            let items = join(xs, |x| format!("{x}u"));
            format!("const {name} = array<u32, {}>({items});", xs.len())
        }
    }
}

fn msl_line(Constant { name, value }: &Constant) -> String {
    match value {
        Value::Bool(b) => format!("constant constexpr bool {name} = {b};"),
        Value::U32(u) => format!("constant constexpr uint {name} = {u}u;"),
        Value::F32(x) => format!("constant constexpr float {name} = {x:?}f;"),
        Value::F32s(xs) => {
            let items = join(xs, |x| format!("{x:?}f"));
            format!("constant constexpr float {name}[{}] = {{{items}}};", xs.len())
        }
        Value::U32s(xs) => {
            let items = join(xs, |x| format!("{x}u"));
            format!("constant constexpr uint {name}[{}] = {{{items}}};", xs.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_map_back_to_their_file() {
        let mut s = Source { text: String::new(), runs: Vec::new() };
        s.push("<generated>", "const A = 1u;\n");
        s.push("wgsl/shared/x.wgsl", "a\nb\n");
        s.push("wgsl/y.wgsl", "c\nd\n");
        let text = "for (var i = 0u; i < 2u; i++) { // unroll\ne\n}\nf\n";
        s.push_unrolled("wgsl/z.wgsl", text, &Constants::default());
        assert_eq!(s.locate(7), ("wgsl/z.wgsl", 2));
        assert_eq!(s.locate(10), ("wgsl/z.wgsl", 2));
        assert_eq!(s.locate(12), ("wgsl/z.wgsl", 4));
        assert_eq!(s.locate(1), ("<generated>", 1));
        assert_eq!(s.locate(3), ("wgsl/shared/x.wgsl", 2));
        assert_eq!(s.locate(5), ("wgsl/y.wgsl", 2));
    }

    #[test]
    fn floats_are_printed_to_the_bit() {
        for x in [0.1f32, 1.0, -1.701_411_8e38, 1e-10, 0.088_388_35] {
            let line = wgsl_line(&Constant { name: "X", value: Value::F32(x) });
            let text = line.trim_start_matches("const X = ").trim_end_matches("f;");
            assert_eq!(text.parse::<f32>().unwrap().to_bits(), x.to_bits(), "{line}");
        }
    }
}
