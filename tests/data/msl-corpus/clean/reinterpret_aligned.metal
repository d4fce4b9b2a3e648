// A cast to a wider type is right where the address is a multiple of its size.
// dispatch: { "kernel": "unpack", "threadgroups": [2, 1, 1], "threads": [16, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 512 }, { "index": 1, "bytes": 128, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void unpack(device float *out [[buffer(0)]],
                   device const uchar *bytes [[buffer(1)]],
                   uint i [[thread_position_in_grid]]) {
    const uint word = *reinterpret_cast<device const uint *>(bytes + 4 * i);
    const uchar4 parts = as_type<uchar4>(word);
    device float4 *rows = reinterpret_cast<device float4 *>(out);
    rows[i] = float4(parts) / 255.0f;
}
