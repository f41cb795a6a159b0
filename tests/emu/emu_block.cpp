/* emu_block.cpp -- the scheduler: fibers of a block, barriers, the blocks of a grid. */
#include "tests/emu/emu_block.hpp"

#include <pthread.h>
#include <sys/mman.h>

#include <atomic>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/emu/emu_order.hpp"

#if !defined(__x86_64__)
#error "the emulated device needs x86-64"
#endif

EMU_THREAD emu_fiber *emu_fiber_now;
EMU_THREAD emu_block *emu_block_now;

static uint64_t setting(const char *name) {
    const char *text = getenv(name);
    return text != nullptr ? strtoull(text, nullptr, 10) : 0;
}

emu_options emu_settings = {setting("EMU_SEED"), (uint32_t)setting("EMU_THREADS"),
                            setting("EMU_EAGER") != 0};

void emu_die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "emu: ");
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    if (emu_block_now != nullptr && emu_fiber_now != nullptr) {
        const emu_block *b = emu_block_now;
        fprintf(stderr, " (block %u,%u,%u thread %u)", b->index.x, b->index.y, b->index.z,
                emu_fiber_now->number);
    }
    fprintf(stderr, "\n");
    abort();
}

[[noreturn]] static void die_of_deadlock(const emu_block *b) {
    fprintf(stderr, "emu: deadlock: no thread of block %u,%u,%u can run\n", b->index.x, b->index.y,
            b->index.z);
    for (uint32_t i = 0, shown = 0; i < b->threads_count && shown < 12; i++) {
        const emu_fiber *f = &b->fibers[i];
        if (f->state == EMU_IN_WARP || f->state == EMU_IN_BARRIER) {
            fprintf(stderr, "  thread %u waits in %s at %s:%d\n", i,
                    f->state == EMU_IN_WARP ? "a warp collective" : "a barrier", f->place.file,
                    f->place.line);
            shown++;
        }
    }
    abort();
}

/* ---- switching ---- */

/* Leaves one stack for another: registers that a call keeps (System V ABI) go onto the old one. */
extern "C" void emu_switch_stacks(void **save, void *to);

asm(R"(
.text
.globl emu_switch_stacks
.type emu_switch_stacks,@function
emu_switch_stacks:
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
.size emu_switch_stacks,.-emu_switch_stacks
)");

/* The stack pointer of a fiber that has not run yet: the six registers above, then the address it
 * "returns" to, with the stack aligned as a call leaves it. */
static inline void *emu_switch_begin(unsigned char *stack, size_t bytes, void (*entry)(void)) {
    uint64_t *top = reinterpret_cast<uint64_t *>((uintptr_t)(stack + bytes) & ~(uintptr_t)15);
    *--top = 0;
    *--top = reinterpret_cast<uint64_t>(entry);
    for (int i = 0; i < 6; i++) {
        *--top = 0;
    }
    return top;
}

static void switch_to(emu_fiber *from, emu_fiber *to) {
    emu_fiber_now = to;
#if defined(WEIR_EMU_TSAN)
    __tsan_switch_to_fiber(to->sanitizer, EMU_TSAN_NO_SYNC);
#endif
#if defined(__SANITIZE_ADDRESS__)
    const emu_block *b = emu_block_now;
    const bool home = to == &b->scheduler;
    const void *bottom = home ? b->home : b->stacks + (size_t)to->number * EMU_STACK_BYTES;
    __sanitizer_start_switch_fiber(from->state == EMU_DONE ? nullptr : &from->sanitizer, bottom,
                                   home ? b->home_bytes : (size_t)EMU_STACK_BYTES);
#endif
    emu_switch_stacks(&from->stack_pointer, to->stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from->sanitizer, nullptr, nullptr);
#endif
}

static uint64_t draw(emu_block *b) { /* xorshift64 */
    b->random ^= b->random << 13;
    b->random ^= b->random >> 7;
    b->random ^= b->random << 17;
    return b->random;
}

