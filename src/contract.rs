//! What a kernel promises, as data: bindings, parameter block, files. One contract holds for the
//! WGSL and the MSL alike: `@group(0) @binding(i)` is `[[buffer(i)]]`.

/// How a kernel touches a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Uniform block.
    Uniform,
    /// Read-only storage.
    Read,
    /// Read-write storage.
    ReadWrite,
}

/// One binding: its index is its place in [`Contract::bindings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The variable's name in the WGSL and the argument's name in the MSL.
    pub name: &'static str,
    /// How it is touched.
    pub access: Access,
    /// Element type and index order, innermost last.
    pub layout: &'static str,
}

/// Type of a parameter field; all are 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// `u32` / `uint`.
    U32,
    /// `f32` / `float`.
    F32,
}

/// A field of the parameter block; its offset is 4 times its place.
pub type Field = (&'static str, Scalar);

/// Everything about a kernel that does not depend on a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contract {
    /// Name of the kernel and of its files.
    pub stem: &'static str,
    /// One line on what it computes.
    pub summary: &'static str,
    /// Bindings of group 0, dense from 0.
    pub bindings: &'static [Binding],
    /// Fields of the `Params` struct; empty where the scalars have bindings of their own.
    pub params: &'static [Field],
    /// Fields of `params` that the published block ends with; the rest are this project's.
    pub published_params: usize,
    /// Text of `wgsl/<stem>.wgsl`.
    pub wgsl: &'static str,
    /// Text of `msl/<stem>.metal`.
    pub msl: &'static str,
}

/// The language a kernel runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Language {
    /// WGSL.
    Wgsl,
    /// Metal Shading Language.
    Msl,
}

impl Language {
    /// The entry point of a kernel in this language.
    pub const fn entry(self, contract: &Contract) -> &'static str {
        match self {
            Self::Wgsl => "main",
            Self::Msl => contract.stem,
        }
    }
}

/// What a device allows, as far as plans depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Lanes that are sure to be in one subgroup; none without subgroup operations.
    pub subgroup_size: Option<u32>,
    /// Rows and columns of the cooperative matrices that WGSL may use, f16 in and f32 out, with f16 and
    /// subgroup barriers beside them: wgpu has 16x16 on Vulkan and 8x8 on Metal.
    pub matrices: Option<u32>,
    /// Whether workgroups of a dispatch may hand values to each other in WGSL: a storage barrier orders
    /// a workgroup's accesses for the whole device, and storage may be `@coherent`. WGSL promises
    /// neither. The SPIR-V, HLSL and GLSL that naga makes of it have the former; the latter is
    /// wgpu's feature `MEMORY_DECORATION_COHERENT`, which the device must have been asked for.
    pub storage_fence: bool,
    /// Multiprocessors, in Metal's words GPU cores, that splits have to fill. wgpu does not tell, so
    /// [`Self::MULTIPROCESSORS`] is taken for granted until a caller says what it knows.
    pub multiprocessors: u32,
    /// Bytes of workgroup memory.
    pub max_workgroup_storage: u32,
    /// Threads of a workgroup.
    pub max_workgroup_threads: u32,
    /// Workgroups in one dimension of a dispatch.
    pub max_workgroups_per_dim: u32,
}

impl Caps {
    /// Multiprocessors where nobody says: those of the largest device that was timed.
    pub const MULTIPROCESSORS: u32 = 132;

    /// What every WebGPU device allows, without subgroups.
    pub const WEBGPU: Self = Self {
        subgroup_size: None,
        matrices: None,
        storage_fence: false,
        multiprocessors: Self::MULTIPROCESSORS,
        max_workgroup_storage: 16 << 10,
        max_workgroup_threads: 256,
        max_workgroups_per_dim: 65_535,
    };

    /// An Apple GPU under Metal: 32-wide simdgroups, 8x8 matrices, 32 KiB of threadgroup memory.
    pub const APPLE: Self = Self {
        subgroup_size: Some(32),
        matrices: Some(8),
        storage_fence: false,
        multiprocessors: Self::MULTIPROCESSORS,
        max_workgroup_storage: 32 << 10,
        max_workgroup_threads: 1024,
        max_workgroups_per_dim: 65_535,
    };
}

/// A value of a generated constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Boolean.
    Bool(bool),
    /// Unsigned integer.
    U32(u32),
    /// Float, printed so that it reads back to the same bits.
    F32(f32),
    /// Float table.
    F32s(Vec<f32>),
    /// Word table.
    U32s(Vec<u32>),
}

/// A generated constant of a shader.
#[derive(Debug, Clone, PartialEq)]
pub struct Constant {
    /// Its name in the shader.
    pub name: &'static str,
    /// Its value.
    pub value: Value,
}

