// What the host executable and a kernel's shared object agree on. The object is compiled from a
// .metal file against shim.h and leaves the msl_rt_* functions open; the host provides them.
#pragma once
#include <stddef.h>
#include <stdint.h>

// Positions and sizes of one thread. A kernel parameter such as [[thread_index_in_simdgroup]] is
// fetched from here by its byte offset, so the names are part of the generated source.
struct msl_rt_ids {
    uint32_t tid, lane, sg, n_sg, width, quadlane, quad, n_quad;
    uint32_t gpos[3], tpos[3], tgpos[3], tgsize[3], gridtg[3], dtgsize[3], grid[3], zero[3];
};

// A source position. As a default argument, here() is the position of the outermost call: the
// line of the .metal file, because the generated source keeps its line markers.
struct msl_site {
    const char *file;
    uint32_t line, column;
    static constexpr msl_site here(const char *file = __builtin_FILE(), uint32_t line = __builtin_LINE(),
                                   uint32_t column = __builtin_COLUMN()) {
        return msl_site{file, line, column};
    }
};

// What lanes meet for. Lanes that wait at one site for different operations have diverged.
enum msl_op : uint32_t {
    MSL_OP_THREADGROUP_BARRIER = 1,
    MSL_OP_SIMDGROUP_BARRIER,
    MSL_OP_SUM,
    MSL_OP_PRODUCT,
    MSL_OP_MAX,
    MSL_OP_MIN,
    MSL_OP_AND,
    MSL_OP_OR,
    MSL_OP_XOR,
    MSL_OP_SHUFFLE,
    MSL_OP_BROADCAST,
    MSL_OP_BALLOT,
    MSL_OP_SCAN,
    MSL_OP_MATRIX,
    MSL_OP_QUAD,
};

constexpr uint32_t MSL_LANES = 32;
constexpr uint32_t MSL_FENCE_DEVICE = 1, MSL_FENCE_THREADGROUP = 2; // bits of mem_flags
constexpr uint32_t MSL_ACCESS_READ = 1, MSL_ACCESS_WRITE = 2;
constexpr uint32_t MSL_ACQUIRE = 1, MSL_RELEASE = 2; // what a memory_order does

// The values that the lanes of a simdgroup brought to one operation. A reduction is computed by
// the first lane that resumes; the others take `result`.
struct msl_exchange {
    unsigned char slot[MSL_LANES][64];
    uint32_t reduced, padding[3];
    unsigned char result[64];
};

// One kernel parameter. The generated source fills attribute, name, type and index (of the
// buffer or threadgroup block, or the offset in msl_rt_ids); registration deduces the rest.
enum msl_arg_kind { MSL_ARG_VALUE, MSL_ARG_POINTER, MSL_ARG_REFERENCE, MSL_ARG_TG_POINTER, MSL_ARG_TG_REFERENCE };
struct msl_arg {
    const char *attribute, *name, *type;
    int kind, index;
    uint32_t size, align;
    int writable;
};
struct msl_kernel {
    const char *name, *function;
    int arg_count;
    msl_arg *args;
    void (*call)(const msl_kernel *, void *const *pointers);
};

extern "C" {
extern msl_rt_ids *msl_cur; // the running thread
void msl_rt_register(msl_kernel *kernel);
// Brings `size` bytes to the operation, waits for the other lanes, gives the lanes that took part.
msl_exchange *msl_rt_simd(const void *value, uint32_t size, uint32_t op, msl_site site, uint32_t *active);
void msl_rt_barrier(uint32_t op, uint32_t flags, msl_site site);
void *msl_rt_tgvar(const void *key, size_t size, size_t align, const char *name);
const void *msl_rt_fc(uint32_t index, uint32_t size); // null: the constant is not set
void msl_rt_inactive_lane(const char *operation, uint32_t lane, msl_site site);
void msl_rt_bad_component(size_t index, uint32_t count);
void msl_ck_atomic(const volatile void *address, uint32_t size, uint32_t access);
void msl_ck_fence(uint32_t orders); // of device memory, with device scope
}
