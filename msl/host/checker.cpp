// Checks every memory access of a kernel that was compiled with -fsanitize=thread. The compiler
// then calls __tsan_read4 and the like before each access; they lead here and not to its runtime,
// which knows neither mem_flags nor simdgroups nor memory that nobody wrote.
//
// For each byte that can be written, the last write and two reads are remembered, with what
// orders them: threadgroup, thread, and the numbers of fences and operations the thread had
// passed. Two accesses of one byte, one of them a write, need an order by the rules of the
// language; whether they really collided in this run does not matter, so a result depends little
// on the order in which lanes ran.
#include "executor.h"
#include <string.h>
#include <sys/mman.h>

struct Access {
    uint32_t group; // number of the threadgroup, 0: no access yet
    uint32_t pc;    // distance from the start of the kernel's image
    uint16_t thread;
    uint16_t fences;        // threadgroup barriers passed that order this memory class
    uint16_t sg_fences;     // simdgroup barriers passed that order this memory class
    uint16_t barriers;      // threadgroup barriers passed, with whatever flags
    uint16_t simd_ops;      // simdgroup operations and barriers passed
    uint16_t thread_fences; // fences of device scope passed
    bool atomic;
};
struct Cell {
    Access write, read, other_read;
};

void *new_shadow(size_t bytes) {
    // Zero pages that cost nothing until a byte of the region is touched.
    void *p = mmap(nullptr, bytes * sizeof(Cell) + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : p;
}

static Access access_now(Space memory, uintptr_t pc, bool atomic) {
    const Fibre &f = *g_fibre;
    int space = (int)memory;
    return Access{g_group_number,
                  (uint32_t)(pc - (uintptr_t)g_kernel_image.begin),
                  (uint16_t)f.ids.tid,
                  (uint16_t)f.fences[space],
                  (uint16_t)f.sg_fences[space],
                  (uint16_t)f.barriers,
                  (uint16_t)f.simd_ops,
                  (uint16_t)f.thread_fences,
                  atomic};
}

static bool same_simdgroup(const Access &a, const Access &b) { return a.thread / MSL_LANES == b.thread / MSL_LANES; }

// Whether two accesses of one threadgroup are in order by a fence between them.
static bool fenced(const Access &earlier, const Access &later) {
    return earlier.fences != later.fences || (same_simdgroup(earlier, later) && earlier.sg_fences != later.sg_fences);
}

// ---- Order between threadgroups ----
// A thread's fence of device scope publishes what precedes it with the atomics that the thread writes
// after it. Whoever reads one of these atomics, and then passes such a fence itself, comes after that.
// Barriers pass the order on within a threadgroup. Threadgroups run one after the other here, so an
// atomic was last written by one that is known.

// Whether an access comes before a fence of its threadgroup.
static bool precedes(const Access &access, const Access &fence) {
    if (access.group != fence.group) return false;
    if (access.thread == fence.thread) return access.thread_fences < fence.thread_fences;
    return access.fences < fence.fences || (same_simdgroup(access, fence) && access.sg_fences < fence.sg_fences);
}

struct Known {
    Access theirs, mine; // a fence of another threadgroup, and the one here that comes after it
};
struct Thread {
    Access fence{};           // the last that published
    std::vector<Access> seen; // fences behind the atomics that it read since its last one
};
static uint32_t g_order_group; // the threadgroup that the next two are of
static std::vector<Known> g_known;
static std::map<uint32_t, Thread> g_threads_of_order;
static std::map<const volatile void *, std::vector<Access>> g_published; // fences behind the value of an atomic

static Thread &thread_of_order() {
    if (g_order_group != g_group_number) {
        g_order_group = g_group_number;
        g_known.clear();
        g_threads_of_order.clear();
    }
    return g_threads_of_order[g_fibre->ids.tid];
}
static void publish(std::vector<Access> &behind, const Access &fence) {
    for (Access &other : behind) {
        if (other.group != fence.group || other.thread != fence.thread) continue;
        if (other.thread_fences < fence.thread_fences) other = fence;
        return;
    }
    behind.push_back(fence);
}
static void order_atomic(const volatile void *address, uint32_t access) {
    Thread &thread = thread_of_order();
    std::vector<Access> &behind = g_published[address];
    if (access & MSL_ACCESS_READ) thread.seen.insert(thread.seen.end(), behind.begin(), behind.end());
    if (!(access & MSL_ACCESS_WRITE)) return;
    if (!(access & MSL_ACCESS_READ)) behind.clear(); // a value of its own
    if (!thread.fence.group) return;
    publish(behind, thread.fence);
    for (const Known &known : g_known) {
        bool mine = known.mine.thread == thread.fence.thread && known.mine.thread_fences <= thread.fence.thread_fences;
        if (mine || precedes(known.mine, thread.fence)) publish(behind, known.theirs);
    }
}
// Whether an access by another threadgroup comes before this one.
static bool ordered(const Access &earlier, const Access &later) {
    if (g_order_group != later.group) return false;
    for (const Known &known : g_known) {
        if (precedes(earlier, known.theirs) && (known.mine.thread == later.thread || fenced(known.mine, later))) return true;
    }
    return false;
}

struct Conflict {
    bool found;
    Kind kind;
    const char *what;
};
static Conflict conflict(const Access &earlier, const Access &later, Space space, bool coherent) {
    Conflict none{false, Kind::data_race, ""};
    if (!earlier.group || (earlier.atomic && later.atomic)) return none;
    if (earlier.group != later.group) {
        if (space == Space::threadgroup) return none; // another threadgroup had other memory
        if (!ordered(earlier, later)) return {true, Kind::data_race, "two threadgroups access this without order"};
        if (!coherent) return {true, Kind::data_race, "two threadgroups access this by an argument that is not coherent(device)"};
        return none;
    }
    if (earlier.thread == later.thread || fenced(earlier, later)) return none;
    if (earlier.barriers != later.barriers) return {true, Kind::missing_fence, "the threadgroup_barrier in between lacks the mem_flags for this memory"};
    if (!same_simdgroup(earlier, later)) return {true, Kind::data_race, "two threads of a threadgroup access this with no barrier in between"};
    if (earlier.simd_ops != later.simd_ops)
        return {true, Kind::lockstep_reliance, "two lanes of a simdgroup access this with only a simdgroup operation, or a barrier without mem_flags, in between"};
    return {true, Kind::lockstep_reliance, "two lanes of a simdgroup access this with no simdgroup_barrier in between"};
}

static void report(Kind kind, const std::string &what, const char *address, uintptr_t pc, const Access *earlier) {
    Finding finding{kind, ""};
    finding.message = what + ": " + describe(address, finding);
    finding.pc = pc;
    if (earlier) {
        finding.other_pc = (uintptr_t)g_kernel_image.begin + earlier->pc;
        finding.message += "; the other access is by thread " + std::to_string(earlier->thread) +
                           (earlier->group != g_group_number ? " of another threadgroup" : "");
    }
    add_finding(finding);
}
static void report_conflict(const Access &earlier, const Access &later, const Region &region, const char *address, uintptr_t pc) {
    Conflict c = conflict(earlier, later, region.space, region.coherent);
    if (c.found) report(c.kind, c.what, address, pc, &earlier);
}

// Reads of threadgroup memory that nobody had written, by address, the first of each byte. If an
// unordered write follows, the two are a race, reported as one: that the read came first was an
// accident of this run. What is left when the threadgroup ends was never written in time.
static std::map<const char *, Access> g_early_reads;
static void drop_early_read(const char *address, const Access &write) {
    auto read = g_early_reads.find(address);
    if (read != g_early_reads.end() && conflict(read->second, write, Space::threadgroup, false).found) g_early_reads.erase(read);
}
void report_early_reads() {
    for (auto &read : g_early_reads) {
        set_current_thread(read.second.thread);
        report(Kind::uninitialized_read, "nothing in this threadgroup wrote this before", read.first, (uintptr_t)g_kernel_image.begin + read.second.pc, nullptr);
    }
    g_early_reads.clear();
}

// Remembers a read. Two are enough: a writer that is one of the readers conflicts with the other.
// A read that a fence already orders before this one may go; a read by another threadgroup stays,
// as nothing ever orders it.
static void keep_read(Cell &cell, const Access &me) {
    Access &first = cell.read;
    bool replace = !first.group || (first.group == me.group && (first.thread == me.thread || fenced(first, me)));
    (replace ? first : cell.other_read) = me;
}

static void check_bytes(Region &region, const char *address, size_t size, bool write, uintptr_t pc, bool atomic) {
    Access me = access_now(region.space, pc, atomic);
    Cell *cell = (Cell *)region.shadow + (address - region.begin);
    bool mine_only = region.space == Space::threadgroup; // cells of an earlier threadgroup are void
    for (size_t i = 0; i < size; i++, cell++) {
        if (mine_only) {
            if (cell->read.group != me.group) cell->read.group = 0;
            if (cell->other_read.group != me.group) cell->other_read.group = 0;
            if (cell->write.group != me.group) {
                cell->write.group = 0;
                if (!write) g_early_reads.emplace(address + i, me);
            }
            if (write && !g_early_reads.empty()) drop_early_read(address + i, me);
        }
        report_conflict(cell->write, me, region, address + i, pc);
        if (write) {
            report_conflict(cell->read, me, region, address + i, pc);
            report_conflict(cell->other_read, me, region, address + i, pc);
            cell->write = me;
            cell->read.group = cell->other_read.group = 0;
        } else {
            keep_read(*cell, me);
        }
    }
}

static bool holds(const Image &image, const char *address) { return address >= image.begin && address < image.end; }

static __attribute__((noinline)) void check(const void *where, size_t size, bool write, void *return_address, bool atomic = false, bool aligned = false) {
    if (!g_instrumented || !size) return;
    const char *address = (const char *)where;
    uintptr_t pc = (uintptr_t)return_address - 1;
    if (!in_slots(address)) {
        // Private variables, constants of the kernel, and what the shim reads of the host.
        if (in_stacks(address) || holds(g_kernel_image, address) || holds(g_host_image, address)) return;
        report(Kind::out_of_bounds, write ? "write" : "read", address, pc, nullptr);
        abort_dispatch();
    }
    Region *region = region_at(address);
    if (!region || address < region->begin || address + size > region->end) {
        report(Kind::out_of_bounds, write ? "write out of bounds" : "read out of bounds", address, pc, nullptr);
        abort_dispatch();
    }
    if (write && !region->writable) {
        report(Kind::readonly_write, "write to read-only memory", address, pc, nullptr);
        abort_dispatch();
    }
    // The compiler took this for aligned. It tells so for up to 8 bytes only.
    if (aligned && ((uintptr_t)address & ((size < 8 ? size : 8) - 1))) report(Kind::misaligned, "misaligned access", address, pc, nullptr);
    if (!region->writable) return;
    if (g_lockstep) run_lowest_pc(pc);
    if (g_check && region->shadow) check_bytes(*region, address, size, write, pc, atomic);
}

// ---- What -fsanitize=thread calls ----
#define CALLER __builtin_return_address(0)
#define ACCESS(n)                                                                          \
    void __tsan_read##n(void *p) { check(p, n, false, CALLER, false, true); }              \
    void __tsan_write##n(void *p) { check(p, n, true, CALLER, false, true); }              \
    void __tsan_unaligned_read##n(void *p) { check(p, n, false, CALLER); }                 \
    void __tsan_unaligned_write##n(void *p) { check(p, n, true, CALLER); }                 \
    void __tsan_read_write##n(void *p) {                                                   \
        check(p, n, false, CALLER, false, true);                                           \
        check(p, n, true, CALLER, false, true);                                            \
    }                                                                                      \
    void __tsan_unaligned_read_write##n(void *p) {                                         \
        check(p, n, false, CALLER);                                                        \
        check(p, n, true, CALLER);                                                         \
    }
