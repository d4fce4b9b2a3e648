//! The dispatch of anybody's kernel, as JSON: `wgtq msl check FILE.metal --dispatch SPEC.json`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::dispatch::{Buffer, LaneOrder, Mode, Request};
use crate::driver::DriverError;
use crate::rng::Gaussian;

/// A dispatch.
#[derive(Debug, Clone, Deserialize)]
pub struct Spec {
    /// Name of the kernel.
    pub kernel: String,
    /// Threadgroups of the grid.
    pub threadgroups: [u32; 3],
    /// Threads of one threadgroup.
    pub threads: [u32; 3],
    /// Buffers.
    #[serde(default)]
    pub buffers: Vec<BufferSpec>,
    /// Threadgroup arguments.
    #[serde(default)]
    pub threadgroup_memory: Vec<ThreadgroupSpec>,
    /// Function constants by index.
    #[serde(default)]
    pub function_constants: BTreeMap<u32, Constant>,
}

/// A buffer.
#[derive(Debug, Clone, Deserialize)]
pub struct BufferSpec {
    /// `[[buffer(n)]]`.
    pub index: u32,
    /// Its size.
    pub bytes: u64,
    /// Its contents.
    #[serde(default)]
    pub init: Init,
}

/// Contents of a buffer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Zeros.
    #[default]
    Zero,
    /// f32 ones.
    Ones,
    /// f32 0, 1, 2 ..
    RampF32,
    /// u32 0, 1, 2 ..
    RampU32,
    /// f32 N(0, 1), seeded by the buffer's index.
    RandomF32,
    /// A file's bytes, as many as the buffer has.
    File(String),
    /// Words; the rest is zeros.
    U32(Vec<u32>),
    /// Floats; the rest is zeros.
    F32(Vec<f32>),
}

/// A threadgroup argument.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct ThreadgroupSpec {
    /// `[[threadgroup(n)]]`.
    pub index: u32,
    /// Its size.
    pub bytes: u32,
}

/// A function constant's value.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub enum Constant {
    /// bool.
    Bool(bool),
    /// Any integer type.
    Int(i64),
    /// half or float.
    Float(f32),
}

/// Most bytes of one buffer.
const MAX_BYTES: u64 = 1 << 31;
/// Most threads of a threadgroup, as on Apple GPUs.
const MAX_THREADS: u64 = 1024;
/// Most threadgroups of one dispatch here.
const MAX_THREADGROUPS: u64 = 1 << 20;

impl Spec {
    /// Reads a specification; errors name the field.
    pub fn load(path: &Path) -> Result<Self, DriverError> {
        let bytes = std::fs::read(path)
            .map_err(|source| DriverError::File { path: path.to_owned(), source })?;
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        serde_path_to_error::deserialize(&mut json).map_err(|e| DriverError::Manifest {
            path: path.to_owned(),
            field: e.path().to_string(),
            message: e.inner().to_string(),
        })
    }

    /// The request: buffers filled, every size checked. Files are relative to `folder`.
    pub fn request(
        &self,
        folder: &Path,
        mode: Mode,
        order: LaneOrder,
        limit: Duration,
    ) -> Result<Request, DriverError> {
        let product = |name: &'static str, of: [u32; 3], most: u64| {
            let count = of.iter().try_fold(1u64, |n, &x| n.checked_mul(x.into()));
            match count {
                Some(count) if (1..=most).contains(&count) => Ok(()),
                _ => Err(DriverError::Argument {
                    flag: name,
                    need: format!("a product of 1 to {most}"),
                    found: format!("{of:?}"),
                }),
            }
        };
        product("threads", self.threads, MAX_THREADS)?;
        product("threadgroups", self.threadgroups, MAX_THREADGROUPS)?;
        let buffers = self
            .buffers
            .iter()
            .map(|b| Ok(Buffer { index: b.index, writable: true, bytes: b.fill(folder)? }))
            .collect::<Result<_, DriverError>>()?;
        let constant = |(&index, value): (&u32, &Constant)| match *value {
            Constant::Bool(b) => (index, 0, u64::from(b)),
            Constant::Int(i) => (index, 5, i as u64),
            Constant::Float(x) => (index, 8, u64::from(x.to_bits())),
        };
        Ok(Request {
            mode,
            order,
            kernel: self.kernel.clone(),
            threadgroups: self.threadgroups,
            threads: self.threads,
            constants: self.function_constants.iter().map(constant).collect(),
            threadgroup_memory: self
                .threadgroup_memory
                .iter()
                .map(|t| (t.index, t.bytes))
                .collect(),
            buffers,
            limit,
        })
    }
}

impl BufferSpec {
    fn fill(&self, folder: &Path) -> Result<Vec<u8>, DriverError> {
        if self.bytes > MAX_BYTES {
            return Err(DriverError::Argument {
                flag: "buffers.bytes",
                need: format!("at most {MAX_BYTES}"),
                found: self.bytes.to_string(),
            });
        }
        let size = self.bytes as usize;
        let words = size.div_ceil(4);
        let mut bytes: Vec<u8> = match &self.init {
            Init::Zero => Vec::new(),
            Init::Ones => 1f32.to_le_bytes().repeat(words),
            Init::RampF32 => (0..words).flat_map(|i| (i as f32).to_le_bytes()).collect(),
            Init::RampU32 => (0..words).flat_map(|i| (i as u32).to_le_bytes()).collect(),
            Init::RandomF32 => Gaussian::new(self.index.into())
                .normals(words)
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect(),
            Init::U32(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Init::F32(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Init::File(name) => {
                let path = folder.join(name);
                let bytes = std::fs::read(&path)
                    .map_err(|source| DriverError::File { path: path.clone(), source })?;
                if bytes.len() < size {
                    return Err(DriverError::Size {
                        path,
                        field: "buffers.init.file",
                        needed: self.bytes,
                        found: bytes.len() as u64,
                    });
                }
                bytes
            }
        };
        bytes.resize(size, 0);
        Ok(bytes)
    }
}
