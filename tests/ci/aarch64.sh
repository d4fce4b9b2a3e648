#!/usr/bin/env bash
# The MSL host as aarch64 Linux has it: its hand-written switch between stacks, its flags of the
# floating-point unit, and code of that processor for every kernel. Compiled by clang for aarch64
# and executed by qemu's user mode; the program wgtq itself stays this machine's.
#
#     tests/ci/aarch64.sh [TEST FILTER ..]     tests of tests/corpus.rs; without one: all
set -euo pipefail
cd "$(dirname "$0")/../.."

folder="${CARGO_TARGET_DIR:-$PWD/target}/aarch64"
say() { echo "aarch64: $*" >&2; }

# Three tries: package servers have bad minutes.
install() {
    command -v qemu-aarch64 >/dev/null && [ -d /usr/aarch64-linux-gnu/include ] && return
    local root="" try
    [ "$(id -u)" = 0 ] || root=sudo
    for try in 1 2 3; do
        if $root apt-get update -qq >&2 &&
            DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends \
                qemu-user libstdc++-12-dev-arm64-cross binutils-aarch64-linux-gnu >&2; then
            return
        fi
        say "installing qemu-user: try $try failed"
        sleep 5
    done
    return 1
}

sh tests/setup.sh clang
install
mkdir -p "$folder"

# Stands for clang++. The host, which is the only program that it links, becomes a script that runs
# the real one. qemu is given 64 GiB of address space: it is slow with the terabytes that the host
# would like best.
cat >"$folder/clang++" <<'WRAPPER'
#!/usr/bin/env bash
set -euo pipefail
arguments=() out="" previous="" program=""
for word in "$@"; do
    case "$word" in
        -march=x86-64-v3) continue ;;
        -rdynamic) program=yes ;;
    esac
    [ "$previous" != -o ] || out="$word"
    previous="$word"
    arguments+=("$word")
done
clang++-19 --target=aarch64-linux-gnu "${arguments[@]}"
[ -n "$program" ] || exit 0
# The program is moved once it is complete: the file beside must stay where it is.
real="$(dirname "$(dirname "$out")")/msl-host.aarch64"
mv "$out" "$real"
printf '#!/bin/sh\nexec qemu-aarch64 -R 0x1000000000 -L /usr/aarch64-linux-gnu "%s" "$@"\n' \
    "$real" >"$out"
chmod +x "$out"
WRAPPER
chmod +x "$folder/clang++"

export WGTQ_CXX="$folder/clang++" WGTQ_CACHE="$folder/cache" WGTQ_FAR_JUMPS=none
cargo test --all-features --test corpus -- "$@"
# All that ran was for the other processor.
for host in "$folder"/cache/*/msl-host.aarch64; do
    file="$(od -An -t u2 -j 18 -N 2 "$host" | tr -d ' ')"
    [ "$file" = 183 ] || { say "$host: need ELF machine 183, found $file"; exit 1; }
done
