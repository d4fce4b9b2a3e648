// Bins are cleared by plain stores and counted by atomics with nothing in between.
// dispatch: { "kernel": "histogram", "threadgroups": [1, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 256 }, { "index": 1, "bytes": 256, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void histogram(device uint *out [[buffer(0)]],
                      device const uint *in [[buffer(1)]],
                      uint t [[thread_index_in_threadgroup]]) {
    threadgroup uint bins[64];
    bins[t] = 0; // other
    threadgroup atomic_uint *counters = (threadgroup atomic_uint *)bins;
    atomic_fetch_add_explicit(&counters[63 - in[t]], 1u, memory_order_relaxed); // expect: data_race
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[t] = bins[t];
}
