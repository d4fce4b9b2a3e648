// Bins are cleared by plain stores; a barrier stands before the atomics, another before the reads.
// dispatch: { "kernel": "histogram", "threadgroups": [2, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 64 }, { "index": 1, "bytes": 128, "init": "ramp_u32" }] }
#include <metal_stdlib>
using namespace metal;

kernel void histogram(device atomic_uint *out [[buffer(0)]],
                      device const uchar *in [[buffer(1)]],
                      uint i [[thread_position_in_grid]],
                      uint t [[thread_index_in_threadgroup]]) {
    threadgroup uint bins[16];
    if (t < 16) {
        bins[t] = 0;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    threadgroup atomic_uint *counters = (threadgroup atomic_uint *)bins;
    atomic_fetch_add_explicit(&counters[in[i] & 15], 1u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (t < 16) {
        atomic_fetch_add_explicit(&out[t], bins[t], memory_order_relaxed);
    }
}
