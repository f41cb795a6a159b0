/* simnet.c -- the event queue, and links: FIFO in each direction, with delays and broken ends. */
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/core/planted.h"
#include "tests/sim/sim.h"

/* ---- events --------------------------------------------------------------------------------- */

static bool before(const sim_event *a, const sim_event *b) {
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

static void swap(sim_event *a, sim_event *b) {
    sim_event t = *a;
    *a = *b;
    *b = t;
}

static sim_event *grow(sim_event *list, uint32_t count, uint32_t *capacity) {
    if (count < *capacity) {
        return list;
    }
    *capacity = *capacity ? *capacity * 2 : 256;
    list = mem_realloc(list, *capacity, sizeof(*list));
    CHECK(list != NULL);
    return list;
}

/* A binary heap. The place of the new event is only good until the next call. */
static sim_event *push(sim *s, const sim_event *e) {
    s->heap = grow(s->heap, s->heap_count, &s->heap_capacity);
    uint32_t at = s->heap_count++;
    s->heap[at] = *e;
    while (at > 0 && before(&s->heap[at], &s->heap[(at - 1) / 2])) {
        swap(&s->heap[at], &s->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    return &s->heap[at];
}

sim_event *simnet_at(sim *s, int64_t at_us, sim_event_type type, uint32_t node) {
    CHECK(at_us >= s->now_us);
    sim_event e = {.at_us = at_us,
                   .order = s->order++,
                   .type = type,
                   .node = node,
                   .life = node == SIM_WORLD ? 0 : sim_process_of(s, node)->life,
                   .carried = UINT32_MAX};
    return push(s, &e);
}

bool simnet_next(sim *s, sim_event *out) {
    if (s->heap_count == 0) {
        return false;
    }
    *out = s->heap[0];
    s->heap[0] = s->heap[--s->heap_count];
    for (uint32_t at = 0;;) {
        uint32_t least = at;
        for (uint32_t child = 2 * at + 1; child <= 2 * at + 2; child++) {
            if (child < s->heap_count && before(&s->heap[child], &s->heap[least])) {
                least = child;
            }
        }
        if (least == at) {
            return true;
        }
        swap(&s->heap[at], &s->heap[least]);
        at = least;
    }
}

void simnet_event_free(sim_event *e) {
    mem_free(e->bytes);
    if (e->data) {
        mem_free(e->data->content);
        mem_free(e->data);
    }
    e->bytes = NULL;
    e->data = NULL;
}

/* ---- links ---------------------------------------------------------------------------------- */

uint32_t simnet_link(sim *s, uint32_t node_a, uint32_t node_b) {
    CHECK_LT(s->links_count, SIM_LINKS_MAX);
    uint32_t index = s->links_count++;
    sim_link *l = &s->links[index];
    *l = (sim_link){.delay_us = s->delay_us};
    const uint32_t nodes[2] = {node_a, node_b};
    for (int i = 0; i < 2; i++) {
        l->ends[i].node = nodes[i];
        l->ends[i].life = sim_process_of(s, nodes[i])->life;
        l->ends[i].lost_from = UINT64_MAX;
    }
    return index;
}

/* Puts one message (NULL: the end of the link) on its way to `to`. */
static sim_event *carry(sim *s, uint32_t link, uint32_t to) {
    sim_link *l = &s->links[link];
    sim_end *end = &l->ends[to];
    int64_t at = s->now_us + sim_delay(s, l->delay_us);
    if (at < end->last_us) {
        at = end->last_us;
    }
    end->last_us = at;
    uint64_t number = end->sent++;
    sim_event *e = simnet_at(s, at, SIM_MESSAGE, end->node);
    e->life = end->life;
    e->link = link;
    e->end = to;
    e->number = number;
    return e;
}

void simnet_send(sim *s, uint32_t link, uint32_t from_end, const message *m, uint32_t carried) {
    sim_end *from = &s->links[link].ends[from_end];
    sim_end *to = &s->links[link].ends[1 - from_end];
    CHECK(!from->closed);
    if (to->closed) {
        return;
    }
    strbuf_clear(&s->encoded);
    status st = message_encode(m, &s->encoded);
    if (st != STATUS_OK) {
        sim_fail(s, "message %s cannot be encoded: %s", message_type_name(m->type),
                 status_name(st));
        return;
    }
    if (PLANTED(MESSAGE_DROPPED) && sim_chance(s, 2)) {
        return;
    }
    s->counts.messages++;
    sim_event *e = carry(s, link, 1 - from_end);
    e->bytes = mem_dup(s->encoded.data, s->encoded.bytes);
    e->bytes_count = s->encoded.bytes;
    e->carried = carried;
    CHECK(e->bytes != NULL);
}

void simnet_attach(sim *s, uint32_t link, uint32_t end, uint32_t slot) {
    sim_end *e = &s->links[link].ends[end];
    CHECK(!e->attached && !e->closed);
    e->attached = true;
    e->slot = slot;
    for (uint32_t i = 0; i < e->held_count; i++) {
        sim_event held = e->held[i];
        held.at_us = s->now_us;
        held.order = s->order++;
        push(s, &held);
    }
    if (e->last_us < s->now_us) {
        e->last_us = s->now_us;
    }
    e->held_count = 0;
}

void simnet_close_end(sim *s, uint32_t link, uint32_t end, bool lossy) {
    sim_link *l = &s->links[link];
    if (l->ends[end].closed) {
        return;
    }
    l->ends[end].closed = true;
    l->ends[end].attached = false;
    sim_end *other = &l->ends[1 - end];
    if (other->closed) {
        return;
    }
    if (lossy && other->lost_from == UINT64_MAX) {
        uint64_t under_way = other->sent - other->got;
        other->lost_from = other->got + sim_below(s, under_way + 1);
        other->data_lost = sim_chance(s, 50);
    }
    uint64_t lost_from = other->lost_from;
    sim_event *e = carry(s, link, 1 - end);
    if (lost_from != UINT64_MAX) {
        e->number = lost_from; /* the reader sees the end where the loss begins */
    }
}

void simnet_cut(sim *s, uint32_t link) {
    for (uint32_t end = 0; end < 2; end++) {
        sim_end *e = &s->links[link].ends[end];
        if (e->closed || e->lost_from != UINT64_MAX) {
            continue;
        }
        e->lost_from = e->got + sim_below(s, e->sent - e->got + 1);
        e->data_lost = true;
        uint64_t lost_from = e->lost_from;
        carry(s, link, end)->number = lost_from;
    }
}

bool simnet_arrives(sim *s, sim_event *e) {
    sim_end *end = &s->links[e->link].ends[e->end];
    if (end->closed) {
        return false;
    }
    bool eof = e->bytes == NULL;
    if (!eof && e->number >= end->lost_from) {
        return false;
    }
    if (!end->attached) {
        uint32_t capacity = end->held_capacity;
        end->held = grow(end->held, end->held_count, &capacity);
        end->held_capacity = capacity;
        end->held[end->held_count++] = *e;
        e->bytes = NULL; /* kept there now */
        return false;
    }
    if (e->number != end->got) {
        /* It was held back (a frozen reader, an end not read yet) and others are still before it.
         */
        CHECK(e->number > end->got);
        sim_event again = *e;
        again.at_us = s->now_us;
        again.order = s->order++;
        push(s, &again);
        e->bytes = NULL;
        return false;
    }
    end->got++;
    return true;
}

void simnet_close(sim *s) {
    for (uint32_t i = 0; i < s->heap_count; i++) {
        simnet_event_free(&s->heap[i]);
    }
    for (uint32_t i = 0; i < s->links_count; i++) {
        for (int k = 0; k < 2; k++) {
            sim_end *e = &s->links[i].ends[k];
            for (uint32_t h = 0; h < e->held_count; h++) {
                simnet_event_free(&e->held[h]);
            }
            mem_free(e->held);
        }
    }
    mem_free(s->heap);
    mem_free(s->links);
}