static uint32_t nth_bit(uint32_t bits, uint32_t n) {
    while (n-- > 0) {
        bits &= bits - 1;
    }
    return (uint32_t)__builtin_ctz(bits);
}

/* The lowest bit above `after`, or the lowest of all. */
static uint32_t next_bit(uint32_t bits, uint32_t after) {
    const uint32_t above = after >= 31 ? 0 : bits & (0xfffffffeu << after);
    return (uint32_t)__builtin_ctz(above != 0 ? above : bits);
}

/* Who runs next: without a seed the next lane of the warp, then the next warp. */
static emu_fiber *choose(emu_block *b) {
    if (b->ready_warps == 0) {
        die_of_deadlock(b);
    }
    uint32_t lane;
    if (emu_settings.seed != 0) {
        const uint64_t r = draw(b);
        const uint32_t warps = (uint32_t)__builtin_popcount(b->ready_warps);
        b->warp_now = nth_bit(b->ready_warps, (uint32_t)(r >> 8) % warps);
        const uint32_t lanes = b->ready[b->warp_now];
        lane = nth_bit(lanes, (uint32_t)(r >> 40) % (uint32_t)__builtin_popcount(lanes));
    } else {
        if (b->ready[b->warp_now] == 0) {
            b->warp_now = next_bit(b->ready_warps, b->warp_now);
            lane = (uint32_t)__builtin_ctz(b->ready[b->warp_now]);
        } else {
            lane = next_bit(b->ready[b->warp_now], emu_fiber_now->lane);
        }
    }
    return &b->fibers[b->warp_now * 32 + lane];
}

static void not_ready(emu_block *b, const emu_fiber *f) {
    b->ready[f->warp] &= ~(1u << f->lane);
    if (b->ready[f->warp] == 0) {
        b->ready_warps &= ~(1u << f->warp);
    }
}

static void ready_lanes(emu_block *b, uint32_t warp, uint32_t lanes) {
    if (lanes != 0) {
        b->ready[warp] |= lanes;
        b->ready_warps |= 1u << warp;
    }
}

static void wait_here(emu_fiber_state state, emu_place place) {
    emu_block *b = emu_block_now;
    emu_fiber *me = emu_fiber_now;
    me->state = state;
    me->place = place;
    not_ready(b, me);
    switch_to(me, choose(b));
    me->state = EMU_READY;
}

void emu_yield(void) {
    emu_block *b = emu_block_now;
    emu_fiber *me = emu_fiber_now;
    const uint32_t others = b->ready[me->warp] & ~(1u << me->lane);
    if (others == 0) { /* a whole warp that only waits gives way to the next one */
        b->warp_now = next_bit(b->ready_warps, me->warp);
    }
    emu_fiber *next = choose(b);
    if (next != me) {
        switch_to(me, next);
    }
}

/* ---- barriers ---- */

static void open_barrier(emu_block *b, emu_named_barrier *n) {
    for (uint32_t i = 0; i < EMU_THREADS_MAX / 64; i++) {
        ready_lanes(b, 2 * i, (uint32_t)n->waiting[i]);
        ready_lanes(b, 2 * i + 1, (uint32_t)(n->waiting[i] >> 32));
        n->waiting[i] = 0;
    }
    n->arrived = 0;
}

static bool arrive(emu_block *b, int number, uint32_t threads, emu_place place) {
    if (number < 0 || number >= EMU_BARRIERS_MAX + EMU_WARPGROUPS_MAX || threads % 32 != 0) {
        emu_die("%s:%d: barrier %d of %u threads", place.file, place.line, number, threads);
    }
    emu_named_barrier *n = &b->barriers[number];
    if (n->arrived != 0 && n->expected != threads) {
        emu_die("%s:%d: barrier %d is used with %u and with %u threads", place.file, place.line,
                number, n->expected, threads);
    }
    n->expected = threads;
    EMU_RELEASE(n);
    n->arrived++;
    return n->arrived == (threads != 0 ? threads : b->live);
}

