//! Exported kernels: contracts that say what the library computes, and code that a program which
//! knows nothing else can run.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should say where")]

mod cases;
mod client;
mod expression;
mod program;

use std::mem::offset_of;

use serde_json::{Value, json};
use wgtq::codec::{Bits, HeadDim, Rotation};
use wgtq::contract::{Caps, Contract, Language, Launch, Plan};
use wgtq::export::{Choices, Exported, KernelContract, Target, Variant, export};
use wgtq::gpu::device::{Gpu, Selection};
use wgtq::kernels::{self, flash_attn_tile, flash_attn_vec, flash_attn_vec_tq};
use wgtq::params::*;

use crate::cases::Case;
use crate::client::{Fields, Number};

const WIDTHS: [Option<u32>; 3] = [None, Some(8), Some(32)];

/// What a file holds: the client sees nothing typed.
fn written(contract: &KernelContract) -> Value {
    serde_json::to_value(contract).unwrap()
}

fn choices() -> Choices {
    Choices {
        head_dims: HeadDim::ALL.to_vec(),
        bits: vec![[Bits::B4, Bits::B4], [Bits::B8, Bits::B4], [Bits::B3, Bits::B5]],
        ratios: vec![1, 3, 8, 11],
        rotations: vec![Rotation::Plain, Rotation::Srht],
        norm_correction: true,
    }
}

fn exports(target: Target, subgroup_size: Option<u32>) -> Vec<(Variant, Exported)> {
    let caps = match target {
        Target::Msl => Caps::APPLE,
        _ => Caps::WEBGPU.with_subgroup_size(subgroup_size),
    };
    let of = |contract: &&Contract| {
        let variants = Variant::all(contract, &choices());
        assert!(!variants.is_empty(), "{} is never exported", contract.stem);
        variants
    };
    let variants = kernels::ALL.iter().flat_map(of);
    variants.map(|v| (v, export(&v, target, &caps).unwrap())).collect()
}

#[test]
fn every_kernel_exports_to_every_target_behind_one_schema() {
    let schema = serde_json::to_value(schemars::schema_for!(KernelContract)).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for target in
        [Target::WgslNative, Target::WgslBrowser, Target::Msl, Target::Spirv, Target::Hlsl]
    {
        for width in if target == Target::Msl { &WIDTHS[2..] } else { &WIDTHS[..] } {
            let mut files = Vec::new();
            for (variant, Exported { code, contract }) in exports(target, *width) {
                let value = written(&contract);
                assert!(validator.is_valid(&value), "{variant:?} {value:#}");
                assert!(!code.is_empty(), "{variant:?}");
                assert_eq!(contract.min_subgroup_size.is_some(), uses_subgroups(&code, target));
                assert!(!files.contains(&contract.file), "{} twice", contract.file);
                files.push(contract.file);
            }
        }
    }
    let mut broken = written(&exports(Target::Hlsl, None)[0].1.contract);
    broken["bindings"][0]["index"] = json!("zero");
    assert!(!validator.is_valid(&broken), "the schema accepts anything");
}

/// Whether the code itself uses subgroup operations.
fn uses_subgroups(code: &[u8], target: Target) -> bool {
    let text = String::from_utf8_lossy(code);
    match target {
        Target::WgslNative | Target::WgslBrowser => text.contains("subgroupShuffle"),
        Target::Msl => text.contains("simd_"),
        Target::Hlsl => text.contains("Wave"),
        // OpGroupNonUniformShuffle to OpGroupNonUniformShuffleDown.
        Target::Spirv => bytemuck::pod_collect_to_vec::<u8, u32>(code)[5..]
            .windows(2)
            .any(|w| w[0] == 2 << 16 | 17 && (65..=66).contains(&w[1])),
    }
}

