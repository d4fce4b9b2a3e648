//! What this machine is, in words, for bug reports.

use std::process::Command;

/// The operating system with its version.
pub fn system() -> String {
    let named = match std::env::consts::OS {
        "linux" => std::fs::read_to_string("/etc/os-release")
            .ok()
            .and_then(|text| Some(value(&text, "PRETTY_NAME", '=')?.trim_matches('"').to_owned())),
        "macos" => {
            output("sw_vers", &["-productVersion"]).map(|version| format!("macOS {version}"))
        }
        "windows" => output("cmd", &["/c", "ver"]),
        _ => None,
    };
    named.unwrap_or_else(|| std::env::consts::OS.to_owned())
}

/// The processor's name; its architecture where the system does not tell.
pub fn processor() -> String {
    let named = match std::env::consts::OS {
        "linux" => std::fs::read_to_string("/proc/cpuinfo")
            .ok()
            .and_then(|text| value(&text, "model name", ':').map(str::to_owned)),
        "macos" => output("sysctl", &["-n", "machdep.cpu.brand_string"]),
        "windows" => std::env::var("PROCESSOR_IDENTIFIER").ok(),
        _ => None,
    };
    named.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The value of the first line `key<separator>value`.
fn value<'a>(text: &'a str, key: &str, separator: char) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(separator)?;
        (name.trim() == key).then_some(value.trim())
    })
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
