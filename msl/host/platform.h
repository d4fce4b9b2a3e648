// What differs between processors and operating systems: Linux and macOS, x86-64 and aarch64.
// Included by executor.cpp only, since it defines a function in assembly.
#pragma once
#include "executor.h"
#include <dlfcn.h>
#include <signal.h>
#include <string.h>
#ifdef __APPLE__
#include <mach-o/loader.h>
#include <sys/ucontext.h>
#else
#include <link.h>
#include <ucontext.h>
#endif

// ---- Switching stacks ----
// Stores the callee-saved registers on the current stack and its pointer in *save, then loads
// those of `to`. By hand, since swapcontext makes a system call for the signal mask and is
// forty times slower.
extern "C" void msl_switch(void **save, void *to);
#ifdef __APPLE__
#define SYMBOL "_msl_switch"
#define SYMBOL_TYPE ""
#else
#define SYMBOL "msl_switch"
#define SYMBOL_TYPE ".type msl_switch,%function\n"
#endif
#if defined(__x86_64__)
asm(".text\n.globl " SYMBOL "\n" SYMBOL_TYPE SYMBOL R"(:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
static void *first_frame(char *top, void (*entry)()) {
    void **p = (void **)top;
    *--p = nullptr; // leaves the stack as after a call: 8 bytes off 16
    *--p = (void *)entry;
    for (int i = 0; i < 6; i++) *--p = nullptr;
    return p;
}
#elif defined(__aarch64__)
asm(".text\n.p2align 2\n.globl " SYMBOL "\n" SYMBOL_TYPE SYMBOL R"(:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
static void *first_frame(char *top, void (*entry)()) {
    void **p = (void **)(top - 160);
    memset(p, 0, 160);
    p[11] = (void *)entry; // x30, where ret goes
    return p;
}
#else
#error "msl_switch is written for x86-64 and aarch64"
#endif

// ---- Denormals ----
// Apple GPUs flush f32 denormals, inputs and results. f16 keeps them.
#if defined(__x86_64__)
typedef unsigned FpMode;
static FpMode fp_mode() { return __builtin_ia32_stmxcsr(); }
static void set_fp_mode(FpMode mode) { __builtin_ia32_ldmxcsr(mode); }
static FpMode flushing(FpMode mode) { return mode | 0x8040; } // FTZ and DAZ
#else
typedef uint64_t FpMode;
static FpMode fp_mode() {
    FpMode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static void set_fp_mode(FpMode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
static FpMode flushing(FpMode mode) { return mode | 1u << 24; } // FZ
#endif

// ---- Images ----
#ifdef __APPLE__
inline Image image_of(const void *address) {
    Dl_info info;
    if (!dladdr(address, &info)) return Image{nullptr, nullptr, 0};
    auto *header = (const mach_header_64 *)info.dli_fbase;
    auto *command = (const load_command *)(header + 1);
    char *end = (char *)header;
    uintptr_t text = 0;
    for (uint32_t i = 0; i < header->ncmds; i++) {
        if (command->cmd == LC_SEGMENT_64) {
            auto *segment = (const segment_command_64 *)command;
            if (!strcmp(segment->segname, "__TEXT")) text = segment->vmaddr;
            char *segment_end = (char *)header - text + segment->vmaddr + segment->vmsize;
            if (strcmp(segment->segname, "__PAGEZERO") && strcmp(segment->segname, "__LINKEDIT") && segment_end > end) end = segment_end;
        }
        command = (const load_command *)((const char *)command + command->cmdsize);
    }
    return Image{(char *)header, end, (uintptr_t)header - text};
}
#else
inline Image image_of(const void *address) {
    struct Search {
        const char *address;
        Image image;
    } search{(const char *)address, {nullptr, nullptr, 0}};
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *data) {
            auto *search = (Search *)data;
            char *begin = nullptr, *end = nullptr;
            for (int i = 0; i < info->dlpi_phnum; i++) {
                if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
                char *b = (char *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr), *e = b + info->dlpi_phdr[i].p_memsz;
                if (!begin || b < begin) begin = b;
                if (e > end) end = e;
            }
            if (search->address < begin || search->address >= end) return 0;
            search->image = Image{begin, end, info->dlpi_addr};
            return 1;
        },
        &search);
    return search.image;
}
#endif

// ---- Faults ----
static uintptr_t fault_pc(void *context) {
    auto *c = (ucontext_t *)context;
#if defined(__APPLE__) && defined(__x86_64__)
    return c->uc_mcontext->__ss.__rip;
#elif defined(__APPLE__)
    return c->uc_mcontext->__ss.__pc;
#elif defined(__x86_64__)
    return (uintptr_t)c->uc_mcontext.gregs[REG_RIP];
#else
    return c->uc_mcontext.pc;
#endif
}
