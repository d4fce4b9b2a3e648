//! Compiles MSL with clang: pre-scan to C++, a shared object a kernel, the host program once.
//! Everything is cached under a hash of text, flags, shim and compiler.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::compiler;
use super::prescan::{Scanned, prescan};
use crate::driver::{DriverError, cache_folder, one_line};

/// How a kernel is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Build {
    /// Optimised, without checks.
    Fast,
    /// Every access instrumented, for the checker.
    Checked,
}

/// A kernel file, compiled.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The shared object.
    pub object: PathBuf,
    /// What the pre-scan found in it.
    pub scanned: Scanned,
}

/// clang and the cache.
#[derive(Debug, Clone)]
pub struct Toolchain {
    clang: PathBuf,
    version: String,
    cache: PathBuf,
}

macro_rules! host_files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../msl/host/", $name)))),*]
    };
}

/// The C++ side, written into the cache so that an installed program has it too.
const HOST_FILES: &[(&str, &str)] = host_files![
    "abi.h",
    "atomics.h",
    "checker.cpp",
    "executor.cpp",
    "executor.h",
    "host_main.cpp",
    "mathlib.h",
    "matrix.h",
    "platform.h",
    "registration.h",
    "shim.h",
    "simdgroup.h",
    "traits.h",
    "vectors.h",
];

const HOST_SOURCES: [&str; 3] = ["host_main.cpp", "executor.cpp", "checker.cpp"];
const COMMON: &[&str] = &[
    "-std=c++14",
    "-fsigned-char",
    "-fdeclspec",
    "-fPIC",
    "-shared",
    "-gline-tables-only",
    // Findings name files as the caller does, whichever folder the object was compiled in.
    "-fdebug-compilation-dir=.",
    "-ffp-contract=off",
    "-Xclang",
    "-ffloat16-excess-precision=none",
    // Metal has no double: a literal without suffix is a float.
    "-Xclang",
    "-cl-single-precision-constant",
    "-Wno-c++17-extensions",
    "-Wno-unknown-attributes",
    "-ferror-limit=6",
];
const CHECKED: &[&str] = &[
    "-O1",
    "-DMSL_CHECK",
    "-fsanitize=thread",
    "-fno-vectorize",
    "-fno-slp-vectorize",
    "-mllvm",
    "-tsan-instrument-func-entry-exit=0",
    "-mllvm",
    "-tsan-instrument-read-before-write=1",
    "-fsanitize=local-bounds",
    "-fsanitize-trap=local-bounds",
    "-fsanitize=alignment,integer-divide-by-zero,signed-integer-overflow,shift-exponent,\
     float-cast-overflow",
    "-fsanitize-recover=alignment,integer-divide-by-zero,signed-integer-overflow,shift-exponent,\
     float-cast-overflow",
];
/// Headers that MSL includes; their contents come from the shim.
const STUB_HEADERS: [&str; 5] =
    ["metal_stdlib", "simd/simd.h", "metal_simdgroup", "metal_simdgroup_matrix", "metal_atomic"];

impl Toolchain {
    /// Finds clang (`WGTQ_CXX`, else clang++-19 or clang++ on the PATH) and the cache
    /// (`WGTQ_CACHE`, else the user's cache folder).
    pub fn find() -> Result<Self, DriverError> {
        let candidates: Vec<OsString> = match std::env::var_os("WGTQ_CXX") {
            Some(named) => vec![named],
            None => ["clang++-19", "clang++-20", "clang++"].map(OsString::from).to_vec(),
        };
        let cache = cache_folder();
        let found = candidates.iter().find_map(|name| compiler::identify(name, &cache));
        let Some((clang, version)) = found else {
            return Err(DriverError::Msl {
                message: format!(
                    "need clang++ 19 or newer, found none (tried {candidates:?}); on Debian or \
                     Ubuntu: apt-get install --no-install-recommends clang-19"
                ),
            });
        };
        Ok(Self { clang, version, cache })
    }

    /// The compiler.
    pub fn program(&self) -> &Path {
        &self.clang
    }

    /// The compiler's version line.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Compiles the MSL `source`; `name` is the file name in diagnostics.
    pub fn kernel(&self, name: &str, source: &str, build: Build) -> Result<Compiled, DriverError> {
        let shim = self.shim()?;
        let folder = self.cache.join(self.hash(&[
            &shim.to_string_lossy(),
            &format!("{COMMON:?} {CHECKED:?} {build:?}"),
            name,
            source,
        ]));
        let preprocessed = folder.join("preprocessed.metal");
        if !preprocessed.exists() {
            self.in_new_folder(&folder, |new| {
                let input = new.join(file_name(name));
                write(&input, source)?;
                let text = self.preprocess(&shim, new, &input)?;
                // Diagnostics name the file as the caller does, wherever the cache is.
                write(
                    &new.join("preprocessed.metal"),
                    &text.replace(&*input.to_string_lossy(), name),
                )
            })?;
        }
        let scanned = prescan(&read(&preprocessed)?)
            .map_err(|e| DriverError::MslSource { message: format!("{name}: {e}") })?;
        // Another pre-scan may make another text of the same source.
        let object = folder.join(format!("{}.so", self.hash(&[&scanned.cpp])));
        if !object.exists() {
            let work = work_folder(&folder)?;
            let partial = work.path().join("kernel.so");
            let (cpp, relocatable) = (work.path().join("kernel.cpp"), work.path().join("kernel.o"));
            write(&cpp, &scanned.cpp)?;
            let mut command = Command::new(&self.clang);
            command.args(COMMON);
            if cfg!(target_arch = "x86_64") {
                command.arg("-march=x86-64-v3");
            }
            match build {
                Build::Fast => command.arg("-O2"),
                Build::Checked => command.args(CHECKED),
            };
            // The checker's own callbacks stand in for the sanitizer's runtime.
            command.arg("-c").arg("-I").arg(&shim).arg("-o").arg(&relocatable).arg(&cpp);
            compile(&mut command, name)?;
            let mut link = Command::new(&self.clang);
            link.args(["-shared", "-o"]).arg(&partial).arg(&relocatable).arg("-lm");
            if cfg!(target_os = "macos") {
                link.args(["-undefined", "dynamic_lookup"]);
            }
            compile(&mut link, name)?;
            rename(&partial, &object)?;
        }
        Ok(Compiled { object, scanned })
    }

