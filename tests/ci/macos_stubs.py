#!/usr/bin/env python3
"""Stubs of the macOS libraries that the program links, and a look at what was linked.

    macos_stubs.py DIR                     write the stubs, as an SDK folder
    macos_stubs.py --check PROGRAM ARCH    the program must be a complete executable of ARCH

A stub holds exactly the symbols of macos_symbols.txt (library and symbol a line), so a call of
anything new fails the link by name instead of passing unseen.
"""

import pathlib
import struct
import sys

# Every framework that a dependency names when it links, also where no symbol of it is used.
FRAMEWORKS = {
    "AppKit": "C", "CoreFoundation": "A", "CoreGraphics": "A", "Foundation": "C", "IOSurface": "A",
    "Metal": "A", "QuartzCore": "A", "Security": "A", "SystemConfiguration": "A",
}
LIBRARIES = {"System": "libSystem.B", "objc": "libobjc.A", "iconv": "libiconv.2"}
# Names under which parts of libSystem are linked.
ALIASES = ["c", "dl", "m", "pthread"]
TARGETS = "[ arm64-macos, x86_64-macos ]"
CPUS = {"aarch64": 0x0100000C, "x86_64": 0x01000007}
MACH_O_64, EXECUTE, NO_UNDEFINED, CODE_SIGNATURE = 0xFEEDFACF, 2, 1, 0x1D


def read_symbols():
    path = pathlib.Path(__file__).with_name("macos_symbols.txt")
    symbols = {name: [] for name in [*FRAMEWORKS, *LIBRARIES]}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split()
        if len(words) != 2 or words[0] not in symbols:
            sys.exit(f"{path}:{number}: need a known library and a symbol, found {line!r}")
        symbols[words[0]].append(words[1])
    return symbols


def write_stub(path, install_name, symbols):
    lines = ["--- !tapi-tbd", "tbd-version: 4", f"targets: {TARGETS}",
             f"install-name: '{install_name}'"]
    if symbols:
        lines += ["exports:", f"  - targets: {TARGETS}",
                  f"    symbols: [ {', '.join(sorted(symbols))} ]"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n...\n")


def write_sdk(folder):
    symbols = read_symbols()
    for name, version in FRAMEWORKS.items():
        place = f"System/Library/Frameworks/{name}.framework"
        write_stub(folder / place / f"{name}.tbd", f"/{place}/Versions/{version}/{name}",
                   symbols[name])
    for name, file in LIBRARIES.items():
        write_stub(folder / f"usr/lib/lib{name}.tbd", f"/usr/lib/{file}.dylib", symbols[name])
    for name in ALIASES:
        write_stub(folder / f"usr/lib/lib{name}.tbd", "/usr/lib/libSystem.B.dylib",
                   symbols["System"])
    version = '{"Version":"14.0","MaximumDeploymentTarget":"14.0.99"}\n'
    (folder / "SDKSettings.json").write_text(version)


def check(program, arch):
    data = pathlib.Path(program).read_bytes()
    magic, cpu, _, kind, commands, _, flags, _ = struct.unpack_from("<8I", data)
    if (magic, cpu, kind) != (MACH_O_64, CPUS[arch], EXECUTE) or not flags & NO_UNDEFINED:
        sys.exit(f"{program}: need a complete Mach-O executable for {arch}, found "
                 f"{magic:#x}, cpu {cpu:#x}, kind {kind}, flags {flags:#x}")
    at, found = 32, set()
    for _ in range(commands):
        command, size = struct.unpack_from("<2I", data, at)
        found.add(command)
        at += size
    # Apple silicon starts nothing that is not signed; the linker signs ad hoc.
    if arch == "aarch64" and CODE_SIGNATURE not in found:
        sys.exit(f"{program}: no code signature")
    print(f"{program}: {len(data) / 1e6:.2f} MB, Mach-O executable for {arch}", file=sys.stderr)


def main():
    if len(sys.argv) == 2:
        write_sdk(pathlib.Path(sys.argv[1]))
    elif len(sys.argv) == 4 and sys.argv[1] == "--check":
        check(sys.argv[2], sys.argv[3])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
