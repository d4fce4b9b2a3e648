// Every threadgroup adds its sum to one float, without atomics.
// dispatch: { "kernel": "total", "threadgroups": [2, 2, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 4 }, { "index": 1, "bytes": 512, "init": "ones" }] }
#include <metal_stdlib>
using namespace metal;

kernel void total(device float *out [[buffer(0)]],
                  device const float *in [[buffer(1)]],
                  uint2 group [[threadgroup_position_in_grid]],
                  uint lane [[thread_index_in_simdgroup]]) {
    const float sum = simd_sum(in[(group.y * 2 + group.x) * 32 + lane]);
    if (lane == 0) {
        out[0] += sum; // expect: data_race buffer=0 offset=0 threadgroup=1,0,0 thread=0,0,0 // other
    }
}
