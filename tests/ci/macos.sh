#!/usr/bin/env bash
# The macOS build, checked on Debian without a Mac: every target linted with warnings as errors,
# and the program linked. Nothing is run.
#
#     tests/ci/macos.sh [STAGE ..]     lint link check-intel lint-intel link-intel; without any: the
#                                      first three
#
# The compiler is Debian's rustc-web, the only packaged one that comes with the sources of the
# standard library; they are built for macOS with -Zbuild-std. The linker is the rust-lld of the
# default toolchain, against stubs that tests/ci/macos_stubs.py writes. All settings are
# environment variables of this script: a committed cargo configuration would break a real Mac.
set -euo pipefail
cd "$(dirname "$0")/../.."

arm=aarch64-apple-darwin
intel=x86_64-apple-darwin

say() { echo "macos: $*" >&2; }

install_compiler() {
    [ -x /usr/bin/clippy-driver ] && [ -d /usr/lib/rustlib/src/rust/library ] && return
    local root="" try
    [ "$(id -u)" = 0 ] || root=sudo
    # Another apt-get on the same machine may empty the package cache in between: try again.
    for try in 1 2 3; do
        if $root apt-get update -qq >&2 &&
            DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends \
                rustc-web rust-web-src rust-web-clippy >&2; then
            return
        fi
        say "installing rustc-web: try $try failed"
        sleep 5
    done
    say "could not install rustc-web rust-web-src rust-web-clippy"
    return 1
}

# Cargo with the other compiler; `-Zbuild-std` needs RUSTC_BOOTSTRAP on a stable one.
mac_cargo() {
    local command=$1 target=$2
    shift 2
    RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$target_dir" \
        CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_PANIC=abort \
        cargo "$command" --locked --quiet -Zbuild-std=std,panic_abort --target "$target" "$@"
}

# Clippy as cargo-clippy would call it; rustc-web brings the driver but no cargo-clippy.
lint() {
    RUSTC_WORKSPACE_WRAPPER=/usr/bin/clippy-driver \
        CLIPPY_ARGS="-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__" \
        mac_cargo check "$1" --features cli --all-targets
}

link() {
    local target=$1 tools log program
    tools="$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin"
    [ -x "$tools/rust-lld" ] || { say "need rust-lld in $tools"; return 1; }
    python3 tests/ci/macos_stubs.py "$target_dir/sdk"
    log="$target_dir/link-$target.log"
    if ! (
        export PATH="$tools:$PATH" SDKROOT="$target_dir/sdk"
        export CARGO_TARGET_AARCH64_APPLE_DARWIN_LINKER=rust-lld
        export CARGO_TARGET_X86_64_APPLE_DARWIN_LINKER=rust-lld
        mac_cargo rustc "$target" --release --features cli --bin wgtq -- \
            -Clink-arg=--error-limit=0
    ) 2>"$log"; then
        if grep -q 'undefined symbol' "$log"; then
            say "new system symbols; add each with its library to tests/ci/macos_symbols.txt:"
            grep -o 'undefined symbol: .*' "$log" | sort -u >&2
        else
            tail -n 40 "$log" >&2
        fi
        return 1
    fi
    program="$target_dir/$target/release/wgtq"
    if python3 tests/ci/macos_stubs.py --check /bin/sh "${target%%-*}" 2>/dev/null; then
        say "the check takes a program of this machine for one of macOS"
        return 1
    fi
    python3 tests/ci/macos_stubs.py --check "$program" "${target%%-*}"
}

target_dir="${CARGO_TARGET_DIR:-$PWD/target}/macos"
mkdir -p "$target_dir"
[ $# -gt 0 ] || set -- lint link check-intel
started=$SECONDS
install_compiler
say "$(/usr/bin/rustc --version), installed in $((SECONDS - started)) s"
for stage in "$@"; do
    started=$SECONDS
    case $stage in
        lint) lint $arm ;;
        link) link $arm ;;
        check-intel) mac_cargo check $intel --features cli ;;
        lint-intel) lint $intel ;;
        link-intel) link $intel ;;
        *) say "need lint, link, check-intel, lint-intel or link-intel, found $stage"; exit 1 ;;
    esac
    say "$stage passed in $((SECONDS - started)) s"
done
