/* kvfleet.c -- workers of the property run join, leave, die and freeze. */
#include <stdio.h>
#include <string.h>

#include "tests/emu/libs/emu_nccl.h"
#include "tests/kvrun/kvrun.h"

/* Faults of the emulated NCCL, each on one communicator. */
static const char *const faults[] = {
    "init-hangs",
    "init-fails",
    "stall,message=0,percent=40",
    "stall,message=1,percent=0",
    "stall,message=1,percent=60",
    "stall,message=3,percent=30",
    "die,message=0,percent=10",
    "die,message=2,percent=80",
};
enum { FAULTS = sizeof faults / sizeof faults[0], COMMUNICATORS = 24, SLOW_TURNS = 6000 };

/* What the schedule's communicators will suffer. */
static void arm(kvrun *k) {
    char spec[512] = "";
    size_t at = 0;
    unsigned count = kvrun_chance(k, 50) ? 1 + (unsigned)kvrun_draw(k, 3) : 0;
    k->slow = k->fault_percent > 0 && kvrun_chance(k, 10);
    if (k->slow) { /* some take longer than they may, and would arrive later */
        at += (size_t)snprintf(spec, sizeof spec, "reorder,turns=%d", SLOW_TURNS);
    } else if (kvrun_chance(k, 60)) {
        at += (size_t)snprintf(spec, sizeof spec, "reorder,turns=%u",
                               4 + (unsigned)kvrun_draw(k, 40));
    }
    if (k->fault_percent > 0 && kvrun_chance(k, 40)) {
        at += (size_t)snprintf(spec + at, sizeof spec - at, "%sdeath-silent", at ? ";" : "");
    }
    for (unsigned i = 0; i < count && k->fault_percent > 0; i++) {
        unsigned number = (unsigned)kvrun_draw(k, COMMUNICATORS);
        k->faults[k->faults_count++] = number;
        at += (size_t)snprintf(spec + at, sizeof spec - at, "%s%s,comm=%u", at ? ";" : "",
                               faults[kvrun_draw(k, FAULTS)], number);
        k->counts.faults++;
    }
    emu_nccl_fault(spec);
    kvrun_note(k, "faults: %s", spec);
}

static void join(kvrun *k, kvrun_worker *w) {
    w->state = KVRUN_UP;
    w->life++;
    memset(w->held, 0, sizeof w->held);
    for (uint32_t page = 0; page < KVRUN_PAGES; page++) {
        kvpair_paint(k, w, page);
    }
}

void kvfleet_begin(kvrun *k) {
    k->senders = 1 + (unsigned)kvrun_draw(k, KVRUN_WORKERS);
    k->receivers = 1 + (unsigned)kvrun_draw(k, KVRUN_WORKERS);
    k->fault_percent = kvrun_chance(k, 25) ? 0 : 100;
    k->end_us = kvapi_time_us + 100000 + (int64_t)kvrun_draw(k, 500000);
    k->next_fault_us = kvapi_time_us + (int64_t)kvrun_draw(k, 100000);
    unsigned hosts = 1 + (unsigned)kvrun_draw(k, KVRUN_HOSTS);
    for (int i = 0; i < KVRUN_WORKERS; i++) {
        join(k, &k->p[i]);
        join(k, &k->d[i]);
        k->p[i].host = (unsigned)kvrun_draw(k, hosts);
        k->d[i].host = (unsigned)kvrun_draw(k, hosts);
    }
    arm(k);
}

bool kvfleet_polls(const kvrun *k, const kvrun_worker *w) {
    (void)k;
    return w->state == KVRUN_UP || w->state == KVRUN_LEAVING;
}

/* Whatever the worker has under way may end for it. */
static void may_end(kvrun *k, bool sender, int number) {
    for (int i = 0; i < KVRUN_CHANNELS; i++) {
        kvrun_channel *c = &k->channels[i];
        if (c->used && (sender ? c->p : c->d) == number) {
            c->cause = true;
        }
    }
}

static kvrun_worker *worker(kvrun *k, bool sender, int number) {
    return sender ? &k->p[number] : &k->d[number];
}

static void down(kvrun *k, bool sender, int number, bool dies) {
    kvrun_worker *w = worker(k, sender, number);
    /* The system ends a process at once, and a leaving one waits for its helpers. */
    kvapi_delay_helpers(0);
    kvpair_end_worker(k, sender, number, dies);
    kvapi_run_helpers(false);
    w->state = KVRUN_DOWN;
    w->until_us = kvapi_time_us + (int64_t)kvrun_draw(k, 200000);
}

static void fault(kvrun *k) {
    bool sender = kvrun_chance(k, 50);
    int number = (int)kvrun_draw(k, sender ? k->senders : k->receivers);
    kvrun_worker *w = worker(k, sender, number);
    if (w->state != KVRUN_UP) {
        return;
    }
    char role = sender ? 'P' : 'D';
    switch (kvrun_draw(k, 6)) {
        case 0:
            kvrun_note(k, "%c%d dies", role, number);
            k->counts.kills++;
            down(k, sender, number, true);
            break;
        case 1: /* its host is gone: nothing is closed, nothing answers */
            kvrun_note(k, "%c%d is lost", role, number);
            k->counts.losses++;
            may_end(k, sender, number);
            w->state = KVRUN_LOST;
            w->until_us = kvapi_time_us + 300000 + (int64_t)kvrun_draw(k, 500000);
            break;
        case 2:
            kvrun_note(k, "%c%d leaves", role, number);
            k->counts.leaves++;
            w->state = KVRUN_LEAVING;
            break;
        default:
            kvrun_note(k, "%c%d freezes", role, number);
            k->counts.freezes++;
            may_end(k, sender, number);
            w->state = KVRUN_FROZEN;
            w->until_us = kvapi_time_us + (int64_t)kvrun_draw(k, 400000);
            break;
    }
}

static void pass(kvrun *k, bool sender, int number) {
    kvrun_worker *w = worker(k, sender, number);
    char role = sender ? 'P' : 'D';
    bool due = kvapi_time_us >= w->until_us || k->ending;
    if (w->state == KVRUN_FROZEN && due) {
        kvrun_note(k, "%c%d goes on", role, number);
        w->state = KVRUN_UP;
        w->thawed_us = kvapi_time_us;
    } else if (w->state == KVRUN_LOST && due) {
        down(k, sender, number, true);
    } else if (w->state == KVRUN_DOWN && due) {
        kvrun_note(k, "%c%d joins", role, number);
        join(k, w);
    } else if (w->state == KVRUN_LEAVING && !kvpair_busy(k, sender, number)) {
        kvrun_note(k, "%c%d has left", role, number);
        down(k, sender, number, false);
    }
}

void kvfleet_turn(kvrun *k) {
    if (kvrun_chance(k, 2)) { /* aborts take their time */
        kvapi_delay_helpers(kvrun_chance(k, 50) ? 0 : (int64_t)kvrun_draw(k, 100000));
    }
    kvapi_run_helpers(false);
    if (!k->ending && k->fault_percent > 0 && kvapi_time_us >= k->next_fault_us) {
        fault(k);
        k->next_fault_us = kvapi_time_us + (int64_t)kvrun_draw(k, 150000);
    }
    for (int i = 0; i < KVRUN_WORKERS; i++) {
        pass(k, true, i);
        pass(k, false, i);
    }
}

void kvfleet_end(kvrun *k) {
    for (int i = 0; i < KVRUN_WORKERS; i++) {
        kvpair_end_worker(k, true, i, false);
        kvpair_end_worker(k, false, i, false);
    }
}
