// The instantiation for 4 values a thread needs 1024 bytes; the buffer has those of 2.
// dispatch: { "kernel": "negate_4", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512, "init": "ramp_f32" }] }
#include <metal_stdlib>
using namespace metal;

template <int VALUES>
kernel void negate(device float *x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    for (int v = 0; v < VALUES; v++) {
        x[i * VALUES + v] *= -1.0f; // expect: out_of_bounds buffer=0 offset=512 thread=32,0,0
    }
}
template [[host_name("negate_2")]] kernel void negate<2>(device float *, uint);
template [[host_name("negate_4")]] kernel void negate<4>(device float *, uint);