    /// The host program, built on first use.
    pub fn host(&self) -> Result<PathBuf, DriverError> {
        let shim = self.shim()?;
        let program = shim.join("msl-host");
        if !program.exists() {
            let work = work_folder(&shim)?;
            let partial = work.path().join("msl-host");
            let mut command = Command::new(&self.clang);
            command.args(["-std=c++17", "-O2", "-fsigned-char", "-rdynamic", "-o"]).arg(&partial);
            command.args(HOST_SOURCES.map(|f| shim.join(f)));
            command.args(["-ldl", "-lm"]);
            compile(&mut command, "msl/host")?;
            rename(&partial, &program)?;
        }
        Ok(program)
    }

    /// Folder with the shim, the host's sources and the stub headers.
    fn shim(&self) -> Result<PathBuf, DriverError> {
        let texts: Vec<&str> = HOST_FILES.iter().map(|(_, text)| *text).collect();
        let folder = self.cache.join(self.hash(&texts));
        if !folder.exists() {
            self.in_new_folder(&folder, |new| {
                for (name, text) in HOST_FILES {
                    write(&new.join(name), text)?;
                }
                for name in STUB_HEADERS {
                    write(&new.join("stubs").join(name), "")?;
                }
                Ok(())
            })?;
        }
        Ok(folder)
    }

    fn preprocess(&self, shim: &Path, folder: &Path, input: &Path) -> Result<String, DriverError> {
        let output = folder.join("preprocessed.tmp");
        let mut command = Command::new(&self.clang);
        command.args([
            "-E",
            "-x",
            "c++",
            "-std=c++14",
            "-nostdinc",
            "-Wno-everything",
            "-D__METAL_VERSION__=310",
        ]);
        command.arg("-D__METAL__").arg("-isystem").arg(shim.join("stubs"));
        command.arg("-o").arg(&output).arg(input);
        compile(&mut command, &input.to_string_lossy())?;
        read(&output)
    }

    fn hash(&self, parts: &[&str]) -> String {
        let mut hasher = Sha256::new();
        for part in [&*self.version, env!("CARGO_PKG_VERSION")].iter().chain(parts) {
            hasher.update(part.len().to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().iter().take(12).map(|b| format!("{b:02x}")).collect()
    }

    /// Fills a temporary folder and moves it to its place; a racing process may win, to no harm.
    fn in_new_folder(
        &self,
        folder: &Path,
        fill: impl FnOnce(&Path) -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        let fail = |source| DriverError::File { path: self.cache.clone(), source };
        std::fs::create_dir_all(&self.cache).map_err(fail)?;
        let new = tempfile::tempdir_in(&self.cache).map_err(fail)?;
        fill(new.path())?;
        let new = new.keep();
        if std::fs::rename(&new, folder).is_err() {
            let _ = std::fs::remove_dir_all(&new);
            if !folder.exists() {
                return Err(fail(std::io::Error::other("cannot move a folder into the cache")));
            }
        }
        Ok(())
    }
}

/// A folder of one compilation's own: several may make the same file at the same time.
fn work_folder(folder: &Path) -> Result<tempfile::TempDir, DriverError> {
    tempfile::tempdir_in(folder)
        .map_err(|source| DriverError::File { path: folder.to_owned(), source })
}

fn file_name(name: &str) -> &str {
    Path::new(name).file_name().and_then(|n| n.to_str()).unwrap_or("kernel.metal")
}

fn write(path: &Path, text: &str) -> Result<(), DriverError> {
    let fail = |source| DriverError::File { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    std::fs::write(path, text).map_err(fail)
}

fn read(path: &Path) -> Result<String, DriverError> {
    std::fs::read_to_string(path)
        .map_err(|source| DriverError::File { path: path.to_owned(), source })
}

fn rename(from: &Path, to: &Path) -> Result<(), DriverError> {
    std::fs::rename(from, to).map_err(|source| DriverError::File { path: to.to_owned(), source })
}

/// Runs a compiler; its first error becomes the message.
fn compile(command: &mut Command, name: &str) -> Result<(), DriverError> {
    let output = command
        .output()
        .map_err(|source| DriverError::File { path: command.get_program().into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let error = text.lines().find(|l| l.contains("error")).unwrap_or("the compiler failed");
    Err(DriverError::MslSource { message: format!("{name}: {}", one_line(error)) })
}
