// Threads count into bins in a second buffer without atomics: two with the same bin race.
// dispatch: { "kernel": "histogram", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512, "init": "ramp_u32" }, { "index": 1, "bytes": 128 }] }
#include <metal_stdlib>
using namespace metal;

static void count(device uint *bins, uint value) {
    bins[value & 31u] += 1u; // expect: data_race buffer=1 offset=0 thread=32,0,0 // other
}

kernel void histogram(device const uint *in [[buffer(0)]],
                      device uint *bins [[buffer(1)]],
                      uint i [[thread_position_in_grid]]) {
    count(bins, in[i]);
}
