//! The contract in Rust against the shaders: files, bindings, parameter blocks, workgroup memory.
//! No GPU: naga reads the WGSL, wgpu's noop backend validates pipelines, the MSL is read as text.

#![cfg(feature = "wgpu")]
#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]

use std::collections::BTreeSet;
use std::path::Path;

use naga::valid::{Capabilities, SubgroupOperationSet, ValidationFlags, Validator};
use wgtq::codec::{Bits, Codec, Direction, HeadDim, KeyFormat, Rotation};
use wgtq::contract::{Access, Caps, Contract, Language, Plan, Scalar};
use wgtq::gpu::{Options, RawKernel};
use wgtq::kernels::{
    self, dequantize_kv, flash_attn_decode_tq, flash_attn_mat_tile, flash_attn_mat_tq,
    flash_attn_tile, flash_attn_vec, flash_attn_vec_reduce, flash_attn_vec_tq, fwht,
    quantize_k_and_v, quantize_kv, store_kv,
};
use wgtq::source::{Target, assemble};

/// Plans of every kernel over what changes their text: head dim, rotation, ratio, element type,
/// subgroup width.
fn plans(language: Language) -> Vec<Plan> {
    let widths: &[Option<u32>] = match language {
        Language::Wgsl => &[None, Some(4), Some(8), Some(32)],
        Language::Msl => &[Some(32)],
    };
    let mut plans = Vec::new();
    for &subgroup_size in widths {
        let caps = Caps { subgroup_size, ..Caps::WEBGPU };
        for head_dim in HeadDim::ALL {
            for rotation in [Rotation::Plain, Rotation::Srht] {
                for bits in Bits::ALL {
                    let codec = Codec::new(head_dim, bits, rotation);
                    for norm_correction in [false, true] {
                        let codec = Codec { norm_correction, ..codec };
                        plans.push(quantize_kv::Problem { codec }.plan(&caps, language));
                        let k_bits = Bits::B4;
                        let both = quantize_k_and_v::Problem { k_bits, codec };
                        plans.push(both.plan(&caps, language));
                    }
                    plans.push(dequantize_kv::Problem { codec }.plan(&caps, language));
                    let (k_bits, num_heads, num_kv_heads) = (bits, 2, 1);
                    let problem =
                        flash_attn_vec_tq::Problem { k_bits, codec, num_heads, num_kv_heads };
                    plans.push(problem.plan(&caps, language));
                }
                let codec = Codec::new(head_dim, Bits::B4, rotation);
                for direction in [Direction::Forward, Direction::Inverse] {
                    let problem = fwht::Problem { head_dim, rotation, direction };
                    plans.push(problem.plan(&caps, language));
                }
                for num_heads in [1, 3, 8, 11] {
                    let problem = flash_attn_vec_tq::Problem {
                        k_bits: Bits::B8,
                        codec,
                        num_heads,
                        num_kv_heads: 1,
                    };
                    plans.push(problem.plan(&caps, language));
                }
            }
            plans.push(flash_attn_vec_reduce::Problem { head_dim }.plan(&caps, language));
            plans.extend(tiles(head_dim).into_iter().map(|p| p.plan(&caps, language)));
            for kv_type in [flash_attn_vec::KvType::F32, flash_attn_vec::KvType::F16] {
                plans.push(store_kv::Problem { head_dim, kv_type }.plan(&caps, language));
                for num_heads in [1, 3, 8, 11] {
                    let problem =
                        flash_attn_vec::Problem { head_dim, kv_type, num_heads, num_kv_heads: 1 };
                    plans.push(problem.plan(&caps, language));
                }
            }
        }
    }
    plans.extend(on_matrices(language));
    plans.extend(in_one_dispatch(language, widths));
    plans.into_iter().collect::<Result<_, _>>().unwrap()
}

