/* scaler.c -- one turn: what is pending, what is wanted, who flips, who starts, who goes. */
#include "server/control/scaler.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/status.h"

enum {
    BACKOFF_FIRST_US = 5000000,
    BACKOFF_MAX_US = 300000000,
    REFUSED_US = 5000000,
    FLIP_HOLD_US = 60000000,
    SAMPLES_GOOD = 64, /* of a fit that is used where there is one */
    HOLD_MOST = 32     /* times the hold, where a pool's going was taken back again and again */
};

static const double piled_share = 2;   /* of the objective: the wait that is piled-up work */
static const double clear_s = 40;      /* in which piled-up work is to be gone */
static const double fast_z = 3;        /* deviations that chance is given in the fast loop */
static const double slow_z = 2.5;      /* and in the slow one */
static const double room_least = 1.12; /* what survivors must hold: so much of the highest load */
static const double room_most = 1.6;
static const double shift_gain = 1.15; /* at the cap: how much worse off the other pool must be */

const char *scaler_pool_name(scaler_pool p) {
    return p == SCALER_PREFILL ? "prefill" : "decode";
}

const char *scaler_kind_name(scaler_kind k) {
    static const char *const names[SCALER_KINDS] = {"start", "stop", "end", "flip"};
    return names[k];
}

const char *scaler_phase_name(scaler_phase p) {
    static const char *const names[] = {"starting", "serving", "flipping", "stopping"};
    return names[p];
}

const char *scaler_outcome_name(scaler_outcome o) {
    static const char *const names[] = {"pending", "done", "late", "refused", "advice"};
    return names[o];
}

static int64_t or_else(int64_t value, int64_t standard) {
    return value > 0 ? value : standard;
}

void scaler_open(scaler *s, const scaler_options *options) {
    *s = (scaler){.options = *options};
    scaler_options *o = &s->options;
    o->start_us = or_else(o->start_us, 180000000);
    o->flip_us = or_else(o->flip_us, 10000000);
    o->drain_us = or_else(o->drain_us, 300000000);
    o->hold_us = or_else(o->hold_us, 300000000);
    o->idle_us = or_else(o->idle_us, 300000000);
    o->cold_us = or_else(o->cold_us, 30000000);
    o->react_us = or_else(o->react_us, 5000000);
    o->slo.ttft_us = o->slo.ttft_us > 0 ? o->slo.ttft_us : 2e6;
    o->slo.tpot_us = o->slo.tpot_us > 0 ? o->slo.tpot_us : 1e5;
    for (int p = 0; p < SCALER_POOLS; p++) {
        o->gpus[p] = o->gpus[p] > 0 ? o->gpus[p] : 1;
        CHECK_LE(o->bounds[p].min, o->bounds[p].max);
        s->pools[p].hold_times = 1;
    }
    s->time_us = 1; /* 0 is never */
}

void scaler_set_bounds(scaler *s, scaler_pool pool, scaler_bounds bounds) {
    CHECK_LE(bounds.min, bounds.max);
    s->options.bounds[pool] = bounds;
}

/* ---- saying --------------------------------------------------------------------------------- */

static void why(scaler *s, scaler_pool pool, const char *format, ...) PRINTF_LIKE(3, 4);
static void act(scaler *s, scaler_kind kind, scaler_pool pool, int32_t worker, const char *format,
                ...) PRINTF_LIKE(5, 6);

static void why(scaler *s, scaler_pool pool, const char *format, ...) {
    va_list args;
    va_start(args, format);
    (void)vsnprintf(s->pools[pool].why, SCALER_REASON_BYTES, format, args);
    va_end(args);
}

static void remember(scaler *s, const scaler_action *a, scaler_outcome outcome) {
    s->decisions[s->decisions_count++ % SCALER_DECISIONS_MAX] =
        (scaler_decision){.at_us = s->now_us, .action = *a, .outcome = outcome};
}

static bool same(const scaler_action *a, const scaler_action *b) {
    return a->kind == b->kind && a->pool == b->pool && a->worker == b->worker;
}

