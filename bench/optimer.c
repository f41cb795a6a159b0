/* optimer.c -- a backend table whose functions time those of another. */
#include "bench/optimer.h"

#include <stddef.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"

static const backend_table *inner;
static backend_table outer;
static optimer_entry entries[OPTIMER_ENTRIES_MAX];
static int32_t entries_count;

static optimer_entry *entry_of(const char *name, int32_t outputs, int32_t inputs) {
    for (int32_t i = 0; i < entries_count; i++) {
        optimer_entry *e = &entries[i];
        if (e->name == name && e->outputs == outputs && e->inputs == inputs) {
            return e;
        }
    }
    if (entries_count == OPTIMER_ENTRIES_MAX) {
        return &entries[OPTIMER_ENTRIES_MAX - 1];
    }
    entries[entries_count] = (optimer_entry){.name = name, .outputs = outputs, .inputs = inputs};
    return &entries[entries_count++];
}

static status timed_linear(backend *b, const ops_linear *op) {
    int32_t outputs = 0;
    double bytes = 0;
    for (int32_t i = 0; i < op->parts_count; i++) {
        outputs += op->parts[i].weight->outputs;
        bytes += (double)op->parts[i].weight->bytes;
    }
    optimer_entry *e = entry_of("linear", outputs, op->parts[0].weight->inputs);
    const int64_t start_ns = clock_now_ns();
    const status s = inner->linear(b, op);
    e->ns += (uint64_t)(clock_now_ns() - start_ns);
    e->calls++;
    e->ops += 2.0 * op->rows * outputs * e->inputs;
    e->bytes += bytes;
    return s;
}

/* Under the sizes of its widest operator. */
static status timed_chain(backend *b, const ops_linear *ops, int32_t count) {
    int32_t widest = 0, inputs = 0;
    double work = 0, bytes = 0;
    for (int32_t i = 0; i < count; i++) {
        int32_t outputs = 0;
        for (int32_t p = 0; p < ops[i].parts_count; p++) {
            outputs += ops[i].parts[p].weight->outputs;
            bytes += (double)ops[i].parts[p].weight->bytes;
        }
        if (outputs > widest) {
            widest = outputs;
            inputs = ops[i].parts[0].weight->inputs;
        }
        work += 2.0 * ops[i].rows * outputs * ops[i].parts[0].weight->inputs;
    }
    optimer_entry *e = entry_of("chain", widest, inputs);
    const int64_t start_ns = clock_now_ns();
    const status s = inner->chain(b, ops, count);
    e->ns += (uint64_t)(clock_now_ns() - start_ns);
    e->calls++;
    e->ops += work;
    e->bytes += bytes;
    return s;
}

/* One function an operator without a shape of interest. */
#define OPTIMER_TIMED(op_name)                                           \
    static status timed_##op_name(backend *b, const ops_##op_name *op) { \
        static const char name[] = #op_name;                             \
        optimer_entry *e = entry_of(name, 0, 0);                         \
        const int64_t start_ns = clock_now_ns();                         \
        const status s = inner->op_name(b, op);                          \
        e->ns += (uint64_t)(clock_now_ns() - start_ns);                  \
        e->calls++;                                                      \
        return s;                                                        \
    }

OPTIMER_TIMED(embed)
OPTIMER_TIMED(rmsnorm)
OPTIMER_TIMED(silu_mul)
OPTIMER_TIMED(softcap)
OPTIMER_TIMED(gather)
OPTIMER_TIMED(rope_table)
OPTIMER_TIMED(rope_append)
OPTIMER_TIMED(attention)

void optimer_install(backend *b) {
    CHECK(inner == NULL);
    inner = b->table;
    outer = *inner;
    outer.linear = timed_linear;
    outer.chain = inner->chain != NULL ? timed_chain : NULL;
    outer.embed = timed_embed;
    outer.rmsnorm = timed_rmsnorm;
    outer.silu_mul = timed_silu_mul;
    outer.softcap = timed_softcap;
    outer.gather = timed_gather;
    outer.rope_table = timed_rope_table;
    outer.rope_append = timed_rope_append;
    outer.attention = timed_attention;
    b->table = &outer;
    entries_count = 0;
}

void optimer_remove(backend *b) {
    CHECK(b->table == &outer);
    b->table = inner;
    inner = NULL;
}

void optimer_clear(void) {
    entries_count = 0;
}

int32_t optimer_entries(const optimer_entry **out) {
    *out = entries;
    return entries_count;
}
