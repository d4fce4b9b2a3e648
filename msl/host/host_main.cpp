// msl-host KERNEL.so: reads one request from stdin, runs it, writes the response to stdout.
// A process a request, so that a kernel that crashes or hangs costs the caller one child; the
// caller sets the time limit. stderr is for crashes.
//
// All numbers are little-endian. str = u32 length, then that many bytes (no terminator).
//
// Request
//   u32 magic 0x514c534d ("MSLQ"), u32 version 1, u32 command: 0 run, 1 list
//   u32 count of function constants, each:
//     u32 index, u32 type, u64 value (its bytes in the low end)
//     type: 0 bool, 1 char, 2 uchar, 3 short, 4 ushort, 5 int, 6 uint, 7 half, 8 float
//   For list, the request ends here.
//   u32 mode: 0 fast, 1 check strict, 2 check lockstep, 3 fast lockstep
//   u32 lane order: 0 ascending, 1 descending (of threadgroups and simdgroups, too)
//   str kernel name
//   u32 unit of the grid: 0 threadgroups, 1 threads
//   u32[3] grid, u32[3] threads per threadgroup
//   u32 count of threadgroup memory lengths, each: u32 index, u32 bytes
//   u32 count of buffers, each: u32 index, u32 writable, u64 length, the bytes
//     A buffer can be written if `writable` is 1 and the kernel does not take it as const.
//
// Response
//   u32 magic 0x524c534d ("MSLR"), u32 version 1
//   u32 status: 0 ok (findings or not), 1 kernel not found, 2 bad request
//   str message, empty for status 0
//   str JSON
//     run: array of findings, each {kind, message, file, line, column, pc, other_pc, other_line,
//       other_column, kernel, threadgroup: [3], thread: [3], buffer, offset}. The position and that
//       of the other access are given by lines or by addresses in the object's file, which the
//       caller looks up in its line table; null or 0: not known.
//       kind: out_of_bounds, readonly_write, uninitialized_read, data_race, missing_fence,
//       lockstep_reliance, divergent_barrier, divergent_simd, misaligned, undefined_arithmetic
//     list: array of kernels, each {name, function, arguments: [{name, attribute, type, kind,
//       index, size, align, writable}]}; kind: value, buffer, buffer_reference, threadgroup,
//       threadgroup_reference; size and align are those of an element; index is null for a value
//   u64 threadgroup memory in bytes, u64 CPU time of the dispatch in nanoseconds
//   u32 count of buffers, each in request order: u32 index, u64 length, the bytes after the run
//
// Modes. Fast finds what touches memory outside a buffer, writes to a const buffer, and lanes
// that do not meet. Strict and lockstep need a kernel built with checks. Strict lets each lane run
// ahead to the next barrier or simdgroup operation. Lockstep keeps the lanes of a simdgroup close,
// as a GPU does: the right results of a kernel that relies on this come in lockstep only, and
// lockstep_reliance is reported in both modes. After an access outside a buffer the dispatch
// stops; other findings let it go on. At most 64 findings, one for each kind and place.
#include "executor.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint32_t REQUEST_MAGIC = 0x514c534d, RESPONSE_MAGIC = 0x524c534d, VERSION = 1;
enum Status : uint32_t { OK, KERNEL_NOT_FOUND, BAD_REQUEST };
enum Command : uint32_t { RUN, LIST };
enum Mode : uint32_t { FAST, CHECK_STRICT, CHECK_LOCKSTEP, FAST_LOCKSTEP };

