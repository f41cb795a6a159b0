/* kvpair.c -- channels of the property run: who posts, sends and receives, and what must hold. */
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/base/wire.h"
#include "kvtransfer/kvtplanted.h"
#include "tests/emu/libs/emu_nccl.h"
#include "tests/kvrun/kvrun.h"

static const seal_keys near_keys = {.send = {4, 5}, .receive = {6, 7}};
static const seal_keys far_keys = {.send = {6, 7}, .receive = {4, 5}};

static uint8_t *page_of(void *context, uint32_t layer, uint32_t page) {
    kvrun_worker *w = context;
    CHECK_LT(layer, KVRUN_LAYERS);
    CHECK_LT(page, KVRUN_PAGES);
    return w->bytes[layer][page];
}

/* ---- pages ----------------------------------------------------------------------------------- */

/* The page belongs to somebody else now, who writes it at once. */
void kvpair_paint(kvrun *k, kvrun_worker *w, uint32_t page) {
    for (uint32_t l = 0; l < KVRUN_LAYERS; l++) {
        for (uint32_t i = 0; i < KVRUN_UNIT; i += 8) {
            uint64_t word = rng_next(&k->random);
            memcpy(&w->want[l][page][i], &word, 8);
        }
        memcpy(w->bytes[l][page], w->want[l][page], KVRUN_UNIT);
    }
}

static bool take_pages(kvrun *k, kvrun_worker *w, kvt_job *job, uint32_t count) {
    uint32_t start = (uint32_t)kvrun_draw(k, KVRUN_PAGES);
    job->pages_count = 0;
    for (uint32_t i = 0; i < KVRUN_PAGES && job->pages_count < count; i++) {
        uint32_t page = (start + i * 7) % KVRUN_PAGES;
        if (!w->held[page]) {
            job->pages[job->pages_count++] = page;
        }
    }
    if (job->pages_count < count) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        w->held[job->pages[i]] = true;
    }
    return true;
}

static void free_pages(kvrun *k, kvrun_worker *w, const kvt_job *job) {
    for (uint32_t i = 0; i < job->pages_count; i++) {
        CHECK(w->held[job->pages[i]]);
        w->held[job->pages[i]] = false;
        kvpair_paint(k, w, job->pages[i]);
    }
}

/* Pages that nobody moves are as their owner wrote them; P's are always. */
void kvpair_check_pages(kvrun *k) {
    if (!kvapi_staging_untouched()) {
        kvrun_fail(k, "staging was written after it had been given back");
    }
    for (int i = 0; i < 2 * KVRUN_WORKERS; i++) {
        const kvrun_worker *w = i < KVRUN_WORKERS ? &k->p[i] : &k->d[i - KVRUN_WORKERS];
        for (uint32_t page = 0; page < KVRUN_PAGES; page++) {
            for (uint32_t l = 0; l < KVRUN_LAYERS; l++) {
                bool settled = i < KVRUN_WORKERS || !w->held[page];
                if (settled && memcmp(w->bytes[l][page], w->want[l][page], KVRUN_UNIT) != 0) {
                    kvrun_fail(k, "page %u of %c%d was written by a transfer that it is not in",
                               page, i < KVRUN_WORKERS ? 'P' : 'D', i % KVRUN_WORKERS);
                }
            }
        }
    }
}

/* ---- channels -------------------------------------------------------------------------------- */

static bool open_side(kvrun *k, kvrun_channel *c, bool receiver, uint64_t generation, int fd) {
    kvrun_worker *w = receiver ? &k->d[c->d] : &k->p[c->p];
    kvt_pool pool = {page_of, w, KVRUN_UNIT};
    devpair_options o = {.device = receiver ? KVRUN_WORKERS + c->d : c->p,
                         .stage_bytes = KVRUN_LAYERS * KVRUN_JOB_PAGES * KVRUN_UNIT,
                         .setup_us = KVRUN_SETUP_US,
                         .transfer_us = KVRUN_TRANSFER_US};
    kvt **side = receiver ? &c->receiver : &c->sender;
    diag d;
    return (c->ipc ? ipc_open : nccl_open)(&pool, &o, generation, receiver, side, &d) ==
               STATUS_OK &&
           devpair_attach(*side, fd, receiver ? &far_keys : &near_keys, &d) == STATUS_OK;
}

