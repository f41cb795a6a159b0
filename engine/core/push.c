/* push.c -- P's half of a transfer: announcing groups of pages as they are finished.
 *
 * Groups go in a fixed order, which D follows with a cursor of its own: ranges of pages upwards,
 * and inside a range its layers upwards. A range is either pages that are already computed (all
 * layers in as few groups as fit) or the pages that the step in flight completes (a group whenever
 * enough layers are done, so that the first layers travel while the last ones compute). */
#include "engine/core/push.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/core/planted.h"
#include "engine/core/prefill.h"

enum { PUSH_PUMP_ACTIONS = 16 };

void push_posted(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_POSTED);
    links_link *k = links_get(&c->links, peer);
    links_transfer *t = links_send_find(k, m->posted.sequence);
    if (!t || t->state != LINKS_ANNOUNCED || t->request != m->request || t->attempt != m->attempt ||
        t->group != m->posted.group) {
        core_close(c, peer, m);
        return;
    }
    const record *r = record_get(&c->records, t->record);
    bool wanted = r && r->granted && r->peer == peer;
    CHECK(!wanted || r->attempt == t->attempt);
    t->state = LINKS_MOVING;
    t->junk = !wanted; /* the receive is posted, so something must come [R5] */
    if (PLANTED(R5_JUNK) && !wanted) {
        links_finish(t, c->blocks);
        return;
    }
    if (PLANTED(R12_SOURCE_PINS) && wanted) {
        t->junk = true; /* so it pins nothing */
    } else if (wanted) {
        links_pin(t, c->blocks);
    }
    if (wanted) {
        c->stats.groups_sent++;
        c->stats.cells_sent += (uint64_t)t->pages_count * t->layers;
    } else {
        c->stats.groups_junk_sent++;
    }
    core_action *a = outbox_add(&c->outbox, CORE_TRANSFER_SEND, peer);
    a->transfer = (core_transfer){.sequence = t->sequence,
                                  .request = t->request,
                                  .attempt = t->attempt,
                                  .group = t->group,
                                  .layer_first = t->layer_first,
                                  .layers = t->layers,
                                  .pages = wanted ? t->pages : NULL,
                                  .pages_count = t->pages_count,
                                  .junk = !wanted};
}

void push_reject(core *c, uint32_t peer, const message *m) {
    CHECK_EQ(m->type, MESSAGE_REJECT);
    if (m->about != MESSAGE_ANNOUNCE) {
        return; /* nothing else that P sends can be taken back */
    }
    links_link *k = links_get(&c->links, peer);
    links_transfer *t = links_send_find(k, m->announce.sequence);
    if (!t || t->state != LINKS_ANNOUNCED || t->request != m->request || t->attempt != m->attempt) {
        return;
    }
    record *r = record_get(&c->records, t->record);
    links_finish(t, c->blocks);
    c->pump = true;
    if (r && r->peer == peer && r->attempt == m->attempt && r->granted) {
        prefill_lose_grant(r);
    }
}

typedef struct {
    uint32_t layer_first, layers;
    uint32_t page_first, pages;
} push_group;

/* Pages whose KV of all layers is final. */
static uint32_t push_pages_done(const record *r, int32_t computed) {
    CHECK_LE(computed, r->tokens_count);
    return computed == r->tokens_count ? record_pages_of(computed)
                                       : (uint32_t)(computed / LIMIT_PAGE_TOKENS);
}

/* Opens the next range of pages: those computed, all layers at once; else those that the step in
 * flight completes, layer by layer. */
static bool push_open_range(const core *c, record *r) {
    const core_options *o = &c->options;
    uint32_t done = push_pages_done(r, r->computed);
    uint32_t most = o->group_cells_max / o->layers;
    uint32_t until = done;
    CHECK(most > 0);
    r->range_whole = done > r->page_next;
    if (!r->range_whole) {
        if (!r->in_step || c->steps[CORE_LANE_PROMPTS].layers_done == 0) {
            return false;
        }
        until = push_pages_done(r, r->computed + r->step_rows);
        most = o->group_cells_max;
    }
    if (until <= r->page_next) {
        return false;
    }
    most = most < LINKS_GROUP_PAGES_MAX ? most : LINKS_GROUP_PAGES_MAX;
    r->range_pages = until - r->page_next < most ? until - r->page_next : most;
    r->layer_next = 0;
    return true;
}