// ---- Reading and writing ----
struct Reader {
    std::vector<char> data;
    size_t at = 0;
    bool failed = false;
    const char *take(size_t n) {
        if (failed || n > data.size() - at) {
            failed = true;
            return nullptr;
        }
        at += n;
        return data.data() + at - n;
    }
    template <class T> T number() {
        T value = 0;
        if (const char *p = take(sizeof value)) memcpy(&value, p, sizeof value);
        return value;
    }
    uint32_t u32() { return number<uint32_t>(); }
    uint64_t u64() { return number<uint64_t>(); }
    std::string text() {
        uint32_t n = u32();
        const char *p = take(n);
        return p ? std::string(p, n) : std::string();
    }
};
static void put_bytes(const void *p, size_t n) {
    if (n && fwrite(p, 1, n, stdout) != n) exit(3); // the caller is gone
}
static void put_u32(uint32_t v) { put_bytes(&v, sizeof v); }
static void put_u64(uint64_t v) { put_bytes(&v, sizeof v); }
static void put_text(const std::string &s) {
    put_u32((uint32_t)s.size());
    put_bytes(s.data(), s.size());
}
static int respond(Status status, const std::string &message, const std::string &json, const Outcome &outcome, const std::vector<Binding> &buffers) {
    put_u32(RESPONSE_MAGIC);
    put_u32(VERSION);
    put_u32(status);
    put_text(message);
    put_text(json);
    put_u64(outcome.threadgroup_bytes);
    put_u64(outcome.cpu_ns);
    put_u32((uint32_t)buffers.size());
    for (auto &b : buffers) {
        put_u32((uint32_t)b.index);
        put_u64(b.bytes.size());
        put_bytes(b.bytes.data(), b.bytes.size());
    }
    fflush(stdout);
    return 0;
}
static int refuse(Status status, const std::string &message) { return respond(status, message, "[]", Outcome{}, {}); }

// ---- JSON ----
static std::string quoted(const std::string &s) {
    std::string out = "\"";
    for (char c : s) {
        char escape[8];
        if (c == '"' || c == '\\') out += '\\', out += c;
        else if ((unsigned char)c < 0x20) snprintf(escape, sizeof escape, "\\u%04x", c), out += escape;
        else out += c;
    }
    return out + "\"";
}
static std::string triple(const uint32_t v[3]) { return "[" + std::to_string(v[0]) + "," + std::to_string(v[1]) + "," + std::to_string(v[2]) + "]"; }
static std::string number_or_null(bool present, int64_t value) { return present ? std::to_string(value) : "null"; }

static std::string list_json() {
    static const char *const kinds[] = {"value", "buffer", "buffer_reference", "threadgroup", "threadgroup_reference"};
    std::string out = "[";
    for (const msl_kernel *kernel : kernels()) {
        if (out.size() > 1) out += ",";
        out += "{\"name\":" + quoted(kernel->name) + ",\"function\":" + quoted(kernel->function) + ",\"arguments\":[";
        for (int i = 0; i < kernel->arg_count; i++) {
            const msl_arg &arg = kernel->args[i];
            out += std::string(i ? "," : "") + "{\"name\":" + quoted(arg.name) + ",\"attribute\":" + quoted(arg.attribute) + ",\"type\":" + quoted(arg.type) +
                   ",\"kind\":" + quoted(kinds[arg.kind]) + ",\"index\":" + number_or_null(arg.kind != MSL_ARG_VALUE, arg.index) +
                   ",\"size\":" + std::to_string(arg.size) + ",\"align\":" + std::to_string(arg.align) + ",\"writable\":" + (arg.writable ? "true" : "false") + "}";
        }
        out += "]}";
    }
    return out + "]";
}

static uint64_t in_image(uintptr_t pc) { return pc ? pc - g_kernel_image.base : 0; }
static std::string findings_json(const std::string &kernel) {
    static const char *const kinds[] = {"out_of_bounds",     "readonly_write",    "uninitialized_read", "data_race",  "missing_fence",
                                        "lockstep_reliance", "divergent_barrier", "divergent_simd",     "misaligned", "undefined_arithmetic"};
    std::string out = "[";
    for (auto &f : g_findings) {
        if (out.size() > 1) out += ",";
        out += "{\"kind\":" + quoted(kinds[(int)f.kind]) + ",\"message\":" + quoted(f.message) + ",\"file\":" + (f.site.file ? quoted(f.site.file) : "null") +
               ",\"line\":" + std::to_string(f.site.line) + ",\"column\":" + std::to_string(f.site.column) + ",\"pc\":" + std::to_string(in_image(f.pc)) +
               ",\"other_pc\":" + std::to_string(in_image(f.other_pc)) + ",\"other_line\":" + std::to_string(f.other_line) +
               ",\"other_column\":" + std::to_string(f.other_column) + ",\"kernel\":" + quoted(kernel) + ",\"threadgroup\":" + triple(f.threadgroup) +
               ",\"thread\":" + triple(f.thread) + ",\"buffer\":" + number_or_null(f.buffer >= 0, f.buffer) +
               ",\"offset\":" + number_or_null(f.has_offset, f.offset) + "}";
    }
    return out + "]";
}

