/* emu_block.hpp -- blocks of fibers: what runs a kernel's threads on the host.
 *
 * Purpose    The scheduler's state, which emu.hpp's built-ins read, and the collectives' slow
 *            halves.
 * Ownership  One emu_block an OS thread that runs blocks, made at its first launch and kept.
 * Threads    emu_run runs one grid at a time, whoever calls; it uses helper threads itself.
 * Limits     EMU_THREADS_MAX threads a block, EMU_STACK_BYTES of stack each.
 */
#ifndef TESTS_EMU_EMU_BLOCK_HPP
#define TESTS_EMU_EMU_BLOCK_HPP

#include <cstddef>
#include <cstdint>

#include <driver_types.h>
#include <vector_types.h>

enum {
    EMU_THREADS_MAX = 1024,
    EMU_WARPS_MAX = 32,
    EMU_BARRIERS_MAX = 16,
    EMU_WARPGROUPS_MAX = 8,
    EMU_SHARED_MAX = 227 * 1024, /* a block of sm_90 */
    EMU_SLOT_BYTES = 64,         /* what one lane brings to a warp collective */
    EMU_STACK_BYTES = 64 * 1024,
    EMU_COPIES_MAX = 128, /* cp.async of one thread under way */
    EMU_GROUPS_MAX = 8
};

struct emu_place {
    const char *file;
    int line;
};

typedef void (*emu_entry)(const void *arguments);

enum emu_fiber_state { EMU_READY, EMU_IN_WARP, EMU_IN_BARRIER, EMU_DONE };

/* A cp.async that has been asked for and not yet happened. */
struct emu_copy {
    void *to;
    const void *from;
    uint32_t bytes, from_bytes; /* the rest is zeros */
};

struct emu_fiber {
    void *stack_pointer; /* while it does not run */
    uint3 thread;        /* threadIdx */
    uint32_t number;     /* in its block */
    uint32_t lane, warp;
    emu_fiber_state state;
    emu_place place; /* of the collective it waits in */
    void *sanitizer; /* ASan's fake stack, TSan's fiber */
    uint32_t copies_count, groups_count;
    uint32_t group_end[EMU_GROUPS_MAX];
    emu_copy copies[EMU_COPIES_MAX];
};

/* One collective of a warp that some of its lanes have reached. */
struct emu_meeting {
    uint32_t arrived, mask;
    const void *kind; /* what is done when all are there; the same for all lanes */
    emu_place place;
    alignas(64) unsigned char slots[32][EMU_SLOT_BYTES];
};

struct emu_named_barrier {
    uint32_t arrived, expected; /* expected 0: all threads of the block that live */
    uint64_t waiting[EMU_THREADS_MAX / 64];
};

struct emu_block {
    uint3 index; /* blockIdx */
    dim3 threads, grid;
    uint32_t threads_count, live;
    uint32_t ready[EMU_WARPS_MAX]; /* lanes that can run */
    uint32_t live_lanes[EMU_WARPS_MAX];
    uint32_t ready_warps; /* warps with such lanes */
    uint32_t warp_now;
    emu_named_barrier barriers[EMU_BARRIERS_MAX + EMU_WARPGROUPS_MAX]; /* a kernel's, then ours */
    emu_meeting meetings[EMU_WARPS_MAX];
    emu_fiber fibers[EMU_THREADS_MAX];
    emu_fiber scheduler; /* the OS thread's own stack */
    unsigned char *shared;
    size_t shared_bytes;
    unsigned char *stacks;
    void *home; /* the OS thread's stack */
    size_t home_bytes;
    uint64_t random;
    emu_entry entry;
    const void *arguments;
};

struct emu_options {
    uint64_t seed;       /* 0: threads in order; else an order drawn from it, block by block */
    uint32_t os_threads; /* that run blocks; 0: one a CPU */
    bool eager_copies;   /* cp.async happens at once, not as late as allowed */
};
extern emu_options emu_settings; /* from EMU_SEED, EMU_THREADS, EMU_EAGER at start */

/* One load, also from a library that was opened late. */
#define EMU_THREAD __thread __attribute__((tls_model("initial-exec")))
extern EMU_THREAD emu_fiber *emu_fiber_now;
extern EMU_THREAD emu_block *emu_block_now;

/* Runs a whole grid. `arguments` stays as it is meanwhile. */
void emu_run(dim3 grid, dim3 block, size_t shared_bytes, emu_entry entry, const void *arguments);

/* What emu.hpp's names stand for. */
void emu_barrier(int number, uint32_t threads, emu_place place);
void emu_barrier_arrive(int number, uint32_t threads, emu_place place);
/* The 128 threads of a warpgroup, for its own collectives. */
void emu_group_barrier(int group, emu_place place);
void emu_syncwarp(uint32_t mask, emu_place place);
void emu_shuffle_bytes(uint32_t mask, void *value, size_t bytes, int from, emu_place place);
uint32_t emu_ballot(uint32_t mask, bool predicate, emu_place place);

/* A collective of a warp: each lane brings `bytes`; the last to come calls `all` on the slots, and
 * every lane gets its own slot back, valid until its next collective. Two collectives are the same
 * when `all` and `mask` are. */
typedef void (*emu_meeting_fn)(emu_meeting *m);
unsigned char *emu_meet(uint32_t mask, const void *in, size_t bytes, emu_meeting_fn all,
                        emu_place place);

/* Lets other threads run: for loops that wait for memory. */
void emu_yield(void);

/* Asynchronous copies to shared memory; they happen when waited for (or at once: eager_copies). */
void emu_copy_start(void *to, const void *from, uint32_t bytes, uint32_t from_bytes);
void emu_copy_commit(void);
void emu_copy_wait(uint32_t groups_left);

[[noreturn]] void emu_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A block has ended: what its asynchronous instructions left open is an error (emu_hopper.cpp). */
void emu_hopper_end(void);

/* The runtime's half of a launch (emu_runtime.cpp). */
cudaError_t emu_runtime_launch(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                               cudaStream_t stream, emu_entry entry, const void *arguments,
                               size_t arguments_bytes);

#endif
