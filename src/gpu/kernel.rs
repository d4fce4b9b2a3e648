//! A kernel on a caller's device: pipeline, bind group, recorded dispatch. Never submits, never
//! allocates a buffer, takes no queue.

use std::borrow::Cow;
use std::marker::PhantomData;

use crate::contract::{Access, Caps, Contract, Language, Launch, Plan};
use crate::error::{Error, Result};
use crate::kernels::KernelSpec;
use crate::source::{Target, assemble};

/// Which run-time checks wgpu adds to the WGSL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checks {
    /// Bounds clamps and loop bounding, wgpu's default.
    #[default]
    Checked,
    /// None: as hand-written MSL runs. Sound as long as launches come from `launch()` and
    /// buffers from `bind()`, which check what the shader relies on.
    Trusted,
}

/// How a pipeline is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Run-time checks of the WGSL; MSL has none.
    pub checks: Checks,
    /// The caller's pipeline cache.
    pub cache: Option<&'a wgpu::PipelineCache>,
    /// Bindings, by index and ascending, whose offset is chosen at each [`Kernel::record_at`].
    pub dynamic: &'a [u32],
}

/// Code for a pass-through module, which wgpu hands to the driver unread.
#[derive(Debug, Clone)]
pub enum PassthroughCode {
    /// MSL text, for Metal.
    Msl(String),
    /// SPIR-V words, for Vulkan.
    SpirV(Vec<u32>),
}

/// A kernel whose type says which buffers it takes.
#[derive(Debug)]
pub struct Kernel<K> {
    raw: RawKernel,
    marker: PhantomData<fn() -> K>,
}

/// Buffers bound to a kernel.
#[derive(Debug)]
pub struct Bound<K> {
    raw: RawBound,
    marker: PhantomData<fn() -> K>,
}

impl<K: KernelSpec> Kernel<K> {
    /// Makes the pipeline of `plan` on `device`: from WGSL, or from MSL through a pass-through
    /// module when the plan is for MSL (Metal only; needs `PASSTHROUGH_SHADERS`).
    ///
    /// Fails when the plan is another kernel's, or needs more than the device allows.
    pub fn new(device: &wgpu::Device, plan: &Plan, options: &Options<'_>) -> Result<Self> {
        same_kernel(K::CONTRACT, plan.contract)?;
        Ok(Self { raw: RawKernel::new(device, plan, options)?, marker: PhantomData })
    }

    /// Binds buffers. Checks usages, offset alignment and binding limits; sizes are checked
    /// against each launch by [`Self::record`], since they depend on its parameters.
    pub fn bind(&self, device: &wgpu::Device, buffers: K::Buffers<'_>) -> Result<Bound<K>> {
        Ok(Bound { raw: self.raw.bind(device, buffers.into())?, marker: PhantomData })
    }

    /// Records one dispatch into the caller's pass. The launch's uniform contents must be in the
    /// uniform buffers by the time the caller submits.
    ///
    /// Fails when a binding is smaller than the launch touches; nothing is recorded then.
    pub fn record(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        bound: &Bound<K>,
        launch: &Launch,
    ) -> Result<()> {
        self.raw.record_at(pass, &bound.raw, launch, &[])
    }

    /// The same for a kernel with [`Options::dynamic`] bindings: `offsets` has one entry each,
    /// in bytes, added to where the binding starts.
    ///
    /// Fails also when an offset is misaligned or takes the binding past the end of its buffer.
    pub fn record_at(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        bound: &Bound<K>,
        launch: &Launch,
        offsets: &[u32],
    ) -> Result<()> {
        self.raw.record_at(pass, &bound.raw, launch, offsets)
    }

    /// The pipeline, for callers that record by themselves.
    pub fn pipeline(&self) -> &wgpu::ComputePipeline {
        &self.raw.pipeline
    }

    /// The layout of bind group 0.
    pub fn layout(&self) -> &wgpu::BindGroupLayout {
        &self.raw.layout
    }
}

/// A kernel known only by its contract, for drivers that iterate over all of them.
#[derive(Debug)]
pub struct RawKernel {
    contract: &'static Contract,
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    dynamic: Vec<u32>,
}

/// Buffers bound to a [`RawKernel`].
#[derive(Debug)]
pub struct RawBound {
    contract: &'static Contract,
    group: wgpu::BindGroup,
    sizes: Vec<u64>,
    dynamic: Vec<Movable>,
}

