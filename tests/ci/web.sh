#!/usr/bin/env bash
# The browser page, end to end on Debian without a GPU: built, served, and run in headless
# Chromium, whose WebGPU is SwiftShader. Everything must pass; a kernel with a fault must turn the
# page red.
#
#     tests/ci/web.sh [EVERY]     one of how many cases run; without it: 8
set -euo pipefail
cd "$(dirname "$0")/../.."

folder="${CARGO_TARGET_DIR:-$PWD/target}/web"
say() { echo "web: $*" >&2; }

install_chromium() {
    command -v chromium >/dev/null && return
    local root="" try
    [ "$(id -u)" = 0 ] || root=sudo
    # Another apt-get on the same machine may empty the package cache in between: try again.
    for try in 1 2 3; do
        if $root apt-get update -qq >&2 &&
            DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends \
                chromium >&2; then
            return
        fi
        say "installing chromium: try $try failed"
        sleep 5
    done
    say "could not install chromium"
    return 1
}

started=$SECONDS
install_chromium
say "$(chromium --version), installed in $((SECONDS - started)) s"
started=$SECONDS
examples/web/build.sh "$folder"
say "page built in $((SECONDS - started)) s"
started=$SECONDS
python3 tests/ci/web.py "$folder" "${1:-8}"
say "page tested in $((SECONDS - started)) s"