/// A constant from anything that converts to a [`Value`].
pub(crate) fn constant(name: &'static str, value: impl Into<Value>) -> Constant {
    Constant { name, value: value.into() }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),*) => {$(
        impl From<$from> for Value {
            fn from(v: $from) -> Self { Self::$variant(v) }
        }
    )*};
}
value_from!(bool => Bool, u32 => U32, f32 => F32, Vec<f32> => F32s, Vec<u32> => U32s);

/// What [`Caps::matrices`] stands for, as errors name it.
const MATRICES: &str =
    "EXPERIMENTAL_COOPERATIVE_MATRIX (f16 to f32), SHADER_F16 and SUBGROUP_BARRIER";

/// What [`Caps::storage_fence`] stands for, as errors name it.
const STORAGE_FENCE: &str = "storage_fence (a storage barrier that orders accesses for the whole device, and \
     MEMORY_DECORATION_COHERENT)";

/// Everything that a pipeline depends on: the outcome of choosing constants for a problem and a
/// device. Two equal plans make the same pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The kernel.
    pub contract: &'static Contract,
    /// The language it is planned for.
    pub language: Language,
    /// Label: the stem and what distinguishes the variant.
    pub label: String,
    /// Generated constants, in the order they are printed.
    pub constants: Vec<Constant>,
    /// Shared pieces in front of the file, by name without extension.
    pub pieces: Vec<&'static str>,
    /// Threads of a workgroup.
    pub workgroup_size: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Whether the text uses subgroup operations.
    pub subgroups: bool,
    /// Whether the text uses what [`Caps::matrices`] stands for.
    pub matrices: bool,
    /// Whether the text relies on [`Caps::storage_fence`].
    pub storage_fence: bool,
}

impl Plan {
    /// The plan with `text` in place of the kernel's own file, behind the same contract. A
    /// contract lives as long as the program: for the few replacements of a test.
    #[cfg(any(feature = "driver", feature = "web"))]
    pub(crate) fn with_text(&self, text: &str) -> Self {
        let text: &'static str = Box::leak(text.to_owned().into_boxed_str());
        let contract = match self.language {
            Language::Wgsl => Contract { wgsl: text, ..*self.contract },
            Language::Msl => Contract { msl: text, ..*self.contract },
        };
        Self { contract: Box::leak(Box::new(contract)), ..self.clone() }
    }

    /// Checks the plan against what the device allows.
    pub fn check(&self, caps: &Caps) -> crate::Result<()> {
        if self.matrices && caps.matrices.is_none() {
            return Err(crate::Error::Feature { kernel: self.contract.stem, feature: MATRICES });
        }
        if self.storage_fence && !caps.storage_fence {
            let kernel = self.contract.stem;
            return Err(crate::Error::Feature { kernel, feature: STORAGE_FENCE });
        }
        let limit = |limit, needed: u32, found: u32| {
            if needed <= found {
                Ok(())
            } else {
                Err(crate::Error::Limit {
                    kernel: self.contract.stem,
                    limit,
                    needed: needed.into(),
                    found: found.into(),
                })
            }
        };
        limit(
            "max_compute_workgroup_storage_size",
            self.workgroup_bytes,
            caps.max_workgroup_storage,
        )?;
        limit(
            "max_compute_invocations_per_workgroup",
            self.workgroup_size,
            caps.max_workgroup_threads,
        )?;
        if self.subgroups && caps.subgroup_size.is_none() {
            return Err(crate::Error::Feature { kernel: self.contract.stem, feature: "SUBGROUP" });
        }
        Ok(())
    }
}

/// One dispatch: uniform contents, grid, and the bytes that it touches in each binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The kernel.
    pub contract: &'static Contract,
    /// Workgroups.
    pub grid: [u32; 3],
    /// Bytes needed of each binding, in binding order.
    pub needed: Vec<u64>,
    /// Contents of the uniform bindings.
    pub uniforms: Vec<(u32, Vec<u8>)>,
}

impl Launch {
    /// Contents of uniform binding `index`; empty if the binding is not uniform.
    pub fn uniform(&self, index: u32) -> &[u8] {
        self.uniforms.iter().find(|(i, _)| *i == index).map_or(&[], |(_, bytes)| bytes)
    }
}

/// Spreads `count` workgroups over x and y when one dimension does not hold them.
pub(crate) fn grid(kernel: &'static str, count: u64, caps: &Caps) -> crate::Result<[u32; 3]> {
    let most = u64::from(caps.max_workgroups_per_dim);
    let rows = count.div_ceil(most).max(1);
    if rows > most {
        return Err(crate::Error::Limit {
            kernel,
            limit: "max_compute_workgroups_per_dimension, squared",
            needed: count,
            found: most * most,
        });
    }
    Ok([count.div_ceil(rows) as u32, rows as u32, 1])
}
