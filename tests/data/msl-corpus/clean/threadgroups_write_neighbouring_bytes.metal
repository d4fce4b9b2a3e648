// Threadgroups write bytes of one word, each its own: no byte has two writers.
// dispatch: { "kernel": "bytes", "threadgroups": [4, 1, 1], "threads": [16, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 64 }] }
#include <metal_stdlib>
using namespace metal;

kernel void bytes(device uchar *out [[buffer(0)]],
                  uint t [[thread_index_in_threadgroup]],
                  uint group [[threadgroup_position_in_grid]]) {
    out[4 * t + group] = uchar(16 * group + t);
}
