// Runs a compute kernel on one OS thread. Each thread of a threadgroup is a fibre with its own
// stack; threadgroups run one after the other. A fibre runs until it meets a barrier or a
// simdgroup operation, so a run is deterministic and nothing needs locks.
//
// Compile, in this directory (on x86-64; leave out -march elsewhere, and -ldl on macOS):
//
// Host, once:
//   clang++-19 -std=c++17 -O2 -fsigned-char -Wall -Wextra -rdynamic -o msl-host
//     host_main.cpp executor.cpp checker.cpp -ldl -lm
// Kernel, fast:
//   clang++-19 -std=c++14 -O2 -fsigned-char -fdeclspec -fPIC -shared -gline-tables-only
//     -march=x86-64-v3 -ffp-contract=off -Xclang -ffloat16-excess-precision=none
//     -Wno-c++17-extensions -Wno-unknown-attributes -I. -o kernel.so kernel.cpp -lm
// Kernel, checked:
//   the same with -O1 in place of -O2, and
//     -DMSL_CHECK -fsanitize=thread -fno-vectorize -fno-slp-vectorize
//     -mllvm -tsan-instrument-func-entry-exit=0 -mllvm -tsan-instrument-read-before-write=1
//     -fsanitize=local-bounds -fsanitize-trap=local-bounds
//     -fsanitize=alignment,integer-divide-by-zero,signed-integer-overflow,shift-exponent,float-cast-overflow
//     -fsanitize-recover=... (the same list)
// macOS: clang++ -dynamiclib -undefined dynamic_lookup for a kernel; for a checked one compile
// with -c and link in a second step without -fsanitize, or the driver adds its own runtime.
#include "executor.h"
#include "platform.h"
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

msl_rt_ids *msl_cur;
bool g_instrumented, g_check, g_lockstep;
Fibre *g_fibre;
uint32_t g_group_number;
Image g_kernel_image, g_host_image;
std::vector<Finding> g_findings;

// ---- Registration and function constants ----
std::vector<msl_kernel *> &kernels() {
    static std::vector<msl_kernel *> all;
    return all;
}
void msl_rt_register(msl_kernel *kernel) {
    // After the address spaces are erased, only the attribute tells a threadgroup parameter.
    for (int i = 0; i < kernel->arg_count; i++) {
        msl_arg &arg = kernel->args[i];
        if (!strncmp(arg.attribute, "threadgroup(", 12)) arg.kind += MSL_ARG_TG_POINTER - MSL_ARG_POINTER;
    }
    kernels().push_back(kernel);
}

struct FunctionConstant {
    uint32_t size;
    uint64_t value;
};
static std::map<uint32_t, FunctionConstant> g_constants;
static std::string g_constant_error;
void set_function_constant(uint32_t index, uint32_t size, uint64_t value) { g_constants[index] = {size, value}; }
const std::string &function_constant_error() { return g_constant_error; }
const void *msl_rt_fc(uint32_t index, uint32_t size) {
    auto found = g_constants.find(index);
    if (found == g_constants.end()) return nullptr;
    if (found->second.size != size) {
        g_constant_error = "function constant " + std::to_string(index) + " has " + std::to_string(size) + " bytes in the kernel, " +
                           std::to_string(found->second.size) + " in the request";
        return nullptr;
    }
    return &found->second.value;
}

// ---- Guarded memory ----
// Each region ends at a page end in the middle of its own slot, and the rest of the slot is not
// accessible. With slots of 256 GiB no 32-bit index on elements up to 16 bytes, wrapped or not,
// reaches another slot, so a plain build finds every access past the last 15 bytes. Where so much
// address space is refused, smaller slots still catch everything but far jumps.
static const size_t SLOT_COUNT = 128;
static char *g_slots;
static size_t g_slot_size, g_slots_used, g_page;
static int g_region_of_slot[SLOT_COUNT];
static std::vector<Region> g_regions;

