/* kvrun.h -- one schedule of the property run: a small fleet whose pages move over NCCL and IPC.
 *
 * Purpose    Senders (P) and receivers (D) that join, leave, die and freeze over the production
 *            transport (kvtransfer/nccl.c) and the emulated NCCL, on a clock that only the schedule
 *            moves. Every byte of every page is known beforehand.
 * Ownership  kvrun_open takes memory, kvrun_close gives it back.
 * Threads    One, and one schedule a process: the emulated device remembers.
 * Limits     The enum below.
 */
#ifndef TESTS_KVRUN_KVRUN_H
#define TESTS_KVRUN_KVRUN_H

#include "kvtransfer/ipc.h"
#include "kvtransfer/nccl.h"
#include "tests/kvrun/kvapi.h"

enum {
    KVRUN_WORKERS = 4, /* of each role */
    KVRUN_LAYERS = 2,
    KVRUN_PAGES = 24,
    KVRUN_UNIT = 64,
    KVRUN_JOB_PAGES = 6,
    KVRUN_JOBS = 24, /* of one channel */
    KVRUN_CHANNELS = 96,
    KVRUN_SETUP_US = 200000,
    KVRUN_TRANSFER_US = 120000,
    KVRUN_LEASE_US = 1500000, /* a posted job that has not come by then is given up */
    KVRUN_SLACK_US = 30000,   /* between two looks at a side */
    KVRUN_CLOSING_US = 40000, /* from a side's failure until whoever has it closes it, at most */
    KVRUN_HOSTS = 4           /* workers of one host have IPC between them, others NCCL */
};

typedef enum { KVRUN_UP, KVRUN_FROZEN, KVRUN_LOST, KVRUN_LEAVING, KVRUN_DOWN } kvrun_state;

typedef struct {
    uint8_t bytes[KVRUN_LAYERS][KVRUN_PAGES][KVRUN_UNIT]; /* what NCCL's side reads or writes */
    uint8_t want[KVRUN_LAYERS][KVRUN_PAGES][KVRUN_UNIT];  /* what must be there */
    bool held[KVRUN_PAGES];
    kvrun_state state;
    uint32_t life;
    unsigned host;
    int64_t until_us; /* frozen, lost, down: when that ends */
    int64_t thawed_us;
    int64_t gated_us; /* until then its scheduler does nothing */
} kvrun_worker;

typedef struct {
    kvt_job from, to;
    int64_t told_us;           /* when P hears of it */
    int64_t posted_us;         /* when D posted it */
    bool from_held, to_held;   /* its pages are not free yet */
    bool arrived, compared_ok; /* D has an outcome; the bytes were right then */
    uint8_t bytes[KVRUN_LAYERS][KVRUN_JOB_PAGES][KVRUN_UNIT];
} kvrun_job;

typedef struct {
    bool used;
    int p, d;
    kvt *sender, *receiver; /* NULL: closed */
    kvapi_side near, far;
    kvrun_job *jobs;                       /* [KVRUN_JOBS], by sequence */
    uint32_t count, taken, sent, received; /* jobs posted; of these, in order */
    uint32_t moved;                        /* of the received, those that moved bytes */
    int64_t oldest_us;                     /* since when P's oldest job under way is the oldest */
    int64_t arrived_us;                    /* when D had its newest arrival */
    bool cause;                            /* something happened that may end it */
    bool stale;                            /* the sender is of an earlier life */
    bool ipc;                              /* else over NCCL */
    int64_t closes_us;                     /* P's side has failed, and is closed then */
} kvrun_channel;

typedef struct {
    uint64_t jobs, arrived, junk, failed, channels, kills, losses, freezes, leaves, faults, stale,
        gates, ipc, passes;
} kvrun_counts;

typedef struct {
    uint64_t seed, random;
    bool trace, ending;
    unsigned senders, receivers;
    kvrun_worker p[KVRUN_WORKERS], d[KVRUN_WORKERS];
    kvrun_channel channels[KVRUN_CHANNELS];
    unsigned faults[8], faults_count; /* numbers of communicators */
    int64_t end_us, next_fault_us;
    unsigned fault_percent;
    bool slow; /* any transfer may take too long */
    uint64_t generation;
    uint64_t moved; /* counts what has happened, to see when nothing does */
    size_t memory[KVAPI_DEVICES];
    kvrun_counts counts;
    char why[240]; /* what does not hold */
} kvrun;

/* True when everything held; else `k->why` says what did not. */
bool kvrun_run(kvrun *k, uint64_t seed, bool trace, kvrun_counts *counts);

__attribute__((format(printf, 2, 3))) void kvrun_fail(kvrun *k, const char *format, ...);
__attribute__((format(printf, 2, 3))) void kvrun_note(const kvrun *k, const char *format, ...);
uint64_t kvrun_draw(kvrun *k, uint64_t below);
bool kvrun_chance(kvrun *k, unsigned percent);

/* kvfleet.c: workers, and what goes wrong with them. */
void kvfleet_begin(kvrun *k);
void kvfleet_turn(kvrun *k);
void kvfleet_end(kvrun *k); /* everybody is up again or gone */
bool kvfleet_polls(const kvrun *k, const kvrun_worker *w);

/* kvpair.c: channels, their jobs, what must hold of them. */
void kvpair_work(kvrun *k); /* D's schedulers: new jobs, arrivals adopted */
void kvpair_turn(kvrun *k, kvrun_channel *c);
void kvpair_end_worker(kvrun *k, bool sender, int number, bool dies);
void kvpair_close_sender(kvrun *k, kvrun_channel *c);
void kvpair_close_receiver(kvrun *k, kvrun_channel *c);
bool kvpair_busy(const kvrun *k, bool sender, int number);
void kvpair_paint(kvrun *k, kvrun_worker *w, uint32_t page);
void kvpair_check_pages(kvrun *k);

#endif
