// Many threads set the same flag, by atomic stores.
// dispatch: { "kernel": "any_negative", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 4 }, { "index": 1, "bytes": 512, "init": "random_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void any_negative(device atomic_uint *found [[buffer(0)]],
                         device const float *in [[buffer(1)]],
                         uint i [[thread_position_in_grid]]) {
    if (in[i] < 0.0f) {
        atomic_store_explicit(found, 1u, memory_order_relaxed);
    }
}