static bool reserve_slots(size_t largest) {
    g_page = (size_t)sysconf(_SC_PAGESIZE);
    size_t need = 4 * (largest + g_page);
    for (g_slot_size = (size_t)256 << 30; g_slot_size >= need; g_slot_size >>= 1) {
        void *p = mmap(nullptr, g_slot_size * SLOT_COUNT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p != MAP_FAILED) {
            g_slots = (char *)p;
            return true;
        }
    }
    return false;
}
bool in_slots(const char *address) { return (size_t)(address - g_slots) < g_slot_size * SLOT_COUNT; }
Region *region_at(const char *address) {
    size_t slot = (size_t)(address - g_slots) / g_slot_size;
    return in_slots(address) && slot < g_slots_used ? &g_regions[(size_t)g_region_of_slot[slot]] : nullptr;
}
static size_t whole_pages(size_t size) { return size ? (size + g_page - 1) / g_page * g_page : g_page; }

// Not below 16: a kernel may read a buffer of scalars by vectors, and real buffers allow that.
static char *new_region(size_t size, size_t align, Space space, int index, const char *name, bool writable) {
    if (g_slots_used == SLOT_COUNT) return nullptr;
    size_t pages = whole_pages(size);
    char *base = g_slots + g_slot_size * g_slots_used + g_slot_size / 2;
    if (mprotect(base, pages, PROT_READ | PROT_WRITE)) return nullptr;
    if (align < 16) align = 16;
    char *begin = base + ((pages - size) & ~(align - 1));
    void *shadow = g_check && (writable || space == Space::threadgroup) ? new_shadow(size) : nullptr;
    g_region_of_slot[g_slots_used++] = (int)g_regions.size();
    g_regions.push_back(Region{begin, begin + size, space, index, name, writable, false, shadow});
    return begin;
}

std::string describe(const char *address, Finding &finding) {
    Region *region = region_at(address);
    if (!region) return "an address outside every bound buffer";
    finding.offset = address - region->begin;
    finding.has_offset = true;
    if (region->space == Space::device) finding.buffer = region->index;
    std::string text = region->space == Space::device ? "buffer " : "threadgroup memory ";
    if (region->index >= 0) text += std::to_string(region->index) + " ";
    return text + "'" + region->name + "' of " + std::to_string(region->end - region->begin) + " bytes at byte offset " + std::to_string(finding.offset);
}

// ---- Fibres ----
static const uint32_t MAX_THREADS = 1024;
static const size_t STACK_SIZE = 256 << 10;
static Fibre g_fibres[MAX_THREADS];
static char *g_stacks;
static void *g_scheduler;
static const msl_kernel *g_kernel;
static void *g_pointers[128];
static bool g_descending;
static uint32_t g_threads, g_simdgroups;

// Two exchanges in turn: a fast lane may bring its next value while a slow one still reads the
// last ones. It cannot get further ahead, because that next operation waits for all.
struct Simdgroup {
    uint32_t first, count, done, arrived;
    bool mixed; // lanes arrived at different operations
    uint32_t half;
    msl_exchange exchange[2];
    uint32_t active[2];
};
static Simdgroup g_groups[MAX_THREADS / MSL_LANES];

bool in_stacks(const char *address) { return (size_t)(address - g_stacks) < (STACK_SIZE + g_page) * MAX_THREADS; }

static inline void switch_to(Fibre *to, void **save) {
    g_fibre = to;
    msl_cur = &to->ids;
    msl_switch(save, to->stack_pointer);
}
static Fibre *next_ready(const Simdgroup &sg, uint32_t after) {
    uint32_t lane = after;
    for (uint32_t i = 0; i < sg.count; i++) {
        lane = g_descending ? (lane ? lane - 1 : sg.count - 1) : (lane + 1 < sg.count ? lane + 1 : 0);
        if (g_fibres[sg.first + lane].state == FibreState::ready) return &g_fibres[sg.first + lane];
    }
    return nullptr;
}
// Gives the OS thread to a ready lane of the simdgroup, else back to the scheduler. Lane to lane
// directly: that saves half of the switches.
static void leave(Fibre &fibre) {
    Fibre *next = next_ready(g_groups[fibre.ids.sg], fibre.ids.lane);
    if (next == &fibre) return;
    if (next) switch_to(next, &fibre.stack_pointer);
    else msl_switch(&fibre.stack_pointer, g_scheduler);
}
void run_lowest_pc(uintptr_t pc) {
    Fibre &fibre = *g_fibre, *lowest = &fibre;
    fibre.pc = pc;
    const Simdgroup &sg = g_groups[fibre.ids.sg];
    for (Fibre *f = &g_fibres[sg.first]; f < &g_fibres[sg.first + sg.count]; f++) {
        if (f->state == FibreState::ready && f->pc < lowest->pc) lowest = f;
    }
    if (lowest != &fibre) switch_to(lowest, &fibre.stack_pointer);
}
static void fibre_main() {
    for (;;) { // the fibre is used again by the next threadgroup
        g_kernel->call(g_kernel, g_pointers);
        g_fibre->state = FibreState::done;
        g_groups[g_fibre->ids.sg].done++;
        leave(*g_fibre);
    }
}