static void barrier(int number, uint32_t threads, emu_place place) {
    emu_block *b = emu_block_now;
    emu_fiber *me = emu_fiber_now;
    if (arrive(b, number, threads, place)) {
        open_barrier(b, &b->barriers[number]);
    } else {
        b->barriers[number].waiting[me->number / 64] |= 1ull << (me->number % 64);
        wait_here(EMU_IN_BARRIER, place);
    }
    EMU_ACQUIRE(&b->barriers[number]);
}

void emu_barrier(int number, uint32_t threads, emu_place place) {
    if (number >= EMU_BARRIERS_MAX) {
        emu_die("%s:%d: barrier %d of a block's %d", place.file, place.line, number,
                (int)EMU_BARRIERS_MAX);
    }
    barrier(number, threads, place);
}

void emu_group_barrier(int group, emu_place place) {
    barrier(EMU_BARRIERS_MAX + group, 128, place);
}

void emu_barrier_arrive(int number, uint32_t threads, emu_place place) {
    if (arrive(emu_block_now, number, threads, place)) {
        open_barrier(emu_block_now, &emu_block_now->barriers[number]);
    }
}

/* ---- warp collectives ---- */

unsigned char *emu_meet(uint32_t mask, const void *in, size_t bytes, emu_meeting_fn all,
                        emu_place place) {
    emu_block *b = emu_block_now;
    emu_fiber *me = emu_fiber_now;
    emu_meeting *m = &b->meetings[me->warp];
    if ((mask >> me->lane & 1) == 0) {
        emu_die("%s:%d: lane %u is not in its own mask %08x", place.file, place.line, me->lane,
                mask);
    }
    const uint32_t gone =
        mask & ~b->live_lanes[me->warp] &
        ((b->threads_count - me->warp * 32) >= 32 ? 0xffffffffu
                                                  : (1u << (b->threads_count - me->warp * 32)) - 1);
    if (gone != 0) {
        emu_die("%s:%d: lanes %08x of the mask have returned", place.file, place.line, gone);
    }
    mask &= b->live_lanes[me->warp];
    if (m->arrived == 0) {
        m->mask = mask;
        m->kind = (const void *)all;
        m->place = place;
    } else if (m->kind != (const void *)all || m->mask != mask) {
        emu_die(
            "warp %u diverged: lane %u is in a collective at %s:%d (mask %08x), others in one "
            "at %s:%d (mask %08x)",
            me->warp, me->lane, place.file, place.line, mask, m->place.file, m->place.line,
            m->mask);
    }
    for (size_t i = 0; i < bytes; i++) { /* not memcpy: ThreadSanitizer would see it */
        ((volatile unsigned char *)m->slots[me->lane])[i] = ((const unsigned char *)in)[i];
    }
    m->arrived |= 1u << me->lane;
    if (m->arrived == mask) {
        all(m);
        m->arrived = 0;
        ready_lanes(b, me->warp, mask);
    } else {
        wait_here(EMU_IN_WARP, place);
    }
    return m->slots[me->lane];
}

static void order_memory(emu_meeting *m) {
    (void)m;
}

void emu_syncwarp(uint32_t mask, emu_place place) {
    emu_meeting *m = &emu_block_now->meetings[emu_fiber_now->warp];
    EMU_RELEASE(m);
    emu_meet(mask, nullptr, 0, order_memory, place);
    EMU_ACQUIRE(m);
}

struct shuffle_slot {
    unsigned char value[EMU_SLOT_BYTES / 2];
    int from;
};

/* As memcpy, of which ThreadSanitizer would see a call. */
static void move_bytes(void *to, const void *from, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        ((volatile unsigned char *)to)[i] = ((const unsigned char *)from)[i];
    }
}

