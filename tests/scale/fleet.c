/* fleet.c -- events on a virtual clock: arrivals, ends of prompts, ends of answers, ticks. */
#include "tests/scale/fleet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tests/scale/fleetroute.h"

const stepmodel_fit fleet_prefill_fit = {8000, 450, 0.05F, 1000};
const stepmodel_fit fleet_decode_fit = {20000, 300, 0.1F, 1000};

enum {
    PAGES = 20000,
    SEQS_MAX = 64,
    REQUESTS_MAX = 1 << 17,
    EVENTS_MAX = 1 << 12,
    GONE = UINT32_MAX
};

typedef enum { ARRIVE, PREFILLED, DECODED, TICK, BEAT, READY, FLIPPED, DEATH } event_type;

static const double BEAT_S = 0.25;

typedef struct {
    double at_s;
    event_type type;
    uint32_t worker, stamp;
} event;

typedef struct {
    double due_s, first_s, ends_at; /* ends_at: its worker's progress at its last token */
    double prompt, output;
    uint32_t next;              /* free list, or line */
    uint32_t decode, decode_id; /* where it goes on: slot, and which worker that was */
} request;

typedef struct {
    uint32_t first, last, count;
} line;

typedef struct {
    bool used, stuck;
    scaler_pool pool;
    scaler_phase phase;
    uint32_t id, stamp, answer_stamp; /* the stamp of the event that counts */
    /* prefill */
    uint32_t prompt; /* GONE: none */
    double prompt_end_s;
    line queue; /* behind it */
    /* decode */
    uint32_t batch[SEQS_MAX];
    uint32_t count;
    double progress, context, since_s;
} worker;

typedef struct {
    const fleet_options *o;
    fleetroute route;
    scaler *scaler;
    scaler_observation *seen;
    double now_s, clock_skew_s;
    event heap[EVENTS_MAX];
    uint32_t heap_count;
    request *requests;
    uint32_t free_first;
    line prompts; /* that wait at the gateway */
    line answers; /* whose decode worker is gone or full */
    worker workers[LIMIT_WORKERS];
    uint32_t id_next;
    uint64_t numbers; /* of prompts that were sent */
    uint64_t drawn;
    scaler_counters counters;
    fleet_result r;
    double changed_s;
} fleet;

static double draw(fleet *f) {
    return rng_unit(rng_at(f->o->seed, 1, f->drawn++));
}

static double draw_normal(fleet *f) {
    double u = fmax(draw(f), 1e-12);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * draw(f));
}

static double draw_tokens(fleet *f, double mean, double sigma) {
    if (f->o->even) {
        return mean;
    }
    return fmin(fmax(1, floor(mean * exp(sigma * draw_normal(f) - sigma * sigma / 2))), 16000);
}

/* ---- events: a binary heap ------------------------------------------------------------------ */

static void at(fleet *f, double at_s, event_type type, uint32_t w, uint32_t stamp) {
    CHECK_LT(f->heap_count, EVENTS_MAX);
    uint32_t i = f->heap_count++;
    for (; i > 0 && f->heap[(i - 1) / 2].at_s > at_s; i = (i - 1) / 2) {
        f->heap[i] = f->heap[(i - 1) / 2];
    }
    f->heap[i] = (event){at_s, type, w, stamp};
}

static event next_event(fleet *f) {
    event top = f->heap[0], last = f->heap[--f->heap_count];
    uint32_t i = 0;
    for (uint32_t k; (k = 2 * i + 1) < f->heap_count; i = k) {
        k += k + 1 < f->heap_count && f->heap[k + 1].at_s < f->heap[k].at_s;
        if (f->heap[k].at_s >= last.at_s) {
            break;
        }
        f->heap[i] = f->heap[k];
    }
    f->heap[i] = last;
    return top;
}

/* ---- requests ------------------------------------------------------------------------------- */