static kvrun_channel *open_channel(kvrun *k, int p, int d) {
    kvrun_channel *c = NULL;
    for (int i = 0; i < KVRUN_CHANNELS && !c; i++) {
        c = k->channels[i].used ? NULL : &k->channels[i];
    }
    if (!c) {
        return NULL;
    }
    int fds[2];
    uint64_t generation = ++k->generation;
    *c = (kvrun_channel){.used = true, .p = p, .d = d, .ipc = k->p[p].host == k->d[d].host};
    /* Behind an address that is used again, a sender of an earlier life may call. */
    c->stale = k->p[p].life > 1 && kvrun_chance(k, 30);
    c->cause = c->stale;
    c->jobs = mem_calloc(KVRUN_JOBS, sizeof *c->jobs);
    CHECK(c->jobs);
    CHECK_EQ(wire_pair(fds), STATUS_OK);
    CHECK(open_side(k, c, false, c->stale ? generation - 1 : generation, fds[0]));
    CHECK(open_side(k, c, true, generation, fds[1]));
    k->counts.channels++;
    k->counts.stale += c->stale;
    k->counts.ipc += c->ipc;
    kvrun_note(k, "P%d and D%d have a channel over %s%s", p, d, kvt_name(c->sender),
               c->stale ? ", P's side stale" : "");
    return c;
}

static kvrun_channel *channel_of(kvrun *k, int p, int d) {
    for (int i = 0; i < KVRUN_CHANNELS; i++) {
        kvrun_channel *c = &k->channels[i];
        if (c->used && c->p == p && c->d == d && c->sender && c->receiver) {
            return c;
        }
    }
    return open_channel(k, p, d);
}

static void forget(kvrun_channel *c) {
    if (!c->sender && !c->receiver) {
        mem_free(c->jobs);
        *c = (kvrun_channel){0};
    }
}

void kvpair_close_sender(kvrun *k, kvrun_channel *c) {
    kvapi_now = &c->near;
    kvt_close(c->sender);
    c->sender = NULL;
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->jobs[i].from_held) {
            c->jobs[i].from_held = false;
            free_pages(k, &k->p[c->p], &c->jobs[i].from);
        }
    }
    forget(c);
}

void kvpair_close_receiver(kvrun *k, kvrun_channel *c) {
    kvapi_now = &c->far;
    kvt_close(c->receiver);
    c->receiver = NULL;
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->jobs[i].to_held) {
            k->counts.failed += !c->jobs[i].arrived;
            c->jobs[i].to_held = false;
            free_pages(k, &k->d[c->d], &c->jobs[i].to);
        }
    }
    forget(c);
}

/* A process ends, or leaves: its sides close. Ends the others may have a cause for, then. */
void kvpair_end_worker(kvrun *k, bool sender, int number, bool dies) {
    for (int i = 0; i < KVRUN_CHANNELS; i++) {
        kvrun_channel *c = &k->channels[i];
        kvapi_side *side = sender ? &c->near : &c->far;
        if (!c->used || (sender ? c->p : c->d) != number || !(sender ? c->sender : c->receiver)) {
            continue;
        }
        c->cause = true;
        if (dies && side->comm && !kvt_failed(sender ? c->sender : c->receiver)) {
            emu_nccl_kill(side->comm);
        }
        if (sender) {
            kvpair_close_sender(k, c);
        } else {
            kvpair_close_receiver(k, c);
        }
    }
}

