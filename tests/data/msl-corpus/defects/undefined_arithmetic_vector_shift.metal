// All four components are shifted by a count that reaches 32.
// dispatch: { "kernel": "masks", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }] }
#include <metal_stdlib>
using namespace metal;

kernel void masks(device uint4 *out [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {
    out[t] = uint4(1, 2, 3, 4) << uint4(t + 1); // expect: undefined_arithmetic thread=31,0,0
}
