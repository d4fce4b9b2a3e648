// The function constant says 3 rows a thread, the buffer was made for 2.
// dispatch: { "kernel": "clear", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "function_constants": { "4": 3 }, "buffers": [{ "index": 0, "bytes": 256 }] }
#include <metal_stdlib>
using namespace metal;

constant int rows [[function_constant(4)]];

kernel void clear(device int *x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    for (int r = 0; r < rows; r++) {
        x[r * 32 + i] = 0; // expect: out_of_bounds buffer=0 offset=256 thread=0,0,0
    }
}