// ---- Simdgroup operations ----
static void release(Simdgroup &sg, uint32_t lanes) {
    uint32_t half = sg.half;
    sg.active[half] = lanes;
    sg.exchange[half].reduced = 0;
    sg.half ^= 1;
    sg.arrived = 0;
    sg.mixed = false;
    for (uint32_t i = 0; i < sg.count; i++) {
        if (!(lanes >> i & 1)) continue;
        Fibre &fibre = g_fibres[sg.first + i];
        fibre.state = FibreState::ready;
        fibre.half = half;
        fibre.simd_ops++;
    }
}
static bool same_operation(const Fibre &a, const Fibre &b) { return a.op == b.op && a.site.line == b.site.line && a.site.column == b.site.column; }

static void meet(Fibre &fibre, uint32_t op, msl_site site, const void *value, uint32_t size) {
    Simdgroup &sg = g_groups[fibre.ids.sg];
    if (size) memcpy(sg.exchange[sg.half].slot[fibre.ids.lane], value, size);
    fibre.op = op;
    fibre.site = site;
    static Fibre *first[MAX_THREADS / MSL_LANES];
    if (!sg.arrived) first[fibre.ids.sg] = &fibre;
    else if (!same_operation(fibre, *first[fibre.ids.sg])) sg.mixed = true;
    if (++sg.arrived == sg.count && !sg.mixed) {
        release(sg, sg.count == 32 ? ~0u : (1u << sg.count) - 1);
        return;
    }
    fibre.state = FibreState::at_simd;
    leave(fibre);
}
msl_exchange *msl_rt_simd(const void *value, uint32_t size, uint32_t op, msl_site site, uint32_t *active) {
    Fibre &fibre = *g_fibre;
    fibre.pc = (uintptr_t)__builtin_return_address(0);
    meet(fibre, op, site, value, size);
    Simdgroup &sg = g_groups[fibre.ids.sg];
    *active = sg.active[fibre.half];
    return &sg.exchange[fibre.half];
}
void msl_rt_barrier(uint32_t op, uint32_t flags, msl_site site) {
    Fibre &fibre = *g_fibre;
    fibre.pc = (uintptr_t)__builtin_return_address(0);
    bool whole_group = op == MSL_OP_THREADGROUP_BARRIER;
    if (whole_group) {
        fibre.op = op;
        fibre.site = site;
        fibre.state = FibreState::at_barrier;
        leave(fibre);
        fibre.barriers++;
    } else {
        meet(fibre, op, site, nullptr, 0);
    }
    uint32_t *fences = whole_group ? fibre.fences : fibre.sg_fences;
    if (flags & MSL_FENCE_DEVICE) fences[(int)Space::device]++;
    if (flags & MSL_FENCE_THREADGROUP) fences[(int)Space::threadgroup]++;
}

