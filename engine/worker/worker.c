/* worker.c -- set-up, and the owner's loop:
 *
 *     read what came -> core -> act -> plan a step if none runs -> write what goes out -> sleep
 */
#define _GNU_SOURCE
#include "engine/worker/worker.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "engine/net/mesh.h"
#include "engine/worker/channels.h"
#include "engine/worker/hosts.h"
#include "engine/worker/workio.h"
#include "kvtransfer/layout.h"

enum {
    EVENTS_MAX = 64,
    LEAVE_US = 1000000, /* after everything was handed back */
    TAG_STEPPER = 0,
    TAG_SIGNAL = 1,
    TAG_HOSTS = 2,
    TAG_DECODE_STEPPER = 3
};

/* ---- steps ---------------------------------------------------------------------------------- */

static uint32_t lanes_count(const worker_state *w) {
    return w->lanes.on ? CORE_LANES : 1;
}

static stepper *lane_stepper(const worker_state *w, core_lane lane) {
    return lane == CORE_LANE_DECODE ? w->lanes.stepper : w->stepper;
}

static bool any_runs(const worker_state *w) {
    return stepper_running(w->stepper) || (w->lanes.on && stepper_running(w->lanes.stepper));
}

/* The device is busy while any lane is. Two steps that overlap are told apart no further: what the
 * last of them to end took on the host is the host's. */
static void account_step(worker_state *w, const stepper_result *result, int64_t now) {
    int64_t computed_us = result->computed_us;
    if (any_runs(w)) {
        return;
    }
    if (w->lanes.on) {
        computed_us = now - w->waste.since_us - (result->busy_us - result->computed_us);
    }
    waste_stepped(&w->waste, computed_us > 0 ? computed_us : 0, now);
}

static void step_failed(worker_state *w, core_lane lane, status failed) {
    model *m = lane == CORE_LANE_DECODE ? w->lanes.model : w->model;
    const char *fault = m ? model_fault(m) : "";
    w->failed = status_fail(w->d, failed, "the model's step failed: %s%s%s", status_text(failed),
                            *fault ? ": " : "", fault);
    w->ended = true;
}

static void step_events(worker_state *w, core_lane lane) {
    stepper *its = lane_stepper(w, lane);
    int32_t layers_done = stepper_progress(its);
    stepper_result result;
    status failed;
    if (stepper_finished(its, &result, &failed)) {
        if (failed != STATUS_OK) {
            step_failed(w, lane, failed);
            return;
        }
        if (FAILPOINT("worker.after_step")) {
            w->failed = status_fail(w->d, STATUS_DEVICE, "failpoint worker.after_step");
            w->ended = true;
            return;
        }
        int64_t now = clock_now_us();
        workstats_step(w->stats, w->step_rows[lane], result.busy_us);
        if (w->step_prompts[lane]) {
            channels_stepped(w, w->step_rows[lane], result.computed_us);
        }
        account_step(w, &result, now);
        trace_span(w->trace.trace, lane, "step", now - result.busy_us, now, 0);
        core_commit(w->core, lane, result.results, result.count, clock_now_us());
        workio_act(w);
    } else if (stepper_running(its) && layers_done > 0 && lane == CORE_LANE_PROMPTS) {
        core_progress(w->core, layers_done, clock_now_us());
        workio_act(w);
    }
}

/* Cores are worth more to prompts than to decoding, whose tokens are read one after another: while
 * another worker computes prompts, this one's steps begin the pace apart and the cores are lent in
 * between. Lent time counts as busy, for the borrower counts only cores of its own. */
static bool lends(const worker_state *w, int64_t now_us) {
    return w->was_busy && !w->lanes.on && !(core_roles(w->core) & MESSAGE_ROLE_PREFILL) &&
           now_us < w->step_began_us + w->options->pace_us && cores_wanted(&w->cores);
}

/* Plans the lane's next step, and starts it. */
static void start_lane(worker_state *w, core_lane lane) {
    core_batch batch;
    if (stepper_running(lane_stepper(w, lane))) {
        return;
    }
    if (core_plan(w->core, lane, clock_now_us(), &batch)) {
        if (FAILPOINT("worker.before_step")) {
            w->failed = status_fail(w->d, STATUS_DEVICE, "failpoint worker.before_step");
            w->ended = true;
        }
        w->step_began_us = clock_now_us();
        w->step_rows[lane] = batch.rows;
        w->step_prompts[lane] = batch.rows > batch.seqs_count;
        workstats_cost(w->stats, &batch);
        stepper_start(lane_stepper(w, lane), &batch);
    }
    workio_act(w);
}

