#!/usr/bin/env python3
"""Compiles exported HLSL to DXIL with Microsoft's DirectX shader compiler, on Linux.

    dxc.py DIR [DIR ..]

Reads every contract (*.json) of a folder and compiles the file it names with the entry point and
profile it states; every other *.hlsl there is an error. The compiler is the libdxcompiler of the
PyPI source package compushady, fetched once into the cache folder (WGTQ_CACHE, else
~/.cache/wgtq) and known by its SHA-256. Before anything else it must accept a correct shader and
reject wrong ones: a compiler that accepts everything proves nothing.

Exit code 0 when everything compiled, 1 when something did not, 2 without a compiler.
"""

import ctypes
import hashlib
import json
import os
import pathlib
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid

PACKAGE = "compushady==0.17.5"
MEMBERS = {
    "x86_64": "libdxcompiler_x86_64.so.3.7",
    "aarch64": "libdxcompiler_aarch64.so.3.7",
}
SHA256 = {
    "x86_64": "fb549976da7abff1ee56bdfa4f5ab156b95e971d4270b5b4447b61682d105809",
    "aarch64": "1d2b902d9ba9a3892bff8a7fd36309e99e7c85dbee562961185969f625bc02d7",
}

COMPILER_CLASS = uuid.UUID("73e22d93-e6ce-47f3-b5bf-f0664f39c1b0")
COMPILER3 = uuid.UUID("228b4687-5a6a-4730-900c-9702b2203f54")
RESULT = uuid.UUID("58346cda-dde7-4497-9461-6f87af5e0659")
UTF8 = 65001

# Places in the virtual tables; an IUnknown has five entries outside Windows, since its
# destructor is virtual.
COMPILE, STATUS, OBJECT, ERRORS, POINTER, SIZE = 5, 5, 6, 7, 5, 6


def fetch(member, sha256, folder):
    """The shared object, downloaded by pip at the first call."""
    path = folder / member
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                       "--no-binary", "compushady", "--dest", work, PACKAGE]
            for attempt in range(3):
                if subprocess.run(command).returncode == 0:
                    break
                print(f"dxc.py: download {attempt + 1} failed", file=sys.stderr)
                time.sleep(5)
            archives = list(pathlib.Path(work).glob("*.tar.gz"))
            if not archives:
                sys.exit(2)
            with tarfile.open(archives[0]) as archive:
                entry = next(m for m in archive.getmembers() if m.name.endswith("/" + member))
                unpacked = pathlib.Path(work) / member
                unpacked.write_bytes(archive.extractfile(entry).read())
            unpacked.rename(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        print(f"{path}: need SHA-256 {sha256}, found {found}", file=sys.stderr)
        sys.exit(2)
    return path


def guid(value):
    return ctypes.create_string_buffer(value.bytes_le, 16)


class Source(ctypes.Structure):
    """DxcBuffer."""
    _fields_ = [("text", ctypes.c_char_p), ("size", ctypes.c_size_t), ("encoding", ctypes.c_uint)]


def call(this, place, result, *arguments):
    """Calls entry `place` of a COM object's virtual table."""
    table = ctypes.cast(this, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[0]
    types = [ctypes.c_void_p] + [ctypes.c_void_p if a is None else type(a) for a in arguments]
    return ctypes.CFUNCTYPE(result, *types)(table[place])(this, *arguments)


class Compiler:
    """IDxcCompiler3."""

    def __init__(self, library):
        create = ctypes.CDLL(str(library)).DxcCreateInstance
        create.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
        self.this = ctypes.c_void_p()
        status = create(guid(COMPILER_CLASS).raw, guid(COMPILER3).raw, ctypes.byref(self.this))
        if status != 0:
            sys.exit(f"DxcCreateInstance: {status & 0xffffffff:#x}")

    def compile(self, text, entry, profile):
        """Bytes of DXIL and the compiler's messages."""
        words = ["-E", entry, "-T", profile, "-HV", "2018", "-O3"]
        arguments = (ctypes.c_wchar_p * len(words))(*words)
        source = Source(text, len(text), UTF8)
        result = ctypes.c_void_p()
        status = call(self.this, COMPILE, ctypes.c_int, ctypes.pointer(source), arguments,
                      ctypes.c_uint(len(words)), None, guid(RESULT), ctypes.pointer(result))
        if status != 0:
            return b"", f"Compile: {status & 0xffffffff:#x}"
        verdict = ctypes.c_int(-1)
        call(result, STATUS, ctypes.c_int, ctypes.pointer(verdict))
        messages = self.blob(result, ERRORS).rstrip(b"\0").decode(errors="replace")
        return (self.blob(result, OBJECT) if verdict.value == 0 else b""), messages

    @staticmethod
    def blob(result, place):
        blob = ctypes.c_void_p()
        if call(result, place, ctypes.c_int, ctypes.pointer(blob)) != 0 or not blob:
            return b""
        size = call(blob, SIZE, ctypes.c_size_t)
        return ctypes.string_at(call(blob, POINTER, ctypes.c_void_p), size)


def self_test(compiler):
    """A correct shader, then a type error, an unknown name and a missing entry point."""
    good = b"RWByteAddressBuffer b : register(u0);\n" \
           b"[numthreads(32, 1, 1)] void main(uint i : SV_GroupIndex) { b.Store(i * 4, i); }\n"
    object_code, messages = compiler.compile(good, "main", "cs_6_0")
    if object_code[:4] != b"DXBC":
        sys.exit(f"self-test: a correct shader was rejected: {messages}")
    for old, new in [(b"i * 4, i", b"i * 4, b"), (b"b.Store", b"c.Store"),
                     (b"void main", b"void other")]:
        if compiler.compile(good.replace(old, new), "main", "cs_6_0")[0]:
            sys.exit(f"self-test: a wrong shader was accepted: {new.decode()}")


def check(compiler, folder):
    """Compiles a folder; returns what went wrong."""
    wrong, known = [], set()
    for path in sorted(folder.glob("*.json")):
        contract = json.loads(path.read_text())
        file = folder / contract["file"]
        known.add(file)
        text = file.read_bytes()
        if hashlib.sha256(text).hexdigest() != contract["sha256"]:
            wrong.append(f"{file}: SHA-256 is not the contract's")
            continue
        object_code, messages = compiler.compile(
            text, contract["entry_point"], contract["profile"])
        if object_code[:4] != b"DXBC":
            wrong.append(f"{file}: {messages.strip()}")
    wrong += [f"{p}: no contract names it" for p in folder.glob("*.hlsl") if p not in known]
    if not known:
        wrong.append(f"{folder}: no contract in it")
    print(f"{folder}: {len(known)} contracts")
    return wrong


def main():
    folders = [pathlib.Path(p) for p in sys.argv[1:]]
    machine = platform.machine()
    if not folders:
        sys.exit(__doc__)
    if sys.platform != "linux" or machine not in MEMBERS:
        print(f"need x86_64 or aarch64 Linux, found {machine} {sys.platform}", file=sys.stderr)
        sys.exit(2)
    cache = os.environ.get("WGTQ_CACHE") or pathlib.Path.home() / ".cache/wgtq"
    compiler = Compiler(fetch(MEMBERS[machine], SHA256[machine], pathlib.Path(cache) / "dxc"))
    self_test(compiler)
    wrong = [line for folder in folders for line in check(compiler, folder)]
    print("\n".join(wrong) if wrong else "everything compiled to DXIL")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
