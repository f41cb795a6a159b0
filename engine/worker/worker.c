/* worker.c -- set-up, and the owner's loop:
 *
 *     read what came -> core -> act -> plan a step if none runs -> write what goes out -> sleep
 *
 * Every call into the core is followed by `act`, which carries out its actions. A link that breaks
 * while actions are carried out is only marked; it is dropped between two core calls, because the
 * core wants all its actions taken before it hears of anything new. */
#define _GNU_SOURCE
#include "engine/worker/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/worker/peers.h"
#include "engine/worker/stepper.h"
#include "engine/worker/workstats.h"
#include "kvtransfer/layout.h"
#include "models/arch/model.h"

enum {
    EVENTS_MAX = 64,
    FRAMES_PER_TURN = 64, /* messages read from one link before the others get their turn */
    METRICS_US = 1000000,
    TAG_STEPPER = 0,
    TAG_SIGNAL = 1
};

typedef struct {
    const worker_options *options;
    backend *backend;
    model *model;
    const model_info *info;
    arena arena;
    core *core;
    stepper *stepper;
    workstats *stats;
    peers peers;
    message_scratch *scratch;
    strbuf encoded;
    strbuf snapshot;
    int signal_fd;
    int32_t step_rows;
    int64_t metrics_due_us;
    bool was_busy;
    bool draining;
    bool ended; /* the gateway is gone, or the drain is done */
    status failed;
    diag *d;
} worker;

/* ---- pool and layout ------------------------------------------------------------------------ */

static uint8_t *pool_page(void *context, uint32_t layer, uint32_t page) {
    return model_kv_page(context, (int32_t)layer, page);
}

static kvt_pool pool_of(const worker *w) {
    return (kvt_pool){pool_page, w->model, w->info->kv_layer_page_bytes};
}

static layout my_layout(const worker *w) {
    return (layout){.protocol = MESSAGE_VERSION,
                    .model_hash = w->info->file_hash,
                    .layers = (uint32_t)w->info->layers,
                    .page_tokens = LIMIT_PAGE_TOKENS,
                    .layer_page_bytes = w->info->kv_layer_page_bytes,
                    .kv_layout = str_from(w->info->kv_layout),
                    .numerics = str_from(w->info->numerics)};
}

/* ---- messages out --------------------------------------------------------------------------- */

static void send_message(worker *w, uint32_t slot, const message *m) {
    strbuf_clear(&w->encoded);
    if (message_encode(m, &w->encoded) != STATUS_OK) {
        w->peers.slots[slot].doomed = true;
        return;
    }
    peers_send(&w->peers, slot, strbuf_str(&w->encoded));
}

static void send_hello(worker *w, uint32_t slot) {
    layout mine = my_layout(w);
    message m = {.type = MESSAGE_HELLO};
    m.hello = (message_hello){.version = MESSAGE_VERSION,
                              .worker = w->options->worker,
                              .epoch = w->options->epoch,
                              .roles = w->options->roles,
                              .pid = (uint32_t)getpid(),
                              .model_hash = mine.model_hash,
                              .layers = mine.layers,
                              .page_tokens = mine.page_tokens,
                              .kv_layer_page_bytes = mine.layer_page_bytes,
                              .pages = 0,
                              .context_tokens = (uint32_t)w->info->context_tokens,
                              .vocab = (uint32_t)w->info->vocab,
                              .numerics = mine.numerics,
                              .kv_layout = mine.kv_layout};
    core_stats s;
    core_get_stats(w->core, &s);
    m.hello.pages = s.pages_total;
    send_message(w, slot, &m);
}

static void send_metrics(worker *w, int64_t now_us) {
    workstats_refresh(w->stats, w->core, now_us);
    strbuf_clear(&w->snapshot);
    workstats_snapshot(w->stats, &w->snapshot);
    if (!w->snapshot.failed) {
        message m = {.type = MESSAGE_METRICS, .metrics = strbuf_str(&w->snapshot)};
        send_message(w, 0, &m);
    }
    w->metrics_due_us = now_us + METRICS_US;
}

/* ---- actions -------------------------------------------------------------------------------- */

