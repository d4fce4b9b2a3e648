// The tile has a border of one cell; its corners are never loaded.
// dispatch: { "kernel": "box", "threadgroups": [1, 1, 1], "threads": [8, 8, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 400, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void box(device float *out [[buffer(0)]],
                device const float *in [[buffer(1)]],
                uint2 p [[thread_position_in_threadgroup]]) {
    threadgroup float tile[10][10];
    tile[p.y + 1][p.x + 1] = in[(p.y + 1) * 10 + p.x + 1];
    if (p.y == 0) {
        tile[0][p.x + 1] = in[p.x + 1];
        tile[9][p.x + 1] = in[90 + p.x + 1];
    }
    if (p.x == 0) {
        tile[p.y + 1][0] = in[(p.y + 1) * 10];
        tile[p.y + 1][9] = in[(p.y + 1) * 10 + 9];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float sum = 0.0f;
    for (uint y = 0; y < 3; y++) {
        for (uint x = 0; x < 3; x++) {
            sum += tile[p.y + y][p.x + x]; // expect: uninitialized_read offset=0 thread=0,0,0
        }
    }
    out[p.y * 8 + p.x] = sum / 9.0f;
}