/* To the workers beside this one, its lanes are one. */
static void tell_cores(worker_state *w) {
    bool prompts = stepper_running(w->stepper);
    cores_work(&w->cores, prompts ? CORES_PROMPTS : any_runs(w) ? CORES_DECODES : CORES_IDLE);
}

static void start_step(worker_state *w) {
    if (stepper_running(w->stepper) && !w->lanes.on) {
        return;
    }
    w->lending = lends(w, clock_now_us());
    if (w->lending) {
        waste_enter(&w->waste, waste_pool_of(core_roles(w->core)), WASTE_BUSY, clock_now_us());
        return;
    }
    bool idle = core_idle(w->core);
    if (idle && !w->was_idle) {
        w->metrics_due_us = 0; /* that nothing is held any more is worth saying at once */
    }
    w->was_idle = idle;
    for (uint32_t lane = lanes_count(w); lane-- > 0;) {
        start_lane(w, lane); /* decoding first: its rows may wait for pages */
    }
    bool any = any_runs(w);
    if (w->lanes.on) {
        tell_cores(w);
    }
    waste_enter(&w->waste, waste_pool_of(core_roles(w->core)),
                any ? WASTE_BUSY : waste_stall(w->core), clock_now_us());
    if (!any && w->was_busy) {
        w->metrics_due_us = 0; /* numbers that nothing will change soon are worth sending now */
    }
    w->was_busy = any;
}

/* ---- loop ----------------------------------------------------------------------------------- */

static void handle_event(worker_state *w, const struct epoll_event *e) {
    uint32_t slot = (uint32_t)e->data.u64;
    peer *p = &w->peers.slots[slot];
    switch ((peers_event)(e->data.u64 >> 32)) {
        case PEERS_WIRE:
            workio_read(w, slot);
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
                step_events(w, CORE_LANE_PROMPTS);
            } else if (slot == TAG_DECODE_STEPPER) {
                step_events(w, CORE_LANE_DECODE);
            } else if (slot == TAG_SIGNAL) {
                LOG(INFO, "worker", "draining", "signal=SIGTERM");
                struct signalfd_siginfo info;
                ssize_t n = read(w->signal_fd, &info, sizeof info);
                (void)n;
                w->hand_back_us = w->draining ? clock_now_us() : 0; /* asked twice: at once */
                workio_drain(w);
                workio_act(w);
            } /* TAG_HOSTS: hosts_turn follows every wait */
            break;
    }
}

static int wait_ms(const worker_state *w, int64_t now_us) {
    int64_t due = core_deadline_us(w->core);
    if (w->metrics_due_us < due) {
        due = w->metrics_due_us;
    }
    if (w->held.used && w->held.due_us < due) {
        due = w->held.due_us;
    }
    if (w->draining) {
        int64_t end = w->hand_back_us + (w->handed_back ? LEAVE_US : 0);
        due = end < due ? end : due;
    }
    int64_t us = due - now_us;
    if (w->lending && us > 1000) {
        return 1; /* nobody says when the other's step ends */
    }
    if (us <= 0) {
        return 0;
    }
    return us > 1000000 ? 1000 : (int)(us / 1000) + 1;
}

static void timers(worker_state *w) {
    int64_t now = clock_now_us();
    if (now >= core_deadline_us(w->core)) {
        core_tick(w->core, now);
        workio_act(w);
    }
    if (now >= w->metrics_due_us && !w->ended) {
        workio_send_metrics(w, now);
        workio_act(w);
    }
}

/* A drain ends when nothing is left. At its deadline everything goes back to the gateways, which
 * give it to others; then only transfers under way are waited for, and not for long, as their other
 * side may never answer: the end of the links lets it go as well. */
