#!/bin/sh
# What the leg wgsl-dawn needs: Node.js, the npm package webgpu (Dawn), and on Linux a Vulkan driver
# that Dawn accepts. Does nothing for what is there already. The Vulkan driver is the SwiftShader of
# Debian's chromium-common: its two files are taken out of the package, which is not installed.
set -eu

# The version that the hint of `wgtq doctor` names.
version=0.6.2
folder="${WGTQ_DAWN:-${WGTQ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/wgtq}/dawn}"

say() { echo "dawn: $*" >&2; }

# Three tries: package servers have bad minutes.
try() {
    for pause in 5 20 0; do
        "$@" >&2 && return 0
        say "failed: $*"
        sleep "$pause"
    done
    return 1
}

# As root where packages are installed.
root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_node() {
    root apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive root apt-get install -y -qq --no-install-recommends "$@"
}

install_package() {
    timeout 300 npm install --prefix "$folder" --no-audit --no-fund --loglevel error \
        "webgpu@$version"
}

# Whether a browser has brought SwiftShader, or this script has.
swiftshader() {
    for manifest in "$folder"/swiftshader/vk_swiftshader_icd.json \
        /usr/lib/chromium/vk_swiftshader_icd.json; do
        if [ -e "$manifest" ]; then
            echo "$manifest"
            return 0
        fi
    done
    return 1
}

fetch_swiftshader() {
    work="$(mktemp -d)"
    # apt gives up its rights for a download, and must be able to write there without them.
    chmod 755 "$work"
    (
        cd "$work"
        root apt-get update -qq
        timeout 300 apt-get download -qq -o APT::Sandbox::User=root chromium-common
        dpkg-deb -x chromium-common_*.deb files
        mkdir -p "$folder/swiftshader"
        cp files/usr/lib/chromium/*swiftshader* "$folder/swiftshader/"
    )
    result=$?
    rm -rf "$work"
    return $result
}

mkdir -p "$folder"
missing=""
command -v node >/dev/null 2>&1 || missing="nodejs"
command -v npm >/dev/null 2>&1 || missing="$missing npm"
if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        say "need Node.js 18 or newer with npm, found none; see https://nodejs.org"
        exit 1
    fi
    # shellcheck disable=SC2086 # a list of packages
    try install_node $missing
fi
[ -e "$folder/node_modules/webgpu/package.json" ] || try install_package
if [ "$(uname -s)" = Linux ] && ! swiftshader >/dev/null && command -v apt-get >/dev/null 2>&1; then
    try fetch_swiftshader
fi
say "webgpu $version in $folder$(swiftshader | sed 's/^/, driver /')"
