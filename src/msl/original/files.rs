//! The files of a folder: which one defines an entry point, and whether its arguments fit.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Published;
use crate::contract::{Access, Binding, Plan};
use crate::driver::DriverError;
use crate::msl::dispatch;
use crate::msl::toolchain::{Build, Compiled, Toolchain};

/// The `.metal` files of a folder.
#[derive(Debug, Clone)]
pub struct Originals {
    folder: PathBuf,
    files: Vec<(PathBuf, String)>,
}

/// An original kernel, compiled, whose arguments fit.
#[derive(Debug, Clone)]
pub struct Found {
    /// What is published about it.
    pub published: Published,
    /// The file that defines it.
    pub file: PathBuf,
    /// The file's text.
    pub text: String,
    /// The file, compiled.
    pub compiled: Compiled,
    /// What of its argument table a dispatch needs.
    pub arguments: Arguments,
}

/// What of a fitting argument table a dispatch needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// Bytes of each parameter buffer that the file declares, by index.
    pub uniform_bytes: Vec<(u32, u32)>,
    /// Index of the scratch buffer, where the file has one.
    pub scratch: Option<u32>,
    /// Whether the file has `[[threadgroup(0)]]`.
    pub threadgroup: bool,
}

/// A kernel's row in the host's list.
#[derive(Debug, Deserialize)]
struct Kernel {
    name: String,
    arguments: Vec<Argument>,
}

/// A kernel's parameter, as the host lists it.
#[derive(Debug, Deserialize)]
struct Argument {
    name: String,
    attribute: String,
    #[serde(rename = "type")]
    type_text: String,
    kind: String,
    index: Option<u32>,
    size: u32,
    writable: bool,
}

impl Argument {
    fn is_buffer(&self) -> bool {
        self.kind.starts_with("buffer")
    }

    /// For messages: what the file declares.
    fn describe(&self) -> String {
        let access = if self.writable { "writable" } else { "read-only" };
        format!("`{} {}` of {} bytes, {access}", self.type_text, self.name, self.size)
    }
}

impl Originals {
    /// Reads the `.metal` files of `folder`.
    pub fn open(folder: &Path) -> Result<Self, DriverError> {
        let fail = |path: &Path, source| DriverError::File { path: path.to_owned(), source };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|e| fail(folder, e))? {
            let path = entry.map_err(|e| fail(folder, e))?.path();
            if path.extension().is_some_and(|e| e == "metal") {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            let none = std::io::Error::other("need .metal files in this folder, found none");
            return Err(fail(folder, none));
        }
        paths.sort();
        let files = paths
            .into_iter()
            .map(|path| {
                let text = std::fs::read_to_string(&path).map_err(|e| fail(&path, e))?;
                Ok((path, text))
            })
            .collect::<Result<_, DriverError>>()?;
        Ok(Self { folder: folder.to_owned(), files })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The original that stands for `plan`, compiled and checked against the contract.
    pub fn find(
        &self,
        toolchain: &Toolchain,
        plan: &Plan,
        build: Build,
    ) -> Result<Found, DriverError> {
        let candidates = Published::candidates(plan)?;
        let mut missing = None;
        for published in candidates {
            match self.define(toolchain, &published, build)? {
                Some((file, text, compiled, kernel)) => {
                    let arguments = Fit { published: &published, plan, file }.check(&kernel)?;
                    let (file, text) = (file.to_owned(), text.to_owned());
                    return Ok(Found { published, file, text, compiled, arguments });
                }
                None => missing = missing.or(Some(published.entry)),
            }
        }
        Err(DriverError::Original {
            file: self.folder.clone(),
            entry: missing.unwrap_or_default(),
            argument: "kernel".to_owned(),
            needed: "a kernel of this name in one file".to_owned(),
            found: format!("none in {} .metal files", self.files.len()),
        })
    }

    /// The one file that defines the entry point. Files that do not contain its name are not
    /// compiled.
    fn define(
        &self,
        toolchain: &Toolchain,
        published: &Published,
        build: Build,
    ) -> Result<Option<(&Path, &str, Compiled, Kernel)>, DriverError> {
        let (quoted, plain) =
            (format!("\"{}\"", published.entry), format!("void {}(", published.entry));
        let mut found: Option<(&Path, &str, Compiled, Kernel)> = None;
        for (path, text) in &self.files {
            if !text.contains(&quoted) && !text.contains(&plain) {
                continue;
            }
            let compiled = toolchain.kernel(&path.display().to_string(), text, build)?;
            let list = dispatch::list(&toolchain.host()?, &compiled.object)?;
            let kernels: Vec<Kernel> = serde_json::from_value(list)
                .map_err(|e| DriverError::Msl { message: format!("{}: {e}", path.display()) })?;
            let Some(kernel) = kernels.into_iter().find(|k| k.name == published.entry) else {
                continue;
            };
            if let Some((other, ..)) = found {
                return Err(DriverError::Original {
                    file: path.clone(),
                    entry: published.entry.clone(),
                    argument: "kernel".to_owned(),
                    needed: "a kernel of this name in one file".to_owned(),
                    found: format!("one in {} too", other.display()),
                });
            }
            found = Some((path, text, compiled, kernel));
        }
        Ok(found)
    }
}

/// A file's argument table against the contract.
struct Fit<'a> {
    published: &'a Published,
    plan: &'a Plan,
    file: &'a Path,
}

