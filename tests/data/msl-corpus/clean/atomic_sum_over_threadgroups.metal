// Every threadgroup adds to one place, by atomics, and nobody reads it in this dispatch.
// dispatch: { "kernel": "total", "threadgroups": [2, 2, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 8 }, { "index": 1, "bytes": 512, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void total(device atomic_uint *out [[buffer(0)]],
                  device const uint *in [[buffer(1)]],
                  uint2 group [[threadgroup_position_in_grid]],
                  uint2 groups [[threadgroups_per_grid]],
                  uint lane [[thread_index_in_simdgroup]]) {
    const uint x = in[(group.y * groups.x + group.x) * 32 + lane];
    const uint sum = simd_sum(x);
    if (lane == 0) {
        atomic_fetch_add_explicit(&out[0], sum, memory_order_relaxed);
        atomic_fetch_max_explicit(&out[1], sum, memory_order_relaxed);
    }
}
