// The branch divides the threadgroup between simdgroups, not within one.
// dispatch: { "kernel": "upper", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void upper(device float *a [[buffer(0)]],
                  device const float *b [[buffer(1)]],
                  uint i [[thread_position_in_grid]],
                  uint t [[thread_index_in_threadgroup]]) {
    if (t >= 32) {
        a[i] = simd_sum(b[i]);
    }
}
