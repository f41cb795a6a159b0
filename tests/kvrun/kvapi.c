/* kvapi.c -- ncclapi_load for the property run, its clock and its helpers. */
#define _GNU_SOURCE
#include "tests/kvrun/kvapi.h"

#include <pthread.h>
#include <string.h>

#include "engine/base/check.h"
#include "kvtransfer/kvtplanted.h"
#include "kvtransfer/ncclapi.h"

typedef struct {
    void *(*run)(void *);
    void *argument;
    int64_t due_us;
} helper;

enum { PAINT = 0x5A };

kvapi_side *kvapi_now;
int64_t kvapi_time_us = 1000000;
static helper helpers[KVAPI_HELPERS];
static unsigned helpers_count;
static int64_t helpers_delay_us;
static unsigned made;
static ncclapi calls;

/* ---- what the transport is built to call ----------------------------------------------------- */

/* clock_now_us, pthread_create and usleep of the transport are these (CMakeLists.txt). */
int64_t kvapi_clock(void);
int kvapi_thread(pthread_t *out, const pthread_attr_t *attributes, void *(*run)(void *),
                 void *argument);
int kvapi_detach(pthread_t thread);
int kvapi_sleep(unsigned us);

int64_t kvapi_clock(void) {
    return kvapi_time_us;
}

int kvapi_thread(pthread_t *out, const pthread_attr_t *attributes, void *(*run)(void *),
                 void *argument) {
    (void)attributes;
    CHECK_LT(helpers_count, KVAPI_HELPERS);
    *out = pthread_self();
    helpers[helpers_count++] = (helper){run, argument, kvapi_time_us + helpers_delay_us};
    return 0;
}

int kvapi_detach(pthread_t thread) {
    (void)thread;
    return 0;
}

int kvapi_sleep(unsigned us) {
    kvapi_time_us += us;
    return 0;
}

static void paint_due(void);

unsigned kvapi_helpers(void) {
    return helpers_count;
}

void kvapi_delay_helpers(int64_t us) {
    helpers_delay_us = us;
}

void kvapi_run_helpers(bool all) {
    paint_due();
    for (unsigned i = 0; i < helpers_count;) {
        helper h = helpers[i];
        if (!all && h.due_us > kvapi_time_us) {
            i++;
            continue;
        }
        memmove(&helpers[i], &helpers[i + 1], (helpers_count - i - 1) * sizeof helpers[0]);
        helpers_count--;
        (void)h.run(h.argument);
    }
}

/* ---- staging that nobody has ----------------------------------------------------------------- */

kvtplanted_bug kvtplanted_now;

static struct {
    uint8_t *at;
    uint64_t bytes;
    int64_t due_us; /* when it is painted; 0: it is */
} painted[KVAPI_STAGES];

static bool as_painted(const uint8_t *at, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i++) {
        if (at[i] != PAINT) {
            return false;
        }
    }
    return true;
}

/* Whoever may have it now writes it at once. */
static void paint_due(void) {
    for (unsigned i = 0; i < KVAPI_STAGES; i++) {
        if (painted[i].at && painted[i].due_us && painted[i].due_us <= kvapi_time_us) {
            memset(painted[i].at, PAINT, painted[i].bytes);
            painted[i].due_us = 0;
        }
    }
}

void kvtplanted_given(void *stage, uint64_t bytes, int64_t rest_us) {
    unsigned i = 0;
    while (painted[i].at) {
        i++;
        CHECK_LT(i, KVAPI_STAGES);
    }
    painted[i].at = stage;
    painted[i].bytes = bytes;
    painted[i].due_us = rest_us ? rest_us : kvapi_time_us;
    paint_due();
}

void kvtplanted_taken(const void *stage, uint64_t bytes) {
    paint_due();
    CHECK(as_painted(stage, bytes));
    for (unsigned i = 0; i < KVAPI_STAGES; i++) {
        painted[i].at = painted[i].at == stage ? NULL : painted[i].at;
    }
}

bool kvapi_staging_untouched(void) {
    bool good = true;
    paint_due();
    for (unsigned i = 0; i < KVAPI_STAGES; i++) {
        bool now = painted[i].at && !painted[i].due_us;
        good = good && (!now || as_painted(painted[i].at, painted[i].bytes));
    }
    return good;
}

/* ---- NCCL ------------------------------------------------------------------------------------ */

unsigned kvapi_made(void) {
    return made;
}

static ncclResult_t join(ncclComm_t *out, int ranks, ncclUniqueId id, int rank,
                         ncclConfig_t *config) {
    ncclResult_t r = ncclCommInitRankConfig(out, ranks, id, rank, config);
    if (kvapi_now) {
        kvapi_now->comm = *out;
        kvapi_now->number = made;
        kvapi_now->joined_us = kvapi_time_us;
    }
    made += *out != NULL;
    return r;
}

static ncclResult_t receive(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                            cudaStream_t stream) {
    if (kvapi_now) {
        CHECK_LT(kvapi_now->receives, KVAPI_RECEIVES);
        kvapi_now->received_us[kvapi_now->receives++] = kvapi_time_us;
    }
    return ncclRecv(to, count, type, peer, comm, stream);
}

status ncclapi_runtime(const ncclapi **out, diag *d) {
    return ncclapi_load(out, d);
}

status ncclapi_load(const ncclapi **out, diag *d) {
    (void)d;
#define TAKE(name) calls.name = name;
    NCCLAPI_CALLS(TAKE)
#undef TAKE
    calls.ncclCommInitRankConfig = join;
    calls.ncclRecv = receive;
    *out = &calls;
    return STATUS_OK;
}