/* Advice is given once, until something else is advised. */
static bool advised(const scaler *s, const scaler_action *a) {
    for (uint64_t i = s->decisions_count; i > 0 && s->decisions_count - i < 4; i--) {
        const scaler_decision *d = &s->decisions[(i - 1) % SCALER_DECISIONS_MAX];
        if (same(&d->action, a)) {
            return true;
        }
    }
    return false;
}

/* What was pending in the pool has ended so. */
static void settle(scaler *s, scaler_pool pool, scaler_outcome outcome) {
    uint64_t from =
        s->decisions_count > SCALER_DECISIONS_MAX ? s->decisions_count - SCALER_DECISIONS_MAX : 0;
    for (uint64_t i = from; i < s->decisions_count; i++) {
        scaler_decision *d = &s->decisions[i % SCALER_DECISIONS_MAX];
        bool grows = d->action.kind == SCALER_START || d->action.kind == SCALER_FLIP;
        if (d->outcome == SCALER_PENDING && grows && d->action.pool == pool) {
            d->outcome = outcome;
        }
    }
}

static void settle_stop(scaler *s, int32_t worker, scaler_outcome outcome) {
    for (uint32_t i = 0; i < SCALER_DECISIONS_MAX; i++) {
        scaler_decision *d = &s->decisions[i];
        bool stops = d->action.kind == SCALER_STOP || d->action.kind == SCALER_END;
        if (d->outcome == SCALER_PENDING && stops && d->action.worker == worker) {
            d->outcome = outcome;
        }
    }
}

static void begin_stop(scaler *s, uint32_t id) {
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        if (!s->stops[i].used || s->stops[i].id == id) {
            s->stops[i].used = true;
            s->stops[i].id = id;
            s->stops[i].by_us = s->time_us + s->options.drain_us;
            return;
        }
    }
}

/* A pool that grows again soon after it shrank was told too early that it could: it waits twice as
 * long before the next time. Each time that nobody was missed, half as long. */
static void regret(const scaler *s, scaler_state *p) {
    if (p->shrunk_us == 0) {
        return;
    }
    bool soon = s->time_us - p->shrunk_us < 2 * s->options.hold_us * p->hold_times;
    if (soon && p->hold_times < HOLD_MOST) {
        p->hold_times *= 2;
    } else if (!soon && p->hold_times > 1) {
        p->hold_times /= 2;
    }
    p->shrunk_us = 0;
}

/* Makes what an action changes pending. */
static void await(scaler *s, const scaler_action *a) {
    scaler_state *p = &s->pools[a->pool];
    p->changed_us = s->time_us;
    if (a->kind == SCALER_START || a->kind == SCALER_FLIP) {
        int64_t by =
            s->time_us + (a->kind == SCALER_START ? s->options.start_us : s->options.flip_us);
        p->serving_wanted = (p->pending ? p->serving_wanted : p->serving) + 1;
        p->by_us = p->pending && p->by_us > by ? p->by_us : by;
        p->waits_start = p->waits_start || a->kind == SCALER_START;
        p->waits_flip = p->waits_flip || a->kind == SCALER_FLIP;
        p->pending = true;
        regret(s, p);
        p->grown_us = s->time_us;
    } else {
        begin_stop(s, (uint32_t)a->worker);
        p->serving -= a->kind == SCALER_STOP && p->serving > 0;
        p->stopping += a->kind == SCALER_STOP;
        p->shrunk_us = s->time_us;
    }
    if (a->kind == SCALER_FLIP) {
        scaler_state *from = &s->pools[1 - a->pool];
        from->changed_us = s->time_us;
        from->serving -= from->serving > 0;
        from->wanted -= from->wanted > 0;
    }
}

static void act(scaler *s, scaler_kind kind, scaler_pool pool, int32_t worker, const char *format,
                ...) {
    if (s->actions_count == SCALER_ACTIONS_MAX) {
        return; /* the next step goes on */
    }
    scaler_action *a = &s->actions[s->actions_count];
    *a = (scaler_action){.kind = kind, .pool = pool, .worker = worker};
    va_list args;
    va_start(args, format);
    (void)vsnprintf(a->reason, sizeof a->reason, format, args);
    va_end(args);
    if (s->options.dry_run) {
        if (!advised(s, a)) {
            remember(s, a, SCALER_ADVICE);
            s->actions_count++;
        }
        return;
    }
    s->actions_count++;
    remember(s, a, SCALER_PENDING);
    await(s, a);
}