static void shuffle_all(emu_meeting *m) {
    unsigned char values[32][EMU_SLOT_BYTES / 2];
    for (int lane = 0; lane < 32; lane++) {
        const shuffle_slot *s = (const shuffle_slot *)m->slots[lane];
        const bool there = (m->mask >> lane & 1) != 0;
        const bool source = there && s->from >= 0 && s->from < 32 && (m->mask >> s->from & 1) != 0;
        move_bytes(values[lane], m->slots[source ? s->from : lane], sizeof(values[lane]));
    }
    for (int lane = 0; lane < 32; lane++) {
        move_bytes(m->slots[lane], values[lane], sizeof(values[lane]));
    }
}

void emu_shuffle_bytes(uint32_t mask, void *value, size_t bytes, int from, emu_place place) {
    shuffle_slot in = {};
    move_bytes(in.value, value, bytes);
    in.from = from;
    const unsigned char *out = emu_meet(mask, &in, sizeof(in), shuffle_all, place);
    move_bytes(value, out, bytes);
}

static void ballot_all(emu_meeting *m) {
    uint32_t votes = 0;
    for (int lane = 0; lane < 32; lane++) {
        if ((m->mask >> lane & 1) != 0 && m->slots[lane][0] != 0) {
            votes |= 1u << lane;
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        memcpy(m->slots[lane], &votes, sizeof(votes));
    }
}

uint32_t emu_ballot(uint32_t mask, bool predicate, emu_place place) {
    const unsigned char vote = predicate ? 1 : 0;
    uint32_t votes;
    memcpy(&votes, emu_meet(mask, &vote, 1, ballot_all, place), sizeof(votes));
    return votes;
}

/* ---- asynchronous copies ---- */

static void copy_now(const emu_copy *c) {
    EMU_READS(c->from, c->from_bytes);
    EMU_WRITES(c->to, c->bytes);
    for (uint32_t i = 0; i < c->bytes; i++) {
        ((volatile unsigned char *)c->to)[i] =
            i < c->from_bytes ? ((const unsigned char *)c->from)[i] : 0;
    }
}

void emu_copy_start(void *to, const void *from, uint32_t bytes, uint32_t from_bytes) {
    if ((((uintptr_t)to | (uintptr_t)from) & (bytes - 1)) != 0) {
        emu_die("cp.async of %u bytes is not aligned to them", bytes);
    }
    const emu_copy copy = {to, from, bytes, from_bytes};
    if (emu_settings.eager_copies) {
        copy_now(&copy);
        return;
    }
    emu_fiber *me = emu_fiber_now;
    if (me->copies_count == EMU_COPIES_MAX) {
        emu_die("more than %d cp.async of one thread under way", (int)EMU_COPIES_MAX);
    }
    me->copies[me->copies_count++] = copy;
}

void emu_copy_commit(void) {
    emu_fiber *me = emu_fiber_now;
    if (me->groups_count == EMU_GROUPS_MAX) {
        emu_die("more than %d cp.async groups of one thread under way", (int)EMU_GROUPS_MAX);
    }
    me->group_end[me->groups_count++] = me->copies_count;
}

void emu_copy_wait(uint32_t groups_left) {
    emu_fiber *me = emu_fiber_now;
    if (me->groups_count <= groups_left) {
        return;
    }
    const uint32_t groups = me->groups_count - groups_left;
    const uint32_t done = me->group_end[groups - 1];
    for (uint32_t i = 0; i < done; i++) {
        copy_now(&me->copies[i]);
    }
    for (uint32_t i = done; i < me->copies_count; i++) {
        me->copies[i - done] = me->copies[i];
    }
    for (uint32_t i = groups; i < me->groups_count; i++) {
        me->group_end[i - groups] = me->group_end[i] - done;
    }
    me->copies_count -= done;
    me->groups_count = groups_left;
}

/* ---- a block, a grid ---- */

static char launched, finished; /* what TSan is told: before all threads, after all threads */

static void fiber_main(void) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    emu_block *b = emu_block_now;
    EMU_ACQUIRE(&launched);
    b->entry(b->arguments);
    EMU_RELEASE(&finished);
    emu_fiber *me = emu_fiber_now;
    if (me->copies_count != 0) {
        emu_die("a thread returned with cp.async under way");
    }
    me->state = EMU_DONE;
    b->live--;
    b->live_lanes[me->warp] &= ~(1u << me->lane);
    not_ready(b, me);
    emu_named_barrier *all = &b->barriers[0];
    if (all->arrived != 0 && all->expected == 0 && all->arrived == b->live) {
        open_barrier(b, all); /* __syncthreads counts the threads that are left */
    }
    switch_to(me, b->live == 0 ? &b->scheduler : choose(b));
    abort(); /* nobody resumes a finished fiber */
}