bool kvpair_busy(const kvrun *k, bool sender, int number) {
    bool busy = false;
    for (int i = 0; i < KVRUN_CHANNELS; i++) {
        const kvrun_channel *c = &k->channels[i];
        bool mine = c->used && (sender ? c->p : c->d) == number && c->sender && c->receiver;
        busy = busy || (mine && (c->sent < c->count || c->received < c->count));
    }
    return busy;
}

/* ---- D's scheduler --------------------------------------------------------------------------- */

static void new_job(kvrun *k, int d) {
    int p = (int)kvrun_draw(k, k->senders);
    if (k->p[p].state != KVRUN_UP) {
        return;
    }
    kvrun_channel *c = channel_of(k, p, d);
    if (!c || c->count == KVRUN_JOBS) {
        return;
    }
    kvrun_job *j = &c->jobs[c->count];
    uint32_t pages = 1 + (uint32_t)kvrun_draw(k, KVRUN_JOB_PAGES);
    if (!take_pages(k, &k->p[p], &j->from, pages)) {
        return;
    }
    j->from_held = true;
    if (!take_pages(k, &k->d[d], &j->to, pages)) {
        j->from_held = false;
        free_pages(k, &k->p[p], &j->from);
        return;
    }
    kvt_job head = {.request = 100 + c->count / 3,
                    .attempt = 1,
                    .group = c->count % 3,
                    .sequence = c->count,
                    .layer_first = (uint32_t)kvrun_draw(k, KVRUN_LAYERS)};
    head.layers = 1 + (uint32_t)kvrun_draw(k, KVRUN_LAYERS - head.layer_first);
    head.pages_count = pages;
    memcpy(head.pages, j->from.pages, sizeof head.pages);
    j->from = head;
    memcpy(head.pages, j->to.pages, sizeof head.pages);
    j->to = head;
    j->from.junk = kvrun_chance(k, 6);
    for (uint32_t l = 0; l < head.layers; l++) {
        for (uint32_t i = 0; i < pages; i++) {
            memcpy(j->bytes[l][i], k->p[p].bytes[head.layer_first + l][j->from.pages[i]],
                   KVRUN_UNIT);
        }
    }
    j->to_held = true;
    j->posted_us = kvapi_time_us;
    j->told_us = kvapi_time_us + (int64_t)kvrun_draw(k, 4000);
    c->count++;
    k->counts.jobs++;
    kvapi_now = &c->far;
    if (kvt_post(c->receiver, &j->to) != KVT_DONE && !c->cause) {
        kvrun_fail(k, "P%d to D%d: a post is refused", c->p, c->d);
    }
}

/* Arrivals are adopted: used, and later somebody else's. */
static void adopt(kvrun *k, int d) {
    for (int i = 0; i < KVRUN_CHANNELS; i++) {
        kvrun_channel *c = &k->channels[i];
        for (uint32_t s = 0; c->used && c->d == d && s < c->received; s++) {
            if (c->jobs[s].to_held) {
                c->jobs[s].to_held = false;
                free_pages(k, &k->d[d], &c->jobs[s].to);
            }
        }
    }
}

void kvpair_work(kvrun *k) {
    for (unsigned d = 0; d < k->receivers; d++) {
        kvrun_worker *w = &k->d[d];
        if (!kvfleet_polls(k, w) || kvapi_time_us < w->gated_us) {
            continue;
        }
        adopt(k, (int)d);
        if (w->state == KVRUN_UP && !k->ending && kvrun_chance(k, 25)) {
            new_job(k, (int)d);
        }
        if (!k->ending && kvrun_draw(k, 1500) == 0) {
            w->gated_us = kvapi_time_us + (int64_t)kvrun_draw(k, 3 * KVRUN_TRANSFER_US);
            k->counts.gates++;
        }
    }
}

/* ---- a side's turn --------------------------------------------------------------------------- */