extern "C" {
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
void *__tsan_memcpy(void *to, const void *from, size_t n) {
    check(from, n, false, CALLER);
    check(to, n, true, CALLER);
    return memcpy(to, from, n);
}
void *__tsan_memmove(void *to, const void *from, size_t n) {
    check(from, n, false, CALLER);
    check(to, n, true, CALLER);
    return memmove(to, from, n);
}
void *__tsan_memset(void *to, int value, size_t n) {
    check(to, n, true, CALLER);
    return memset(to, value, n);
}
// The atomic functions of the shim are not instrumented; they tell here what they do.
void msl_ck_atomic(const volatile void *p, uint32_t size, uint32_t access) {
    if (access & MSL_ACCESS_READ) check((const void *)p, size, false, CALLER, true);
    if (access & MSL_ACCESS_WRITE) check((const void *)p, size, true, CALLER, true);
    if (g_check && region_at((const char *)p)->space == Space::device) order_atomic(p, access);
}
void msl_ck_fence(uint32_t orders) {
    if (!g_check) return;
    g_fibre->thread_fences++;
    Thread &thread = thread_of_order();
    Access me = access_now(Space::device, 0, false);
    if (orders & MSL_ACQUIRE) {
        for (const Access &theirs : thread.seen) g_known.push_back({theirs, me});
        thread.seen.clear();
    }
    if (orders & MSL_RELEASE) thread.fence = me;
}
}

