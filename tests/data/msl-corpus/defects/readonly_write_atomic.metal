// A counter in a buffer that is bound as const is counted up.
// dispatch: { "kernel": "visit", "threadgroups": [1, 1, 1], "threads": [32, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 128 }, { "index": 3, "bytes": 16 }] }
#include <metal_stdlib>
using namespace metal;

struct Header {
    uint size;
    uint visits;
};

kernel void visit(device uint *out [[buffer(0)]],
                  device const Header *header [[buffer(3)]],
                  uint i [[thread_position_in_grid]]) {
    device atomic_uint *visits = (device atomic_uint *)&header->visits;
    out[i] = atomic_fetch_add_explicit(visits, 1u, memory_order_relaxed); // expect: readonly_write buffer=3 offset=4
}