bool scaler_order(scaler *s, const scaler_action *a, int64_t now_us) {
    bool grows = a->kind == SCALER_START || a->kind == SCALER_FLIP;
    if (grows && s->pools[a->pool].pending) {
        return false;
    }
    s->now_us = now_us;
    remember(s, a, SCALER_PENDING);
    await(s, a);
    return true;
}

/* The stop of a worker that nobody has been told of: never was, or, of one that should be gone
 * already, is to be told again. */
static void stop_refused(scaler *s, const scaler_action *a) {
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        if (s->stops[i].used && s->stops[i].id == (uint32_t)a->worker) {
            s->stops[i].used = a->kind == SCALER_END;
            s->stops[i].by_us = s->time_us + REFUSED_US;
        }
    }
}

void scaler_refused(scaler *s, const scaler_action *a) {
    scaler_state *p = &s->pools[a->pool];
    uint32_t others = 0; /* that the pool is still to grow by */
    bool told = false;
    for (uint64_t i = s->decisions_count; i > 0 && s->decisions_count - i < SCALER_DECISIONS_MAX;
         i--) {
        scaler_decision *d = &s->decisions[(i - 1) % SCALER_DECISIONS_MAX];
        bool pends = d->outcome == SCALER_PENDING;
        bool grows = d->action.kind == SCALER_START || d->action.kind == SCALER_FLIP;
        if (pends && !told && same(&d->action, a)) {
            d->outcome = SCALER_REFUSED;
            told = true;
        } else {
            others += pends && grows && d->action.pool == a->pool;
        }
    }
    if (a->kind == SCALER_STOP || a->kind == SCALER_END) {
        stop_refused(s, a);
    } else if (others == 0) {
        p->pending = p->waits_start = p->waits_flip = false;
    } else {
        p->serving_wanted--;
    }
    p->refused_us = s->time_us + REFUSED_US;
}

/* ---- what is -------------------------------------------------------------------------------- */

static const scaler_worker *find(const scaler_observation *o, uint32_t id) {
    for (uint32_t i = 0; i < o->workers_count; i++) {
        if (o->workers[i].id == id) {
            return &o->workers[i];
        }
    }
    return NULL;
}

static bool leaves(const scaler *s, const scaler_worker *w) {
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        if (s->stops[i].used && s->stops[i].id == w->id) {
            return true;
        }
    }
    return w->phase == SCALER_STOPPING;
}

static void count_pools(scaler *s, const scaler_observation *o) {
    for (int p = 0; p < SCALER_POOLS; p++) {
        scaler_state *k = &s->pools[p];
        k->serving = k->starting = k->stopping = 0;
        for (uint32_t i = 0; i < o->workers_count; i++) {
            const scaler_worker *w = &o->workers[i];
            if ((int)w->pool == p) {
                bool leaving = leaves(s, w);
                k->stopping += leaving;
                k->serving += !leaving && w->phase == SCALER_SERVING;
                k->starting += !leaving && w->phase != SCALER_SERVING;
            }
        }
    }
}

static uint32_t have(const scaler_state *p) {
    uint32_t coming = p->starting;
    if (p->pending && p->serving_wanted > p->serving && p->serving_wanted - p->serving > coming) {
        coming = p->serving_wanted - p->serving; /* a driver that does not list it yet */
    }
    return p->serving + coming;
}

/* The step times of the middle worker: one that is odd, or new, decides nothing. */
static bool learn_from(scaler *s, const scaler_observation *o, stepmodel_phase phase,
                       uint32_t samples) {
    const scaler_worker *known[LIMIT_WORKERS];
    double cost[LIMIT_WORKERS];
    uint32_t count = 0;
    for (uint32_t i = 0; i < o->workers_count; i++) {
        const scaler_worker *w = &o->workers[i];
        const stepmodel_fit *f = phase == STEPMODEL_PREFILL ? &w->prefill_fit : &w->decode_fit;
        double us = f->fixed_us + 256.0 * f->row_us + 32896.0 * f->work_us;
        if (w->phase != SCALER_SERVING || f->samples < samples || !isfinite(us) || us <= 0) {
            continue;
        }
        uint32_t at = count++;
        for (; at > 0 && cost[at - 1] > us; at--) {
            cost[at] = cost[at - 1];
            known[at] = known[at - 1];
        }
        cost[at] = us;
        known[at] = w;
    }
    if (count > 0) {
        const scaler_worker *w = known[count / 2];
        if (phase == STEPMODEL_PREFILL) {
            s->speed.prefill = w->prefill_fit;
            s->speed.chunk_tokens = w->chunk_tokens;
        } else {
            s->speed.decode = w->decode_fit;
            s->speed.pages = w->pages_total;
        }
    }
    return count > 0;
}

