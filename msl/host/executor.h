// Interface between the executor, the checker and main. One process runs one dispatch, so the
// state is plain global data.
#pragma once
#include "abi.h"
#include <map>
#include <string>
#include <vector>

// What a finding is about; the names are those of the protocol.
enum class Kind {
    out_of_bounds,
    readonly_write,
    uninitialized_read,
    data_race,
    missing_fence,
    lockstep_reliance,
    divergent_barrier,
    divergent_simd,
    misaligned,
    undefined_arithmetic,
};

// The position is `site` where the source told it, else that of `pc`, an address in the kernel's
// object (of the access itself, not of the instruction after it). 0 or null: unknown.
struct Finding {
    Kind kind;
    std::string message;
    msl_site site{nullptr, 0, 0};
    uintptr_t pc = 0, other_pc = 0;
    uint32_t other_line = 0, other_column = 0;
    uint32_t threadgroup[3] = {0, 0, 0}, thread[3] = {0, 0, 0};
    int buffer = -1;
    bool has_offset = false;
    int64_t offset = 0;
};

// Memory that a kernel may touch: a bound buffer or a threadgroup block.
enum class Space { device, threadgroup };
struct Region {
    char *begin, *end;
    Space space;
    int index; // buffer or threadgroup index, -1 for a local threadgroup variable
    std::string name;
    bool writable;
    bool coherent; // the kernel's argument says coherent(device)
    void *shadow;  // the checker's cells; null where nothing can conflict
};

enum class FibreState { ready, at_simd, at_barrier, done };

// A thread of the running threadgroup. Fences are counted by memory class, because a barrier
// orders only the memory that its flags name.
struct Fibre {
    msl_rt_ids ids;
    void *stack_pointer;
    char *stack;
    FibreState state;
    uint32_t op;
    msl_site site;
    uint32_t half;          // exchange half that the last operation used
    uintptr_t pc;           // last known position, for lockstep
    uint32_t barriers;      // threadgroup barriers passed
    uint32_t fences[2];     // ... that ordered device, threadgroup memory
    uint32_t sg_fences[2];  // simdgroup barriers that ordered device, threadgroup memory
    uint32_t simd_ops;      // simdgroup operations passed
    uint32_t thread_fences; // fences of device scope passed
};

struct Binding {
    int index;
    bool writable;
    std::vector<char> bytes;
};
struct Dispatch {
    const msl_kernel *kernel;
    bool check, lockstep, descending, by_threads;
    uint32_t grid[3], group[3];
    std::map<int, uint32_t> threadgroup_bytes;
    std::vector<Binding> buffers; // the bytes are replaced by those after the run
};
struct Outcome {
    uint64_t threadgroup_bytes, cpu_ns;
};

// Address ranges of loaded code and data.
struct Image {
    char *begin, *end;
    uintptr_t base; // subtract from an address to get the one in the file
};

extern bool g_instrumented; // the callbacks have work to do: a checked or lockstep dispatch is running
extern bool g_check, g_lockstep;
extern Fibre *g_fibre; // the running one
extern uint32_t g_group_number; // counts threadgroups from 1
extern Image g_kernel_image, g_host_image;
extern std::vector<Finding> g_findings;

Image image_of(const void *address);
std::vector<msl_kernel *> &kernels();
void set_function_constant(uint32_t index, uint32_t size, uint64_t value);
const std::string &function_constant_error();
// Runs the dispatch; the message is empty unless the request does not fit the kernel.
std::string run_dispatch(Dispatch &dispatch, Outcome &outcome);

// Adds thread and threadgroup and drops repetitions of one defect at one place.
void add_finding(Finding finding);
[[noreturn]] void abort_dispatch(); // leaves the kernel for good

bool in_slots(const char *address);
bool in_stacks(const char *address);
Region *region_at(const char *address); // the region whose slot holds the address, or null
std::string describe(const char *address, Finding &finding); // also sets buffer and offset
void run_lowest_pc(uintptr_t pc); // lockstep: the lane with the lowest pc goes first

void set_current_thread(uint32_t index); // whom findings name

// checker.cpp
void *new_shadow(size_t bytes); // cells for that many bytes
void report_early_reads();      // at the end of a threadgroup
