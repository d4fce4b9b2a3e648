#!/bin/sh
# Exports every kernel at every head dim as HLSL and compiles all of it to DXIL with Microsoft's
# compiler, on Linux: without subgroup operations, and for subgroups of 8 and 32.
set -eu
cd "$(dirname "$0")/../.."

out="${CARGO_TARGET_DIR:-target}/hlsl"
rm -rf "$out"
for size in none 8 32; do
    cargo run --quiet --features cli -- kernels export --target hlsl --head-dim 64,128,256,512 \
        --ratio 1,3,8,11 --rotation plain,srht --subgroup-size "$size" --out "$out/$size" >/dev/null
done
python3 tests/ci/dxc.py "$out/none" "$out/8" "$out/32"
