//! Which clang this is. Asking it takes longer than a checked dispatch, so the answer is kept for as
//! long as the program's file stays the same.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

/// The program's path and version line; nothing if `name` is no clang.
pub(super) fn identify(name: &OsStr, cache: &Path) -> Option<(PathBuf, String)> {
    let program = on_path(name)?;
    let kept = cache.join("compilers").join(key(&program)?);
    if let Ok(version) = std::fs::read_to_string(&kept) {
        return Some((program, version));
    }
    let output = Command::new(&program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().next().unwrap_or_default().to_owned();
    if !output.status.success() || !text.contains("clang") {
        return None;
    }
    // Without a place to keep it, it is asked again.
    let _ = keep(&kept, &version);
    Some((program, version))
}

fn on_path(name: &OsStr) -> Option<PathBuf> {
    let name = Path::new(name);
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_owned());
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Path, size and time of the file behind all links.
fn key(program: &Path) -> Option<String> {
    let file = program.canonicalize().ok()?;
    let data = file.metadata().ok()?;
    let time = data.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    let text = format!("{program:?} {file:?} {} {}", data.len(), time.as_nanos());
    Some(Sha256::digest(text).iter().take(12).map(|b| format!("{b:02x}")).collect())
}

/// Whole or not at all: several processes may come here at once.
fn keep(path: &Path, version: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)?;
    let file = tempfile::NamedTempFile::new_in(folder)?;
    std::fs::write(file.path(), version)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_version_is_asked_once_and_again_when_the_program_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (program, log) = (folder.path().join("clang++"), folder.path().join("log"));
        let install = |version: &str| {
            let text = format!("#!/bin/sh\necho x >> {}\necho {version}\n", log.display());
            std::fs::write(&program, text).unwrap();
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        };
        let ask = || identify(program.as_os_str(), &folder.path().join("cache"));
        let asked = || std::fs::read_to_string(&log).unwrap().lines().count();

        install("clang 19");
        for _ in 0..2 {
            assert_eq!(ask(), Some((program.clone(), "clang 19".to_owned())));
            assert_eq!(asked(), 1);
        }
        install("clang version 20");
        assert_eq!(ask().unwrap().1, "clang version 20");
        assert_eq!(asked(), 2);
        install("gcc");
        assert_eq!((ask(), ask()), (None, None));
    }
}
