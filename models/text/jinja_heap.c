/* jinja_heap.c -- bump allocation in blocks, budgets, and the escape of an error. */
#include "models/text/jinja_heap.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"

struct jinja_block {
    jinja_block *older;
    _Alignas(16) char bytes[];
};

enum {
    ALIGN_BYTES = 16,
#if defined(__SANITIZE_ADDRESS__)
    BLOCK_BYTES = 64, /* every value its own block, so the sanitizer sees its ends */
#else
    BLOCK_BYTES = 32 << 10,
#endif
    LARGE_BYTES = BLOCK_BYTES / 4 /* gets a block of its own, the current one stays in use */
};

void jinja_heap_open(jinja_heap *h, size_t bytes_max, int64_t steps_max, int32_t depth_max,
                     diag *d) {
    memset(h, 0, sizeof *h);
    h->bytes_max = bytes_max;
    h->steps_left = steps_max;
    h->depth_max = depth_max;
    h->d = d;
}

void jinja_heap_close(jinja_heap *h) {
    while (h->blocks) {
        jinja_block *older = h->blocks->older;
        mem_free(h->blocks);
        h->blocks = older;
    }
    h->next = NULL;
    h->room_bytes = 0;
}

status jinja_heap_run(jinja_heap *h, void (*body)(void *), void *argument) {
    if (setjmp(h->escape) != 0) {
        return h->code;
    }
    body(argument);
    return STATUS_OK;
}

void jinja_heap_fail(jinja_heap *h, status code, const char *format, ...) {
    char text[DIAG_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    h->code = status_fail(h->d, code, "line %d: %s", (int)h->line, text);
    longjmp(h->escape, 1);
}

void jinja_heap_raise(jinja_heap *h, const char *text, size_t bytes) {
    int shown = bytes > DIAG_TEXT_BYTES ? DIAG_TEXT_BYTES : (int)bytes;
    h->code = status_fail(h->d, STATUS_INVALID, "%.*s", shown, text);
    longjmp(h->escape, 1);
}

void jinja_heap_out_of_steps(jinja_heap *h) {
    jinja_heap_fail(h, STATUS_LIMIT, "the template does too much work");
}

void jinja_heap_too_deep(jinja_heap *h) {
    jinja_heap_fail(h, STATUS_LIMIT, "nested deeper than %d levels", (int)h->depth_max);
}

static char *heap_block(jinja_heap *h, size_t bytes) {
    size_t total = bytes + sizeof(jinja_block);
    if (total > h->bytes_max || h->used_bytes > h->bytes_max - total) {
        jinja_heap_fail(h, STATUS_LIMIT, "the template needs more than %zu bytes of memory",
                        h->bytes_max);
    }
    jinja_block *block = mem_alloc(1, total);
    if (!block) {
        jinja_heap_fail(h, STATUS_NOMEM, "out of memory");
    }
    h->used_bytes += total;
    block->older = h->blocks;
    h->blocks = block;
    return block->bytes;
}

void *jinja_heap_take(jinja_heap *h, size_t count, size_t bytes) {
    uint64_t product;
    if (!mem_mul(count, bytes, &product) || product > h->bytes_max) {
        jinja_heap_fail(h, STATUS_LIMIT, "the template needs more than %zu bytes of memory",
                        h->bytes_max);
    }
    size_t total = ((size_t)product + ALIGN_BYTES - 1) & ~(size_t)(ALIGN_BYTES - 1);
    total = total ? total : ALIGN_BYTES;
    /* Totals are multiples of ALIGN_BYTES: >= LARGE_BYTES, also where that is everything. */
    if (total > LARGE_BYTES - ALIGN_BYTES) {
        return heap_block(h, total);
    }
    if (total > h->room_bytes) {
        h->next = heap_block(h, BLOCK_BYTES);
        h->room_bytes = BLOCK_BYTES;
    }
    void *taken = h->next;
    h->next += total;
    h->room_bytes -= total;
    return taken;
}

void *jinja_heap_grow(jinja_heap *h, const void *old, size_t old_count, size_t count,
                      size_t bytes) {
    CHECK(count >= old_count);
    void *taken = jinja_heap_take(h, count, bytes);
    if (old_count) {
        memcpy(taken, old, old_count * bytes);
        jinja_heap_charge_bytes(h, old_count * bytes);
    }
    return taken;
}