/* A fit of few samples cannot tell its parts apart: others first. */
static void learn_phase(scaler *s, const scaler_observation *o, stepmodel_phase phase) {
    if (!learn_from(s, o, phase, SAMPLES_GOOD)) {
        (void)learn_from(s, o, phase, STEPMODEL_SAMPLES_KNOWN);
    }
}

/* ---- what is pending ------------------------------------------------------------------------ */

/* Ends what was to start and has not. */
static void give_up(scaler *s, scaler_pool pool, const scaler_observation *o) {
    scaler_state *p = &s->pools[pool];
    settle(s, pool, SCALER_LATE);
    bool starts = p->waits_start;
    p->pending = p->waits_start = p->waits_flip = false;
    p->backoff_us = p->backoff_us ? p->backoff_us * 2 : BACKOFF_FIRST_US;
    p->backoff_us = p->backoff_us < BACKOFF_MAX_US ? p->backoff_us : BACKOFF_MAX_US;
    p->start_after_us = s->time_us + p->backoff_us;
    for (uint32_t i = 0; i < o->workers_count && starts; i++) {
        const scaler_worker *w = &o->workers[i];
        if (w->pool == pool && w->phase == SCALER_STARTING && !leaves(s, w)) {
            act(s, SCALER_END, pool, (int32_t)w->id, "it did not start within %.0f s",
                (double)s->options.start_us / 1e6);
        }
    }
}

static void watch_pending(scaler *s, const scaler_observation *o) {
    for (int i = 0; i < SCALER_POOLS; i++) {
        scaler_state *p = &s->pools[i];
        if (p->pending && p->serving >= p->serving_wanted && p->starting == 0) {
            settle(s, (scaler_pool)i, SCALER_DONE);
            p->backoff_us = p->waits_start ? 0 : p->backoff_us;
            p->pending = p->waits_start = p->waits_flip = false;
        } else if (p->pending && s->time_us >= p->by_us) {
            give_up(s, (scaler_pool)i, o);
        } else if (!p->pending && p->starting > 0) {
            /* Not ours: of an earlier controller, or a worker that died and comes back. */
            p->pending = p->waits_start = true;
            p->serving_wanted = p->serving + p->starting;
            p->by_us = s->time_us + s->options.start_us;
        }
    }
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        if (!s->stops[i].used) {
            continue;
        }
        const scaler_worker *w = find(o, s->stops[i].id);
        if (!w) {
            s->stops[i].used = false;
            settle_stop(s, (int32_t)s->stops[i].id, SCALER_DONE);
        } else if (s->time_us >= s->stops[i].by_us) {
            settle_stop(s, (int32_t)w->id, SCALER_LATE);
            act(s, SCALER_END, w->pool, (int32_t)w->id, "its drain took longer than %.0f s",
                (double)s->options.drain_us / 1e6);
        }
    }
}

/* ---- what is wanted ------------------------------------------------------------------------- */

static uint32_t needed(const scaler *s, scaler_pool pool, const scaler_load *l) {
    uint32_t n = pool == SCALER_PREFILL ? scaler_capacity_prefill(&s->speed, l, &s->options.slo)
                                        : scaler_capacity_decode(&s->speed, l, &s->options.slo);
    return n == UINT32_MAX ? have(&s->pools[pool]) : n; /* not known: as it is */
}

static scaler_load scaled(scaler_load l, double by) {
    l.requests_per_s *= by;
    return l;
}