static kvt_job job_of(const core_transfer *t) {
    kvt_job j = {.request = t->request,
                 .attempt = t->attempt,
                 .group = t->group,
                 .sequence = t->sequence,
                 .layer_first = t->layer_first,
                 .layers = t->layers,
                 .pages_count = t->junk ? 0 : t->pages_count,
                 .junk = t->junk};
    CHECK_LE(j.pages_count, KVT_JOB_PAGES);
    for (uint32_t i = 0; i < j.pages_count; i++) {
        j.pages[i] = t->pages[i];
    }
    return j;
}

static void act_send(worker *w, const core_action *a) {
    peer *p = &w->peers.slots[a->peer];
    if (a->message.type == MESSAGE_HANDOFF) {
        workstats_handed(w->stats, a->message.request, a->message.attempt, clock_now_us());
        if (FAILPOINT("prefill.before_handoff")) {
            p->doomed = true;
            return;
        }
    }
    if (a->message.type == MESSAGE_ADOPTED && FAILPOINT("decode.before_adopted")) {
        p->doomed = true;
        return;
    }
    send_message(w, a->peer, &a->message);
}

static void act_one(worker *w, const core_action *a) {
    peer *p = &w->peers.slots[a->peer];
    if (!p->used || p->doomed) {
        return; /* the core hears of its end next */
    }
    kvt_job job;
    switch (a->kind) {
        case CORE_SEND:
            act_send(w, a);
            break;
        case CORE_TRANSFER_SEND:
            job = job_of(&a->transfer);
            peers_push(&w->peers, a->peer, &job);
            break;
        case CORE_TRANSFER_RECEIVE:
            job = job_of(&a->transfer);
            if (!p->receiver || kvt_post(p->receiver, &job) != KVT_DONE) {
                p->doomed = true;
            }
            break;
        case CORE_CLOSE:
            p->doomed = true;
            break;
    }
}

static void drain_actions(worker *w) {
    core_action a;
    while (core_next(w->core, &a)) {
        act_one(w, &a);
    }
}

static void drop_peer(worker *w, uint32_t slot) {
    peer *p = &w->peers.slots[slot];
    LOG(INFO, "peers", "link ended", "slot=%u kind=%s worker=%u", slot,
        p->kind == CORE_GATEWAY ? "gateway" : "worker", p->worker);
    if (p->kind == CORE_GATEWAY) {
        w->ended = true;
    }
    peers_drop(&w->peers, slot);
    core_link_down(w->core, slot, clock_now_us());
    drain_actions(w);
}

/* Carries out what the core wants, and tells it of the links that broke meanwhile. */
static void act(worker *w) {
    drain_actions(w);
    for (uint32_t i = 0; i < PEERS_MAX; i++) {
        if (w->peers.slots[i].used && w->peers.slots[i].doomed) {
            drop_peer(w, i);
            i = UINT32_MAX; /* dropping one may doom another */
        }
    }
}

/* ---- messages in ---------------------------------------------------------------------------- */

/* The gateway passes a socket to another worker. Whoever prefills offers the ring. */
static void on_peer(worker *w, const message *m, int fd) {
    diag d;
    uint32_t slot;
    uint32_t old = peers_find(&w->peers, m->peer.worker);
    if (old < PEERS_MAX) {
        drop_peer(w, old); /* its next life has come before the end of this one was read */
    }
    if (peers_add(&w->peers, fd, CORE_WORKER, &m->peer, &slot, &d) != STATUS_OK) {
        LOG(ERROR, "peers", "cannot join a worker", "worker=%u why=\"%s\"", m->peer.worker, d.text);
        return;
    }
    peer *p = &w->peers.slots[slot];
    send_hello(w, slot);
    core_link_up(w->core, slot, CORE_WORKER, m->peer.worker, m->peer.epoch, clock_now_us());
    if ((w->options->roles & MESSAGE_ROLE_PREFILL) && (m->peer.roles & MESSAGE_ROLE_DECODE)) {
        kvt_pool pool = pool_of(w);
        if (shm_offer(&pool, w->options->ring_bytes, w->options->epoch, p->wire, &p->sender, &d) !=
                STATUS_OK ||
            peers_watch(&w->peers, slot, PEERS_SENDER, kvt_event_fd(p->sender)) != STATUS_OK) {
            LOG(ERROR, "kvt", "no channel to a worker", "worker=%u why=\"%s\"", m->peer.worker,
                d.text);
            p->doomed = true;
        }
    }
}

