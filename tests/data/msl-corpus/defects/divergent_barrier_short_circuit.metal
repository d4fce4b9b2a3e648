// The right side of && has a barrier inside, and is not evaluated by every thread.
// dispatch: { "kernel": "search", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

static bool agreed(threadgroup atomic_uint &votes) {
    atomic_fetch_add_explicit(&votes, 1u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup); // expect: divergent_barrier
    return atomic_load_explicit(&votes, memory_order_relaxed) > 30;
}

kernel void search(device uint *out [[buffer(0)]],
                   device const uint *in [[buffer(1)]],
                   uint t [[thread_index_in_threadgroup]]) {
    threadgroup atomic_uint votes;
    if (t == 0) {
        atomic_store_explicit(&votes, 0u, memory_order_relaxed);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[t] = in[t] % 2 == 0 && agreed(votes) ? 1u : 0u;
}