static void put(fleet *f, line *l, uint32_t r, bool front) {
    request *q = &f->requests[r];
    q->next = GONE;
    if (l->count == 0) {
        l->first = l->last = r;
    } else if (front) {
        q->next = l->first;
        l->first = r;
    } else {
        f->requests[l->last].next = r;
        l->last = r;
    }
    l->count++;
}

static uint32_t take(fleet *f, line *l) {
    uint32_t r = l->first;
    l->first = f->requests[r].next;
    l->count--;
    return r;
}

static void finish(fleet *f, uint32_t r) {
    request *q = &f->requests[r];
    double tpot = q->output > 1 ? (f->now_s - q->first_s) / (q->output - 1) : 0;
    bool first = q->first_s - q->due_s <= f->o->options.slo.ttft_us / 1e6;
    bool tokens = tpot <= f->o->options.slo.tpot_us / 1e6;
    f->r.requests++;
    f->r.first_in_time += first;
    f->r.tokens_in_time += tokens;
    f->r.both_in_time += first && tokens;
    f->counters.finished++;
    f->counters.finished_tokens += q->output;
    q->next = f->free_first;
    f->free_first = r;
}

/* ---- workers -------------------------------------------------------------------------------- */

static double step_s(const worker *w) {
    return (fleet_decode_fit.fixed_us + (double)w->count * fleet_decode_fit.row_us +
            w->context * fleet_decode_fit.work_us) /
           1e6;
}

static void advance(fleet *f, worker *w) {
    if (w->count > 0) {
        w->progress += (f->now_s - w->since_s) / step_s(w);
    }
    w->since_s = f->now_s;
}

static void schedule_answer(fleet *f, worker *w) {
    double least = INFINITY;
    for (uint32_t i = 0; i < w->count; i++) {
        least = fmin(least, f->requests[w->batch[i]].ends_at);
    }
    w->answer_stamp++;
    if (w->count > 0) {
        at(f, f->now_s + fmax(0, least - w->progress) * step_s(w), DECODED,
           (uint32_t)(w - f->workers), w->answer_stamp);
    }
}

static double context_of(const request *q) {
    return q->prompt + q->output / 2;
}

static void let_go(fleet *f, worker *w) {
    if (w->used && w->phase == SCALER_STOPPING && w->prompt == GONE && w->queue.count == 0 &&
        w->count == 0) {
        w->used = false;
        w->stamp++;
        w->answer_stamp++;
        fleetroute_gone(&f->route, (uint32_t)(w - f->workers));
    }
}

static bool takes(const worker *w, scaler_pool pool) {
    return w->used && w->phase == SCALER_SERVING && w->pool == pool;
}

static int64_t now_us(const fleet *f) {
    return (int64_t)(f->now_s * 1e6) + 1000000;
}

static double prefill_us(double tokens) {
    return ceil(tokens / 1024) * fleet_prefill_fit.fixed_us + tokens * fleet_prefill_fit.row_us +
           tokens * tokens / 2 * fleet_prefill_fit.work_us;
}

static uint32_t pages_free(const worker *w) {
    double pages = w->context / LIMIT_PAGE_TOKENS;
    return pages < PAGES ? PAGES - (uint32_t)pages : 0;
}

