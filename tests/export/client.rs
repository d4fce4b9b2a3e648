//! A program that runs an exported kernel and knows only its contract and its code: no plan, no
//! parameter struct, no launch. An engine in another language is this file, translated.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};
use wgtq::gpu::device::Gpu;

use crate::expression::{Names, evaluate};

/// Value of a parameter field.
#[derive(Debug, Clone, Copy)]
pub enum Number {
    U32(u32),
    F32(f32),
}

/// Buffers by binding name.
pub type Buffers = BTreeMap<String, Vec<u8>>;

/// Fields by name.
pub type Fields<'a> = BTreeMap<&'a str, Number>;

/// Bytes after each written buffer, which must come back as they went.
const GUARD: usize = 256;
/// What outputs and guards hold before the dispatch.
const POISON: u8 = 0xcd;

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str, String> {
    value[key].as_str().ok_or_else(|| format!("{key}: need a string, found {}", value[key]))
}

fn number(value: &Value, key: &str) -> Result<u32, String> {
    let found = value[key].as_u64().and_then(|n| u32::try_from(n).ok());
    found.ok_or_else(|| format!("{key}: need a u32, found {}", value[key]))
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a [Value], String> {
    value[key].as_array().map(Vec::as_slice).ok_or_else(|| format!("{key}: need a list"))
}

/// Integer fields, and the limit that grids depend on.
pub fn names(fields: &Fields<'_>, max_workgroups_per_dim: u32) -> Names {
    let integer = |(name, value): (&&str, &Number)| match value {
        Number::U32(n) => Some(((*name).to_owned(), u64::from(*n))),
        Number::F32(_) => None,
    };
    let mut names: Names = fields.iter().filter_map(integer).collect();
    names.insert("max_workgroups_per_dim".to_owned(), max_workgroups_per_dim.into());
    names
}

/// Workgroups by the contract's formula.
pub fn grid(contract: &Value, names: &Names) -> Result<[u32; 3], String> {
    let grid = &contract["grid"];
    let mut names = names.clone();
    for named in list(grid, "let")? {
        let value = evaluate(text(named, "expression")?, &names)?;
        names.insert(text(named, "name")?.to_owned(), value);
    }
    let mut sizes = [0; 3];
    for (size, axis) in sizes.iter_mut().zip(["x", "y", "z"]) {
        let value = evaluate(text(grid, axis)?, &names)?;
        *size = u32::try_from(value).map_err(|_| format!("grid {axis} of {value}"))?;
    }
    Ok(sizes)
}

/// Bytes of each binding by the contract's formulas.
pub fn sizes(contract: &Value, names: &Names) -> Result<Vec<u64>, String> {
    let size = |b: &Value| evaluate(text(&b["bytes"], "expression")?, names);
    list(contract, "bindings")?.iter().map(size).collect()
}

/// Contents of a block: every field at its offset.
fn fill(block: &Value, fields: &Fields<'_>, names: &Names) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; number(block, "bytes")? as usize];
    for field in list(block, "fields")? {
        let name = text(field, "name")?;
        let value = fields.get(name).ok_or_else(|| format!("no value for field {name}"))?;
        if let Some(expression) = field["must_be"].as_str() {
            let must = evaluate(expression, names)?;
            if names.get(name) != Some(&must) {
                return Err(format!("{name}: must be {must}, found {value:?}"));
            }
        }
        let word = match (text(field, "type")?, value) {
            ("u32", Number::U32(n)) => n.to_le_bytes(),
            ("f32", Number::F32(x)) => x.to_le_bytes(),
            (other, value) => return Err(format!("{name}: need {other}, found {value:?}")),
        };
        let at = number(field, "offset")? as usize;
        let target =
            bytes.get_mut(at..at + 4).ok_or_else(|| format!("{name}: outside its block"))?;
        target.copy_from_slice(&word);
    }
    Ok(bytes)
}

fn module(gpu: &Gpu, contract: &Value, code: &[u8]) -> Result<wgpu::ShaderModule, String> {
    let hash: String = Sha256::digest(code).iter().map(|b| format!("{b:02x}")).collect();
    if hash != text(contract, "sha256")? {
        return Err("the code is not the contract's".to_owned());
    }
    match text(contract, "target")? {
        "wgsl-native" => {
            let source = String::from_utf8(code.to_vec()).map_err(|e| e.to_string())?;
            Ok(gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: None,
                source: wgpu::ShaderSource::Wgsl(source.into()),
            }))
        }
        "spirv" => {
            let size = list(contract, "workgroup_size")?;
            let axis = |i: usize| size[i].as_u64().unwrap_or(0) as u32;
            let entry = wgpu::PassthroughShaderEntryPoint {
                name: text(contract, "entry_point")?.to_owned().into(),
                workgroup_size: (axis(0), axis(1), axis(2)),
            };
            let descriptor = wgpu::ShaderModuleDescriptorPassthrough {
                entry_points: vec![entry].into(),
                spirv: Some(bytemuck::pod_collect_to_vec::<u8, u32>(code).into()),
                ..Default::default()
            };
            // SAFETY: the code is what the contract describes, by its hash.
            Ok(unsafe { gpu.device.create_shader_module_passthrough(descriptor) })
        }
        other => Err(format!("cannot run {other} here")),
    }
}