static bool whole_quads(uint32_t lanes, uint32_t count) {
    for (uint32_t first = 0; first < count; first += 4) {
        uint32_t quad = (count - first < 4 ? (1u << (count - first)) - 1 : 15u) << first;
        if ((lanes & quad) && (lanes & quad) != quad) return false;
    }
    return true;
}
// No lane can run, but some wait at a simdgroup operation: the rest returned, waits at a barrier
// or at another operation. Lets the group at the first of those operations go on alone, as a GPU
// would with inactive lanes, and says so. A quadgroup operation needs no more than whole quads.
static bool release_diverged(Simdgroup &sg) {
    Fibre *lead = nullptr;
    uint32_t waiting = 0, at_barrier = 0, lanes = 0, here = 0;
    for (uint32_t i = 0; i < sg.count; i++) {
        Fibre &fibre = g_fibres[sg.first + i];
        at_barrier += fibre.state == FibreState::at_barrier;
        if (fibre.state != FibreState::at_simd) continue;
        waiting++;
        if (!lead || fibre.site.line < lead->site.line || (fibre.site.line == lead->site.line && fibre.site.column < lead->site.column)) lead = &fibre;
    }
    if (!lead) return false;
    for (uint32_t i = 0; i < sg.count; i++) {
        const Fibre &fibre = g_fibres[sg.first + i];
        if (fibre.state != FibreState::at_simd || !same_operation(fibre, *lead)) continue;
        lanes |= 1u << i;
        here++;
    }
    bool enough = lead->op == MSL_OP_QUAD ? whole_quads(lanes, sg.count) : here == sg.count;
    if (!enough) { // else: all came after another group had gone first
        Finding finding{Kind::divergent_simd, "simdgroup operation with " + std::to_string(here) + " of " + std::to_string(sg.count) + " lanes (" +
                                                  std::to_string(sg.done) + " returned, " + std::to_string(at_barrier) + " at a threadgroup_barrier, " +
                                                  std::to_string(waiting - here) + " at another simdgroup operation)"};
        finding.site = lead->site;
        g_fibre = lead;
        add_finding(finding);
    }
    release(sg, lanes);
    sg.arrived = waiting - here;
    sg.mixed = sg.arrived > 0; // makes the rest come here again, whatever arrives
    for (uint32_t i = 0; i < sg.count; i++) {
        // Values of lanes that stay were brought to the half just used up.
        if (g_fibres[sg.first + i].state == FibreState::at_simd) memcpy(sg.exchange[sg.half].slot[i], sg.exchange[sg.half ^ 1].slot[i], 64);
    }
    return true;
}
void msl_rt_inactive_lane(const char *operation, uint32_t lane, msl_site site) {
    Finding finding{Kind::divergent_simd, std::string(operation) + " reads lane " + std::to_string(lane) + ", which is inactive or does not exist"};
    finding.site = site;
    add_finding(finding);
}
void msl_rt_bad_component(size_t index, uint32_t count) {
    Finding finding{Kind::out_of_bounds, "vector component " + std::to_string(index) + " of " + std::to_string(count)};
    finding.pc = (uintptr_t)__builtin_return_address(0) - 1;
    add_finding(finding);
    abort_dispatch();
}

// ---- Threadgroup memory ----
struct ThreadgroupVariable {
    const void *key;
    char *memory;
};
static std::vector<ThreadgroupVariable> g_variables;
void *msl_rt_tgvar(const void *key, size_t size, size_t align, const char *name) {
    for (auto &v : g_variables) {
        if (v.key == key) return v.memory;
    }
    char *memory = new_region(size, align, Space::threadgroup, -1, name, true);
    if (!memory) abort_dispatch();
    memset(memory, 0xff, size);
    g_variables.push_back({key, memory});
    return memory;
}