/* What the gateway hears of a worker. */
static void beat(fleet *f, const worker *w) {
    uint32_t i = (uint32_t)(w - f->workers);
    if (!w->used || w->phase == SCALER_STARTING) {
        fleetroute_gone(&f->route, i);
        return;
    }
    message_heartbeat h = {.pages_total = PAGES,
                           .pages_free = pages_free(w),
                           .running = w->count,
                           .waiting = w->queue.count + (w->prompt != GONE),
                           .tokens_per_second = 2000,
                           .chunk_tokens = 1024,
                           .prefill_fit = fleet_prefill_fit,
                           .decode_fit = fleet_decode_fit};
    double us = w->prompt != GONE ? (w->prompt_end_s - f->now_s) * 1e6 : 0;
    for (uint32_t r = w->queue.first, k = 0; k < w->queue.count; k++) {
        h.queued_tokens += (uint64_t)f->requests[r].prompt;
        us += prefill_us(f->requests[r].prompt);
        r = f->requests[r].next;
    }
    h.queued_us = (uint64_t)us;
    uint32_t roles = w->phase != SCALER_SERVING  ? 0
                     : w->pool == SCALER_PREFILL ? MESSAGE_ROLE_PREFILL
                                                 : MESSAGE_ROLE_DECODE;
    fleetroute_told(&f->route, i, roles, &h, now_us(f));
}

static void begin_prompt(fleet *f, worker *w) {
    if (w->used && w->prompt == GONE && w->queue.count > 0) {
        w->prompt = take(f, &w->queue);
        w->prompt_end_s = f->now_s + prefill_us(f->requests[w->prompt].prompt) / 1e6;
        at(f, w->prompt_end_s, PREFILLED, (uint32_t)(w - f->workers), ++w->stamp);
    }
}

static void begin_answer(fleet *f, worker *w, uint32_t r) {
    advance(f, w);
    w->batch[w->count++] = r;
    w->context += context_of(&f->requests[r]);
    f->requests[r].ends_at = w->progress + f->requests[r].output;
    schedule_answer(f, w);
}

/* Prompts go where the router says, while there is room; answers whose worker cannot have them to
 * the smallest batch. */
static void place(fleet *f) {
    uint32_t p, d;
    while (f->prompts.count > 0) {
        request *q = &f->requests[f->prompts.first];
        if (!fleetroute_choose(&f->route, f->numbers, (int32_t)q->prompt, (int32_t)q->output,
                               now_us(f), &p, &d)) {
            break;
        }
        f->numbers++;
        q->decode = d;
        q->decode_id = f->workers[d].id;
        put(f, &f->workers[p].queue, take(f, &f->prompts), false);
        begin_prompt(f, &f->workers[p]);
    }
    fleetroute_count(&f->route, f->prompts.count > 0, now_us(f));
    while (f->answers.count > 0) {
        worker *best = NULL;
        for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
            worker *w = &f->workers[i];
            if (takes(w, SCALER_DECODE) && w->count < SEQS_MAX &&
                (!best || w->count < best->count)) {
                best = w;
            }
        }
        if (!best) {
            return;
        }
        begin_answer(f, best, take(f, &f->answers));
    }
}

static worker *add_worker(fleet *f, scaler_pool pool, scaler_phase phase) {
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        worker *w = &f->workers[i];
        if (!w->used) {
            uint32_t stamp = w->stamp + 1, answer_stamp = w->answer_stamp + 1;
            *w = (worker){.used = true,
                          .pool = pool,
                          .phase = phase,
                          .id = f->id_next++,
                          .stamp = stamp,
                          .answer_stamp = answer_stamp,
                          .prompt = GONE,
                          .since_s = f->now_s};
            return w;
        }
    }
    return NULL;
}

/* Everything it had goes to others, from the start of the line. */
static void kill_worker(fleet *f, worker *w) {
    while (w->queue.count > 0) {
        uint32_t r = take(f, &w->queue);
        fleetroute_over(&f->route, (int32_t)f->requests[r].prompt, false);
        put(f, &f->prompts, r, true);
    }
    if (w->prompt != GONE) {
        fleetroute_over(&f->route, (int32_t)f->requests[w->prompt].prompt, false);
        put(f, &f->prompts, w->prompt, true);
    }
    fleetroute_gone(&f->route, (uint32_t)(w - f->workers));
    advance(f, w);
    for (uint32_t i = 0; i < w->count; i++) {
        put(f, &f->prompts, w->batch[i], true);
    }
    w->used = false;
    w->stamp++;
    w->answer_stamp++;
}