static void on_hello(worker *w, uint32_t slot, const message *m) {
    peer *p = &w->peers.slots[slot];
    layout mine = my_layout(w);
    layout theirs = {.protocol = m->hello.version,
                     .model_hash = m->hello.model_hash,
                     .layers = m->hello.layers,
                     .page_tokens = m->hello.page_tokens,
                     .layer_page_bytes = m->hello.kv_layer_page_bytes,
                     .kv_layout = m->hello.kv_layout,
                     .numerics = m->hello.numerics};
    diag d;
    if (m->hello.worker != p->worker || m->hello.epoch != p->epoch) {
        LOG(WARN, "peers", "not who was announced", "worker=%u", p->worker);
        p->doomed = true;
    } else if (layout_check(&mine, &theirs, &d) != STATUS_OK) {
        LOG(ERROR, "peers", "cannot work together", "worker=%u why=\"%s\"", p->worker, d.text);
        p->doomed = true;
    } else {
        LOG(INFO, "peers", "joined", "worker=%u epoch=%llu transport=shm", p->worker,
            (unsigned long long)p->epoch);
        p->greeted = true;
    }
}

static void on_offer(worker *w, uint32_t slot, str bytes, int fd) {
    peer *p = &w->peers.slots[slot];
    kvt_pool pool = pool_of(w);
    kvt *channel;
    diag d;
    if (p->receiver || p->kind != CORE_WORKER) {
        (void)close(fd);
        p->doomed = true;
        return;
    }
    if (shm_accept(&p->offer, &pool, bytes, fd, &channel, &d) != STATUS_OK) {
        LOG(WARN, "kvt", "channel refused", "worker=%u why=\"%s\"", p->worker, d.text);
        p->doomed = true;
    } else if (channel) {
        p->receiver = channel;
        p->doomed =
            peers_watch(&w->peers, slot, PEERS_RECEIVER, kvt_event_fd(channel)) != STATUS_OK;
    }
}

