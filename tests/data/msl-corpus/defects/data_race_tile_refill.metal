// Matrix product by tiles: the barrier after the inner loop is missing, so a fast simdgroup
// refills the tile while a slow one still reads it.
// dispatch: { "kernel": "matmul", "threadgroups": [2, 2, 1], "threads": [8, 8, 1],
//   "buffers": [{ "index": 0, "bytes": 1024 }, { "index": 1, "bytes": 1024, "init": "ones" },
//               { "index": 2, "bytes": 1024, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void matmul(device float *c [[buffer(0)]],
                   device const float *a [[buffer(1)]],
                   device const float *b [[buffer(2)]],
                   uint2 p [[thread_position_in_grid]],
                   uint2 t [[thread_position_in_threadgroup]]) {
    threadgroup float left[8][8];
    threadgroup float right[8][8];
    float sum = 0.0f;
    for (uint tile = 0; tile < 2; tile++) {
        left[t.y][t.x] = a[p.y * 16 + tile * 8 + t.x]; // also: lockstep_reliance
        right[t.y][t.x] = b[(tile * 8 + t.y) * 16 + p.x]; // expect: data_race
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint k = 0; k < 8; k++) {
            sum += left[t.y][k] * right[k][t.x]; // other // also: lockstep_reliance
        }
    }
    c[p.y * 16 + p.x] = sum;
}