static worker *find(fleet *f, int32_t id) {
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        if (f->workers[i].used && (int32_t)f->workers[i].id == id) {
            return &f->workers[i];
        }
    }
    return NULL;
}

/* ---- the controller's turn ------------------------------------------------------------------ */

static void observe(fleet *f) {
    scaler_observation *o = f->seen;
    *o = (scaler_observation){.counters = f->counters};
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        const worker *w = &f->workers[i];
        if (!w->used) {
            continue;
        }
        bool stranger = draw(f) < f->o->nan_share;
        scaler_worker *to = &o->workers[o->workers_count++];
        *to = (scaler_worker){.id = w->id,
                              .pool = w->pool,
                              .phase = w->phase,
                              .flips = true,
                              .pages_total = PAGES,
                              .chunk_tokens = 1024,
                              .prefill_fit = fleet_prefill_fit,
                              .decode_fit = fleet_decode_fit};
        double error = 1 + 0.05 * (rng_unit(rng_at(f->o->seed, 2, w->id)) - 0.5);
        to->prefill_fit.row_us *= (float)error;
        to->decode_fit.fixed_us *= (float)error;
        if (stranger) {
            to->prefill_fit.row_us = to->decode_fit.fixed_us = NAN;
            to->queued_us = 0;
        }
        to->running = w->count + (w->prompt != GONE) + w->queue.count;
        to->pages_free = pages_free(w);
        if (w->prompt != GONE) {
            to->queued_tokens = (uint64_t)f->requests[w->prompt].prompt;
        }
        for (uint32_t r = w->queue.first, k = 0; k < w->queue.count; k++) {
            to->queued_tokens += (uint64_t)f->requests[r].prompt;
            r = f->requests[r].next;
        }
    }
    o->held = f->prompts.count + f->answers.count;
    for (uint32_t r = f->prompts.first, i = 0; i < f->prompts.count; i++) {
        o->held_tokens += f->requests[r].prompt;
        r = f->requests[r].next;
    }
    if (draw(f) < f->o->nan_share) {
        o->counters.prompt_tokens = NAN;
        o->held_tokens = NAN;
    }
}

static void carry_out(fleet *f, const scaler_action *a) {
    worker *w = find(f, a->worker);
    if (a->kind == SCALER_START) {
        w = add_worker(f, a->pool, SCALER_STARTING);
        CHECK(w != NULL);
        f->r.starts++;
        double takes_s = f->o->start_s * (0.8 + 0.4 * draw(f));
        takes_s *= draw(f) < f->o->slow_share ? 4 : 1;
        w->stuck = draw(f) < f->o->stuck_share;
        if (!w->stuck) {
            at(f, f->now_s + takes_s, READY, (uint32_t)(w - f->workers), ++w->stamp);
        }
    } else if (!w) {
        return; /* it died meanwhile */
    } else if (a->kind == SCALER_FLIP) {
        f->r.flips++;
        w->phase = SCALER_FLIPPING;
        w->pool = a->pool;
        /* What it has of its old role goes on beside the new: the stamp is of that work. */
        at(f, f->now_s + f->o->flip_s, FLIPPED, (uint32_t)(w - f->workers), w->id);
    } else if (a->kind == SCALER_STOP) {
        f->r.stops++;
        w->phase = SCALER_STOPPING;
        let_go(f, w);
    } else {
        f->r.ends++;
        kill_worker(f, w);
    }
}

/* Something that was decided for the pool before has not ended yet. */
static bool still_pending(const scaler *s, uint64_t before, scaler_pool pool) {
    uint64_t first =
        s->decisions_count > SCALER_DECISIONS_MAX ? s->decisions_count - SCALER_DECISIONS_MAX : 0;
    for (uint64_t i = first; i < before; i++) {
        const scaler_decision *d = &s->decisions[i % SCALER_DECISIONS_MAX];
        bool grows = d->action.kind == SCALER_START || d->action.kind == SCALER_FLIP;
        if (grows && d->action.pool == pool && d->outcome == SCALER_PENDING) {
            return true;
        }
    }
    return false;
}