/// Plans of the kernels that need cooperative matrices, for a device that has them.
fn on_matrices(language: Language) -> Vec<wgtq::Result<Plan>> {
    // An Apple GPU's 8x8; 16x16, in little and in much workgroup memory.
    let large = Caps { matrices: Some(16), max_workgroup_storage: 48 << 10, ..Caps::APPLE };
    let mut plans = Vec::new();
    for caps in [Caps::APPLE, Caps { matrices: Some(16), ..Caps::APPLE }, large] {
        let plan = |head_dim, k_bits, bits, num_heads| {
            let codec = Codec::new(head_dim, bits, Rotation::Plain);
            flash_attn_mat_tq::Problem { k_bits, codec, num_heads, num_kv_heads: 1 }
                .plan(&caps, language)
        };
        for head_dim in HeadDim::ALL {
            plans.extend(Bits::ALL.map(|bits| plan(head_dim, bits, Bits::B8, 2)));
            plans.extend([1, 3, 8, 11].map(|heads| plan(head_dim, Bits::B4, Bits::B4, heads)));
            let tiles = tiles(head_dim).into_iter().map(flash_attn_mat_tile::Problem);
            plans.extend(tiles.map(|tile| tile.plan(&caps, language)));
        }
    }
    plans
}

/// Plans of decode attention in one dispatch, for devices that can order workgroups.
fn in_one_dispatch(language: Language, widths: &[Option<u32>]) -> Vec<wgtq::Result<Plan>> {
    let mut plans = Vec::new();
    for &subgroup_size in widths {
        let caps = Caps { subgroup_size, storage_fence: true, ..Caps::WEBGPU };
        for head_dim in HeadDim::ALL {
            for (num_heads, rotation) in
                [(1, Rotation::Plain), (3, Rotation::Srht), (11, Rotation::Srht)]
            {
                for (k_bits, bits) in [(Bits::B4, Bits::B4), (Bits::B8, Bits::B6)] {
                    let codec = Codec::new(head_dim, bits, rotation);
                    plans.extend([false, true].map(|rotated| {
                        let num_kv_heads = 1;
                        flash_attn_decode_tq::Problem {
                            k_bits,
                            codec,
                            num_heads,
                            num_kv_heads,
                            rotated,
                        }
                        .plan(&caps, language)
                    }));
                }
            }
        }
    }
    plans
}

/// Tiles in every format, and with every kind of ratio.
fn tiles(head_dim: HeadDim) -> Vec<flash_attn_tile::Problem> {
    let (f32, f16) = (KeyFormat::F32, KeyFormat::F16);
    let of =
        |k, v, num_heads| flash_attn_tile::Problem { head_dim, k, v, num_heads, num_kv_heads: 1 };
    let packed = Bits::ALL.map(|bits| of(KeyFormat::Tq(bits), KeyFormat::Tq(Bits::B8), 2));
    let dense = [(f32, f16), (f16, KeyFormat::Tq(Bits::B6)), (KeyFormat::Tq(Bits::B3), f32)];
    let dense = dense.map(|(k, v)| of(k, v, 1));
    let ratios = [3, 8, 11].map(|heads| of(f16, f16, heads));
    packed.into_iter().chain(dense).chain(ratios).collect()
}

fn parse(plan: &Plan) -> naga::Module {
    let source = assemble(plan, Target::WgslNative);
    naga::front::wgsl::parse_str(&source.text).unwrap_or_else(|e| {
        let line = e.location(&source.text).map_or(1, |l| l.line_number);
        let (file, line) = source.locate(line);
        panic!("{}: {file}:{line}: {}", plan.label, e.message())
    })
}