// ---- What -fsanitize=undefined calls ----
// The first argument of every handler starts with the source position.
struct UbLocation {
    const char *file;
    uint32_t line, column;
};
static Finding at(Kind kind, const char *message, const UbLocation *l, void *caller) {
    Finding finding{kind, message};
    finding.site = msl_site{l->file, l->line, l->column};
    finding.pc = (uintptr_t)caller - 1;
    return finding;
}
extern "C" {
void __ubsan_handle_type_mismatch_v1(UbLocation *l, void *pointer) {
    if (!g_instrumented) return;
    Finding finding = at(Kind::misaligned, "", l, CALLER);
    finding.message = "misaligned access of " + describe((const char *)pointer, finding);
    add_finding(finding);
}
void __ubsan_handle_divrem_overflow(UbLocation *l, void *, void *) {
    if (!g_instrumented) return;
    add_finding(at(Kind::undefined_arithmetic, "integer division by zero or overflow", l, CALLER));
    abort_dispatch(); // the division itself would trap on x86
}
// Addition, subtraction, multiplication and negation; the result wraps, and the kernel goes on.
#define OVERFLOW(name)                                                                                \
    void __ubsan_handle_##name##_overflow(UbLocation *l, void *, void *) {                            \
        if (g_instrumented) add_finding(at(Kind::undefined_arithmetic, "signed integer overflow", l, CALLER)); \
    }
OVERFLOW(add)
OVERFLOW(sub)
OVERFLOW(mul)
OVERFLOW(negate)
void __ubsan_handle_shift_out_of_bounds(UbLocation *l, void *, void *) {
    if (g_instrumented) add_finding(at(Kind::undefined_arithmetic, "shift by a negative count or by the width of the type or more", l, CALLER));
}
void __ubsan_handle_float_cast_overflow(UbLocation *l, void *) {
    if (g_instrumented) add_finding(at(Kind::undefined_arithmetic, "conversion of a float that the integer type cannot hold", l, CALLER));
}
void __ubsan_handle_out_of_bounds(UbLocation *l, void *) {
    if (g_instrumented) add_finding(at(Kind::out_of_bounds, "index outside an array", l, CALLER));
}
}
