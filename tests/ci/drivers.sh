#!/usr/bin/env bash
# Every kernel on every driver that a machine without a GPU can have, in one parity report: lavapipe
# with subgroups of 4, 8 and 16, SwiftShader's Vulkan, llvmpipe's OpenGL, Dawn, and native MSL on the
# processor.
#
#     tests/ci/drivers.sh [REPORT.json ..]
#
# More reports, such as a browser's, join the table. DRIVERS=lavapipe-4,opengl runs only these; EVERY
# is the step between cases. Exit code: the worst of all.
set -euo pipefail
cd "$(dirname "$0")/../.."

every="${EVERY:-20}"
out="${CARGO_TARGET_DIR:-target}/drivers"
wgtq="${CARGO_TARGET_DIR:-target}/debug/wgtq"
mesa=/usr/share/vulkan/icd.d
dawn="${WGTQ_DAWN:-${WGTQ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/wgtq}/dawn}"

say() { echo "drivers: $* (at $SECONDS s)" >&2; }

# The first of these files that is there.
first() {
    local file
    for file in "$@"; do [ -e "$file" ] && echo "$file" && return; done
    say "found none of: $*"
    return 2
}

# What only the OpenGL driver needs. Three tries: package servers have bad minutes.
install_opengl() {
    ldconfig -p | grep -q 'libEGL_mesa' && ldconfig -p | grep -q 'libEGL\.so' && return
    local root="" try
    [ "$(id -u)" = 0 ] || root=sudo
    for try in 1 2 3; do
        if $root apt-get update -qq >&2 &&
            DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends \
                libegl1 libegl-mesa0 libgl1-mesa-dri >&2; then
            return
        fi
        say "installing libegl1: try $try failed"
        sleep 5
    done
    return 1
}

# The subgroup width that plans were made for, of the first leg of a report; `none` without
# subgroups.
width() {
    python3 - "$1" <<'END'
import json, sys
legs = json.load(open(sys.argv[1]))["legs"]
print(*{(leg["adapter"] or {}).get("measured_subgroup_size") or "none" for leg in legs})
END
}

reports=()
worst=0

# run TAG WIDTH LEGS [VARIABLE=VALUE ..] [-- ARGUMENTS]: all kernels on one driver, whose subgroups
# must be WIDTH wide.
run() {
    local tag="$1" want="$2" legs="$3" variables=() arguments=() code=0 start=$SECONDS found
    shift 3
    case ",${DRIVERS:-$tag}," in *",$tag,"*) ;; *) return ;; esac
    while [ $# -gt 0 ] && [ "$1" != -- ]; do variables+=("$1") && shift; done
    [ $# -eq 0 ] || arguments=("${@:2}")
    say "$tag: starts"
    env "${variables[@]}" timeout 600 "$wgtq" parity --leg "$legs" --require-legs "$legs" \
        --every "$every" --tag "$tag" --out "$out/$tag.json" "${arguments[@]}" >"$out/$tag.txt" ||
        code=$?
    [ "$code" -le "$worst" ] || worst=$code
    if [ -e "$out/$tag.json" ]; then
        reports+=("$out/$tag.json")
        found="$(width "$out/$tag.json")"
        if [ "$found" != "$want" ]; then
            say "$tag: need subgroups of $want, found $found"
            worst=2
        fi
    fi
    say "$tag: exit code $code, $((SECONDS - start)) s"
}

[ $# -eq 0 ] || reports=("$@")
rm -rf "$out"
mkdir -p "$out"
sh tests/setup.sh clang
sh tests/ci/dawn.sh
install_opengl
say "set up"
# As `cargo test --all-features` builds the program, so that nothing is compiled twice.
cargo test --quiet --all-features --test parity --no-run
say "built"

lavapipe="$(first "$mesa"/lvp_icd*.json)"
swiftshader="$(first "$dawn"/swiftshader/*.json /usr/lib/chromium/vk_swiftshader_icd.json)"
# Mesa's store of compiled shaders has been seen to hand out code for another subgroup width.
export MESA_SHADER_CACHE_DISABLE=true
for width in 4 8 16; do
    run "lavapipe-$width" "$width" wgsl,wgsl-trusted,wgsl-spirv \
        VK_DRIVER_FILES="$lavapipe" LP_NATIVE_VECTOR_WIDTH=$((32 * width))
done
run swiftshader 4 wgsl,wgsl-trusted,wgsl-spirv VK_DRIVER_FILES="$swiftshader"
run opengl none wgsl,wgsl-trusted VK_DRIVER_FILES=/dev/null EGL_PLATFORM=surfaceless -- --backend gl
run dawn 4 wgsl-dawn VK_DRIVER_FILES="$swiftshader"
run msl-host 32 msl-host,wgsl-naga-msl

code=0
"$wgtq" parity --merge "${reports[@]}" --out "$out/all.json" --html "$out/all.html" || code=$?
[ "$code" -le "$worst" ] || worst=$code
say "exit code $worst"
exit "$worst"