/// Structural checks of the HLSL; `tests/ci/hlsl.sh` compiles it with Microsoft's compiler.
#[test]
fn hlsl_declares_every_register_that_its_contract_names() {
    for width in WIDTHS {
        for (variant, Exported { code, contract }) in exports(Target::Hlsl, width) {
            let text = String::from_utf8(code).unwrap();
            for b in &contract.bindings {
                let register = format!("register({})", b.register.as_deref().unwrap());
                assert!(text.contains(&register), "{variant:?}: no {register}");
            }
            let grid = contract.blocks.last().unwrap();
            assert!(text.contains(&format!("{}: register(b{})", grid.name, grid.index)));
            assert!(text.contains("[numthreads("), "{variant:?}");
            assert_eq!(contract.limits.uniform_buffers as usize, contract.blocks.len());
        }
    }
}

macro_rules! block {
    ($stem:literal, $params:ident { $($field:ident),* $(,)? }) => {{
        // Names every field, or it does not compile.
        let _ = |p: $params| { let $params { $($field: _),* } = p; };
        ($stem, size_of::<$params>(), vec![$((stringify!($field), offset_of!($params, $field))),*])
    }};
}

#[test]
fn fields_are_at_the_offsets_of_the_rust_structs() {
    let blocks = [
        block!("fwht", FwhtParams { head_dim, num_heads }),
        block!(
            "quantize_kv",
            QuantizeKvParams {
                head_dim,
                num_kv_heads,
                write_pos,
                cache_capacity,
                is_sliding,
                scale_factor_d512,
                rms_probe_enabled,
                num_tokens,
            }
        ),
        block!(
            "quantize_k_and_v",
            QuantizeKvParams {
                head_dim,
                num_kv_heads,
                write_pos,
                cache_capacity,
                is_sliding,
                scale_factor_d512,
                rms_probe_enabled,
                num_tokens,
            }
        ),
        block!(
            "store_kv",
            QuantizeKvParams {
                head_dim,
                num_kv_heads,
                write_pos,
                cache_capacity,
                is_sliding,
                scale_factor_d512,
                rms_probe_enabled,
                num_tokens,
            }
        ),
        block!(
            "dequantize_kv",
            DequantizeKvParams {
                head_dim,
                num_kv_heads,
                read_pos,
                cache_capacity,
                norms_per_pos,
                scale_factor_d512,
                num_tokens,
                dst_token_stride,
                dst_head_stride,
            }
        ),
        block!(
            "flash_attn_vec_tq",
            FlashAttnVecTqParams {
                n_heads,
                n_kv_heads,
                head_dim,
                kv_seq_len,
                kv_capacity,
                scale,
                mask_type,
                sliding_window,
                softcap,
                nwg,
                ring_start,
                scale_factor_d512,
            }
        ),
        block!(
            "flash_attn_vec",
            FlashAttnVecParams {
                n_heads,
                n_kv_heads,
                head_dim,
                kv_seq_len,
                kv_capacity,
                scale,
                mask_type,
                sliding_window,
                softcap,
                nwg,
                ring_start,
            }
        ),
        block!(
            "flash_attn_tile",
            FlashAttnTileParams {
                n_heads,
                n_kv_heads,
                head_dim,
                num_tokens,
                num_sequences,
                max_query_tokens,
                page_size,
                num_pages,
                num_blocks,
                scale,
                mask_type,
                sliding_window,
                softcap,
                nwg,
                split_base,
                splits,
                scale_factor_d512,
            }
        ),
    ];
    for (_, Exported { contract, .. }) in exports(Target::WgslNative, None) {
        let Some((_, size, fields)) = blocks.iter().find(|b| b.0 == contract.kernel) else {
            assert_eq!(contract.kernel, "flash_attn_vec_reduce");
            continue;
        };
        let found: Vec<(&str, usize)> = contract.blocks[0]
            .fields
            .iter()
            .map(|f| (f.name.as_str(), f.offset as usize))
            .collect();
        assert_eq!(&found, fields, "{}", contract.kernel);
        assert_eq!(contract.blocks[0].bytes as usize, *size, "{}", contract.kernel);
    }
}