/* Whether something may end the channel: what happened to it, or a fault of its communicators. */
static bool has_cause(const kvrun *k, kvrun_channel *c) {
    c->cause = c->cause || (k->slow && !c->ipc);
    for (unsigned f = 0; f < k->faults_count; f++) {
        c->cause = c->cause || (c->near.joined_us && c->near.number == k->faults[f]) ||
                   (c->far.joined_us && c->far.number == k->faults[f]);
    }
    return c->cause;
}

static int64_t later(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static void failed(kvrun *k, kvrun_channel *c, bool sender) {
    const kvt *side = sender ? c->sender : c->receiver;
    kvrun_note(k, "P%d to D%d: %s fails: %s", c->p, c->d, sender ? "P" : "D", devpair_reason(side));
    k->moved++;
    if (!has_cause(k, c)) {
        kvrun_fail(k, "P%d to D%d: %s failed without a cause: %s", c->p, c->d, sender ? "P" : "D",
                   devpair_reason(side));
    }
    if (sender) { /* whose owner has other things to do, too */
        c->closes_us = kvapi_time_us + (int64_t)kvrun_draw(k, KVRUN_CLOSING_US);
    } else {
        kvpair_close_receiver(k, c);
    }
}

static void send_next(kvrun *k, kvrun_channel *c) {
    kvrun_job *j = &c->jobs[c->taken];
    if (c->taken == c->count || kvapi_time_us < j->told_us ||
        kvt_send(c->sender, &j->from) != KVT_DONE) {
        return;
    }
    if (c->taken == c->sent) {
        c->oldest_us = kvapi_time_us;
    }
    c->taken++;
    k->moved++;
}

static void sender_turn(kvrun *k, kvrun_channel *c) {
    uint32_t sequence;
    unsigned receives = c->near.receives;
    bool joined = c->near.joined_us != 0;
    if (c->closes_us) {
        if (kvapi_time_us >= c->closes_us) {
            kvpair_close_sender(k, c);
        }
        return;
    }
    kvapi_now = &c->near;
    send_next(k, c);
    while (!k->why[0] && kvt_sent(c->sender, &sequence)) {
        if (sequence != c->sent || c->sent == c->taken) {
            kvrun_fail(k, "P%d to D%d: send %u ended, not %u", c->p, c->d, sequence, c->sent);
            return;
        }
        c->jobs[c->sent].from_held = false;
        free_pages(k, &k->p[c->p], &c->jobs[c->sent].from);
        c->sent++;
        c->oldest_us = kvapi_time_us;
        k->moved++;
    }
    k->moved += receives != c->near.receives || joined != (c->near.joined_us != 0);
    if (kvt_failed(c->sender)) {
        failed(k, c, true);
        return;
    }
    int64_t limit = KVRUN_TRANSFER_US + KVRUN_SLACK_US + (c->sent == 0 ? KVRUN_SETUP_US : 0);
    int64_t since = later(c->oldest_us, k->p[c->p].thawed_us);
    if (c->taken > c->sent && kvapi_time_us > since + limit) {
        kvrun_fail(k, "P%d to D%d: send %u is under way for %lld ms", c->p, c->d, c->sent,
                   (long long)(kvapi_time_us - since) / 1000);
    }
}

/* The bytes of job `j`, in the pages it named, and in no other layer of them. */
static bool right_bytes(const kvrun *k, const kvrun_channel *c, const kvrun_job *j) {
    const kvrun_worker *w = &k->d[c->d];
    for (uint32_t l = 0; l < KVRUN_LAYERS; l++) {
        bool moved = l >= j->to.layer_first && l < j->to.layer_first + j->to.layers;
        for (uint32_t i = 0; i < j->to.pages_count; i++) {
            uint32_t page = j->to.pages[i];
            const uint8_t *want = moved ? j->bytes[l - j->to.layer_first][i] : w->want[l][page];
            if (memcmp(w->bytes[l][page], want, KVRUN_UNIT) != 0) {
                return false;
            }
        }
    }
    return true;
}

static void arrived(kvrun *k, kvrun_channel *c, const kvt_arrival *a) {
    kvrun_job *j = &c->jobs[c->received];
    if (a->sequence != c->received) {
        kvrun_fail(k, "P%d to D%d: post %u ended, not %u", c->p, c->d, a->sequence, c->received);
        return;
    }
    j->arrived = true;
    c->received++;
    k->moved++;
    c->moved += a->outcome == KVT_ARRIVED;
    c->arrived_us = kvapi_time_us;
    k->counts.arrived += a->outcome == KVT_ARRIVED;
    k->counts.junk += a->outcome == KVT_JUNK;
    if (a->outcome == KVT_ARRIVED && c->stale) {
        kvrun_fail(k, "P%d to D%d: another life's bytes were taken", c->p, c->d);
    } else if (a->outcome == KVT_DAMAGED && !has_cause(k, c)) {
        kvrun_fail(k, "P%d to D%d: post %u: damaged, and nothing does that", c->p, c->d,
                   a->sequence);
    } else if (a->outcome != KVT_DAMAGED && (a->outcome == KVT_JUNK) != j->from.junk) {
        kvrun_fail(k, "P%d to D%d: post %u: junk or not?", c->p, c->d, a->sequence);
    } else if (a->outcome == KVT_ARRIVED && !right_bytes(k, c, j)) {
        kvrun_fail(k, "P%d to D%d: post %u: wrong bytes", c->p, c->d, a->sequence);
    }
}

/* A receive that is posted has a limit of its own, whatever has become of the peer. */
static bool late_receive(const kvrun *k, const kvrun_channel *c) {
    unsigned oldest = c->moved + 1; /* after the warm-up's */
    if (oldest >= c->far.receives) {
        return false;
    }
    int64_t since = later(later(c->far.received_us[oldest], c->arrived_us), k->d[c->d].thawed_us);
    return kvapi_time_us > since + KVRUN_TRANSFER_US + KVRUN_SLACK_US;
}

static void receiver_turn(kvrun *k, kvrun_channel *c) {
    kvt_arrival a;
    kvt_result r;
    unsigned receives = c->far.receives;
    bool joined = c->far.joined_us != 0;
    if (KVTPLANTED(POST_BY_SCHEDULER) && kvapi_time_us < k->d[c->d].gated_us) {
        return;
    }
    kvapi_now = &c->far;
    while ((r = kvt_receive(c->receiver, &a)) == KVT_DONE && !k->why[0]) {
        arrived(k, c, &a);
    }
    k->moved += receives != c->far.receives || joined != (c->far.joined_us != 0);
    if (r == KVT_FAILED) {
        failed(k, c, false);
        return;
    }
    if (late_receive(k, c)) {
        kvrun_fail(k, "P%d to D%d: a posted receive waits longer than its deadline", c->p, c->d);
    }
    const kvrun_job *oldest = &c->jobs[c->received];
    if (c->received == c->count) {
        return;
    }
    if (kvapi_time_us > oldest->posted_us + KVRUN_LEASE_US) {
        if (!has_cause(k, c)) {
            kvrun_fail(k, "P%d to D%d: post %u outlived its lease without a cause", c->p, c->d,
                       c->received);
        }
        kvrun_note(k, "P%d to D%d: the lease of post %u ends", c->p, c->d, c->received);
        c->cause = true;
        kvpair_close_receiver(k, c);
    }
}

void kvpair_turn(kvrun *k, kvrun_channel *c) {
    bool first = kvrun_chance(k, 50);
    for (int i = 0; i < 2 && !k->why[0]; i++) {
        if (first == (i == 0)) {
            if (c->used && c->sender && kvfleet_polls(k, &k->p[c->p]) && !kvrun_chance(k, 20)) {
                sender_turn(k, c);
            }
        } else if (c->used && c->receiver && kvfleet_polls(k, &k->d[c->d]) &&
                   !kvrun_chance(k, 20)) {
            receiver_turn(k, c);
        }
    }
}
