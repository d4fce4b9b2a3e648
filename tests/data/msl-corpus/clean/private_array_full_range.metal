// A private array with a dynamic index that reaches its last element and no further.
// dispatch: { "kernel": "sort_four", "threadgroups": [1, 1, 1], "threads": [16, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256, "init": "random_f32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void sort_four(device float *x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    float v[4];
    for (uint k = 0; k < 4; k++) {
        uint at = k;
        const float next = x[4 * i + k];
        for (; at > 0 && v[at - 1] > next; at--) {
            v[at] = v[at - 1];
        }
        v[at] = next;
    }
    for (uint k = 0; k < 4; k++) {
        x[4 * i + k] = v[k];
    }
}