impl Fit<'_> {
    fn check(&self, kernel: &Kernel) -> Result<Arguments, DriverError> {
        let bindings = self.plan.contract.bindings;
        let mut uniform_bytes = Vec::new();
        for (index, binding) in (0u32..).zip(bindings) {
            let argument = kernel
                .arguments
                .iter()
                .find(|a| a.is_buffer() && a.index == Some(index))
                .ok_or_else(|| self.misfit(index, binding.name, "an argument", "none"))?;
            self.check_binding(index, binding, argument)?;
            if binding.access == Access::Uniform {
                uniform_bytes.push((index, argument.size));
            }
        }
        let extra =
            |a: &&Argument| a.is_buffer() && a.index.is_some_and(|i| i as usize >= bindings.len());
        let scratch = kernel.arguments.iter().find(extra).and_then(|a| a.index);
        if let Some(a) =
            kernel.arguments.iter().filter(extra).find(|a| a.index != self.published.scratch)
        {
            return Err(self.misfit_of(&a.attribute, "no such argument", &a.describe()));
        }
        let threadgroup = |a: &&Argument| a.kind.starts_with("threadgroup");
        let allowed = self.published.threadgroup_bytes > 0;
        let mut memory = kernel.arguments.iter().filter(threadgroup);
        if let Some(a) = memory.find(|a| !allowed || a.index != Some(0)) {
            let need = if allowed { "only threadgroup(0)" } else { "no threadgroup argument" };
            return Err(self.misfit_of(&a.attribute, need, &a.describe()));
        }
        Ok(Arguments {
            uniform_bytes,
            scratch,
            threadgroup: kernel.arguments.iter().any(|a| threadgroup(&a)),
        })
    }

    fn check_binding(
        &self,
        index: u32,
        binding: &Binding,
        argument: &Argument,
    ) -> Result<(), DriverError> {
        let misfit =
            |needed: &str| Err(self.misfit(index, binding.name, needed, &argument.describe()));
        match binding.access {
            Access::Uniform => {
                let bytes = &self.published.params;
                if !bytes.contains(&argument.size) || !argument.size.is_multiple_of(4) {
                    let (least, most) = (bytes.start(), bytes.end());
                    return misfit(&format!("a block of {least} to {most} bytes"));
                }
                Ok(())
            }
            Access::ReadWrite if !argument.writable => misfit("a writable argument"),
            Access::Read | Access::ReadWrite => {
                let sizes: &[u32] = match binding.name {
                    // Bytes, or the words that this project reads.
                    "packed" | "k_packed" | "v_packed" => &[1, 2, 4],
                    "k" | "v" => &[self.published.kv_bytes],
                    _ => &[4],
                };
                if sizes.contains(&argument.size) {
                    return Ok(());
                }
                let sizes = sizes.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ");
                misfit(&format!("elements of {sizes} bytes"))
            }
        }
    }

    fn misfit(&self, index: u32, name: &str, needed: &str, found: &str) -> DriverError {
        self.misfit_of(&format!("buffer({index}), `{name}`"), needed, found)
    }

    fn misfit_of(&self, argument: &str, needed: &str, found: &str) -> DriverError {
        DriverError::Original {
            file: self.file.to_owned(),
            entry: self.published.entry.clone(),
            argument: argument.to_owned(),
            needed: needed.to_owned(),
            found: found.to_owned(),
        }
    }
}
