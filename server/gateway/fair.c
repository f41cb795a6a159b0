/* fair.c -- deficit round robin over keys, ranked lists inside them. */
#include "server/gateway/fair.h"

#include "engine/base/check.h"

typedef struct {
    fair_item what;
    uint32_t before, after; /* in its key's list, by rank */
    bool waits;
} entry;

typedef struct {
    uint32_t first, last;    /* by rank; FAIR_NONE: nothing waits */
    uint32_t next, previous; /* in the ring of keys with something waiting */
    uint64_t deficit;        /* cost it may still spend in this turn */
    uint64_t work;
} lane;

struct fair {
    entry *entries; /* [items_max] */
    lane *lanes;    /* [keys_max] */
    uint32_t items_max, keys_max, quantum;
    uint32_t turn; /* the lane whose turn it is; FAIR_NONE: nothing waits */
    uint32_t chosen;
    uint32_t count, lanes_busy;
    uint64_t work;
};

status fair_create(arena *a, uint32_t items_max, uint32_t keys_max, uint32_t quantum, fair **out) {
    CHECK(quantum > 0);
    fair *f = ARENA_TAKE(a, 1, fair);
    if (!f) {
        return STATUS_NOMEM;
    }
    *f = (fair){.entries = ARENA_TAKE(a, items_max, entry),
                .lanes = ARENA_TAKE(a, keys_max, lane),
                .items_max = items_max,
                .keys_max = keys_max,
                .quantum = quantum,
                .turn = FAIR_NONE,
                .chosen = FAIR_NONE};
    if (!f->entries || !f->lanes) {
        return STATUS_NOMEM;
    }
    for (uint32_t k = 0; k < keys_max; k++) {
        f->lanes[k] = (lane){.first = FAIR_NONE, .last = FAIR_NONE};
    }
    *out = f;
    return STATUS_OK;
}

/* A lane that wakes gets its turn last, and nothing saved up from before it slept. */
static void wake(fair *f, uint32_t key) {
    lane *l = &f->lanes[key];
    f->lanes_busy++;
    l->deficit = 0;
    if (f->turn == FAIR_NONE) {
        l->next = l->previous = key;
        l->deficit = f->quantum;
        f->turn = key;
        return;
    }
    lane *now = &f->lanes[f->turn];
    l->next = f->turn;
    l->previous = now->previous;
    f->lanes[now->previous].next = key;
    now->previous = key;
}

static void pass_turn(fair *f) {
    f->turn = f->lanes[f->turn].next;
    f->lanes[f->turn].deficit += f->quantum;
}

static void sleep_lane(fair *f, uint32_t key) {
    lane *l = &f->lanes[key];
    f->lanes_busy--;
    if (f->lanes_busy == 0) {
        f->turn = FAIR_NONE;
        return;
    }
    if (f->turn == key) {
        pass_turn(f);
    }
    f->lanes[l->previous].next = l->next;
    f->lanes[l->next].previous = l->previous;
}

void fair_push(fair *f, uint32_t item, const fair_item *what) {
    CHECK_LT(item, f->items_max);
    CHECK_LT(what->key, f->keys_max);
    CHECK(what->cost > 0 && !f->entries[item].waits);
    lane *l = &f->lanes[what->key];
    if (l->first == FAIR_NONE) {
        wake(f, what->key);
    }
    uint32_t before = l->last; /* most come in order: from the end it is one step */
    while (before != FAIR_NONE && f->entries[before].what.rank > what->rank) {
        before = f->entries[before].before;
    }
    uint32_t after = before == FAIR_NONE ? l->first : f->entries[before].after;
    f->entries[item] = (entry){*what, before, after, true};
    *(before == FAIR_NONE ? &l->first : &f->entries[before].after) = item;
    *(after == FAIR_NONE ? &l->last : &f->entries[after].before) = item;
    l->work += what->work;
    f->work += what->work;
    f->count++;
}

uint32_t fair_next(fair *f) {
    if (f->chosen != FAIR_NONE || f->turn == FAIR_NONE) {
        return f->chosen;
    }
    for (;;) {
        const lane *l = &f->lanes[f->turn];
        if (f->entries[l->first].what.cost <= l->deficit) {
            return f->chosen = l->first;
        }
        pass_turn(f);
    }
}

void fair_remove(fair *f, uint32_t item) {
    CHECK_LT(item, f->items_max);
    entry *e = &f->entries[item];
    if (!e->waits) {
        return;
    }
    lane *l = &f->lanes[e->what.key];
    *(e->before == FAIR_NONE ? &l->first : &f->entries[e->before].after) = e->after;
    *(e->after == FAIR_NONE ? &l->last : &f->entries[e->after].before) = e->before;
    l->work -= e->what.work;
    f->work -= e->what.work;
    f->count--;
    e->waits = false;
    if (f->chosen == item) {
        f->chosen = FAIR_NONE;
    }
    if (l->first == FAIR_NONE) {
        sleep_lane(f, e->what.key);
    }
}

void fair_take(fair *f, uint32_t item) {
    CHECK(item == f->chosen && item != FAIR_NONE);
    f->lanes[f->entries[item].what.key].deficit -= f->entries[item].what.cost;
    fair_remove(f, item);
}

bool fair_waits(const fair *f, uint32_t item) {
    CHECK_LT(item, f->items_max);
    return f->entries[item].waits;
}

uint32_t fair_count(const fair *f) {
    return f->count;
}

uint32_t fair_keys(const fair *f) {
    return f->lanes_busy;
}

uint64_t fair_work(const fair *f) {
    return f->work;
}

uint64_t fair_key_work(const fair *f, uint32_t key) {
    CHECK_LT(key, f->keys_max);
    return f->lanes[key].work;
}