static void beat_all(fleet *f) {
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        beat(f, &f->workers[i]);
    }
}

static void tick(fleet *f, double quiet_s) {
    double gpus = 0;
    for (int p = 0; p < SCALER_POOLS; p++) {
        double count = 0;
        for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
            count += f->workers[i].used && (int)f->workers[i].pool == p;
        }
        f->r.mean[p] += count / f->o->seconds;
        f->r.end[p] = count;
        if (f->now_s >= quiet_s) {
            f->r.low[p] = fmin(f->r.low[p], count);
        }
        gpus += count;
    }
    f->r.gpu_hours += gpus / 3600;
    f->r.over_cap += f->o->options.gpus_max > 0 && gpus > f->o->options.gpus_max;
    if (f->o->fixed) {
        return;
    }
    observe(f);
    if (draw(f) < f->o->jump_share) {
        f->clock_skew_s += draw(f) < 0.5 ? 7200 : -3600;
    }
    uint64_t before = f->scaler->decisions_count;
    scaler_step(f->scaler, f->seen, (int64_t)((f->now_s + f->clock_skew_s + 1e5) * 1e6));
    for (uint32_t i = 0; i < f->scaler->actions_count; i++) {
        const scaler_action *a = &f->scaler->actions[i];
        bool grows = a->kind == SCALER_START || a->kind == SCALER_FLIP;
        f->r.while_pending += grows && still_pending(f->scaler, before, a->pool);
        f->r.late_actions += f->now_s >= quiet_s;
        if (getenv("WEIR_SCALE_SAY")) {
            (void)fprintf(stderr, "%8.0f %s %s %d: %s\n", f->now_s, scaler_kind_name(a->kind),
                          scaler_pool_name(a->pool), a->worker, a->reason);
        }
        carry_out(f, a);
        beat_all(f);
    }
}

/* ---- running -------------------------------------------------------------------------------- */

static void arrive(fleet *f) {
    const fleet_options *o = f->o;
    double gap = o->even ? 1 : -log(fmax(draw(f), 1e-15));
    at(f, f->now_s + gap / o->rate_max, ARRIVE, 0, 0);
    if (!o->even && draw(f) * o->rate_max > o->rate(o->curve, f->now_s)) {
        return; /* thinning (Lewis and Shedler 1979) */
    }
    uint32_t r = f->free_first;
    CHECK(r != GONE);
    request *q = &f->requests[r];
    f->free_first = q->next;
    double shift = o->shift_s > 0 && f->now_s > o->shift_s ? 4 : 1;
    *q = (request){.due_s = f->now_s,
                   .first_s = -1,
                   .prompt = draw_tokens(f, o->prompt_mean / shift, o->prompt_spread),
                   .output = draw_tokens(f, o->output_mean * shift, o->output_spread)};
    f->counters.requests++;
    f->counters.prompt_tokens += q->prompt;
    f->counters.prompt_squares += q->prompt * q->prompt;
    put(f, &f->prompts, r, false);
}

static void on_prefilled(fleet *f, worker *w) {
    uint32_t r = w->prompt;
    w->prompt = GONE;
    if (f->requests[r].first_s < 0) {
        f->requests[r].first_s = f->now_s;
    }
    fleetroute_over(&f->route, (int32_t)f->requests[r].prompt, true);
    begin_prompt(f, w);
    worker *d = &f->workers[f->requests[r].decode];
    if (takes(d, SCALER_DECODE) && d->id == f->requests[r].decode_id && d->count < SEQS_MAX) {
        begin_answer(f, d, r);
    } else {
        put(f, &f->answers, r, false);
    }
}

