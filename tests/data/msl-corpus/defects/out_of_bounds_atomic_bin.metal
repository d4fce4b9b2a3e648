// Value 16 has no bin: bins count 0 to 15.
// dispatch: { "kernel": "count", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 64 }, { "index": 1, "bytes": 32,
//     "init": { "u32": [50462976, 117835012, 185207048, 252579084, 16] } }] }
#include <metal_stdlib>
using namespace metal;

kernel void count(device atomic_uint *bins [[buffer(0)]],
                  device const uchar *values [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {
    atomic_fetch_add_explicit(&bins[values[i]], 1u, memory_order_relaxed); // expect: out_of_bounds buffer=0 offset=64 thread=16,0,0
}