/// The block's bytes by the contract's own table, for the Rust struct.
fn params<T: bytemuck::AnyBitPattern>(contract: &Contract, fields: &Fields<'_>) -> T {
    let word = |&(name, _): &(&str, _)| match fields[name] {
        Number::U32(n) => n.to_le_bytes(),
        Number::F32(x) => x.to_le_bytes(),
    };
    let bytes: Vec<u8> = contract.params.iter().flat_map(word).collect();
    bytemuck::pod_read_unaligned(&bytes)
}

/// The library's own launch for the same fields.
fn launch(variant: &Variant, plan: &Plan, fields: &Fields<'_>, caps: &Caps) -> Launch {
    let (contract, language) = (plan.contract, Language::Wgsl);
    let integer = |name: &str| match fields[name] {
        Number::U32(n) => n,
        Number::F32(x) => panic!("{name} is {x}"),
    };
    match variant {
        Variant::Fwht(p) => p.launch(&params(contract, fields), caps, language),
        Variant::QuantizeKv(p) => p.launch(&params(contract, fields), caps, language),
        Variant::QuantizeKAndV(p) => p.launch(&params(contract, fields), caps, language),
        Variant::StoreKv(p) => p.launch(&params(contract, fields), caps),
        Variant::DequantizeKv(p) => p.launch(&params(contract, fields), caps),
        Variant::FlashAttnVecTq(p) => {
            let (num_heads, num_kv_heads) = (integer("n_heads"), integer("n_kv_heads"));
            flash_attn_vec_tq::Problem { num_heads, num_kv_heads, ..*p }.launch(
                &params(contract, fields),
                caps,
                language,
            )
        }
        Variant::FlashAttnVec(p) => {
            let (num_heads, num_kv_heads) = (integer("n_heads"), integer("n_kv_heads"));
            flash_attn_vec::Problem { num_heads, num_kv_heads, ..*p }.launch(
                &params(contract, fields),
                caps,
                language,
            )
        }
        Variant::FlashAttnVecReduce(p) => {
            let params = FlashAttnVecReduceParams { nrows: integer("nrows"), nwg: integer("nwg") };
            p.launch(&params, caps)
        }
        Variant::FlashAttnTile(p) => {
            let (num_heads, num_kv_heads) = (integer("n_heads"), integer("n_kv_heads"));
            let (sequences, block_table) = cases::batch(integer("num_tokens"));
            flash_attn_tile::Problem { num_heads, num_kv_heads, ..*p }.launch(
                &params(contract, fields),
                &sequences,
                &block_table,
                caps,
            )
        }
    }
    .unwrap()
}

/// Fields of `case` with other sizes: `scale` times as many rows, tokens or splits.
fn resized(variant: &Variant, case: &Case, scale: u32) -> Fields<'static> {
    let mut fields = case.fields.clone();
    let head_dim = variant.head_dim();
    let mut set = |name: &'static str, value: u32| {
        if let Some(field) = fields.get_mut(name) {
            *field = Number::U32(value);
        }
    };
    set("head_dim", head_dim.get());
    set("norms_per_pos", head_dim.norms_per_pos());
    set("dst_token_stride", 2 * head_dim.get() + 4);
    set("num_heads", 21 * scale);
    set("nrows", 5 * scale);
    set("nwg", scale.min(MAX_SPLITS));
    set("cache_capacity", 48 * scale);
    set("num_tokens", 13 * scale);
    set("max_query_tokens", 13 * scale);
    if let Some(ratio) = variant.ratio() {
        set("n_heads", 2 * ratio);
    }
    fields
}

#[test]
fn sizes_and_grids_are_what_the_library_launches() {
    // A device with few workgroups a dimension, so that grids spread over y as well.
    for max_workgroups_per_dim in [65_535, 30] {
        for (variant, Exported { contract, .. }) in exports(Target::WgslNative, None) {
            let cases = cases::all();
            let same =
                |c: &&Case| std::mem::discriminant(&c.variant) == std::mem::discriminant(&variant);
            let case = cases.iter().find(same).unwrap();
            for scale in [1, 2, 5] {
                let caps = Caps { max_workgroups_per_dim, ..Caps::WEBGPU };
                let caps = if variant.ratio().is_some() { Caps::WEBGPU } else { caps };
                let plan = variant.plan(&caps, Language::Wgsl).unwrap();
                let fields = resized(&variant, case, scale);
                let want = launch(&variant, &plan, &fields, &caps);
                let value = written(&contract);
                let names = client::names(&fields, caps.max_workgroups_per_dim);
                assert_eq!(client::sizes(&value, &names).unwrap(), want.needed, "{variant:?}");
                assert_eq!(client::grid(&value, &names).unwrap(), want.grid, "{variant:?}");
            }
        }
    }
}

