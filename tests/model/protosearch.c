/* protosearch.c -- every state that can be reached, breadth first, and what must hold of them all.
 *
 * States are kept whole (zero bytes in runs are left out), in the order in which they are found, so
 * the way back over `parent` is a shortest one. No move leads back to where it came from: attempts,
 * tokens, deaths and pages only go on. So beside looking for states where nothing more can happen
 * and something is missing, it is enough to see that there is no circle: then whatever happens, in
 * whatever order, everything comes to its end. */
#include <stdio.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tests/model/protomodel.h"

enum { PACKED_MAX = 2 * (int)sizeof(state) };

static struct {
    uint8_t *bytes; /* packed states, one after the other */
    uint64_t used, capacity;
    uint64_t *at; /* [count + 1] where each begins */
    uint32_t *parent;
    move *how;
    uint32_t count, max;
    uint32_t *table; /* [mask + 1] number + 1 by hash */
    uint64_t mask;
    uint32_t *edge_from, *edge_to;
    uint64_t edges, edges_max;
} all;

static uint32_t current;
static uint32_t steps_here; /* of the state at hand: moves that happen by themselves */
static const char *broken;
static move broken_by;
static bool full;

/* ---- packing -------------------------------------------------------------------------------- */

static int pack(const state *s, uint8_t *out) {
    const uint8_t *in = (const uint8_t *)s;
    int n = 0;
    for (size_t i = 0; i < sizeof *s;) {
        if (in[i] != 0) {
            out[n++] = in[i++];
            continue;
        }
        size_t run = i;
        while (run < sizeof *s && in[run] == 0 && run - i < 255) {
            run++;
        }
        out[n++] = 0;
        out[n++] = (uint8_t)(run - i);
        i = run;
    }
    return n;
}

static void unpack(uint32_t id, state *s) {
    const uint8_t *in = all.bytes + all.at[id];
    const uint8_t *end = all.bytes + all.at[id + 1];
    uint8_t *out = (uint8_t *)s;
    while (in < end) {
        if (*in != 0) {
            *out++ = *in++;
        } else {
            memset(out, 0, in[1]);
            out += in[1];
            in += 2;
        }
    }
}

static uint64_t hash_of(const uint8_t *b, int n) {
    uint64_t h = 0;
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t word;
        memcpy(&word, b + i, 8);
        h = rng_mix(h ^ word);
    }
    uint64_t rest = (uint64_t)n << 56;
    memcpy(&rest, b + i, (size_t)(n - i));
    return rng_mix(h ^ rest);
}

/* ---- storing -------------------------------------------------------------------------------- */

static void *space(uint64_t count, size_t bytes) {
    void *p = mem_calloc((size_t)count, bytes);
    CHECK(p != NULL);
    return p;
}

static void open_all(uint32_t states_max) {
    memset(&all, 0, sizeof all);
    all.max = states_max;
    all.capacity = (uint64_t)states_max * 160;
    all.bytes = space(all.capacity, 1);
    all.at = space((uint64_t)states_max + 2, sizeof *all.at);
    all.parent = space(states_max, sizeof *all.parent);
    all.how = space(states_max, sizeof *all.how);
    all.mask = 1;
    while (all.mask < (uint64_t)states_max * 2) {
        all.mask *= 2;
    }
    all.table = space(all.mask, sizeof *all.table);
    all.mask--;
    all.edges_max = (uint64_t)states_max * 8;
    all.edge_from = space(all.edges_max, sizeof *all.edge_from);
    all.edge_to = space(all.edges_max, sizeof *all.edge_to);
    full = false;
    broken = NULL;
}

static void close_all(void) {
    mem_free(all.bytes);
    mem_free(all.at);
    mem_free(all.parent);
    mem_free(all.how);
    mem_free(all.table);
    mem_free(all.edge_from);
    mem_free(all.edge_to);
}