/* The next group that is final. Groups go range after range, in each the layers upwards. */
static bool push_next_group(const core *c, const links_link *k, record *r, push_group *g) {
    const core_options *o = &c->options;
    if (r->range_pages == 0 && !push_open_range(c, r)) {
        return false;
    }
    bool done = push_pages_done(r, r->computed) >= r->page_next + r->range_pages;
    uint32_t final = done         ? o->layers
                     : r->in_step ? (uint32_t)c->steps[CORE_LANE_PROMPTS].layers_done
                                  : 0;
    if (final <= r->layer_next) {
        return false;
    }
    uint32_t layers = final - r->layer_next;
    uint32_t most = o->group_cells_max / r->range_pages;
    if (!r->range_whole) {
        if (layers < k->group_layers && final < o->layers) {
            return false;
        }
        most = most < k->group_layers ? most : k->group_layers;
    }
    CHECK(most > 0);
    *g = (push_group){.layer_first = r->layer_next,
                      .layers = layers < most ? layers : most,
                      .page_first = r->page_next,
                      .pages = r->range_pages};
    return true;
}

static bool push_announce(core *c, record *r, links_link *k) {
    /* The window is looked at first: opening a range early would freeze its extent. */
    if (k->sends[k->send_next % LINKS_SENDS_MAX].state != LINKS_FREE) {
        return false;
    }
    push_group g;
    if (!push_next_group(c, k, r, &g)) {
        return false;
    }
    links_transfer *t = links_send_add(k);
    CHECK(t != NULL);
    t->state = LINKS_ANNOUNCED;
    t->record = r->self;
    t->request = r->request;
    t->attempt = r->attempt;
    t->group = r->groups++;
    t->layer_first = g.layer_first;
    t->layers = g.layers;
    t->page_first = g.page_first;
    t->pages_count = g.pages;
    memcpy(t->pages, r->seqs[0].pages + g.page_first, g.pages * sizeof *t->pages);
    core_send(c, r->peer, MESSAGE_ANNOUNCE, r->request, r->attempt)->announce =
        (message_announce){t->sequence, t->group, g.layer_first, g.layers, g.page_first, g.pages};
    r->layer_next += g.layers;
    if (r->layer_next == c->options.layers) {
        r->page_next += r->range_pages;
        r->range_pages = r->layer_next = 0;
    }
    return true;
}

static void push_hand_over(core *c, record *r) {
    CHECK(r->granted && !r->handed);
    CHECK(r->groups > 0);
    message *m = core_send(c, r->peer, MESSAGE_HANDOFF, r->request, r->attempt);
    request_token *tokens = outbox_tokens(&c->outbox, r->params.choices);
    memcpy(tokens, r->first, (size_t)r->params.choices * sizeof *tokens);
    m->handoff = (message_handoff){r->groups, r->params.choices, tokens};
    r->handed = true;
    c->stats.handoffs++;
}

void push_pump(core *c) {
    for (record *r = c->records.first[RECORD_PREFILL]; r; r = r->next) {
        if (!r->granted || r->handed) {
            continue;
        }
        links_link *k = links_get(&c->links, r->peer);
        if (!k) {
            continue; /* being torn down; prefill.c follows */
        }
        while (push_announce(c, r, k)) {
            if (c->outbox.count >= PUSH_PUMP_ACTIONS) {
                c->pump = true;
                return;
            }
        }
        if (r->sampled && r->computed == r->tokens_count &&
            r->page_next == record_pages_of(r->tokens_count)) {
            push_hand_over(c, r);
        }
    }
}
