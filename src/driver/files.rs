//! Files appear whole or not at all; and where files that can be made again are kept.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::DriverError;

/// Files that appear together: each is written beside its place first, and all are moved there
/// only once every one is complete.
#[derive(Debug, Default)]
pub struct Outputs {
    files: Vec<(tempfile::NamedTempFile, PathBuf)>,
}

impl Outputs {
    /// Writes `bytes` to a temporary file in `path`'s folder.
    pub fn stage(&mut self, path: &Path, bytes: &[u8]) -> Result<(), DriverError> {
        let fail = |source| DriverError::File { path: path.to_owned(), source };
        let mut file = temporary_beside(path)?;
        file.write_all(bytes).map_err(fail)?;
        file.flush().map_err(fail)?;
        self.files.push((file, path.to_owned()));
        Ok(())
    }

    /// Moves every staged file to its place, replacing what was there.
    pub fn commit(self) -> Result<(), DriverError> {
        for (file, path) in self.files {
            file.persist(&path)
                .map_err(|e| DriverError::File { path: path.clone(), source: e.error })?;
        }
        Ok(())
    }
}

/// Checks, before any work is done, that `path` can be written.
pub fn check_writable(path: &Path) -> Result<(), DriverError> {
    if path.is_dir() {
        let source = std::io::Error::other("need a file name, found a folder");
        return Err(DriverError::File { path: path.to_owned(), source });
    }
    temporary_beside(path).map(drop)
}

fn temporary_beside(path: &Path) -> Result<tempfile::NamedTempFile, DriverError> {
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".wgtq-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder
        .tempfile_in(folder)
        .map_err(|source| DriverError::File { path: path.to_owned(), source })
}

/// Where compiled kernels and tools are kept: `WGTQ_CACHE`, else `wgtq` in the user's cache folder.
pub fn cache_folder() -> PathBuf {
    match std::env::var_os("WGTQ_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("wgtq"),
    }
}
