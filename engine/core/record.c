/* record.c -- the requests of a worker. */
#include "engine/core/record.h"

#include <string.h>

#include "engine/base/check.h"

static uint32_t record_seq_pages(const record_options *o) {
    uint32_t block = o->block_pages;
    CHECK(block > 0);
    return (record_pages_of((int64_t)o->context_tokens + 1) + block - 1) / block * block;
}

uint64_t record_bytes(const record_options *o) {
    CHECK(o->count_max > 0 && o->context_tokens > 0);
    uint64_t buffer = ((uint64_t)o->context_tokens + 1) * sizeof(int32_t) +
                      (uint64_t)record_seq_pages(o) * sizeof(uint32_t);
    uint64_t tables = (uint64_t)(o->lives_max[0] + o->lives_max[1] + 2) * 3 * 17;
    return (uint64_t)o->count_max * (sizeof(record) + 64 + 8 + buffer) +
           (uint64_t)o->spares_max * (buffer + 4) + tables + 4096;
}

status record_open(record_table *t, arena *a, const record_options *o) {
    CHECK(o->count_max > 0 && o->context_tokens > 0);
    *t = (record_table){.options = *o, .seq_pages_max = record_seq_pages(o), .order_next = 1};
    TRY(slab_open(&t->slab, a, o->count_max, sizeof(record)));
    for (int i = 0; i < RECORD_ROLES; i++) {
        TRY(hash_open(&t->by_request[i], a, o->lives_max[i] + 1, (uint64_t)i));
    }
    size_t row = (size_t)o->context_tokens + 1;
    t->tokens = ARENA_TAKE(a, o->count_max * row, int32_t);
    t->pages = ARENA_TAKE(a, (size_t)o->count_max * t->seq_pages_max, uint32_t);
    t->spare_tokens = ARENA_TAKE(a, o->spares_max * row, int32_t);
    t->spare_pages = ARENA_TAKE(a, (size_t)o->spares_max * t->seq_pages_max, uint32_t);
    t->spares_free = ARENA_TAKE(a, o->spares_max, uint32_t);
    if (!t->tokens || !t->pages || !t->spare_tokens || !t->spare_pages || !t->spares_free) {
        return STATUS_NOMEM;
    }
    for (uint32_t i = 0; i < o->spares_max; i++) {
        t->spares_free[i] = o->spares_max - 1 - i;
    }
    t->spares_free_count = o->spares_max;
    return STATUS_OK;
}

/* Orders of requests whose clients have nothing yet are above this, so that those that go on come
 * first: a stream that has begun is not silent behind a backlog. They were running a moment ago,
 * here or elsewhere, so there are never more of them than can run, and nobody starves behind them.
 */
#define RECORD_FRESH (UINT64_C(1) << 63)

/* Its order, and which record it is to come before (NULL: none). */
static record *record_place(record_table *t, record *r, record *before) {
    bool resumed = r->tokens_count > r->prompt_count;
    if (before && (!resumed || before->order < RECORD_FRESH)) {
        r->order = before->order;
        return before;
    }
    r->order = (resumed ? 0 : RECORD_FRESH) | t->order_next++;
    record *at = resumed ? t->first[r->role] : NULL;
    while (at && at->order < RECORD_FRESH) {
        at = at->next;
    }
    return at;
}

static void record_link(record_table *t, record *r, record *before) {
    record *previous = before ? before->previous : t->last[r->role];
    r->next = before;
    r->previous = previous;
    *(previous ? &previous->next : &t->first[r->role]) = r;
    *(before ? &before->previous : &t->last[r->role]) = r;
}

