#!/bin/sh
# Set-up for the README's commands: on Linux without a Vulkan driver, Mesa's software Vulkan; with
# the argument `clang`, also the compiler that runs Metal kernels on this machine. Does nothing
# where these are there already, and nothing on macOS and Windows.
set -eu

say() { echo "setup: $*" >&2; }

if ! command -v cargo >/dev/null 2>&1; then
    say "need Rust 1.90 or newer with cargo, found none; see https://rustup.rs"
    exit 1
fi
[ "$(uname -s)" = Linux ] || exit 0

packages=""
command -v cc >/dev/null 2>&1 || packages="gcc libc6-dev"
driver="${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}"
for manifest in /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json; do
    [ -e "$manifest" ] && driver="$manifest"
done
[ -n "$driver" ] || packages="$packages mesa-vulkan-drivers"
if [ "${1:-}" = clang ] && [ -z "${WGTQ_CXX:-}" ] && ! command -v clang++-19 >/dev/null 2>&1; then
    packages="$packages clang-19"
fi
[ -n "$packages" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    say "need a C compiler and a Vulkan driver; install your system's package of:$packages"
    exit 1
fi
root=""
[ "$(id -u)" = 0 ] || root="sudo"
for try in 1 2 3; do
    say "installing$packages"
    # shellcheck disable=SC2086 # a list of packages
    if $root apt-get update -qq >&2 &&
        DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends \
            $packages >&2; then
        exit 0
    fi
    say "try $try failed"
    sleep 5
done
say "could not install:$packages"
exit 1
