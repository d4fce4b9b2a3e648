// Rows of 66 bytes are read by words: from the second threadgroup on they start between words.
// dispatch: { "kernel": "rows", "threadgroups": [2, 1, 1], "threads": [16, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 1, "bytes": 132 }] }
#include <metal_stdlib>
using namespace metal;

template <typename T>
static T load(device const uchar *bytes, uint i) {
    return ((device const T *)bytes)[i]; // expect: misaligned buffer=1 offset=66 threadgroup=1,0,0
}

kernel void rows(device uint *out [[buffer(0)]],
                 device const uchar *in [[buffer(1)]],
                 uint i [[thread_position_in_grid]],
                 uint t [[thread_index_in_threadgroup]],
                 uint group [[threadgroup_position_in_grid]]) {
    out[i] = load<uint>(in + 66 * group, t);
}