static bool drained(worker_state *w) {
    int64_t now = clock_now_us();
    if (!w->draining || core_idle(w->core)) {
        return w->draining;
    }
    if (w->hand_back_us == 0) {
        w->hand_back_us = now + w->options->drain_us;
    }
    if (!w->handed_back && now >= w->hand_back_us) {
        core_hand_back(w->core, now);
        workio_act(w);
        peers_flush(&w->peers);
        core_stats stats;
        core_get_stats(w->core, &stats);
        LOG(INFO, "worker", "handed back", "requests=%llu", (unsigned long long)stats.handed_back);
        w->handed_back = true;
        w->hand_back_us = now;
    }
    return w->handed_back && now >= w->hand_back_us + LEAVE_US;
}

static void loop(worker_state *w) {
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
        hosts_turn(w, clock_now_us());
        workio_move_pages(w);
        channels_turn(w, clock_now_us());
        workio_act(w);
        timers(w);
        start_step(w);
        peers_flush(&w->peers);
        if (drained(w)) {
            LOG(INFO, "worker", "drained", "%s", "");
            return;
        }
    }
}

/* ---- set-up --------------------------------------------------------------------------------- */

/* Rows of the largest batch, and those whose logits it can want: the core plans within what the
 * model was opened for. */
static int32_t batch_rows_max(const worker_options *o) {
    return o->prefill_chunk_tokens + o->seqs_max + LIMIT_PAGE_TOKENS;
}

static int32_t batch_logit_rows_max(const worker_options *o) {
    return o->seqs_max + 32;
}

static core_options core_settings(const worker_state *w, uint32_t pages) {
    const worker_options *o = w->options;
    layout_group cut = layout_cut((uint32_t)w->info->layers, w->info->kv_layer_page_bytes,
                                  o->group_bytes, KVT_JOB_PAGES);
    uint32_t chunk_pages = (uint32_t)o->prefill_chunk_tokens / LIMIT_PAGE_TOKENS;
    uint32_t cells = cut.pages * cut.layers;
    uint32_t least =
        (uint32_t)w->info->layers > chunk_pages ? (uint32_t)w->info->layers : chunk_pages;
    uint32_t both = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE;
    core_options c = {.roles = message_roles_able(o->roles) & both,
                      .pages = pages,
                      .block_pages = w->block_pages,
                      .layers = (uint32_t)w->info->layers,
                      .context_tokens = w->info->context_tokens,
                      .seqs_max = o->seqs_max,
                      .queue_max = 4096,
                      .multiplex = o->multiplex,
                      .prompts_apart = w->prompts_apart,
                      .step_tokens_max = batch_rows_max(o),
                      .logit_rows_max = batch_logit_rows_max(o),
                      .prefill_chunk_tokens = o->prefill_chunk_tokens,
                      .headroom_tokens = 64,
                      .group_layers = cut.layers < 8 ? cut.layers : 8,
                      .group_cells_max = cells > least ? cells : least,
                      .peers_max = PEERS_MAX,
                      .tombstones_max = 4096,
                      .lease_us = 30000000,
                      .queue_deadline_us = o->queue_us,
                      .waste = &w->waste,
                      .quarantine_us = 30000000,
                      .heartbeat_us = 250000,
                      .silence_us = 3000000};
    return c;
}

/* What it has of its device, as the accounts see it, and what that costs. */
static status settle_accounts(worker_state *w, pricetable_entry *price) {
    const worker_options *o = w->options;
    bool gpu = w->backend && strcmp(w->backend->name, "cpu") != 0;
    double share = o->device_share;
    w->waste.unit = w->timed ? WASTE_TIMED : gpu ? WASTE_GPU : WASTE_CORE;
    if (share <= 0 && gpu) {
        double whole = BACKEND_MEMORY_FRACTION;
        share = o->memory_fraction < whole ? o->memory_fraction / whole : 1;
        share *= o->ranks > 1 ? o->ranks : 1;
    } else if (share <= 0) {
        share = w->timed ? 1 : o->threads_own;
    }
    w->waste.share_milli = (uint32_t)(share * 1000 + 0.5);
    *price = (pricetable_entry){0};
    if (!o->price_table || !o->price_table[0]) {
        return STATUS_OK;
    }
    const char *names[] = {w->timed ? "timed" : w->backend->isa,
                           w->timed ? "timed" : w->backend->name};
    TRY(pricetable_read(o->price_table, names, 2, price, w->d));
    if (!price->priced) {
        LOG(WARN, "worker", "its device has no price", "table=\"%s\" names=\"%s %s\"",
            o->price_table, names[0], names[1]);
    }
    return STATUS_OK;
}