/* Prompt work that waits, as time on one worker. */
static double backlog_us(const scaler *s, const scaler_observation *o) {
    double us = o->held_tokens * s->speed.prefill.row_us;
    for (uint32_t i = 0; i < o->workers_count; i++) {
        const scaler_worker *w = &o->workers[i];
        if (w->pool == SCALER_PREFILL) {
            us += w->queued_us ? (double)w->queued_us
                               : (double)w->queued_tokens * s->speed.prefill.row_us;
        }
    }
    return isfinite(us) && us > 0 ? us : 0;
}

/* Workers that what has piled up asks for, beyond `now`; 0: it has not. */
static uint32_t piled_prefill(const scaler *s, const scaler_observation *o, uint32_t now) {
    double us = backlog_us(s, o);
    double waiting = o->held;
    for (uint32_t i = 0; i < o->workers_count; i++) {
        const scaler_worker *w = &o->workers[i];
        waiting += w->pool == SCALER_PREFILL ? (double)w->running + w->waiting : 0;
    }
    /* One long prompt is no pile: more workers would not help it. */
    if (now > 0 && (us / now < piled_share * s->options.slo.ttft_us || waiting <= 2.0 * now)) {
        return 0;
    }
    return (uint32_t)fmin(ceil(us / 1e6 / clear_s), SCALER_CAPACITY_MAX);
}

static uint32_t piled_decode(const scaler *s, const scaler_observation *o, uint32_t now) {
    double batch = scaler_capacity_batch(&s->speed, &s->forecast, s->options.slo.tpot_us);
    double live = 0, pages = 0, used = 0;
    for (uint32_t i = 0; i < o->workers_count; i++) {
        const scaler_worker *w = &o->workers[i];
        if (w->pool == SCALER_PREFILL) {
            /* Room is kept for it at a decode worker, where it is no work yet: a line for prefill
             * would look like one for decode. */
            live -= (double)w->running + w->waiting;
        } else if (!leaves(s, w)) {
            live += (double)w->running + w->waiting;
            pages += w->pages_total;
            used += w->pages_free < w->pages_total ? w->pages_total - w->pages_free : 0;
        }
    }
    double wanted = batch > 0 && live > 0 ? ceil(live / batch) : 0;
    if (pages > 0 && used > 0.95 * pages) {
        wanted = fmax(wanted, now + 1.0);
    }
    return wanted > now ? (uint32_t)fmin(wanted - now, SCALER_CAPACITY_MAX) : 0;
}

/* The fast loop: what it wants above the floor. */
static uint32_t react(scaler *s, scaler_pool pool, const scaler_observation *o, uint32_t floor) {
    scaler_state *p = &s->pools[pool];
    uint32_t now = have(p), want = floor;
    scaler_load sure = scaler_demand_doubted(s->fast, SCALER_DEMAND_FAST_US, fast_z);
    if (needed(s, pool, &sure) > now) {
        /* The window still has less in it than now comes. */
        scaler_load latest =
            scaler_demand_doubted(scaler_demand_fast(&s->demand, SCALER_DEMAND_FAST_US / 3),
                                  SCALER_DEMAND_FAST_US / 3, 1);
        want = needed(s, pool, &s->fast);
        want = want > needed(s, pool, &latest) ? want : needed(s, pool, &latest);
        want = want > floor ? want : floor;
    }
    uint32_t more = pool == SCALER_PREFILL ? piled_prefill(s, o, now) : piled_decode(s, o, now);
    double work = pool == SCALER_PREFILL ? backlog_us(s, o) : more;
    /* What grows less is being worked off, and what is pending may do it. */
    if (!more || p->pending || work < p->piled_work || p->piled_us == 0) {
        p->piled_us = more ? s->time_us : 0;
        p->piled_work = 0.98 * work;
    }
    if (more && s->time_us - p->piled_us >= s->options.react_us) {
        want = now + more > want ? now + more : want;
    }
    if (now == 0 && want == 0 && (o->held > 0 || s->fast.requests_per_s > 0)) {
        want = 1;
    }
    return want;
}

