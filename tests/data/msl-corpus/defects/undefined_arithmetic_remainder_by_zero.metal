// A group of query heads has num_heads / num_kv_heads members: none here, and % 0.
// dispatch: { "kernel": "kv_head", "threadgroups": [1, 1, 1], "threads": [4, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 16 }, { "index": 1, "bytes": 8, "init": { "u32": [4, 8] } }] }
#include <metal_stdlib>
using namespace metal;

struct Heads {
    uint num_heads;
    uint num_kv_heads;
};

static uint within_group(constant Heads &heads, uint head) {
    const uint group = heads.num_heads / heads.num_kv_heads;
    return head % group; // expect: undefined_arithmetic thread=0,0,0
}

kernel void kv_head(device uint *out [[buffer(0)]],
                    constant Heads &heads [[buffer(1)]],
                    uint i [[thread_position_in_grid]]) {
    out[i] = within_group(heads, i);
}