fn layout(gpu: &Gpu, contract: &Value) -> Result<wgpu::BindGroupLayout, String> {
    let entry = |b: &Value| {
        let ty = match text(b, "access")? {
            "uniform" => wgpu::BufferBindingType::Uniform,
            "read" => wgpu::BufferBindingType::Storage { read_only: true },
            "read-write" => wgpu::BufferBindingType::Storage { read_only: false },
            other => return Err(format!("unknown access {other}")),
        };
        Ok(wgpu::BindGroupLayoutEntry {
            binding: number(b, "index")?,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        })
    };
    let entries: Vec<_> =
        list(contract, "bindings")?.iter().map(entry).collect::<Result<_, String>>()?;
    Ok(gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: None,
        entries: &entries,
    }))
}

/// A buffer on the device with its index, name and guard.
struct Bound {
    index: u32,
    name: String,
    bytes: usize,
    buffer: wgpu::Buffer,
    written: bool,
}

fn upload(
    gpu: &Gpu,
    contract: &Value,
    fields: &Fields<'_>,
    inputs: &Buffers,
    names: &Names,
) -> Result<Vec<Bound>, String> {
    let mut bound = Vec::new();
    for (binding, size) in list(contract, "bindings")?.iter().zip(sizes(contract, names)?) {
        let (index, name) = (number(binding, "index")?, text(binding, "name")?);
        let (uniform, written) =
            (binding["access"] == "uniform", binding["access"] == "read-write");
        let mut contents = if uniform {
            let blocks = list(contract, "blocks")?;
            let block = blocks.iter().find(|b| b["index"] == index).ok_or("no block")?;
            fill(block, fields, names)?
        } else {
            match inputs.get(name) {
                Some(bytes) => bytes.clone(),
                None if written => vec![POISON; size as usize],
                None => return Err(format!("no input {name}")),
            }
        };
        if contents.len() as u64 != size {
            return Err(format!("{name}: the formula says {size} bytes, found {}", contents.len()));
        }
        if written {
            contents.extend([POISON; GUARD]);
        }
        let kind = if uniform { wgpu::BufferUsages::UNIFORM } else { wgpu::BufferUsages::STORAGE };
        let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(name),
            size: contents.len() as u64,
            usage: kind | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        gpu.queue.write_buffer(&buffer, 0, &contents);
        bound.push(Bound { index, name: name.to_owned(), bytes: size as usize, buffer, written });
    }
    Ok(bound)
}

/// Runs one dispatch and returns what the kernel wrote, by binding name. Errors for a contract
/// that does not fit its code, and for writes past the end.
pub fn run(
    gpu: &Gpu,
    contract: &Value,
    code: &[u8],
    fields: &Fields<'_>,
    inputs: &Buffers,
) -> Result<Buffers, String> {
    let names = names(fields, gpu.device.limits().max_compute_workgroups_per_dimension);
    let [x, y, z] = grid(contract, &names)?;
    let outputs = gpu.scoped(|| {
        let layout = layout(gpu, contract)?;
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: Some(&gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            })),
            module: &module(gpu, contract, code)?,
            entry_point: Some(text(contract, "entry_point")?),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let bound = upload(gpu, contract, fields, inputs, &names)?;
        let entries: Vec<_> = bound
            .iter()
            .map(|b| wgpu::BindGroupEntry {
                binding: b.index,
                resource: b.buffer.as_entire_binding(),
            })
            .collect();
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &layout,
            entries: &entries,
        });
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
        gpu.queue.submit([encoder.finish()]);
        bound.iter().filter(|b| b.written).map(|b| read(gpu, b)).collect::<Result<_, String>>()
    });
    outputs.map_err(|e| e.to_string())?
}

fn read(gpu: &Gpu, bound: &Bound) -> Result<(String, Vec<u8>), String> {
    let copy = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: bound.buffer.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(&bound.buffer, 0, &copy, 0, copy.size());
    gpu.queue.submit([encoder.finish()]);
    copy.map_async(wgpu::MapMode::Read, .., |_| ());
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| e.to_string())?;
    let mut bytes = copy.get_mapped_range(..).map_err(|e| e.to_string())?.to_vec();
    let guard = bytes.split_off(bound.bytes);
    match guard.iter().position(|&b| b != POISON) {
        Some(at) => Err(format!("{}: byte {} past the end was written", bound.name, at)),
        None => Ok((bound.name.clone(), bytes)),
    }
}
