// The fences are there, but other threadgroups need not see what goes through an argument that is not
// coherent(device).
// dispatch: { "kernel": "sum", "threadgroups": [3, 1, 1], "threads": [64, 1, 1],
//   "buffers": [{ "index": 0, "bytes": 768 }, { "index": 1, "bytes": 4 },
//               { "index": 2, "bytes": 768, "init": "ones" }, { "index": 3, "bytes": 256 }] }
#include <metal_stdlib>
using namespace metal;

kernel void sum(device float *partial [[buffer(0)]],
                device atomic_uint *arrived [[buffer(1)]],
                device const float *in [[buffer(2)]],
                device float *out [[buffer(3)]],
                uint i [[thread_position_in_grid]],
                uint t [[thread_index_in_threadgroup]],
                uint groups [[threadgroups_per_grid]]) {
    threadgroup uint before;
    partial[i] = 2.0f * in[i]; // other
    threadgroup_barrier(mem_flags::mem_device);
    if (t == 0) {
        atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst, thread_scope_device);
        before = atomic_fetch_add_explicit(arrived, 1u, memory_order_relaxed);
        atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst, thread_scope_device);
    }
    threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
    if (before == groups - 1) {
        float all = 0.0f;
        for (uint g = 0; g < groups; g++) {
            all += partial[g * 64 + 63 - t]; // expect: data_race buffer=0
        }
        out[t] = all;
    }
}