/// A binding whose offset is chosen when recording.
#[derive(Debug)]
struct Movable {
    name: &'static str,
    alignment: u32,
    /// Bytes bound, and bytes from the start of the binding to the end of its buffer.
    size: u64,
    rest: u64,
}

impl RawKernel {
    /// See [`Kernel::new`].
    pub fn new(device: &wgpu::Device, plan: &Plan, options: &Options<'_>) -> Result<Self> {
        let browser = device.adapter_info().backend == wgpu::Backend::BrowserWebGpu;
        let mut caps = Caps::of(device);
        if browser && plan.subgroups {
            // wgpu has no name for the browser's feature; the browser itself refuses the text's
            // `enable subgroups;` on a device that was opened without it.
            caps = caps.with_subgroup_size(Some(1));
        }
        plan.check(&caps)?;
        if plan.language == Language::Msl {
            let text = assemble(plan, Target::Msl).text;
            return Self::passthrough(device, plan, PassthroughCode::Msl(text), options);
        }
        let target = if browser { Target::WgslBrowser } else { Target::WgslNative };
        let text = assemble(plan, target).text;
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(&plan.label),
            source: wgpu::ShaderSource::Wgsl(Cow::Owned(text)),
        };
        let module = match options.checks {
            Checks::Checked => device.create_shader_module(descriptor),
            // SAFETY: the text is this crate's; `launch()` and `record()` check every size and
            // index that it relies on, and its loops end by construction.
            Checks::Trusted => unsafe {
                device.create_shader_module_trusted(
                    descriptor,
                    wgpu::ShaderRuntimeChecks::unchecked(),
                )
            },
        };
        Ok(Self::from_module(device, plan, &module, options))
    }

    /// Makes the pipeline from code that wgpu passes through unread, behind the same bind
    /// group layout. The code must be this plan's.
    pub fn passthrough(
        device: &wgpu::Device,
        plan: &Plan,
        code: PassthroughCode,
        options: &Options<'_>,
    ) -> Result<Self> {
        if !device.features().contains(wgpu::Features::PASSTHROUGH_SHADERS) {
            return Err(Error::Feature {
                kernel: plan.contract.stem,
                feature: "PASSTHROUGH_SHADERS",
            });
        }
        let backend = device.adapter_info().backend;
        let (needed, name) = match &code {
            PassthroughCode::Msl(_) => (wgpu::Backend::Metal, "an adapter of the Metal backend"),
            PassthroughCode::SpirV(_) => {
                (wgpu::Backend::Vulkan, "an adapter of the Vulkan backend")
            }
        };
        if backend != needed {
            return Err(Error::Feature { kernel: plan.contract.stem, feature: name });
        }
        let mut descriptor = wgpu::ShaderModuleDescriptorPassthrough {
            label: Some(&plan.label),
            entry_points: Cow::Owned(vec![wgpu::PassthroughShaderEntryPoint {
                name: plan.language.entry(plan.contract).into(),
                workgroup_size: (plan.workgroup_size, 1, 1),
            }]),
            ..Default::default()
        };
        match code {
            PassthroughCode::Msl(text) => descriptor.msl = Some(text.into()),
            PassthroughCode::SpirV(words) => descriptor.spirv = Some(words.into()),
        }
        // SAFETY: the code is assembled from this crate's own sources, for this layout.
        let module = unsafe { device.create_shader_module_passthrough(descriptor) };
        Ok(Self::from_module(device, plan, &module, options))
    }

    fn from_module(
        device: &wgpu::Device,
        plan: &Plan,
        module: &wgpu::ShaderModule,
        options: &Options<'_>,
    ) -> Self {
        let contract = plan.contract;
        let entries: Vec<_> = (0..)
            .zip(contract.bindings)
            .map(|(index, binding)| layout_entry(index, binding, options.dynamic.contains(&index)))
            .collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(contract.stem),
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(contract.stem),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&plan.label),
            layout: Some(&pipeline_layout),
            module,
            entry_point: Some(plan.language.entry(contract)),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: options.cache,
        });
        Self { contract, pipeline, layout, dynamic: options.dynamic.to_vec() }
    }

    /// See [`Kernel::bind`]. One binding each, in the contract's order.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        buffers: Vec<wgpu::BufferBinding<'_>>,
    ) -> Result<RawBound> {
        let limits = device.limits();
        let mut sizes = Vec::with_capacity(buffers.len());
        let mut dynamic = Vec::new();
        for ((index, binding), buffer) in (0..).zip(self.contract.bindings).zip(&buffers) {
            let uniform = binding.access == Access::Uniform;
            let (usage, needed, alignment, limit, most) = if uniform {
                (
                    wgpu::BufferUsages::UNIFORM,
                    "UNIFORM",
                    limits.min_uniform_buffer_offset_alignment,
                    "max_uniform_buffer_binding_size",
                    limits.max_uniform_buffer_binding_size,
                )
            } else {
                (
                    wgpu::BufferUsages::STORAGE,
                    "STORAGE",
                    limits.min_storage_buffer_offset_alignment,
                    "max_storage_buffer_binding_size",
                    limits.max_storage_buffer_binding_size,
                )
            };
            let (kernel, name) = (self.contract.stem, binding.name);
            let found = buffer.buffer.usage();
            if !found.contains(usage) {
                let found = format!("{found:?}");
                return Err(Error::Usage { kernel, buffer: name, needed, found });
            }
            let offset = buffer.offset;
            if !offset.is_multiple_of(alignment.into()) {
                let alignment = alignment.into();
                return Err(Error::Misaligned { kernel, buffer: name, alignment, offset });
            }
            let rest = buffer.buffer.size().saturating_sub(offset);
            let size = buffer.size.map_or(rest, wgpu::BufferSize::get);
            if size == 0 || size > rest {
                let needed = size.max(4);
                return Err(Error::BufferTooSmall { kernel, buffer: name, needed, found: rest });
            }
            if size > most {
                return Err(Error::Limit { kernel, limit, needed: size, found: most });
            }
            sizes.push(size);
            if self.dynamic.contains(&index) {
                dynamic.push(Movable { name, alignment, size, rest });
            }
        }
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(buffer),
            })
            .collect();
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(self.contract.stem),
            layout: &self.layout,
            entries: &entries,
        });
        Ok(RawBound { contract: self.contract, group, sizes, dynamic })
    }

    /// See [`Kernel::record`].
    pub fn record(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        bound: &RawBound,
        launch: &Launch,
    ) -> Result<()> {
        self.record_at(pass, bound, launch, &[])
    }

    /// See [`Kernel::record_at`].
    pub fn record_at(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        bound: &RawBound,
        launch: &Launch,
        offsets: &[u32],
    ) -> Result<()> {
        same_kernel(self.contract, launch.contract)?;
        same_kernel(self.contract, bound.contract)?;
        let bindings = self.contract.bindings.iter();
        for ((binding, &needed), &found) in bindings.zip(&launch.needed).zip(&bound.sizes) {
            if found < needed {
                let (kernel, buffer) = (self.contract.stem, binding.name);
                return Err(Error::BufferTooSmall { kernel, buffer, needed, found });
            }
        }
        bound.check_offsets(offsets)?;
        let [x, y, z] = launch.grid;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &bound.group, offsets);
        pass.dispatch_workgroups(x, y, z);
        Ok(())
    }
}