// ---- One threadgroup ----
static void report_barrier(uint32_t done) {
    Fibre *first = nullptr, *other = nullptr;
    for (Fibre *f = g_fibres; f < g_fibres + g_threads; f++) {
        if (f->state != FibreState::at_barrier) continue;
        if (!first) first = f;
        else if (!same_operation(*f, *first) && !other) other = f;
    }
    g_fibre = first;
    if (other) {
        Finding finding{Kind::divergent_barrier, "threads of one threadgroup wait at different barriers, the other at line " + std::to_string(other->site.line)};
        finding.site = first->site;
        finding.other_line = other->site.line;
        finding.other_column = other->site.column;
        add_finding(finding);
    }
    if (done) {
        Finding finding{Kind::divergent_barrier, std::to_string(done) + " of " + std::to_string(g_threads) + " threads returned before this barrier"};
        finding.site = first->site;
        add_finding(finding);
    }
}
static void run_threadgroup() {
    g_group_number++;
    for (uint32_t i = 0; i < g_threads; i++) {
        Fibre &f = g_fibres[i];
        f.state = FibreState::ready;
        f.pc = 0;
        f.barriers = f.simd_ops = f.thread_fences = 0;
        f.fences[0] = f.fences[1] = f.sg_fences[0] = f.sg_fences[1] = 0;
    }
    for (uint32_t i = 0; i < g_simdgroups; i++) {
        Simdgroup &sg = g_groups[i];
        sg.first = i * MSL_LANES;
        sg.count = g_threads - sg.first < MSL_LANES ? g_threads - sg.first : MSL_LANES;
        sg.done = sg.arrived = sg.half = 0;
        sg.mixed = false;
    }
    // All NaN, so that a value nobody wrote shows in the result of a build without checks.
    for (auto &region : g_regions) {
        if (region.space == Space::threadgroup) memset(region.begin, 0xff, (size_t)(region.end - region.begin));
    }
    for (;;) {
        for (uint32_t i = 0; i < g_simdgroups; i++) {
            Simdgroup &sg = g_groups[g_descending ? g_simdgroups - 1 - i : i];
            do {
                while (Fibre *next = next_ready(sg, g_descending ? 0 : sg.count - 1)) switch_to(next, &g_scheduler);
            } while (release_diverged(sg));
        }
        uint32_t done = 0;
        for (uint32_t i = 0; i < g_simdgroups; i++) done += g_groups[i].done;
        if (done == g_threads) {
            report_early_reads();
            return;
        }
        report_barrier(done);
        for (Fibre *f = g_fibres; f < g_fibres + g_threads; f++) {
            if (f->state == FibreState::at_barrier) f->state = FibreState::ready;
        }
    }
}

// ---- Findings and faults ----
static volatile bool g_running;
static sigjmp_buf g_escape;

void add_finding(Finding finding) {
    for (const Finding &f : g_findings) {
        bool same_site = f.site.line == finding.site.line && f.site.column == finding.site.column;
        bool same_pair = f.pc == finding.pc && f.other_pc == finding.other_pc;
        bool swapped = f.other_pc && f.pc == finding.other_pc && f.other_pc == finding.pc;
        if (f.kind == finding.kind && same_site && (same_pair || swapped)) return;
    }
    if (g_findings.size() >= 64) return;
    for (int d = 0; d < 3; d++) {
        finding.threadgroup[d] = g_fibre->ids.tgpos[d];
        finding.thread[d] = g_fibre->ids.tpos[d];
    }
    g_findings.push_back(finding);
}
void set_current_thread(uint32_t index) { g_fibre = &g_fibres[index]; }
void abort_dispatch() { siglongjmp(g_escape, 1); }

// Only kernel code faults on purpose, and it holds no lock of the allocator, so building a
// message here is safe.
static void on_fault(int signal_number, siginfo_t *info, void *context) {
    if (!g_running) {
        signal(signal_number, SIG_DFL);
        return; // runs into it again and dies of it
    }
    Finding finding{Kind::out_of_bounds, ""};
    finding.pc = fault_pc(context);
    char *address = (char *)info->si_addr;
    if (signal_number == SIGFPE) {
        finding.kind = Kind::undefined_arithmetic;
        finding.message = "integer division by zero or overflow";
    } else if (signal_number == SIGILL || signal_number == SIGTRAP) {
        finding.message = "index outside a private array";
#ifdef SI_KERNEL
    } else if (info->si_code == SI_KERNEL) { // x86 gives no address for an unaligned vector access
        finding.kind = Kind::misaligned;
        finding.message = "misaligned access of a vector";
#endif
    } else if (in_stacks(address)) {
        finding.message = "access outside a private array, or the stack is used up";
    } else {
        std::string where = describe(address, finding);
        Region *region = region_at(address);
        bool inside = region && address >= region->begin && address < region->end;
        if (inside) finding.kind = Kind::readonly_write;
        finding.message = (inside ? "write to read-only memory: " : "access out of bounds: ") + where;
    }
    add_finding(finding);
    abort_dispatch();
}
static void catch_faults() {
    static char stack[128 << 10]; // a fault may be an exhausted fibre stack
    stack_t alternate{};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof stack;
    sigaltstack(&alternate, nullptr);
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int s : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP}) sigaction(s, &action, nullptr);
}