/* Two operations a parameter and row; the output matrix only where logits are wanted. */
static stepcost_shape cost_shape(const worker_state *w) {
    const model_info *m = w->info;
    double output = (double)m->vocab * m->width;
    double body = (double)m->parameters - output * (m->tied ? 1 : 2);
    if (w->timed || body <= 0) {
        return (stepcost_shape){0};
    }
    double read = m->tied ? 1 : (body + output) / (double)m->parameters;
    return (stepcost_shape){
        .row_flops = 2 * body,
        .logit_flops = 2 * output,
        .pair_flops = 4.0 * m->heads * m->head_dim * m->layers,
        .weight_bytes = (double)m->weight_bytes * read,
        .kv_token_bytes = (double)m->kv_layer_page_bytes / LIMIT_PAGE_TOKENS * m->layers};
}

/* A group holds a chunk's pages of so many layers. */
static uint32_t group_layers_max(const core_options *c) {
    uint32_t pages = (uint32_t)c->prefill_chunk_tokens / LIMIT_PAGE_TOKENS;
    uint32_t most = c->group_cells_max / (pages > 0 ? pages : 1);
    return most < 1 ? 1 : most < c->layers ? most : c->layers;
}

static status open_core(worker_state *w, uint32_t pages) {
    core_options c = core_settings(w, pages);
    hash_key key;
    w->group_bytes_max = c.group_cells_max * w->info->kv_layer_page_bytes;
    w->group_layers = c.group_layers;
    w->group_layers_max = group_layers_max(&c);
    TRY(hash_key_random(&key, w->d));
    c.hash_key[0] = key.k0;
    c.hash_key[1] = key.k1;
    status s = arena_open(&w->arena, core_bytes(&c) + (64u << 20));
    if (s != STATUS_OK) {
        return status_fail(w->d, s, "no memory for the engine's tables");
    }
    TRY(core_create(&w->arena, &c, &w->core, w->d));
    core_set_roles(w->core, w->options->roles & c.roles);
    s = workstats_open(&w->arena, w->info->kv_layer_page_bytes, clock_now_us(), &w->stats);
    if (s != STATUS_OK) {
        return status_fail(w->d, s, "no memory for the metrics");
    }
    pricetable_entry price;
    TRY(settle_accounts(w, &price));
    stepcost_shape shape = cost_shape(w);
    workstats_device(w->stats, &w->waste, w->options->roles, &shape, &price);
    stepper_options so = {.model = w->model,
                          .timed = w->timed,
                          .device = w->backend,
                          .cores = w->timed ? NULL : &w->cores,
                          .seqs_max = c.step_tokens_max,
                          .logit_rows_max = c.logit_rows_max,
                          .wants_max = c.logit_rows_max + 2 * LIMIT_CHOICES * c.seqs_max,
                          .eog = w->options->eog,
                          .eog_count = w->options->eog_count,
                          .progress_layers = (int32_t)c.group_layers};
    if (!w->lanes.on) {
        return stepper_open(&so, &w->stepper, w->d);
    }
    bool divided = w->lanes.cores[CORE_LANE_PROMPTS].board != NULL;
    so.cores = divided ? &w->lanes.cores[CORE_LANE_PROMPTS] : NULL;
    TRY(stepper_open(&so, &w->stepper, w->d));
    so.model = w->lanes.model;
    so.device = w->lanes.device;
    so.cores = divided ? &w->lanes.cores[CORE_LANE_DECODE] : NULL;
    so.progress_layers = (int32_t)c.layers + 1; /* nothing of its steps is sent anywhere */
    return stepper_open(&so, &w->lanes.stepper, w->d);
}

static status open_timed(worker_state *w) {
    const worker_options *o = w->options;
    timed_options to = {.model_path = o->model_path,
                        .profile_path = o->profile_path,
                        .kv_bytes = o->kv_bytes ? o->kv_bytes : WORKER_KV_BYTES,
                        .context_tokens = o->context_tokens,
                        .eog = o->eog,
                        .eog_count = o->eog_count};
    TRY(timed_open(&to, &w->timed, w->d));
    w->info = timed_info(w->timed);
    return STATUS_OK;
}