/* The fewest that would hold the highest load of `window_us` and what is there now. */
static uint32_t survivors(const scaler *s, scaler_pool pool, const scaler_observation *o,
                          int64_t window_us) {
    scaler_load high = scaler_demand_highest(&s->demand, window_us);
    double chance = scaler_demand_chance(&high, SCALER_DEMAND_SLOW_US);
    double room = fmin(room_least + 4 * chance, room_most);
    high = scaled(high, room);
    uint32_t n = needed(s, pool, &high);
    /* The load of the last seconds is in no bucket yet. */
    for (int64_t us = SCALER_DEMAND_FAST_US; us > 0; us -= 2 * (SCALER_DEMAND_FAST_US / 3)) {
        scaler_load sure = scaler_demand_doubted(scaler_demand_fast(&s->demand, us), (double)us, 1);
        uint32_t latest = needed(s, pool, &sure);
        n = n > latest ? n : latest;
    }
    double pages = 0, used = 0;
    for (uint32_t i = 0; i < o->workers_count && pool == SCALER_DECODE; i++) {
        const scaler_worker *w = &o->workers[i];
        if (w->pool == SCALER_DECODE && w->pages_total > 0) {
            pages = fmax(pages, w->pages_total);
            used += w->pages_free < w->pages_total ? w->pages_total - w->pages_free : 0;
        }
    }
    uint32_t for_pages = pages > 0 ? (uint32_t)ceil(used / (0.9 * pages)) : 0;
    return n > for_pages ? n : for_pages;
}

static bool idle(const scaler *s) {
    return s->time_us - s->request_us >= s->options.idle_us;
}

static uint32_t clamp(const scaler *s, scaler_pool pool, uint32_t n) {
    scaler_bounds b = s->options.bounds[pool];
    return n < b.min ? b.min : n > b.max ? b.max : n;
}

static void set_busy(scaler *s, scaler_pool pool) {
    scaler_state *p = &s->pools[pool];
    p->busy = 0;
    if (pool == SCALER_PREFILL && p->serving > 0) {
        p->busy = s->forecast.requests_per_s * scaler_capacity_prefill_us(&s->speed, &s->forecast) /
                  1e6 / p->serving;
    } else if (p->serving > 0) {
        double batch = scaler_capacity_batch(&s->speed, &s->forecast, s->options.slo.tpot_us);
        p->busy = batch > 0
                      ? scaler_capacity_running(&s->speed, &s->forecast, batch) / batch / p->serving
                      : 0;
    }
}

static void want_pool(scaler *s, scaler_pool pool, const scaler_observation *o) {
    scaler_state *p = &s->pools[pool];
    uint32_t now = have(p);
    scaler_load sure = scaler_demand_doubted(s->forecast, SCALER_DEMAND_SLOW_US, slow_z);
    p->floor =
        needed(s, pool, &sure) > now ? needed(s, pool, &s->forecast) : needed(s, pool, &sure);
    p->floor = idle(s) ? 0 : p->floor;
    uint32_t up = react(s, pool, o, p->floor);
    uint32_t stay = survivors(s, pool, o, s->options.hold_us);
    stay = stay > 0 || idle(s) ? stay : 1;
    stay = idle(s) ? 0 : stay;
    bool watched = s->time_us >= s->options.hold_us &&
                   s->time_us - p->grown_us >= s->options.hold_us * p->hold_times;
    p->wanted = now;
    if (up > now) {
        p->wanted = up;
        const scaler_load *l = p->floor >= up ? &s->forecast : &s->fast;
        why(s, pool, "%s: %.2f requests/s of %.0f + %.0f tokens need %u",
            p->floor >= up ? "forecast"
            : p->piled_us  ? "work piles up"
                           : "load has risen",
            l->requests_per_s, l->prompt_mean, l->output_mean, up);
    } else if (stay < now && watched) {
        p->wanted = stay;
        why(s, pool, idle(s) ? "idle for %.0f s" : "%.0f s of load fit in %u of %u",
            (double)(idle(s) ? s->options.idle_us : s->options.hold_us) / 1e6, stay, now);
    } else if (p->pending) {
        why(s, pool, "%u of %u serve; waiting for the rest", p->serving, now);
    } else {
        why(s, pool, "the load needs %u, and %u before fewer would hold it", p->floor, stay);
    }
    uint32_t free = p->wanted;
    p->wanted = clamp(s, pool, free);
    if (p->wanted != now && p->wanted != free) {
        why(s, pool, "%u by the pool's %s", p->wanted, p->wanted > free ? "minimum" : "maximum");
    }
    set_busy(s, pool);
}

/* ---- what is done --------------------------------------------------------------------------- */

