// Signed arithmetic up to the ends of its range: no step leaves it, and what must wrap is unsigned.
// dispatch: { "kernel": "ends", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void ends(device int *out [[buffer(0)]],
                 device const int *in [[buffer(1)]],
                 uint i [[thread_position_in_grid]]) {
    const int low = -2147483647 - 1 + in[i];
    const int high = 2147483647 - in[i];
    const int wrapped = as_type<int>(as_type<uint>(high) * 2654435769u);
    out[i] = (low / -2) ^ (high >> 1) ^ wrapped ^ (int)absdiff(low, high);
}