/* A GPU that is there is used. One that should be there, because the module is, is missed aloud. */
static const char *backend_named(const worker_options *o, const backend_options *bo) {
    diag why;
    if (strcmp(o->backend, "auto") != 0) {
        return o->backend;
    }
    const char *name = backend_choose(bo, &why);
    if (why.text[0]) {
        LOG(INFO, "worker", "no GPU: the model runs on the CPU", "why=\"%s\"", why.text);
    }
    return name;
}

/* The devices after the first. */
static status open_ranks(worker_state *w, const backend_options *first) {
    for (int32_t i = 1; i < w->options->ranks; i++) {
        backend_options bo = *first;
        bo.device = first->device + i;
        TRY(backend_open(w->backend->name, &bo, &w->others[i - 1], w->d));
    }
    return STATUS_OK;
}

static status open_model(worker_state *w, uint32_t *pages) {
    const worker_options *o = w->options;
    if (strcmp(o->backend, "timed") == 0) {
        if (o->ranks > 1) {
            return status_fail_param(w->d, STATUS_INVALID, "tensor-parallel-size",
                                     "--tensor-parallel-size %d: the timed backend has no devices",
                                     o->ranks);
        }
        TRY(open_timed(w));
        *pages = w->info->kv_pages;
        return STATUS_OK;
    }
    backend_options bo = {.threads = o->threads,
                          .device = o->device,
                          .memory_fraction = o->memory_fraction,
                          .deterministic = o->deterministic,
                          .share_percent = o->multiplex ? o->decode_percent : 0};
    TRY(backend_open(backend_named(o, &bo), &bo, &w->backend, w->d));
    TRY(open_ranks(w, &bo));
    w->cores = (cores){.total = w->backend->threads, .own = w->backend->threads};
    if (o->cores_fd >= 0) {
        TRY(cores_open(&w->cores, o->cores_fd, o->worker, o->threads_own, w->backend->threads,
                       w->d));
    }
    model_options mo = {.path = o->model_path,
                        .device = w->backend,
                        .others = w->others,
                        .ranks = o->ranks,
                        .kv_bytes = o->kv_bytes ? o->kv_bytes : WORKER_KV_BYTES,
                        .kv_rest = o->kv_bytes == 0,
                        .kv_type = backend_kv_choose(w->backend, o->kv_type),
                        .weights = o->weights,
                        .activations = backend_activations_choose(w->backend, o->activations),
                        .context_tokens = o->context_tokens,
                        .rows_max = batch_rows_max(o),
                        .logit_rows_max = batch_logit_rows_max(o)};
    w->prompts_apart = mo.activations == BACKEND_ACTIVATIONS_MIXED;
    TRY(model_open(&mo, &w->model, w->d));
    w->info = model_get_info(w->model);
    *pages = w->info->kv_pages;
    return STATUS_OK;
}

/* The pool is handed out in whole blocks, and a context has to find its room in them. */
static status settle_blocks(worker_state *w, uint32_t *pages) {
    uint32_t tokens = w->options->block_tokens ? w->options->block_tokens : LIMIT_PAGE_TOKENS;
    uint32_t block = tokens / LIMIT_PAGE_TOKENS;
    if (tokens % LIMIT_PAGE_TOKENS != 0 || block == 0 || block > LIMIT_BLOCK_PAGES) {
        return status_fail_param(w->d, STATUS_INVALID, "kv-block-tokens",
                                 "--kv-block-tokens %u: a multiple of %d up to %d is wanted",
                                 tokens, LIMIT_PAGE_TOKENS, LIMIT_BLOCK_PAGES * LIMIT_PAGE_TOKENS);
    }
    uint32_t least = ((uint32_t)w->info->context_tokens + tokens - 1) / tokens * block;
    *pages -= *pages % block;
    if (*pages < least) {
        return status_fail_param(
            w->d, STATUS_INVALID, "kv-block-tokens",
            "--kv-block-tokens %u: a context of %d tokens needs %u pages of KV "
            "in such blocks, and --kv-memory holds %u",
            tokens, w->info->context_tokens, least, *pages);
    }
    w->block_pages = block;
    return STATUS_OK;
}