/* The least loaded worker that may go, or NULL. */
static const scaler_worker *pick(const scaler *s, const scaler_observation *o, scaler_pool pool,
                                 bool to_flip) {
    const scaler_worker *best = NULL;
    for (uint32_t i = 0; i < o->workers_count; i++) {
        const scaler_worker *w = &o->workers[i];
        bool taken = false;
        for (uint32_t k = 0; k < s->actions_count; k++) {
            taken = taken || s->actions[k].worker == (int32_t)w->id;
        }
        if (w->pool != pool || w->phase != SCALER_SERVING || leaves(s, w) || taken ||
            (to_flip && !w->flips)) {
            continue;
        }
        uint64_t load = w->queued_tokens + 64 * ((uint64_t)w->running + w->waiting);
        uint64_t least = best ? best->queued_tokens + 64 * ((uint64_t)best->running + best->waiting)
                              : UINT64_MAX;
        best = load < least ? w : best;
    }
    return best;
}

static double gpus_held(const scaler *s) {
    double sum = 0;
    for (int i = 0; i < SCALER_POOLS; i++) {
        sum += s->options.gpus[i] * (have(&s->pools[i]) + s->pools[i].stopping);
    }
    return sum;
}

static uint32_t room_for(const scaler *s, scaler_pool pool) {
    if (s->options.fixed) {
        return 0;
    }
    double left = s->options.gpus_max - gpus_held(s);
    return s->options.gpus_max <= 0 ? SCALER_CAPACITY_MAX
           : left <= 0              ? 0
                                    : (uint32_t)floor(left / s->options.gpus[pool] + 1e-9);
}

/* Workers that the other pool can give without missing them; and, when there is no room for more at
 * all, with less harm than is done here. */
static uint32_t givers(const scaler *s, scaler_pool to, const scaler_observation *o) {
    scaler_pool from = (scaler_pool)(1 - to);
    const scaler_state *p = &s->pools[from], *q = &s->pools[to];
    uint32_t now = have(p);
    if (p->pending || now == 0 || p->wanted > now) {
        bool full = room_for(s, to) == 0 && !p->pending;
        if (!full || now <= s->options.bounds[from].min || now < 2) {
            return 0;
        }
        double here = (double)q->wanted / (have(q) + 1.0), there = (double)p->wanted / (now - 1.0);
        return here > shift_gain * there ? 1 : 0;
    }
    uint32_t stay = survivors(s, from, o, FLIP_HOLD_US);
    stay = clamp(s, from, stay > 0 ? stay : 1);
    bool watched = s->time_us >= FLIP_HOLD_US && s->time_us - p->changed_us >= FLIP_HOLD_US;
    if (stay < now && watched) {
        return now - stay;
    }
    if (room_for(s, to) == 0 && now > s->options.bounds[from].min && now > 1) {
        double here = (double)q->wanted / (have(q) + 1.0);
        double there = (double)(p->floor > 0 ? p->floor : 1) / (now - 1.0);
        return here > shift_gain * there ? 1 : 0;
    }
    return 0;
}

static void grow(scaler *s, scaler_pool pool, const scaler_observation *o) {
    scaler_state *p = &s->pools[pool];
    scaler_pool other = (scaler_pool)(1 - pool);
    uint32_t now = have(p);
    if (p->pending || p->wanted <= now) {
        return;
    }
    if (s->time_us < p->refused_us) {
        why(s, pool, "refused by the driver: trying again in %.0f s",
            (double)(p->refused_us - s->time_us) / 1e6);
        return;
    }
    char reason[SCALER_REASON_BYTES];
    memcpy(reason, p->why, sizeof reason);
    uint32_t more = p->wanted - now, give = givers(s, pool, o);
    for (const scaler_worker *w; give > 0 && more > 0 && (w = pick(s, o, other, true)) != NULL;
         give--, more--) {
        act(s, SCALER_FLIP, pool, (int32_t)w->id, "%s; %s can spare it", reason,
            scaler_pool_name(other));
    }
    if (s->time_us < p->start_after_us) {
        why(s, pool, "the last start failed: trying again in %.0f s",
            (double)(p->start_after_us - s->time_us) / 1e6);
        return;
    }
    uint32_t room = s->options.dry_run && !s->options.fixed ? more : room_for(s, pool);
    if (more > 0 && room == 0 && s->options.fixed) {
        why(s, pool, "%.110s; nothing starts workers here", reason);
    } else if (more > 0 && room == 0) {
        why(s, pool, "%.110s; all %.1f GPUs are taken", reason, s->options.gpus_max);
    }
    for (; more > 0 && room > 0; more--, room--) {
        act(s, SCALER_START, pool, SCALER_NO_WORKER, "%s", reason);
        if (s->options.dry_run) {
            return; /* the same advice again says nothing new */
        }
    }
}