// ---- The request ----
static std::string read_constants(Reader &in) {
    static const uint32_t sizes[] = {1, 1, 1, 2, 2, 4, 4, 2, 4};
    uint32_t count = in.u32();
    for (uint32_t i = 0; i < count && !in.failed; i++) {
        uint32_t index = in.u32(), type = in.u32();
        uint64_t value = in.u64();
        if (type >= sizeof sizes / sizeof *sizes) return "unknown type of function constant " + std::to_string(index);
        set_function_constant(index, sizes[type], value);
    }
    return "";
}
static std::string read_dispatch(Reader &in, Dispatch &d, std::string &name) {
    uint32_t mode = in.u32();
    if (mode > FAST_LOCKSTEP) return "unknown mode";
    d.check = mode == CHECK_STRICT || mode == CHECK_LOCKSTEP;
    d.lockstep = mode == CHECK_LOCKSTEP || mode == FAST_LOCKSTEP;
    d.descending = in.u32() == 1;
    name = in.text();
    d.by_threads = in.u32() == 1;
    for (uint32_t &v : d.grid) v = in.u32();
    for (uint32_t &v : d.group) v = in.u32();
    for (uint32_t n = in.u32(); n && !in.failed; n--) {
        int index = (int)in.u32();
        d.threadgroup_bytes[index] = in.u32();
    }
    for (uint32_t n = in.u32(); n && !in.failed; n--) {
        Binding b;
        b.index = (int)in.u32();
        b.writable = in.u32() == 1;
        uint64_t length = in.u64();
        if (const char *p = in.take(length)) b.bytes.assign(p, p + length);
        d.buffers.push_back(std::move(b));
    }
    if (in.failed) return "the request is cut off";
    if (in.at != in.data.size()) return "the request has bytes left over";
    return "";
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: msl-host KERNEL.so < request > response\n");
        return 2;
    }
    Reader in;
    static char chunk[1 << 16];
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, stdin)) > 0;) in.data.insert(in.data.end(), chunk, chunk + n);
    if (in.u32() != REQUEST_MAGIC || in.u32() != VERSION) return refuse(BAD_REQUEST, "not a request of version 1");
    uint32_t command = in.u32();
    if (command != RUN && command != LIST) return refuse(BAD_REQUEST, "unknown command");
    std::string problem = read_constants(in);
    Dispatch dispatch{};
    std::string name;
    if (problem.empty() && command == RUN) problem = read_dispatch(in, dispatch, name);
    if (problem.empty() && in.failed) problem = "the request is cut off";
    if (!problem.empty()) return refuse(BAD_REQUEST, problem);

    // After the constants are known: the kernel's object reads them when it is loaded.
    std::string path = argv[1];
    if (path.find('/') == std::string::npos) path = "./" + path;
    void *object = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!object) return refuse(BAD_REQUEST, dlerror());
    if (!function_constant_error().empty()) return refuse(BAD_REQUEST, function_constant_error());
    if (command == LIST) return respond(OK, "", list_json(), Outcome{}, {});

    for (const msl_kernel *kernel : kernels()) {
        if (name == kernel->name) dispatch.kernel = kernel;
    }
    if (!dispatch.kernel) return refuse(KERNEL_NOT_FOUND, "no kernel '" + name + "'");
    if ((dispatch.check || dispatch.lockstep) && !dlsym(object, "msl_built_with_checks"))
        return refuse(BAD_REQUEST, "this mode needs a kernel that was built with checks");
    Outcome outcome{};
    problem = run_dispatch(dispatch, outcome);
    if (!problem.empty()) return refuse(BAD_REQUEST, problem);
    return respond(OK, "", findings_json(name), outcome, dispatch.buffers);
}
