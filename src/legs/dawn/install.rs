//! Where Dawn is on this machine: Node.js, the npm package `webgpu`, and a Vulkan driver for it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::driver::{DriverError, cache_folder};

/// The version of the npm package that the hint installs.
const VERSION: &str = "0.6.2";

/// Where browsers put the Vulkan driver that they fall back to. Dawn asks more of a driver than
/// wgpu does, and refuses older versions of lavapipe.
const SWIFTSHADER: [&str; 4] = [
    "/usr/lib/chromium/vk_swiftshader_icd.json",
    "/usr/lib64/chromium-browser/vk_swiftshader_icd.json",
    "/opt/google/chrome/vk_swiftshader_icd.json",
    "/usr/lib/chromium-browser/vk_swiftshader_icd.json",
];

/// Node.js and the folder whose `node_modules` has the package.
#[derive(Debug, Clone)]
pub(super) struct Install {
    node: PathBuf,
    folder: PathBuf,
    /// The package's version.
    pub version: String,
}

/// Whether `WGTQ_DAWN=none` leaves out what needs Dawn.
pub(crate) fn dawn_turned_off() -> bool {
    std::env::var_os("WGTQ_DAWN").is_some_and(|v| v == "none")
}

impl Install {
    /// Looks in `WGTQ_DAWN`, else in `dawn` in the cache folder.
    pub fn find() -> Result<Self, DriverError> {
        if dawn_turned_off() {
            let reason = "WGTQ_DAWN=none is set".to_owned();
            return Err(DriverError::NoDawn { reason, hint: "unset WGTQ_DAWN".to_owned() });
        }
        let named = std::env::var_os("WGTQ_DAWN").map(PathBuf::from);
        Self::in_folder(&named.unwrap_or_else(|| cache_folder().join("dawn")))
    }

    /// Looks for the package in `folder`, and for Node.js on the PATH.
    pub fn in_folder(folder: &Path) -> Result<Self, DriverError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = format!("node{}", std::env::consts::EXE_SUFFIX);
        let node = std::env::split_paths(&path).map(|p| p.join(&program)).find(|p| p.is_file());
        let Some(node) = node else {
            return Err(DriverError::NoDawn {
                reason: "needs Node.js, found no node on the PATH".to_owned(),
                hint: "install Node.js 18 or newer with npm".to_owned(),
            });
        };
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let package = folder.join("node_modules/webgpu/package.json");
        let Some(version) = version(&package) else {
            return Err(DriverError::NoDawn {
                reason: format!("needs the npm package webgpu, found no {}", package.display()),
                hint: format!("npm install --prefix {} webgpu@{VERSION}", folder.display()),
            });
        };
        Ok(Self { node, folder, version })
    }

    /// The command that runs `script` with the package.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new(&self.node);
        command.args(["--input-type=module", "--eval", script, "--"]).arg(&self.folder);
        let chosen = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES"];
        if cfg!(target_os = "linux") && chosen.iter().all(|v| std::env::var_os(v).is_none()) {
            let own = self.folder.join("swiftshader/vk_swiftshader_icd.json");
            let mut known = std::iter::once(own).chain(SWIFTSHADER.map(PathBuf::from));
            if let Some(manifest) = known.find(|p| p.is_file()) {
                command.env("VK_ADD_DRIVER_FILES", manifest);
            }
        }
        command
    }
}

/// The version that a package says it is.
fn version(package: &Path) -> Option<String> {
    let text = std::fs::read_to_string(package).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(json["version"].as_str()?.to_owned())
}

/// What to do where Dawn accepts no adapter.
pub(crate) const fn driver_hint() -> &'static str {
    if cfg!(target_os = "linux") {
        "apt-get install chromium-common (its SwiftShader is a Vulkan driver that Dawn accepts)"
    } else {
        "update the GPU driver"
    }
}