fn gpu() -> Option<Gpu> {
    if std::env::var_os("WGTQ_GPU").is_some_and(|v| v == "none") {
        return None;
    }
    Some(Gpu::open(&Selection::default()).expect("a GPU, or WGTQ_GPU=none"))
}

/// WGSL everywhere; SPIR-V where a driver takes it.
fn runnable() -> &'static [Target] {
    if cfg!(target_vendor = "apple") {
        &[Target::WgslNative]
    } else {
        &[Target::WgslNative, Target::Spirv]
    }
}

#[test]
fn a_program_that_knows_only_the_contract_gets_the_oracles_numbers() {
    let Some(gpu) = gpu() else { return };
    for case in cases::all() {
        for &target in runnable() {
            for width in [None, gpu.caps.subgroup_size] {
                let caps = Caps::WEBGPU.with_subgroup_size(width);
                let Exported { code, contract } = export(&case.variant, target, &caps).unwrap();
                let value = written(&contract);
                let outputs = client::run(&gpu, &value, &code, &case.fields, &case.inputs)
                    .unwrap_or_else(|e| panic!("{target:?} {}: {e}", contract.file));
                let outcome = (case.judge)(&outputs);
                assert!(outcome.pass(), "{target:?} {}: {}", contract.file, outcome.detail);
            }
        }
    }
}

/// Every part of a contract that the program relies on, made wrong.
#[test]
fn a_wrong_contract_or_code_does_not_pass() {
    let Some(gpu) = gpu() else { return };
    type Break = (&'static str, fn(&mut Value));
    let breaks: [Break; 8] = [
        ("a field at another's offset", |c| c["blocks"][0]["fields"][3]["offset"] = json!(32)),
        ("a field outside its block", |c| c["blocks"][0]["fields"][3]["offset"] = json!(4096)),
        ("a missing field", |c| drop(c["blocks"][0]["fields"].as_array_mut().unwrap().remove(3))),
        ("another field type", |c| c["blocks"][0]["fields"][5]["type"] = json!("u32")),
        ("another value than must be", |c| {
            c["blocks"][0]["fields"][2]["must_be"] = json!("64");
        }),
        ("two buffers swapped", |c| {
            c["bindings"][2]["index"] = json!(4);
            c["bindings"][4]["index"] = json!(2);
        }),
        ("half the grid", |c| c["grid"]["x"] = json!("n_kv_heads - 1")),
        ("a short output", |c| c["bindings"][6]["bytes"]["expression"] = json!("n_heads * 508")),
    ];
    let case = cases::all().into_iter().nth(3).unwrap();
    assert!(matches!(case.variant, Variant::FlashAttnVecTq(_)));
    let Exported { code, contract } =
        export(&case.variant, Target::WgslNative, &Caps::WEBGPU).unwrap();
    let caught = |value: &Value, code: &[u8]| match client::run(
        &gpu,
        value,
        code,
        &case.fields,
        &case.inputs,
    ) {
        Err(_) => true,
        Ok(outputs) => outputs["dst"].len() != 6 * 128 * 4 || !(case.judge)(&outputs).pass(),
    };
    assert!(!caught(&written(&contract), &code), "the right contract passes");
    for (what, change) in breaks {
        let mut value = written(&contract);
        change(&mut value);
        assert!(caught(&value, &code), "{what} passes");
    }
    let other = [code.as_slice(), b"\n"].concat();
    assert!(caught(&written(&contract), &other), "other code passes");
}