static void *map_bytes(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        emu_die("no memory for a block");
    }
    return p;
}

static emu_block *block_of_thread(void) {
    if (emu_block_now == nullptr) {
        emu_block_now = static_cast<emu_block *>(map_bytes(sizeof(emu_block)));
        emu_block_now->stacks =
            static_cast<unsigned char *>(map_bytes((size_t)EMU_STACK_BYTES * EMU_THREADS_MAX));
        emu_block_now->shared = static_cast<unsigned char *>(map_bytes(EMU_SHARED_MAX + 4096));
        pthread_attr_t self;
        pthread_getattr_np(pthread_self(), &self);
        pthread_attr_getstack(&self, &emu_block_now->home, &emu_block_now->home_bytes);
        pthread_attr_destroy(&self);
    }
    return emu_block_now;
}

struct emu_grid {
    dim3 grid, block;
    size_t shared_bytes;
    emu_entry entry;
    const void *arguments;
    std::atomic<uint64_t> next{0};
    uint64_t count;
};

static void begin_fibers(emu_block *b) {
    for (uint32_t i = 0; i < b->threads_count; i++) {
        emu_fiber *f = &b->fibers[i];
        const uint32_t x = b->threads.x, y = b->threads.y;
        f->thread = {i % x, i / x % y, i / (x * y)};
        f->number = i;
        f->lane = i % 32;
        f->warp = i / 32;
        f->state = EMU_READY;
        f->copies_count = f->groups_count = 0;
        f->sanitizer = nullptr;
#if defined(WEIR_EMU_TSAN)
        f->sanitizer = __tsan_create_fiber(0);
#endif
        f->stack_pointer =
            emu_switch_begin(b->stacks + (size_t)i * EMU_STACK_BYTES, EMU_STACK_BYTES, fiber_main);
        b->ready[f->warp] |= 1u << f->lane;
        b->live_lanes[f->warp] |= 1u << f->lane;
        b->ready_warps |= 1u << f->warp;
    }
}

