/* jinja_heap.h -- the memory, the budget and the way out of one parse or one render.
 *
 * Purpose    Everything a template makes lives in one region freed at once, under a cap. The same
 *            object counts steps and depth and carries the first error out of any depth of
 *            recursion, so the interpreter's functions return plain values.
 * Ownership  jinja_heap_open .. jinja_heap_close. Nothing taken from it is freed by itself.
 * Threads    One thread at a time.
 * Limits     bytes_max, steps and depth given at open; passing one is STATUS_LIMIT.
 *
 * The way out is longjmp to jinja_heap_run. That is safe here, and only here, because no function
 * of the interpreter holds anything but memory of this heap; the output buffer is the caller's.
 */
#ifndef MODELS_TEXT_JINJA_HEAP_H
#define MODELS_TEXT_JINJA_HEAP_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

typedef struct jinja_block jinja_block;

typedef struct {
    jinja_block *blocks; /* the newest first */
    char *next;          /* free bytes of the newest block: [room_bytes] */
    size_t room_bytes;
    size_t used_bytes; /* taken from the system */
    size_t bytes_max;
    int64_t steps_left;
    int32_t depth;
    int32_t depth_max;
    int32_t line; /* of the template, where evaluation is now; for messages */
    status code;
    diag *d;
    jmp_buf escape;
} jinja_heap;

void jinja_heap_open(jinja_heap *h, size_t bytes_max, int64_t steps_max, int32_t depth_max,
                     diag *d);
void jinja_heap_close(jinja_heap *h);

/* Runs `body`; its failure, by jinja_heap_fail, comes back as a status. */
MUST_USE status jinja_heap_run(jinja_heap *h, void (*body)(void *), void *argument);

/* Ends the current jinja_heap_run: "line N: ..." goes to the diag. */
_Noreturn void jinja_heap_fail(jinja_heap *h, status code, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* As jinja_heap_fail, with the text alone (raise_exception). */
_Noreturn void jinja_heap_raise(jinja_heap *h, const char *text, size_t bytes);

/* `count * bytes` bytes, uninitialised, aligned for any type; never NULL. */
void *jinja_heap_take(jinja_heap *h, size_t count, size_t bytes);
void *jinja_heap_grow(jinja_heap *h, const void *old, size_t old_count, size_t count, size_t bytes);

#define JINJA_TAKE(h, count, type) ((type *)jinja_heap_take((h), (count), sizeof(type)))

_Noreturn void jinja_heap_out_of_steps(jinja_heap *h);
_Noreturn void jinja_heap_too_deep(jinja_heap *h);

/* Counts work: one step is one small operation, or about 64 bytes moved. */
static inline void jinja_heap_charge(jinja_heap *h, size_t steps) {
    if (__builtin_expect(steps > (size_t)h->steps_left, 0)) {
        jinja_heap_out_of_steps(h);
    }
    h->steps_left -= (int64_t)steps;
}

static inline void jinja_heap_charge_bytes(jinja_heap *h, size_t bytes) {
    jinja_heap_charge(h, bytes / 64 + 1);
}

/* Around every recursion. */
static inline void jinja_heap_enter(jinja_heap *h) {
    if (__builtin_expect(++h->depth > h->depth_max, 0)) {
        jinja_heap_too_deep(h);
    }
}

static inline void jinja_heap_leave(jinja_heap *h) {
    h->depth--;
}

#endif
