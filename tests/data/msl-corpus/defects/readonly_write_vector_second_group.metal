// The second threadgroup clamps its input in place, through a cast to uchar4.
// dispatch: { "kernel": "clamp_pixels", "threadgroups": [2, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void clamp_pixels(device uchar4 *out [[buffer(0)]],
                         device const uchar4 *in [[buffer(1)]],
                         uint i [[thread_position_in_grid]],
                         uint group [[threadgroup_position_in_grid]]) {
    const uchar4 limited = min(in[i], uchar4(40));
    if (group == 1) {
        ((device uchar4 *)in)[i] = limited; // expect: readonly_write buffer=1 offset=128 threadgroup=1,0,0
    }
    out[i] = limited;
}