static void on_decoded(fleet *f, worker *w) {
    advance(f, w);
    for (uint32_t i = 0; i < w->count;) {
        uint32_t r = w->batch[i];
        if (f->requests[r].ends_at <= w->progress + 1e-6) {
            w->context = fmax(0, w->context - context_of(&f->requests[r]));
            w->batch[i] = w->batch[--w->count];
            finish(f, r);
        } else {
            i++;
        }
    }
    schedule_answer(f, w);
}

static void on_death(fleet *f) {
    at(f, f->now_s - log(fmax(draw(f), 1e-15)) * f->o->death_s, DEATH, 0, 0);
    uint32_t first = (uint32_t)(draw(f) * LIMIT_WORKERS);
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        worker *w = &f->workers[(first + i) % LIMIT_WORKERS];
        if (w->used && w->phase == SCALER_SERVING) {
            f->r.deaths++;
            kill_worker(f, w);
            return;
        }
    }
}

static void handle(fleet *f, const event *e, double quiet_s) {
    worker *w = &f->workers[e->worker];
    bool current = w->used && w->stamp == e->stamp;
    if (e->type == ARRIVE) {
        arrive(f);
    } else if (e->type == TICK) {
        at(f, f->now_s + 1, TICK, 0, 0);
        tick(f, quiet_s);
    } else if (e->type == BEAT) {
        at(f, f->now_s + BEAT_S, BEAT, 0, 0);
        beat_all(f);
    } else if (e->type == DEATH) {
        on_death(f);
    } else if (e->type == FLIPPED && w->used && w->id == e->stamp && w->phase == SCALER_FLIPPING) {
        w->phase = SCALER_SERVING;
        beat(f, w);
    } else if (current && e->type == READY) {
        w->phase = w->phase == SCALER_STARTING ? SCALER_SERVING : w->phase;
        beat(f, w);
    } else if (current && e->type == PREFILLED) {
        on_prefilled(f, w);
    } else if (w->used && w->answer_stamp == e->stamp && e->type == DECODED) {
        on_decoded(f, w);
    }
    let_go(f, w);
    place(f);
}

fleet_result fleet_run(const fleet_options *o, double quiet_s) {
    fleet *f = mem_calloc(1, sizeof *f);
    CHECK(f != NULL);
    f->o = o;
    f->scaler = mem_calloc(1, sizeof *f->scaler);
    f->seen = mem_calloc(1, sizeof *f->seen);
    f->requests = mem_calloc(REQUESTS_MAX, sizeof *f->requests);
    CHECK(f->scaler && f->seen && f->requests);
    for (uint32_t i = 0; i < REQUESTS_MAX; i++) {
        f->requests[i].next = i + 1 < REQUESTS_MAX ? i + 1 : GONE;
    }
    scaler_open(f->scaler, &o->options);
    fleetroute_open(&f->route, o->seed);
    f->r.low[0] = f->r.low[1] = LIMIT_WORKERS;
    for (int p = 0; p < SCALER_POOLS; p++) {
        for (uint32_t i = 0; i < o->workers[p]; i++) {
            (void)add_worker(f, (scaler_pool)p, SCALER_SERVING);
        }
    }
    at(f, 0, ARRIVE, 0, 0);
    at(f, 0.5, TICK, 0, 0);
    at(f, 0, BEAT, 0, 0);
    if (o->death_s > 0) {
        at(f, o->death_s, DEATH, 0, 0);
    }
    for (;;) {
        event e = next_event(f);
        if (e.at_s >= o->seconds) {
            break;
        }
        f->now_s = e.at_s;
        handle(f, &e, quiet_s);
    }
    f->r.unfinished = (uint32_t)(f->counters.requests - f->counters.finished);
    fleet_result r = f->r;
    fleetroute_close(&f->route);
    mem_free(f->requests);
    mem_free(f->seen);
    mem_free(f->scaler);
    mem_free(f);
    return r;
}