// ---- One dispatch ----
static bool make_fibres(uint32_t count) {
    size_t size = STACK_SIZE + g_page;
    void *p = mmap(nullptr, size * MAX_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return false;
    g_stacks = (char *)p;
    for (uint32_t i = 0; i < count; i++) {
        g_fibres[i].stack = g_stacks + size * i + g_page;
        mprotect(g_stacks + size * i, g_page, PROT_NONE);
        // Tops at different distances from the page: the same variable of 32 lanes would
        // otherwise compete for one cache set.
        char *top = g_fibres[i].stack + STACK_SIZE - (i % MSL_LANES) * 1088;
        g_fibres[i].stack_pointer = first_frame((char *)((uintptr_t)top & ~(uintptr_t)15), fibre_main);
    }
    return true;
}

static std::string bind_arguments(Dispatch &d, std::vector<char *> &placed) {
    const msl_kernel &kernel = *d.kernel;
    if ((size_t)kernel.arg_count > sizeof g_pointers / sizeof *g_pointers) return "too many kernel arguments";
    for (int i = 0; i < kernel.arg_count; i++) {
        const msl_arg &arg = kernel.args[i];
        if (arg.kind == MSL_ARG_POINTER || arg.kind == MSL_ARG_REFERENCE) {
            std::string label = "buffer " + std::to_string(arg.index) + " (" + arg.name + ")";
            size_t b = 0;
            while (b < d.buffers.size() && d.buffers[b].index != arg.index) b++;
            if (b == d.buffers.size()) {
                if (arg.kind == MSL_ARG_REFERENCE) return label + " is not bound";
                continue; // may depend on a function constant: null, so a use is found
            }
            const Binding &binding = d.buffers[b];
            size_t size = binding.bytes.size();
            if (arg.kind == MSL_ARG_REFERENCE && size < arg.size) return label + " has " + std::to_string(size) + " bytes, its type " + std::to_string(arg.size);
            bool writable = binding.writable && arg.writable;
            char *memory = new_region(size, arg.align, Space::device, arg.index, arg.name, writable);
            if (!memory) return "no memory for " + label;
            memcpy(memory, binding.bytes.data(), size);
            g_regions.back().coherent = strstr(arg.type, "coherent");
            g_pointers[i] = placed[b] = memory;
            if (!writable) {
                char *page = (char *)((uintptr_t)memory & ~(uintptr_t)(g_page - 1));
                if (size) mprotect(page, whole_pages(size), PROT_READ);
            }
        } else if (arg.kind == MSL_ARG_TG_POINTER || arg.kind == MSL_ARG_TG_REFERENCE) {
            auto given = d.threadgroup_bytes.find(arg.index);
            size_t size = arg.kind == MSL_ARG_TG_REFERENCE ? arg.size : given == d.threadgroup_bytes.end() ? 0 : given->second;
            if (!size) return "no length for threadgroup memory " + std::to_string(arg.index) + " (" + arg.name + ")";
            char *memory = new_region(size, arg.align, Space::threadgroup, arg.index, arg.name, true);
            if (!memory) return std::string("no memory for threadgroup memory ") + arg.name;
            g_pointers[i] = memory;
        }
    }
    return "";
}

// Sets the ids of a threadgroup's threads. With a grid in threads, the last one of an axis may be smaller.
static void place_threadgroup(const Dispatch &d, const uint32_t position[3], const uint32_t groups[3], const uint32_t grid[3]) {
    uint32_t size[3];
    for (int a = 0; a < 3; a++) {
        uint32_t left = grid[a] - position[a] * d.group[a];
        size[a] = left < d.group[a] ? left : d.group[a];
    }
    g_threads = size[0] * size[1] * size[2];
    g_simdgroups = (g_threads + MSL_LANES - 1) / MSL_LANES;
    for (uint32_t i = 0; i < g_threads; i++) {
        msl_rt_ids &ids = g_fibres[i].ids;
        ids.tid = i;
        ids.lane = i % MSL_LANES;
        ids.sg = i / MSL_LANES;
        ids.n_sg = g_simdgroups;
        ids.width = MSL_LANES;
        ids.quadlane = i % 4;
        ids.quad = i / 4;
        ids.n_quad = (g_threads + 3) / 4;
        uint32_t in_group[3] = {i % size[0], i / size[0] % size[1], i / size[0] / size[1]};
        for (int a = 0; a < 3; a++) {
            ids.tpos[a] = in_group[a];
            ids.tgpos[a] = position[a];
            ids.gpos[a] = position[a] * d.group[a] + in_group[a];
            ids.tgsize[a] = size[a];
            ids.gridtg[a] = groups[a];
            ids.dtgsize[a] = d.group[a];
            ids.grid[a] = grid[a];
            ids.zero[a] = 0;
        }
    }
}

std::string run_dispatch(Dispatch &d, Outcome &outcome) {
    uint64_t threads = (uint64_t)d.group[0] * d.group[1] * d.group[2];
    if (threads == 0 || threads > MAX_THREADS) return "a threadgroup of " + std::to_string(threads) + " threads";
    uint32_t groups[3], grid[3];
    for (int a = 0; a < 3; a++) {
        if ((uint64_t)d.grid[a] * (d.by_threads ? 1 : d.group[a]) > 0xffffffffu) return "the grid has more than 2^32 threads on an axis";
        grid[a] = d.by_threads ? d.grid[a] : d.grid[a] * d.group[a];
        groups[a] = d.by_threads ? (uint32_t)(((uint64_t)d.grid[a] + d.group[a] - 1) / d.group[a]) : d.grid[a];
    }
    size_t largest = 1 << 20; // threadgroup memory
    for (auto &b : d.buffers) largest = b.bytes.size() > largest ? b.bytes.size() : largest;
    g_check = d.check;
    g_lockstep = d.lockstep;
    g_descending = d.descending;
    g_kernel = d.kernel;
    g_fibre = &g_fibres[0];
    if (!reserve_slots(largest) || !make_fibres((uint32_t)threads)) return "no address space for the buffers and stacks";
    std::vector<char *> placed(d.buffers.size(), nullptr);
    std::string problem = bind_arguments(d, placed);
    if (!problem.empty()) return problem;
    g_kernel_image = image_of((const void *)d.kernel->call);
    g_host_image = image_of((const void *)&g_fibres);
    catch_faults();

    timespec begin, end;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    FpMode mode = fp_mode();
    if (!sigsetjmp(g_escape, 1)) {
        g_running = true;
        g_instrumented = d.check || d.lockstep;
        set_fp_mode(flushing(mode));
        uint64_t total = (uint64_t)groups[0] * groups[1] * groups[2];
        for (uint64_t n = 0; n < total; n++) {
            uint64_t g = d.descending ? total - 1 - n : n;
            uint32_t position[3] = {(uint32_t)(g % groups[0]), (uint32_t)(g / groups[0] % groups[1]), (uint32_t)(g / groups[0] / groups[1])};
            place_threadgroup(d, position, groups, grid);
            run_threadgroup();
        }
    }
    set_fp_mode(mode);
    g_running = g_instrumented = false;
    report_early_reads(); // of a dispatch that was left early
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);

    outcome.cpu_ns = (uint64_t)(end.tv_sec - begin.tv_sec) * 1000000000u + (uint64_t)end.tv_nsec - (uint64_t)begin.tv_nsec;
    outcome.threadgroup_bytes = 0;
    for (auto &region : g_regions) {
        if (region.space == Space::threadgroup) outcome.threadgroup_bytes += (uint64_t)(region.end - region.begin);
    }
    for (size_t b = 0; b < placed.size(); b++) {
        if (placed[b] && !d.buffers[b].bytes.empty()) memcpy(d.buffers[b].bytes.data(), placed[b], d.buffers[b].bytes.size());
    }
    return "";
}
