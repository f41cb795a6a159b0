/* devpairstate.h -- a channel between devices from the inside: what nccl.c and ipc.c build on.
 *
 * Purpose    The ring of groups under way, their way from pages to staging and back, messages,
 *            deadlines, and the verbs of kvt.h. What is a transport's own is in its devpair_kind.
 * Ownership  A transport's struct begins with a devpair; devpair_open allocates it, kvt_close
 *            frees.
 * Threads    As devpair.h.
 * Limits     As devpair.h.
 */
#ifndef KVTRANSFER_DEVPAIRSTATE_H
#define KVTRANSFER_DEVPAIRSTATE_H

#ifdef WEIR_HAVE_NCCL
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvtransfer/devpair.h"
#include "kvtransfer/ncclhold.h"
#include "kvtransfer/ncclmsg.h"
#include "kvtransfer/sideline.h"

enum { DEVPAIR_ROW_BYTES = 256, DEVPAIR_LIST_BYTES = 4 * KVT_JOB_PAGES };

/* How far a group is, in this order; each side and transport leaves out what is another's. */
typedef enum {
    DEVPAIR_NEW,    /* P: handed over; D: announced */
    DEVPAIR_PACK,   /* P: pages are copied to staging */
    DEVPAIR_ASKED,  /* P: announced */
    DEVPAIR_READY,  /* P: D's receive is posted */
    DEVPAIR_LAUNCH, /* the transfer goes to the stream */
    DEVPAIR_FLY,    /* ... and ends */
    DEVPAIR_UNPACK, /* D: staging is copied to pages */
    DEVPAIR_ENDING  /* P: D has still to say done; D: kvt_receive reports it */
} devpair_step;

typedef struct {
    devpair_step step;
    bool done; /* P: D has said so */
    kvt_job job;
    frame frame;
    kvt_outcome outcome;
    int64_t since_us; /* announced (P), judged (D) */
} devpair_group;

/* Events of a group: around its copy, around its transfer. */
enum { DEVPAIR_COPY_BEGIN, DEVPAIR_COPY_END, DEVPAIR_WIRE_BEGIN, DEVPAIR_WIRE_END, DEVPAIR_EVENTS };

typedef struct devpair devpair;

typedef struct {
    kvt_transport verbs;   /* DEVPAIR_VERBS(its name) */
    const char *announced; /* failpoint */
    /* One step of setting up, while the pair is not up; true when something moved. */
    bool (*set_up)(devpair *n);
    /* False: the message is out of turn. ANNOUNCE is for devpair_announced. */
    bool (*hear)(devpair *n, const ncclmsg *m);
    /* A group as far as it goes, where the step is the transport's own. */
    void (*step)(devpair *n, uint32_t index);
    /* Gives up what only the transport knows of; NULL: nothing. No copy of this side runs. */
    void (*let_go)(devpair *n);
} devpair_kind;

struct devpair {
    kvt base;
    const devpair_kind *kind;
    const ncclapi *api;
    devpair_options options;
    bool sender;
    bool setting_up, up;
    sideline line;
    int64_t deadline_us; /* of setting up */
    int64_t oldest_us;   /* since when the oldest group is the oldest */
    ncclhold device;
    uint8_t *staging;                         /* of the groups: the hold's, or the peer's */
    devpair_group groups[DEVPAIR_WINDOW_MAX]; /* ring [options.window], oldest first */
    uint32_t first, count;
    uint32_t sent[KVT_JOBS_MAX]; /* sender: ring of finished sequences */
    uint32_t sent_first, sent_count;
    devpair_times times;
    char reason[160];
};

/* A side of `bytes`, which begins with a devpair. */
MUST_USE status devpair_open(const devpair_kind *kind, size_t bytes, const ncclapi *api,
                             const kvt_pool *pool, const devpair_options *options,
                             uint64_t generation, bool receiver, kvt **out, diag *d);

kvt_result devpair_send(kvt *k, const kvt_job *job);
bool devpair_sent(kvt *k, uint32_t *sequence);
kvt_result devpair_receive(kvt *k, const kvt_job *job, kvt_arrival *out);
int devpair_event_fd(const kvt *k);
void devpair_event_clear(kvt *k);
void devpair_close(kvt *k);
void devpair_idle(kvt *k);
#define DEVPAIR_VERBS(name)                                                                       \
    {                                                                                             \
        name, devpair_send, devpair_sent, devpair_receive, devpair_event_fd, devpair_event_clear, \
            devpair_close, devpair_idle                                                           \
    }

/* ---- for transports ------------------------------------------------------------------------- */

devpair_group *devpair_at(devpair *n, uint32_t index);
/* Of its staging, [stage_bytes], and behind it a list of pages unless the staging is a peer's. */
uint8_t *devpair_staging(const devpair *n, uint32_t index);
uint64_t devpair_place_bytes(const devpair *n);
cudaEvent_t devpair_event(const devpair *n, uint32_t index, int which);

/* The channel has failed; the reason begins with its name. While copies are under way it keeps what
 * they use, and closing it waits for them. */
void devpair_broken(devpair *n, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool devpair_cuda_ok(devpair *n, const char *what, cudaError_t r);

bool devpair_mark(devpair *n, uint32_t index, int which);
/* False too when it failed. */
bool devpair_passed(devpair *n, uint32_t index, int which, const char *what);
/* Microseconds between the marks `which` and the next. */
int64_t devpair_between_us(const devpair *n, uint32_t index, int which);
/* Begins to copy between a group's pages and its staging, in wire order: its step is then
 * DEVPAIR_PACK or _UNPACK, or the channel has failed. */
void devpair_copy(devpair *n, uint32_t index);
/* D: the copy has ended, and is counted. */
bool devpair_unpacked(devpair *n, uint32_t index);

void devpair_say(devpair *n, const ncclmsg *m);
void devpair_answer(devpair *n, ncclmsg_kind kind, uint32_t sequence);
void devpair_hear(devpair *n);
/* D: takes an announcement; false when there can be none. */
bool devpair_announced(devpair *n, const ncclmsg *m);

/* Whether group `index` may do what must happen in order: all before it are at `s` or further. */
bool devpair_its_turn(devpair *n, uint32_t index, devpair_step s);
/* D: judges what was announced; true when its bytes are wanted. Else it ends, or the channel. */
bool devpair_judge(devpair *n, uint32_t index);
#endif
#endif
