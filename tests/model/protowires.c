/* protowires.c -- connections, and the pages of a pool. */
#include <stddef.h>
#include <string.h>

#include "tests/model/protomodel.h"

config now;
const char *violation;

void violate(const char *what) {
    if (!violation) {
        violation = what;
    }
}

/* ---- connections ---------------------------------------------------------------------------- */

bool has_end(const queue *q) {
    bool end = false;
    for (int i = 0; i < q->count; i++) {
        end = end || q->list[i].type == MSG_END;
    }
    return end;
}

static void put(queue *q, msg m) {
    if (q->count == QUEUE_MAX) {
        violate("the model's bound: too many messages on a connection");
        return;
    }
    q->list[q->count++] = m;
}

void say(state *s, int from, int to, msg m) {
    bool gone = !has(s->alive, to) || has_end(&s->wires[to][from]);
    if (gone || (is_g(from) && !g_counts_on(s, from, to)) || to == NOBODY) {
        return; /* nobody reads it any more */
    }
    put(&s->wires[from][to], m);
}

/* Places that are not used are zero, so that equal states have equal bytes. */
msg take(queue *q) {
    msg m = q->list[0];
    q->count--;
    memmove(q->list, q->list + 1, q->count * sizeof *q->list);
    memset(&q->list[q->count], 0, sizeof *q->list);
    return m;
}

void end_wire(queue *q) {
    memset(q, 0, sizeof *q);
    put(q, (msg){.type = MSG_END});
}

/* ---- pages ---------------------------------------------------------------------------------- */

bool page_free(const page *p) {
    return p->holders == 0 && p->pins[0] == 0 && p->pins[1] == 0;
}

static int pool_size(int worker) {
    return is_p(worker) ? now.pool_p : now.pool_d;
}

int pages_free(const state *s, int worker) {
    int count = 0;
    for (int i = 0; i < pool_size(worker); i++) {
        count += page_free(&s->pages[worker - FIRST_P][i]);
    }
    return count;
}

/* Those that nobody can find are taken first. */
int page_take(state *s, int worker) {
    int best = -1;
    for (int i = pool_size(worker) - 1; i >= 0; i--) {
        const page *p = page_at(s, worker, i);
        if (page_free(p) && (best < 0 || !p->found || page_at(s, worker, best)->found)) {
            best = i;
        }
    }
    if (best >= 0) {
        uint8_t found = on(RULE_FORGET) ? 0 : page_at(s, worker, best)->found;
        *page_at(s, worker, best) = (page){.holders = 1, .found = found};
    }
    return best;
}

void page_drop(state *s, int worker, uint8_t id) {
    page *p = page_at(s, worker, id - 1);
    if (p->holders == 0) {
        violate("S7: a page is let go of more often than it was taken");
        return;
    }
    p->holders--;
    if (page_free(p)) {
        p->posted = 0;
        p->content = p->found ? p->content : 0;
    }
}

void page_unpin(page *p, int peer) {
    p->pins[peer]--;
    if (page_free(p)) {
        p->posted = 0;
        p->content = p->found ? p->content : 0;
    }
}

static bool shares(int request) {
    return (now.shared >> request & 1) != 0 && now.prompt_pages > 1;
}

uint8_t content_of(int request, int index) {
    return shares(request) && index == 0 ? 1 : (uint8_t)(2 + request * PROMPT_PAGES_MAX + index);
}

int page_find_prefix(state *s, int worker, int r) {
    for (int i = 0; shares(r) && i < pool_size(worker); i++) {
        page *p = page_at(s, worker, i);
        if (p->found) {
            if (on(RULE_HOLD) || p->holders == 0) {
                p->holders++;
            }
            return i;
        }
    }
    return -1;
}

/* A prefix page that nobody holds is a free one too: holding it takes it away. */
int pages_missing(const state *s, int worker, int r) {
    int missing = now.prompt_pages;
    for (int i = 0; shares(r) && i < pool_size(worker); i++) {
        const page *p = &s->pages[worker - FIRST_P][i];
        if (p->found) {
            return missing - (page_free(p) ? 0 : 1);
        }
    }
    return missing;
}

void pages_recount(const state *s) {
    int holders[WORKERS_MAX][PAGES_MAX] = {{0}};
    for (int r = 0; r < now.requests; r++) {
        for (int w = 0; w < PREFILLS_MAX; w++) {
            for (int i = 0; i < PROMPT_PAGES_MAX; i++) {
                uint8_t id = s->p[w][r].pages[i];
                holders[w][id ? id - 1 : 0] += id ? 1 : 0;
            }
        }
        for (int w = 0; w < DECODES_MAX; w++) {
            for (int i = 0; i <= PROMPT_PAGES_MAX; i++) {
                uint8_t id = s->d[w][r].pages[i];
                holders[PREFILLS_MAX + w][id ? id - 1 : 0] += id ? 1 : 0;
            }
        }
    }
    for (int w = 0; w < WORKERS_MAX; w++) {
        for (int i = 0; i < PAGES_MAX; i++) {
            if (holders[w][i] != s->pages[w][i].holders) {
                violate("S7: a page's count is not the number of those who hold it");
            }
        }
    }
}
