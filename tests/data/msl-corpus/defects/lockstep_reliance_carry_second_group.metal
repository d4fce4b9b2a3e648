// From the second threadgroup on, lanes take the carry that lane 31 has left in scratch memory.
// dispatch: { "kernel": "carry", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256, "init": "ones" }, { "index": 1, "bytes": 8 }] }
#include <metal_stdlib>
using namespace metal;

kernel void carry(device float *x [[buffer(0)]],
                  device float *scratch [[buffer(1)]],
                  uint i [[thread_position_in_grid]],
                  uint lane [[thread_index_in_simdgroup]],
                  uint group [[threadgroup_position_in_grid]]) {
    if (lane == 31) {
        scratch[group] = x[i]; // expect: lockstep_reliance buffer=1 offset=4 threadgroup=1,0,0
    }
    if (group > 0) {
        x[i] += scratch[group]; // other
    }
}