impl RawBound {
    fn check_offsets(&self, offsets: &[u32]) -> Result<()> {
        let kernel = self.contract.stem;
        if offsets.len() != self.dynamic.len() {
            let need = format!("{} for {kernel}", self.dynamic.len());
            return Err(Error::param("dynamic offsets", need, offsets.len()));
        }
        for (&offset, movable) in offsets.iter().zip(&self.dynamic) {
            let Movable { name, alignment, size, rest } = *movable;
            if !offset.is_multiple_of(alignment) {
                let (alignment, offset) = (alignment.into(), offset.into());
                return Err(Error::Misaligned { kernel, buffer: name, alignment, offset });
            }
            let needed = u64::from(offset) + size;
            if needed > rest {
                return Err(Error::BufferTooSmall { kernel, buffer: name, needed, found: rest });
            }
        }
        Ok(())
    }
}

fn layout_entry(
    binding: u32,
    b: &crate::contract::Binding,
    has_dynamic_offset: bool,
) -> wgpu::BindGroupLayoutEntry {
    let ty = match b.access {
        Access::Uniform => wgpu::BufferBindingType::Uniform,
        Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
        Access::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
    };
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    }
}

fn same_kernel(needed: &'static Contract, found: &'static Contract) -> Result<()> {
    if needed.stem == found.stem {
        Ok(())
    } else {
        Err(Error::param("kernel", needed.stem, found.stem))
    }
}