static void shrink(scaler *s, scaler_pool pool, const scaler_observation *o) {
    scaler_state *p = &s->pools[pool];
    uint32_t now = have(p);
    if (p->pending || s->options.fixed || s->time_us < p->refused_us) {
        return;
    }
    for (const scaler_worker *w; now > p->wanted && (w = pick(s, o, pool, false)) != NULL; now--) {
        act(s, SCALER_STOP, pool, (int32_t)w->id, "%s", p->why);
        if (s->options.dry_run) {
            return;
        }
    }
}

/* When there was something to do last. */
static void note_requests(scaler *s, const scaler_observation *o) {
    bool busy = o->held > 0;
    for (uint32_t i = 0; i < o->workers_count; i++) {
        busy = busy || o->workers[i].running > 0 || o->workers[i].waiting > 0;
    }
    double requests = o->counters.requests;
    if (busy || s->request_us == 0 || (isfinite(requests) && requests > s->requests)) {
        s->request_us = s->time_us;
    }
    s->requests = isfinite(requests) ? requests : s->requests;
}

/* A load that has ended lingers in the smoothed one, and is over: the requests, or long prompts
 * among requests that go on. */
static void drop_ended(scaler *s, const scaler_load *level) {
    scaler_load *f = &s->forecast;
    double tokens = s->highest.requests_per_s * s->highest.prompt_mean;
    if (s->highest.requests_per_s < level->requests_per_s) {
        *f = s->highest;
    } else if (tokens < level->requests_per_s * level->prompt_mean && f->requests_per_s > 0 &&
               tokens < f->requests_per_s * f->prompt_mean) {
        double share = tokens / (f->requests_per_s * f->prompt_mean);
        f->prompt_mean *= share;
        f->prompt_square *= share * share;
    }
}

static int64_t lacks(const scaler_state *p) {
    return (int64_t)p->wanted - (int64_t)have(p);
}

void scaler_step(scaler *s, const scaler_observation *o, int64_t now_us) {
    CHECK_LE(o->workers_count, LIMIT_WORKERS);
    int64_t elapsed = s->begun ? now_us - s->now_us : 0;
    elapsed = elapsed < 0 || elapsed > SCALER_GAP_US ? SCALER_GAP_US : elapsed;
    s->begun = true;
    s->time_us += elapsed;
    s->now_us = now_us;
    s->actions_count = 0;
    scaler_demand_note(&s->demand, &o->counters, elapsed);
    s->speed.seqs_max = s->options.seqs_max;
    learn_phase(s, o, STEPMODEL_PREFILL);
    learn_phase(s, o, STEPMODEL_DECODE);
    s->fast = scaler_demand_fast(&s->demand, SCALER_DEMAND_FAST_US);
    s->forecast = scaler_demand_forecast(&s->demand, s->options.cold_us);
    s->highest = scaler_demand_highest(&s->demand, s->options.hold_us);
    scaler_load level = scaler_demand_forecast(&s->demand, 0);
    drop_ended(s, &level);
    note_requests(s, o);
    count_pools(s, o);
    watch_pending(s, o);
    for (int p = 0; p < SCALER_POOLS; p++) {
        want_pool(s, (scaler_pool)p, o);
    }
    scaler_pool first = lacks(&s->pools[SCALER_DECODE]) > lacks(&s->pools[SCALER_PREFILL])
                            ? SCALER_DECODE
                            : SCALER_PREFILL;
    grow(s, first, o); /* whoever lacks more goes first */
    grow(s, (scaler_pool)(1 - first), o);
    shrink(s, first, o);
    shrink(s, (scaler_pool)(1 - first), o);
}