static void run_block(const emu_grid *g, uint64_t number) {
    emu_block *b = block_of_thread();
    b->index = {(unsigned)(number % g->grid.x), (unsigned)(number / g->grid.x % g->grid.y),
                (unsigned)(number / ((uint64_t)g->grid.x * g->grid.y))};
    b->threads = g->block;
    b->grid = g->grid;
    b->entry = g->entry;
    b->arguments = g->arguments;
    b->threads_count = b->live = g->block.x * g->block.y * g->block.z;
    b->shared_bytes = g->shared_bytes;
    b->random = (emu_settings.seed + number * 0x2545f4914f6cdd1dull) * 0x9e3779b97f4a7c15ull | 1;
    memset(b->ready, 0, sizeof(b->ready));
    memset(b->live_lanes, 0, sizeof(b->live_lanes));
    memset(b->barriers, 0, sizeof(b->barriers));
    for (emu_meeting &m : b->meetings) {
        m.arrived = 0;
    }
    b->ready_warps = b->warp_now = 0;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(b->shared, EMU_SHARED_MAX + 4096);
    __asan_poison_memory_region(b->shared + g->shared_bytes,
                                EMU_SHARED_MAX + 4096 - g->shared_bytes);
    __asan_unpoison_memory_region(b->stacks, (size_t)EMU_STACK_BYTES * b->threads_count);
#endif
#if defined(WEIR_EMU_TSAN)
    /* New addresses for every block, or one block's accesses would seem to race with the next's. */
    b->scheduler.sanitizer = __tsan_get_current_fiber();
    b->shared = static_cast<unsigned char *>(map_bytes(EMU_SHARED_MAX + 4096));
    b->stacks = static_cast<unsigned char *>(map_bytes((size_t)EMU_STACK_BYTES * b->threads_count));
#endif
    memset(b->shared, 0xff, g->shared_bytes); /* NaN in every format */
    EMU_RELEASE(&launched);
    begin_fibers(b);
    b->scheduler.state = EMU_READY;
    b->scheduler.lane = 31;
    emu_fiber_now = &b->scheduler;
    switch_to(&b->scheduler, choose(b));
    EMU_ACQUIRE(&finished);
    emu_hopper_end();
#if defined(WEIR_EMU_TSAN)
    for (uint32_t i = 0; i < b->threads_count; i++) {
        __tsan_destroy_fiber(b->fibers[i].sanitizer);
    }
    munmap(b->shared, EMU_SHARED_MAX + 4096);
    munmap(b->stacks, (size_t)EMU_STACK_BYTES * b->threads_count);
#endif
    emu_fiber_now = nullptr;
}

static void run_blocks(emu_grid *g) {
    for (uint64_t i = g->next++; i < g->count; i = g->next++) {
        run_block(g, i);
    }
}

/* Threads that wait for grids; they live as long as the process. */
struct emu_helpers {
    std::mutex lock;
    std::condition_variable wake, rest;
    emu_grid *grid = nullptr;
    uint64_t round = 0;
    uint32_t busy = 0, count = 0;

    void work() {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> held(lock);
        for (;;) {
            wake.wait(held, [&] { return round != seen; });
            seen = round;
            emu_grid *g = grid;
            held.unlock();
            run_blocks(g);
            held.lock();
            if (--busy == 0) {
                rest.notify_one();
            }
        }
    }
};

void emu_run(dim3 grid, dim3 block, size_t shared_bytes, emu_entry entry, const void *arguments) {
    static emu_helpers *helpers = new emu_helpers; /* never destroyed: its threads use it */
    static std::mutex one_grid;
    std::lock_guard<std::mutex> alone(one_grid);
    emu_grid g{grid, block, shared_bytes, entry, arguments, {}, 0};
    g.count = (uint64_t)grid.x * grid.y * grid.z;
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (g.count == 0 || threads == 0 || threads > EMU_THREADS_MAX ||
        shared_bytes > EMU_SHARED_MAX) {
        emu_die("a launch of %llu blocks of %llu threads with %zu bytes of shared memory",
                (unsigned long long)g.count, (unsigned long long)threads, shared_bytes);
    }
    uint32_t os_threads = emu_settings.os_threads;
    if (os_threads == 0) {
        os_threads = std::thread::hardware_concurrency();
    }
    if (os_threads <= 1 || g.count == 1) {
        run_blocks(&g);
        return;
    }
    std::unique_lock<std::mutex> held(helpers->lock);
    while (helpers->count + 1 < os_threads) {
        helpers->count++;
        std::thread([] { helpers->work(); }).detach();
    }
    helpers->grid = &g;
    helpers->busy = helpers->count;
    helpers->round++;
    helpers->wake.notify_all();
    held.unlock();
    run_blocks(&g);
    held.lock();
    helpers->rest.wait(held, [] { return helpers->busy == 0; });
}
