#!/usr/bin/env bash
# Builds the page into a folder that any static server serves.
#
#     examples/web/build.sh [FOLDER]     without one: target/web
#     python3 -m http.server --directory target/web 8000
#
# A browser offers WebGPU on https and on localhost only.
#
# With rustup's wasm32 target installed, that is used. Without it, Debian's rustc-web compiles the
# standard library along. Everything is set in this script's environment, nothing in a cargo
# configuration, so that other builds do not notice.
set -euo pipefail
cd "$(dirname "$0")/../.."

target_dir="${CARGO_TARGET_DIR:-$PWD/target}"
folder="${1:-$target_dir/web}"
wasm_target=wasm32-unknown-unknown
say() { echo "web: $*" >&2; }

install_compiler() {
    [ -x /usr/bin/rustc ] && [ -d /usr/lib/rustlib/src/rust/library ] && return
    local root="" try
    [ "$(id -u)" = 0 ] || root=sudo
    # Another apt-get on the same machine may empty the package cache in between: try again.
    for try in 1 2 3; do
        if $root apt-get update -qq >&2 &&
            DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends \
                rustc-web rust-web-src >&2; then
            return
        fi
        say "installing rustc-web: try $try failed"
        sleep 5
    done
    say "need the target $wasm_target: rustup target add $wasm_target"
    return 1
}

# The library as a WebAssembly module.
build_module() (
    export CARGO_TARGET_DIR="$target_dir/wasm"
    export CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_PANIC=abort
    local std=()
    if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$wasm_target/lib" ]; then
        install_compiler
        local tools
        tools="$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin"
        export PATH="$tools:$PATH" RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
        std=(-Zbuild-std=std,panic_abort)
    fi
    cargo rustc --locked --quiet --release "${std[@]}" --target $wasm_target \
        --no-default-features --features web --lib --crate-type cdylib
)

# wasm-bindgen's program, or a small one around its library: both must be of the very version
# that the module was linked with.
bindings() {
    local version module="$target_dir/wasm/$wasm_target/release/wgtq.wasm"
    version="$(sed -n '/^name = "wasm-bindgen"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)"
    if [ "$(wasm-bindgen --version 2>/dev/null)" = "wasm-bindgen $version" ]; then
        wasm-bindgen --target web --no-typescript --remove-name-section \
            --remove-producers-section --out-dir "$folder" "$module"
        return
    fi
    local tool="$target_dir/wasm-bindgen-$version"
    mkdir -p "$tool/src"
    printf '%s\n' '[package]' 'name = "bindings"' 'version = "0.0.0"' 'edition = "2024"' \
        '[workspace]' '[dependencies]' "wasm-bindgen-cli-support = \"=$version\"" \
        >"$tool/Cargo.toml"
    cat >"$tool/src/main.rs" <<'RUST'
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, module, folder] = arguments.as_slice() else {
        return Err("need a module and a folder".into());
    };
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen.web(true)?.typescript(false).omit_default_module_path(false);
    bindgen.remove_name_section(true).remove_producers_section(true);
    Ok(bindgen.input_path(module).generate(folder)?)
}
RUST
    CARGO_TARGET_DIR="$tool/target" CARGO_PROFILE_DEV_DEBUG=0 \
        cargo run --quiet --manifest-path "$tool/Cargo.toml" -- "$module" "$folder"
}

started=$SECONDS
build_module
say "module built in $((SECONDS - started)) s"
mkdir -p "$folder"
started=$SECONDS
bindings
say "bindings made in $((SECONDS - started)) s"
cp examples/web/index.html examples/web/page.js examples/web/style.css "$folder"
say "$folder: $(gzip -c "$folder/wgtq_bg.wasm" | wc -c) bytes of module when compressed"