#[test]
fn every_stem_has_its_five_files_and_no_file_is_without_a_kernel() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let stems: BTreeSet<&str> =
        kernels::ALL.iter().chain(kernels::NATIVE).map(|c| c.stem).collect();
    for (folder, extension) in [
        ("wgsl", "wgsl"),
        ("msl", "metal"),
        ("src/kernels", "rs"),
        ("src/oracle", "rs"),
        ("tests/gpu", "rs"),
        ("src/parity", "rs"),
    ] {
        for stem in &stems {
            let path = root.join(folder).join(stem).with_extension(extension);
            assert!(path.exists(), "kernel {stem} has no {}", path.display());
        }
    }
    for (folder, extension) in [("wgsl", "wgsl"), ("msl", "metal")] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == extension) {
                let stem = path.file_stem().unwrap().to_str().unwrap();
                assert!(
                    stems.contains(stem),
                    "{} is in no contract of kernels::ALL",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn bindings_have_the_contracts_names_indices_and_access() {
    for plan in plans(Language::Wgsl) {
        let module = parse(&plan);
        let mut found: Vec<(u32, String, Access)> = module
            .global_variables
            .iter()
            .filter_map(|(_, var)| {
                let binding = var.binding.as_ref()?;
                assert_eq!(binding.group, 0, "{}", plan.label);
                let access = match var.space {
                    naga::AddressSpace::Uniform => Access::Uniform,
                    naga::AddressSpace::Storage { access }
                        if access.contains(naga::StorageAccess::STORE) =>
                    {
                        Access::ReadWrite
                    }
                    _ => Access::Read,
                };
                Some((binding.binding, var.name.clone().unwrap(), access))
            })
            .collect();
        found.sort_by_key(|(index, ..)| *index);
        let want: Vec<(u32, String, Access)> = (0..)
            .zip(plan.contract.bindings)
            .map(|(i, b)| (i, b.name.to_owned(), b.access))
            .collect();
        assert_eq!(found, want, "{}", plan.label);
    }
}

#[test]
fn parameter_blocks_have_the_contracts_fields_at_four_bytes_each() {
    for plan in plans(Language::Wgsl) {
        let module = parse(&plan);
        let block = module.types.iter().find_map(|(_, ty)| match &ty.inner {
            naga::TypeInner::Struct { members, span } if ty.name.as_deref() == Some("Params") => {
                Some((members, *span))
            }
            _ => None,
        });
        let Some((members, span)) = block else {
            assert!(plan.contract.params.is_empty(), "{}: no Params", plan.label);
            continue;
        };
        assert_eq!(span as usize, 4 * plan.contract.params.len(), "{}", plan.label);
        assert_eq!(members.len(), plan.contract.params.len(), "{}", plan.label);
        for (i, (member, &(name, scalar))) in members.iter().zip(plan.contract.params).enumerate() {
            let want = match scalar {
                Scalar::U32 => naga::Scalar::U32,
                Scalar::F32 => naga::Scalar::F32,
            };
            assert_eq!(member.name.as_deref(), Some(name), "{} field {i}", plan.label);
            assert_eq!(member.offset as usize, 4 * i, "{} field {name}", plan.label);
            assert_eq!(module.types[member.ty].inner, naga::TypeInner::Scalar(want), "{name}");
        }
    }
}

#[test]
fn rust_structs_are_as_long_as_the_contracts_blocks() {
    use wgtq::params::*;
    for (stem, bytes) in [
        ("fwht", size_of::<FwhtParams>()),
        ("quantize_kv", size_of::<QuantizeKvParams>()),
        ("quantize_k_and_v", size_of::<QuantizeKvParams>()),
        ("store_kv", size_of::<QuantizeKvParams>()),
        ("dequantize_kv", size_of::<DequantizeKvParams>()),
        ("flash_attn_vec_tq", size_of::<FlashAttnVecTqParams>()),
        ("flash_attn_vec", size_of::<FlashAttnVecParams>()),
        ("flash_attn_tile", size_of::<FlashAttnTileParams>()),
    ] {
        let contract = kernels::ALL.iter().find(|c| c.stem == stem).unwrap();
        assert_eq!(bytes, 4 * contract.params.len(), "{stem}");
        assert!(contract.published_params <= contract.params.len(), "{stem}");
    }
}

#[test]
fn workgroup_size_and_memory_are_what_the_plan_says() {
    for plan in plans(Language::Wgsl) {
        let module = parse(&plan);
        assert_eq!(module.entry_points.len(), 1, "{}", plan.label);
        let entry = &module.entry_points[0];
        assert_eq!(entry.name, "main");
        assert_eq!(entry.workgroup_size, [plan.workgroup_size, 1, 1], "{}", plan.label);
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let bytes: u32 = module
            .global_variables
            .iter()
            .filter(|(_, var)| var.space == naga::AddressSpace::WorkGroup)
            .map(|(_, var)| layouter[var.ty].size)
            .sum();
        assert_eq!(bytes, plan.workgroup_bytes, "{}", plan.label);
    }
}

/// The text for devices without subgroups uses none; with subgroups, nothing but subgroups is
/// needed. Both need the core built-in that unpacks two halves, and no f16 feature. What workgroups hand
/// to each other is coherent.
#[test]
fn texts_validate_with_exactly_the_capabilities_they_claim() {
    for plan in plans(Language::Wgsl) {
        let module = parse(&plan);
        let subgroup = if plan.subgroups { Capabilities::SUBGROUP } else { Capabilities::empty() };
        let matrices = Capabilities::SHADER_FLOAT16
            | Capabilities::SUBGROUP_BARRIER
            | Capabilities::COOPERATIVE_MATRIX;
        let matrices = if plan.matrices { matrices } else { Capabilities::empty() };
        let capabilities = subgroup | matrices | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        let validate = |capabilities| {
            Validator::new(ValidationFlags::all(), capabilities)
                .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
                .subgroup_operations(if plan.subgroups {
                    SubgroupOperationSet::all()
                } else {
                    SubgroupOperationSet::empty()
                })
                .validate(&module)
                .map_err(|e| format!("{e:?}"))
        };
        let incoherent = validate(capabilities);
        assert_eq!(incoherent.is_ok(), !plan.storage_fence, "{}: {incoherent:?}", plan.label);
        let result = validate(capabilities | Capabilities::MEMORY_DECORATION_COHERENT);
        assert!(result.is_ok(), "{}: {:?}", plan.label, result.err());
    }
}

#[test]
fn browser_text_differs_by_the_subgroup_directives_only() {
    // Matrices are no part of the browser's WGSL.
    for plan in plans(Language::Wgsl).into_iter().filter(|plan| !plan.matrices) {
        let native = assemble(&plan, Target::WgslNative).text;
        let browser = assemble(&plan, Target::WgslBrowser).text;
        let directives = "enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n";
        let want = if plan.subgroups { format!("{directives}{native}") } else { native };
        assert_eq!(browser, want, "{}", plan.label);
    }
}

#[test]
fn every_plan_makes_a_pipeline_on_a_device_that_validates() {
    let (device, _queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor {
        required_features: wgpu::Features::SUBGROUP,
        ..Default::default()
    });
    let (native, plans): (Vec<_>, Vec<_>) =
        plans(Language::Wgsl).into_iter().partition(|plan| plan.matrices || plan.storage_fence);
    for plan in native {
        let lacks = if plan.matrices {
            "EXPERIMENTAL_COOPERATIVE_MATRIX"
        } else {
            "a storage barrier that"
        };
        let error = RawKernel::new(&device, &plan, &Options::default()).unwrap_err().to_string();
        assert!(error.contains(lacks), "{}: {error}", plan.label);
    }
    for plan in plans {
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let kernel = RawKernel::new(&device, &plan, &Options::default());
        let error = pollster::block_on(scope.pop());
        assert!(kernel.is_ok() && error.is_none(), "{}: {kernel:?} {error:?}", plan.label);
    }
}

/// Arguments of the kernel function as (name, buffer index), from the text.
fn msl_buffers(text: &str) -> Vec<(String, u32)> {
    text.split("[[buffer(")
        .zip(text.split("[[buffer(").skip(1))
        .map(|(before, after)| {
            let index = after.split(')').next().unwrap().parse().unwrap();
            let name: String = before
                .trim_end()
                .chars()
                .rev()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            (name.chars().rev().collect(), index)
        })
        .collect()
}

/// Fields of `struct Params` as (name, type), from the text.
fn msl_params(text: &str) -> Vec<(String, String)> {
    let Some(body) = text.split("struct Params {").nth(1).and_then(|t| t.split("};").next()) else {
        return Vec::new();
    };
    body.lines()
        .filter_map(|line| line.trim().trim_end_matches(';').split_once(' '))
        .map(|(ty, name)| (name.to_owned(), ty.to_owned()))
        .collect()
}

#[test]
fn msl_has_the_contracts_entry_buffers_and_parameter_block() {
    for contract in kernels::ALL.iter().chain(kernels::NATIVE) {
        let Contract { stem, msl, bindings, params, .. } = contract;
        assert_eq!(msl.matches("kernel void ").count(), 1, "{stem}");
        assert!(msl.contains(&format!("kernel void {stem}(\n")), "{stem}: entry point");
        let want: Vec<(String, u32)> =
            bindings.iter().zip(0..).map(|(b, i)| (b.name.to_owned(), i)).collect();
        assert_eq!(msl_buffers(msl), want, "{stem}");
        let want: Vec<(String, String)> = params
            .iter()
            .map(|(name, scalar)| {
                let ty = if *scalar == Scalar::U32 { "uint" } else { "float" };
                ((*name).to_owned(), ty.to_owned())
            })
            .collect();
        assert_eq!(msl_params(msl), want, "{stem}");
        if !params.is_empty() {
            let bytes = 4 * params.len();
            let assertion = format!("static_assert(sizeof(Params) == {bytes}");
            assert!(msl.contains(&assertion), "{stem}: {assertion}");
        }
        for (binding, i) in bindings.iter().zip(0..) {
            let argument = msl.split(&format!("[[buffer({i})]]")).next().unwrap();
            let argument = argument.rsplit(['(', ',']).next().unwrap();
            let constant = argument.contains("const ") || argument.contains("constant ");
            assert_eq!(
                constant,
                binding.access != Access::ReadWrite,
                "{stem}: `{}` in the MSL and the contract differ in who may write it",
                binding.name
            );
        }
    }
}

/// What wgpu's pass-through of MSL does not give: threadgroup memory as an argument, function
/// constants. And what no kernel may contain.
#[test]
fn msl_uses_nothing_that_a_pass_through_module_lacks() {
    for plan in plans(Language::Msl) {
        let text = assemble(&plan, Target::Msl).text;
        for word in ["[[threadgroup(", "function_constant", "double", "goto ", "#define", "#if"] {
            assert!(!text.contains(word), "{}: {word}", plan.label);
        }
        assert_eq!(text.matches('{').count(), text.matches('}').count(), "{}", plan.label);
    }
}

/// Phase comments are the map from one language to the other: same number, same order.
#[test]
fn wgsl_and_msl_have_the_same_phases() {
    let phases = |text: &str| -> Vec<String> {
        text.lines()
            .filter_map(|l| l.trim().strip_prefix("// Phase "))
            .map(|l| l.split(':').next().unwrap().to_owned())
            .collect()
    };
    for contract in kernels::ALL.iter().chain(kernels::NATIVE) {
        assert_eq!(phases(contract.wgsl), phases(contract.msl), "{}", contract.stem);
        assert!(!phases(contract.wgsl).is_empty(), "{}", contract.stem);
    }
}

#[test]
fn plans_beyond_a_device_are_refused_with_need_and_found() {
    let codec = Codec::new(HeadDim::ALL[3], Bits::B4, Rotation::Plain);
    let small = Caps { max_workgroup_storage: 4096, ..Caps::WEBGPU };
    let problem =
        flash_attn_vec_tq::Problem { k_bits: codec.bits, codec, num_heads: 8, num_kv_heads: 1 };
    let error = problem.plan(&small, Language::Wgsl).unwrap_err().to_string();
    assert!(error.contains("max_compute_workgroup_storage_size"), "{error}");
    assert!(error.contains("4096"), "{error}");
    for floor in [-0.1, 1.1, f32::NAN] {
        let skipping = problem.plan_for(kernels::Context::Long, floor, &Caps::APPLE, Language::Msl);
        let error = skipping.unwrap_err().to_string();
        assert!(error.contains("weight_floor") && error.contains("0 to 1"), "{error}");
    }
    let problem =
        flash_attn_mat_tq::Problem { k_bits: codec.bits, codec, num_heads: 8, num_kv_heads: 1 };
    let none = Caps { matrices: None, ..Caps::APPLE };
    let narrow = Caps { subgroup_size: Some(16), matrices: Some(16), ..Caps::APPLE };
    for (caps, named) in
        [(none, "EXPERIMENTAL_COOPERATIVE_MATRIX"), (narrow, "lanes of a subgroup")]
    {
        let error = problem.plan(&caps, Language::Wgsl).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        for tile in tiles(codec.head_dim) {
            let problem = flash_attn_mat_tile::Problem(tile);
            let error = problem.plan(&caps, Language::Wgsl).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
    let problem =
        flash_attn_vec_tq::Problem { k_bits: codec.bits, codec, num_heads: 8, num_kv_heads: 1 };
    let none = Caps { subgroup_size: None, ..Caps::APPLE };
    let error = problem.plan(&none, Language::Msl).unwrap_err().to_string();
    assert!(error.contains("SUBGROUP"), "{error}");
}

/// Decoding multiplies by whatever norm is stored.
#[test]
fn norm_correction_is_in_the_encoders_text_only() {
    let codec = Codec::new(HeadDim::ALL[1], Bits::B4, Rotation::Plain);
    let corrected = Codec { norm_correction: true, ..codec };
    for language in [Language::Wgsl, Language::Msl] {
        let encoder = |codec| quantize_kv::Problem { codec }.plan(&Caps::APPLE, language).unwrap();
        let decoder =
            |codec| dequantize_kv::Problem { codec }.plan(&Caps::APPLE, language).unwrap();
        assert_ne!(encoder(codec).constants, encoder(corrected).constants);
        assert_ne!(encoder(codec).label, encoder(corrected).label);
        assert_eq!(decoder(codec), decoder(corrected));
    }
}