/* What asks this worker to drain. Ctrl-C is its gateway's where it has one, which drains it. */
static sigset_t stop_signals(const worker_options *o) {
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    if (o->gateway_fd < 0) {
        (void)sigaddset(&set, SIGINT);
    }
    return set;
}

static status open_links(worker_state *w) {
    sigset_t set = stop_signals(w->options);
    TRY(peers_open(&w->peers, w->d));
    if ((w->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC)) < 0 ||
        peers_watch(&w->peers, TAG_SIGNAL, PEERS_OTHER, w->signal_fd) != STATUS_OK ||
        peers_watch(&w->peers, TAG_STEPPER, PEERS_OTHER, stepper_fd(w->stepper)) != STATUS_OK ||
        (w->lanes.on && peers_watch(&w->peers, TAG_DECODE_STEPPER, PEERS_OTHER,
                                    stepper_fd(w->lanes.stepper)) != STATUS_OK)) {
        return status_fail_errno(w->d, STATUS_IO, "setting up the worker's descriptors");
    }
    status s = message_scratch_open(&w->scratch);
    if (s != STATUS_OK) {
        return status_fail(w->d, s, "no memory for messages");
    }
    TRY(channels_open(w));
    TRY(hosts_open(w));
    if (w->hosts && peers_watch(&w->peers, TAG_HOSTS, PEERS_OTHER, hosts_fd(w)) != STATUS_OK) {
        return status_fail_errno(w->d, STATUS_IO, "setting up the worker's descriptors");
    }
    if (w->options->gateway_fd < 0) {
        return STATUS_OK;
    }
    uint32_t slot;
    message_peer gateway = {.worker = MESSAGE_NO_WORKER};
    TRY(peers_add(&w->peers, w->options->gateway_fd, CORE_GATEWAY, &gateway, &slot, w->d));
    w->peers.slots[slot].parent = true;
    workio_send_hello(w, slot);
    core_link_up(w->core, slot, CORE_GATEWAY, MESSAGE_NO_WORKER, 0, clock_now_us());
    workio_act(w);
    return STATUS_OK;
}

/* Before any thread starts: a thread that does not block these would take one and end the
 * process. */
static void settle_signals(const worker_options *o) {
    sigset_t set = stop_signals(o);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    if (o->gateway_fd >= 0) {
        (void)signal(SIGINT, SIG_IGN);
        /* Whatever ends the parent ends this process: nothing is left behind. */
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
}

status worker_run(const worker_options *options, diag *d) {
    worker_state w = {.options = options,
                      .encoded = strbuf_make(LIMIT_MESSAGE_BYTES),
                      .snapshot = strbuf_make(1 << 20),
                      .signal_fd = -1,
                      .number = options->worker,
                      .epoch = options->epoch ? options->epoch : mesh_new_epoch(),
                      .peers = {.epoll_fd = -1},
                      .d = d};
    settle_signals(options);
    channels_prepare(&w);
    waste_begin(&w.waste, waste_pool_of(options->roles), clock_now_us());
    uint32_t pages = 0;
    int64_t started = clock_now_us();
    status s = tracefile_open(&w.trace, options->trace_directory, options->name, d);
    if (s == STATUS_OK) {
        s = open_model(&w, &pages);
    }
    if (s == STATUS_OK && options->multiplex) {
        s = lanes_open(&w.lanes, w.model, w.backend, w.cores.own, options->seqs_max, d);
    }
    if (s == STATUS_OK) {
        s = settle_blocks(&w, &pages);
    }
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
    lanes_close(&w.lanes);
    if (w.peers.epoll_fd >= 0) {
        peers_flush(&w.peers);
        peers_close(&w.peers);
    }
    hosts_close(&w);
    channels_close(&w);
    message_scratch_close(w.scratch);
    strbuf_close(&w.encoded);
    strbuf_close(&w.snapshot);
    if (w.signal_fd >= 0) {
        (void)close(w.signal_fd);
    }
    arena_close(&w.arena);
    model_close(w.model);
    timed_close(w.timed);
    backend_close(w.backend);
    for (int32_t i = 0; i < BACKEND_RANKS_MAX - 1; i++) {
        backend_close(w.others[i]);
    }
    cores_close(&w.cores);
    tracefile_close(&w.trace);
    return s;
}