static void on_message(worker *w, uint32_t slot, const message *m, int fd) {
    peer *p = &w->peers.slots[slot];
    if (m->type == MESSAGE_PEER && p->kind == CORE_GATEWAY && fd >= 0) {
        on_peer(w, m, fd);
        return;
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    if (m->type == MESSAGE_HELLO) {
        if (p->kind == CORE_WORKER) {
            on_hello(w, slot, m);
        }
        return;
    }
    if (m->type == MESSAGE_PEER || m->type == MESSAGE_METRICS ||
        (p->kind == CORE_WORKER && !p->greeted)) {
        p->doomed = true;
        return;
    }
    if (m->type == MESSAGE_ADOPTED) {
        workstats_adopted(w->stats, m->request, m->attempt, clock_now_us());
    }
    if (m->type == MESSAGE_DRAIN) {
        w->draining = true;
    }
    core_message(w->core, slot, m, clock_now_us());
}

static void read_wire(worker *w, uint32_t slot) {
    for (int i = 0; i < FRAMES_PER_TURN; i++) {
        peer *p = &w->peers.slots[slot];
        str bytes;
        int fd;
        if (!p->used || p->doomed) {
            return;
        }
        wire_result r = wire_receive(p->wire, &bytes, &fd);
        if (r == WIRE_AGAIN) {
            return;
        }
        if (r == WIRE_CLOSED) {
            p->doomed = true;
        } else if (shm_is_offer(bytes)) {
            on_offer(w, slot, bytes, fd);
        } else {
            message m;
            diag d;
            if (message_decode(bytes, w->scratch, &m, &d) != STATUS_OK) {
                LOG(WARN, "peers", "malformed message", "slot=%u why=\"%s\"", slot, d.text);
                p->doomed = true;
                if (fd >= 0) {
                    (void)close(fd);
                }
            } else {
                on_message(w, slot, &m, fd);
            }
        }
        act(w);
    }
}

/* ---- pages ---------------------------------------------------------------------------------- */

static void take_sent(worker *w, uint32_t slot) {
    uint32_t sequence;
    while (w->peers.slots[slot].used && w->peers.slots[slot].sender &&
           kvt_sent(w->peers.slots[slot].sender, &sequence)) {
        core_sent(w->core, slot, sequence, clock_now_us());
        act(w);
    }
}

static void take_received(worker *w, uint32_t slot) {
    static const core_received_result results[] = {[KVT_ARRIVED] = CORE_RECEIVED_OK,
                                                   [KVT_JUNK] = CORE_RECEIVED_JUNK,
                                                   [KVT_DAMAGED] = CORE_RECEIVED_DAMAGED};
    for (;;) {
        peer *p = &w->peers.slots[slot];
        kvt_arrival arrival;
        if (!p->used || p->doomed || !p->receiver) {
            return;
        }
        kvt_result r = kvt_receive(p->receiver, &arrival);
        if (r == KVT_AGAIN) {
            return;
        }
        if (r == KVT_FAILED) {
            LOG(WARN, "kvt", "channel broken", "worker=%u", p->worker);
            p->doomed = true;
        } else {
            workstats_copied(w->stats, arrival.bytes, arrival.copy_us);
            core_received(w->core, slot, arrival.sequence, results[arrival.outcome],
                          clock_now_us());
        }
        act(w);
    }
}

/* Sends may have completed and posts may have met data that was there already. */
static void move_pages(worker *w) {
    for (uint32_t i = 0; i < PEERS_MAX; i++) {
        peer *p = &w->peers.slots[i];
        if (p->used && p->kind == CORE_WORKER) {
            if (p->sender) {
                peers_retry(&w->peers, i);
                act(w);
                take_sent(w, i);
            }
            take_received(w, i);
        }
    }
}

/* ---- steps ---------------------------------------------------------------------------------- */

static void step_events(worker *w) {
    int32_t layers_done = stepper_progress(w->stepper);
    stepper_result result;
    status failed;
    if (stepper_finished(w->stepper, &result, &failed)) {
        if (failed != STATUS_OK) {
            w->failed = status_fail(w->d, failed, "the model's step failed");
            w->ended = true;
            return;
        }
        workstats_step(w->stats, w->step_rows, result.busy_us);
        core_commit(w->core, result.results, result.count, clock_now_us());
        act(w);
    } else if (stepper_running(w->stepper) && layers_done > 0) {
        core_progress(w->core, layers_done, clock_now_us());
        act(w);
    }
}

static void start_step(worker *w) {
    core_batch batch;
    if (stepper_running(w->stepper)) {
        return;
    }
    bool any = core_plan(w->core, clock_now_us(), &batch);
    if (any) {
        if (FAILPOINT("worker.before_step")) {
            w->failed = status_fail(w->d, STATUS_DEVICE, "failpoint worker.before_step");
            w->ended = true;
        }
        w->step_rows = batch.rows;
        stepper_start(w->stepper, &batch);
    }
    act(w);
    if (!any && w->was_busy) {
        w->metrics_due_us = 0; /* numbers that nothing will change soon are worth sending now */
    }
    w->was_busy = any;
}

/* ---- loop ----------------------------------------------------------------------------------- */

static void handle_event(worker *w, const struct epoll_event *e) {
    uint32_t slot = (uint32_t)e->data.u64;
    peer *p = &w->peers.slots[slot];
    switch ((peers_event)(e->data.u64 >> 32)) {
        case PEERS_WIRE:
            read_wire(w, slot);
            break;
        case PEERS_SENDER:
            if (p->used && p->sender) {
                kvt_event_clear(p->sender);
            }
            break;
        case PEERS_RECEIVER:
            if (p->used && p->receiver) {
                kvt_event_clear(p->receiver);
            }
            break;
        case PEERS_OTHER:
            if (slot == TAG_STEPPER) {
                step_events(w);
            } else {
                LOG(INFO, "worker", "draining", "signal=SIGTERM");
                struct signalfd_siginfo info;
                ssize_t n = read(w->signal_fd, &info, sizeof info);
                (void)n;
                w->draining = true;
                core_drain(w->core);
                act(w);
            }
            break;
    }
}

static int wait_ms(const worker *w, int64_t now_us) {
    int64_t due = core_deadline_us(w->core);
    if (w->metrics_due_us < due) {
        due = w->metrics_due_us;
    }
    int64_t us = due - now_us;
    if (us <= 0) {
        return 0;
    }
    return us > 1000000 ? 1000 : (int)(us / 1000) + 1;
}

static void timers(worker *w) {
    int64_t now = clock_now_us();
    if (now >= core_deadline_us(w->core)) {
        core_tick(w->core, now);
        act(w);
    }
    if (now >= w->metrics_due_us && !w->ended) {
        send_metrics(w, now);
        act(w);
    }
}

static void loop(worker *w) {
    struct epoll_event events[EVENTS_MAX];
    while (!w->ended) {
        int n = epoll_wait(w->peers.epoll_fd, events, EVENTS_MAX, wait_ms(w, clock_now_us()));
        if (n < 0 && errno != EINTR) {
            w->failed = status_fail_errno(w->d, STATUS_IO, "epoll");
            return;
        }
        for (int i = 0; i < n && !w->ended; i++) {
            handle_event(w, &events[i]);
        }
        if (w->ended) {
            break;
        }
        move_pages(w);
        timers(w);
        start_step(w);
        peers_flush(&w->peers);
        if (w->draining && core_idle(w->core)) {
            LOG(INFO, "worker", "drained", "%s", "");
            return;
        }
    }
}

/* ---- set-up --------------------------------------------------------------------------------- */

static core_options core_settings(const worker *w, uint32_t pages) {
    const worker_options *o = w->options;
    layout_group cut = layout_cut((uint32_t)w->info->layers, w->info->kv_layer_page_bytes,
                                  o->group_bytes, KVT_JOB_PAGES);
    uint32_t chunk_pages = (uint32_t)o->prefill_chunk_tokens / LIMIT_PAGE_TOKENS;
    uint32_t cells = cut.pages * cut.layers;
    uint32_t least =
        (uint32_t)w->info->layers > chunk_pages ? (uint32_t)w->info->layers : chunk_pages;
    core_options c = {.roles = o->roles,
                      .pages = pages,
                      .layers = (uint32_t)w->info->layers,
                      .context_tokens = w->info->context_tokens,
                      .seqs_max = o->seqs_max,
                      .queue_max = 4096,
                      .step_tokens_max = o->prefill_chunk_tokens + o->seqs_max + LIMIT_PAGE_TOKENS,
                      .logit_rows_max = o->seqs_max + 32,
                      .prefill_chunk_tokens = o->prefill_chunk_tokens,
                      .headroom_tokens = 64,
                      .group_layers = cut.layers < 8 ? cut.layers : 8,
                      .group_cells_max = cells > least ? cells : least,
                      .peers_max = PEERS_MAX,
                      .tombstones_max = 4096,
                      .lease_us = 30000000,
                      .queue_deadline_us = 30000000,
                      .quarantine_us = 30000000,
                      .heartbeat_us = 250000,
                      .silence_us = 3000000};
    return c;
}

static status open_core(worker *w, uint32_t pages) {
    core_options c = core_settings(w, pages);
    hash_key key;
    TRY(hash_key_random(&key, w->d));
    c.hash_key[0] = key.k0;
    c.hash_key[1] = key.k1;
    status s = arena_open(&w->arena, core_bytes(&c) + (64u << 20));
    if (s != STATUS_OK) {
        return status_fail(w->d, s, "no memory for the engine's tables");
    }
    TRY(core_create(&w->arena, &c, &w->core, w->d));
    s = workstats_open(&w->arena, w->info->kv_layer_page_bytes, clock_now_us(), &w->stats);
    if (s != STATUS_OK) {
        return status_fail(w->d, s, "no memory for the metrics");
    }
    stepper_options so = {.model = w->model,
                          .seqs_max = c.step_tokens_max,
                          .logit_rows_max = c.logit_rows_max,
                          .wants_max = c.logit_rows_max + LIMIT_CHOICES * c.seqs_max,
                          .eog = w->options->eog,
                          .eog_count = w->options->eog_count,
                          .progress_layers = (int32_t)c.group_layers};
    return stepper_open(&so, &w->stepper, w->d);
}

static status open_model(worker *w, uint32_t *pages) {
    const worker_options *o = w->options;
    backend_options bo = {.threads = o->threads};
    TRY(backend_open(o->backend, &bo, &w->backend, w->d));
    model_options mo = {.path = o->model_path,
                        .device = w->backend,
                        .kv_bytes = o->kv_bytes,
                        .kv_type = o->kv_type,
                        .activations = o->activations,
                        .context_tokens = o->context_tokens,
                        .rows_max = o->prefill_chunk_tokens + o->seqs_max + LIMIT_PAGE_TOKENS,
                        .logit_rows_max = o->seqs_max + 32};
    TRY(model_open(&mo, &w->model, w->d));
    w->info = model_get_info(w->model);
    *pages = w->info->kv_pages;
    return STATUS_OK;
}

static status open_links(worker *w) {
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    TRY(peers_open(&w->peers, w->d));
    if ((w->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC)) < 0 ||
        peers_watch(&w->peers, TAG_SIGNAL, PEERS_OTHER, w->signal_fd) != STATUS_OK ||
        peers_watch(&w->peers, TAG_STEPPER, PEERS_OTHER, stepper_fd(w->stepper)) != STATUS_OK) {
        return status_fail_errno(w->d, STATUS_IO, "setting up the worker's descriptors");
    }
    status s = message_scratch_open(&w->scratch);
    if (s != STATUS_OK) {
        return status_fail(w->d, s, "no memory for messages");
    }
    uint32_t slot;
    message_peer gateway = {.worker = MESSAGE_NO_WORKER};
    TRY(peers_add(&w->peers, w->options->gateway_fd, CORE_GATEWAY, &gateway, &slot, w->d));
    CHECK_EQ(slot, 0);
    send_hello(w, slot);
    core_link_up(w->core, slot, CORE_GATEWAY, MESSAGE_NO_WORKER, 0, clock_now_us());
    act(w);
    return STATUS_OK;
}