record *record_add(record_table *t, record_role role, const message *m, record *before) {
    const message_submit *s = &m->submit;
    CHECK(s->tokens_count <= t->options.context_tokens);
    CHECK(s->prompt_count > 0 && s->prompt_count <= s->tokens_count);
    if (!before && t->lives[role] >= t->options.lives_max[role]) {
        return NULL;
    }
    slab_handle h;
    record *r = slab_take(&t->slab, &h);
    if (!r) {
        return NULL;
    }
    r->self = h;
    r->role = role;
    r->request = m->request;
    r->attempt = m->attempt;
    r->gateway = r->peer = RECORD_NONE;
    r->salt = s->salt;
    r->prompt_count = s->prompt_count;
    r->tokens_count = s->tokens_count;
    r->params = *s->params;
    r->tokens = t->tokens + (size_t)h.index * ((size_t)t->options.context_tokens + 1);
    memcpy(r->tokens, s->tokens, (size_t)s->tokens_count * sizeof *r->tokens);
    for (int i = 0; i < LIMIT_CHOICES; i++) {
        r->seqs[i].spare = RECORD_NONE;
    }
    r->seqs[0].pages = t->pages + (size_t)h.index * t->seq_pages_max;
    r->seqs[0].generated = r->tokens + r->prompt_count;
    r->seqs[0].generated_count = r->seqs[0].replay_next = r->tokens_count - r->prompt_count;
    record_link(t, r, record_place(t, r, before));
    t->lives[role]++;
    /* With `before` still there, the name goes over to the new record. */
    CHECK(hash_put(&t->by_request[role], r->request, h.index));
    return r;
}

record *record_find(const record_table *t, record_role role, request_id request) {
    uint64_t index;
    if (!hash_get(&t->by_request[role], request, &index)) {
        return NULL;
    }
    slab_handle h;
    record *r = slab_at(&t->slab, (uint32_t)index, &h);
    CHECK(r && r->request == request && r->role == role);
    return r;
}

record *record_get(const record_table *t, slab_handle h) {
    record *r = slab_get(&t->slab, h);
    CHECK(!r || slab_same(r->self, h));
    return r && r->state != RECORD_GONE ? r : NULL;
}

void record_unlink(record_table *t, record *r) {
    CHECK(r->state != RECORD_GONE);
    CHECK(t->lives[r->role] > 0);
    *(r->previous ? &r->previous->next : &t->first[r->role]) = r->next;
    *(r->next ? &r->next->previous : &t->last[r->role]) = r->previous;
    r->next = r->previous = NULL;
    t->lives[r->role]--;
    r->state = RECORD_GONE;
    uint64_t index;
    if (hash_get(&t->by_request[r->role], r->request, &index) && index == r->self.index) {
        (void)hash_delete(&t->by_request[r->role], r->request, NULL);
    }
}

void record_free(record_table *t, record *r) {
    CHECK_EQ(r->state, RECORD_GONE);
    for (int i = 0; i < LIMIT_CHOICES; i++) {
        if (r->seqs[i].spare != RECORD_NONE) {
            CHECK_LT(t->spares_free_count, t->options.spares_max);
            t->spares_free[t->spares_free_count++] = r->seqs[i].spare;
        }
    }
    CHECK(slab_give(&t->slab, r->self));
}

bool record_seq_open(record_table *t, record *r, int32_t choice) {
    CHECK(choice > 0 && choice < LIMIT_CHOICES);
    CHECK(r->seqs[choice].spare == RECORD_NONE);
    if (t->spares_free_count == 0) {
        return false;
    }
    uint32_t spare = t->spares_free[--t->spares_free_count];
    size_t row = (size_t)t->options.context_tokens + 1;
    r->seqs[choice] = (record_seq){.pages = t->spare_pages + (size_t)spare * t->seq_pages_max,
                                   .spare = spare,
                                   .generated = t->spare_tokens + spare * row};
    return true;
}

int64_t record_kv_tokens_max(int32_t prompt_count, int32_t tokens_count, int32_t max_tokens,
                             int32_t context_tokens) {
    CHECK(prompt_count <= tokens_count);
    int64_t total = (int64_t)prompt_count + max_tokens;
    total = total < context_tokens ? total : context_tokens;
    /* The last token's own KV is never needed. */
    return total - 1 > tokens_count ? total - 1 : tokens_count;
}