/* Its number; new ones are put last. */
static uint32_t store(const state *s, uint32_t parent, move how) {
    uint8_t packed[PACKED_MAX];
    int n = pack(s, packed);
    uint64_t slot = hash_of(packed, n) & all.mask;
    for (; all.table[slot]; slot = (slot + 1) & all.mask) {
        uint32_t id = all.table[slot] - 1;
        if (all.at[id + 1] - all.at[id] == (uint64_t)n &&
            memcmp(all.bytes + all.at[id], packed, (size_t)n) == 0) {
            return id;
        }
    }
    if (all.count == all.max || all.used + (uint64_t)n > all.capacity) {
        full = true;
        return 0;
    }
    memcpy(all.bytes + all.used, packed, (size_t)n);
    all.used += (uint64_t)n;
    all.table[slot] = ++all.count;
    all.at[all.count] = all.used;
    all.parent[all.count - 1] = parent;
    all.how[all.count - 1] = how;
    return all.count - 1;
}

/* ---- looking -------------------------------------------------------------------------------- */

static void visit(const state *next, move m, move_kind kind) {
    steps_here += kind == KIND_STEP;
    if (violation && !broken) {
        broken = violation;
        broken_by = m;
    }
    if (broken || full) {
        return;
    }
    uint32_t id = store(next, current, m);
    if (full || all.edges == all.edges_max) {
        full = true;
        return;
    }
    all.edge_from[all.edges] = current;
    all.edge_to[all.edges++] = id;
}

static void print_way(uint32_t id) {
    uint32_t way[4096];
    uint32_t n = 0;
    for (; id != 0 && n < 4096; id = all.parent[id]) {
        way[n++] = id;
    }
    while (n-- > 0) {
        state before;
        unpack(all.parent[way[n]], &before);
        moves_print(&before, all.how[way[n]]);
    }
}

/* Takes away, again and again, what nothing leads to; what cannot be taken away is on a circle or
 * behind one. Returns a state on it, or 0. */
static uint32_t find_circle(void) {
    uint64_t *first = space((uint64_t)all.count + 2, sizeof *first);
    uint32_t *into = space(all.count, sizeof *into);
    uint32_t *next = space(all.edges + 1, sizeof *next);
    uint32_t *free_list = space(all.count, sizeof *free_list);
    uint32_t free_count = 0;
    uint32_t taken = 0;
    for (uint64_t e = 0; e < all.edges; e++) { /* edges are in the order of `from` */
        first[all.edge_from[e] + 1]++;
        into[all.edge_to[e]]++;
        next[e] = all.edge_to[e];
    }
    for (uint32_t i = 0; i < all.count; i++) {
        first[i + 1] += first[i];
        if (into[i] == 0) {
            free_list[free_count++] = i;
        }
    }
    while (free_count > 0) {
        uint32_t id = free_list[--free_count];
        taken++;
        for (uint64_t e = first[id]; e < first[id + 1]; e++) {
            if (--into[next[e]] == 0) {
                free_list[free_count++] = next[e];
            }
        }
    }
    uint32_t found = 0;
    for (uint32_t i = 0; taken < all.count && i < all.count && !found; i++) {
        found = into[i] ? i : 0;
    }
    mem_free(first);
    mem_free(into);
    mem_free(next);
    mem_free(free_list);
    return found;
}

static const char *check_rest(const state *s) {
    if (steps_here > 0) {
        return NULL;
    }
    if (!all_ended(s)) {
        return "S6: nothing more happens, and a request has not ended";
    }
    return s->frozen == 0 && !all_clean(s) ? "S3: all is quiet, and something is still held" : NULL;
}

search_result search_run(uint32_t states_max, bool print) {
    open_all(states_max);
    violation = NULL;
    state s = moves_first();
    (void)store(&s, 0, (move){0});
    bool last_move = false;
    for (current = 0; current < all.count && !full && !broken; current++) {
        unpack(current, &s);
        steps_here = 0;
        moves_all(&s, visit);
        last_move = broken != NULL;
        broken = broken ? broken : check_rest(&s);
        if (broken && print) {
            (void)printf("%s\n", broken);
            print_way(current);
            if (last_move) {
                moves_print(&s, broken_by);
            } else {
                print_state(&s);
            }
        }
    }
    uint32_t circle = broken || full ? 0 : find_circle();
    if (circle) {
        broken = "S6: a circle: the same things happen for ever";
        if (print) {
            (void)printf("%s, from here on\n", broken);
            print_way(circle);
        }
    }
    search_result r = {!full, all.count, all.edges, broken};
    close_all();
    return r;
}