/* Before any thread starts: a thread that does not block SIGTERM would take it and end the process.
 * Ctrl-C is the gateway's, which drains its workers. */
static void settle_signals(void) {
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGINT, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
    /* Whatever ends the parent ends this process: nothing is left behind. */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
}

status worker_run(const worker_options *options, diag *d) {
    worker w = {.options = options,
                .encoded = strbuf_make(LIMIT_MESSAGE_BYTES),
                .snapshot = strbuf_make(1 << 20),
                .signal_fd = -1,
                .peers = {.epoll_fd = -1},
                .d = d};
    settle_signals();
    uint32_t pages = 0;
    int64_t started = clock_now_us();
    status s = open_model(&w, &pages);
    if (s == STATUS_OK) {
        s = open_core(&w, pages);
    }
    if (s == STATUS_OK) {
        s = open_links(&w);
    }
    if (s == STATUS_OK) {
        LOG(INFO, "worker", "ready", "model=\"%s\" numerics=%s pages=%u load_ms=%lld", w.info->name,
            w.info->numerics, pages, (long long)(clock_now_us() - started) / 1000);
        loop(&w);
        s = w.failed;
    }
    stepper_close(w.stepper);
    if (w.peers.epoll_fd >= 0) {
        peers_flush(&w.peers);
        peers_close(&w.peers);
    }
    message_scratch_close(w.scratch);
    strbuf_close(&w.encoded);
    strbuf_close(&w.snapshot);
    if (w.signal_fd >= 0) {
        (void)close(w.signal_fd);
    }
    arena_close(&w.arena);
    model_close(w.model);
    backend_close(w.backend);
    return s;
}
