/* kvt.h -- moving KV pages from a prefill worker to a decode worker.
 *
 * Purpose    One side of one channel: a sender reads pages of its pool, a receiver fills pages of
 *            its own. The sender never has an address of the receiver's pool. A receive is posted
 *            with the pages it may fill and what is expected; the sender answers each post with
 *            exactly one send, in order. Which transport carries them (shm.c, tcp.c, nccl.c,
 *            local.c) is not the caller's concern.
 * Ownership  kvt_close frees the side and what it mapped. Pages named in a job must stay as they
 *            are until its completion is reported or the channel is closed: that is the caller's
 *            quarantine.
 * Threads    One thread at a time per side.
 * Limits     KVT_JOB_PAGES pages a job; KVT_JOBS_MAX jobs outstanding a side.
 * Flow       kvt_send: DONE (taken; completion comes), AGAIN (no room: try again when the event
 *            descriptor is ready), FAILED (the channel is broken; close it).
 */
#ifndef KVTRANSFER_KVT_H
#define KVTRANSFER_KVT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/wire.h"
#include "kvtransfer/frame.h"

typedef struct kvt kvt;

enum { KVT_JOB_PAGES = 256, KVT_JOBS_MAX = 1024 };

/* A worker's pool as the transfer sees it. */
typedef struct {
    uint8_t *(*page)(void *context, uint32_t layer, uint32_t page); /* [layer_page_bytes] */
    void *context;
    uint64_t layer_page_bytes;
} kvt_pool;

/* One group of pages: layers [layer_first, layer_first + layers) of each page. */
typedef struct {
    uint64_t request;
    uint32_t attempt;
    uint32_t group;
    uint32_t sequence; /* of the channel, from 0, without gaps, posts and sends alike */
    uint32_t layer_first, layers;
    uint32_t pages_count;
    uint32_t pages[KVT_JOB_PAGES]; /* [pages_count] indexes into this side's pool */
    bool junk;                     /* sender: nothing to send any more; only the answer goes */
} kvt_job;

/* For a pool that is not host memory: its `page` is not called then, and a job's bytes go through
 * host memory of the channel, in this order: [layers, pages_count, layer_page_bytes]. False: the
 * device has failed. */
typedef struct {
    bool (*load)(void *context, const kvt_job *job, uint8_t *out);
    bool (*store)(void *context, const kvt_job *job, const uint8_t *bytes);
} kvt_device;

/* For a transport between devices (nccl): a job's bytes between its pages and device memory, in
 * the order above, on a stream of the device; begun, not waited for. `list`: device memory for
 * KVT_JOB_PAGES numbers. Without it, pages are copied one by one, and `page` gives addresses that
 * the device can copy. False: the device has failed; the stream still waits for what was begun. */
typedef struct {
    bool (*gather)(void *context, const kvt_job *job, void *staging, uint32_t *list, void *stream);
    bool (*scatter)(void *context, const kvt_job *job, const void *staging, uint32_t *list,
                    void *stream);
} kvt_packer;

typedef enum { KVT_DONE, KVT_AGAIN, KVT_FAILED } kvt_result;

typedef enum {
    KVT_ARRIVED, /* bytes in place and checked */
    KVT_JUNK,    /* the sender had nothing to send */
    KVT_DAMAGED  /* header or checksum is not what was expected: the bytes must not be used */
} kvt_outcome;

typedef struct {
    uint32_t sequence;
    kvt_outcome outcome;
    uint64_t bytes;
    int64_t copy_us; /* time spent copying and checking */
} kvt_arrival;

/* The verbs of a transport. */
typedef struct {
    const char *name;
    kvt_result (*send)(kvt *k, const kvt_job *job);
    bool (*sent)(kvt *k, uint32_t *sequence);
    /* The front posted job's bytes, if they are here. */
    kvt_result (*receive)(kvt *k, const kvt_job *job, kvt_arrival *out);
    int (*event_fd)(const kvt *k);
    void (*event_clear)(kvt *k);
    void (*close)(kvt *k);
    /* A receiver looks after its channel while nothing is posted; NULL: it need not. */
    void (*idle)(kvt *k);
} kvt_transport;

/* Shared by the transports: each one's struct begins with it. */
struct kvt {
    const kvt_transport *transport;
    kvt_pool pool;
    const kvt_device *device; /* NULL: pages are host memory */
    const kvt_packer *packer; /* NULL: none */
    uint8_t *stage;           /* [stage_bytes] the bytes of the job under way, with a device */
    uint64_t stage_bytes;
    uint64_t generation;
    bool failed;
    kvt_job *posted; /* [KVT_JOBS_MAX] ring of posted receives, NULL on a sender */
    uint32_t posted_first, posted_count;
};

/* The pool is a device's; before the first job. `d` stays. */
void kvt_use_device(kvt *k, const kvt_device *d);

/* As kvt_use_device, for a transport between devices; the others take no notice. */
void kvt_use_packer(kvt *k, const kvt_packer *p);

kvt_result kvt_send(kvt *k, const kvt_job *job);

/* The next finished send: its pages may change now. False when there is none. */
bool kvt_sent(kvt *k, uint32_t *sequence);

/* Allows the next group to land in `job`'s pages. FAILED when too many are outstanding. */
kvt_result kvt_post(kvt *k, const kvt_job *job);

/* DONE with an arrival for the oldest post, AGAIN, or FAILED. */
kvt_result kvt_receive(kvt *k, kvt_arrival *out);

/* Readable when kvt_receive (receiver) or kvt_send (sender, after AGAIN) is worth a call. */
int kvt_event_fd(const kvt *k);
void kvt_event_clear(kvt *k);

/* The channel is broken; close it. */
bool kvt_failed(const kvt *k);

const char *kvt_name(const kvt *k);
uint64_t kvt_job_bytes(const kvt *k, const kvt_job *job);
void kvt_close(kvt *k);

/* For transports: sets up the shared part. */
MUST_USE status kvt_begin(kvt *k, const kvt_transport *t, const kvt_pool *pool, uint64_t generation,
                          bool receiver);

/* A sender is about to read the job's bytes. False: no memory, or the device has failed. */
bool kvt_load(kvt *k, const kvt_job *job);

/* One page of one layer of the job, in wire order: [layer_page_bytes]. */
uint8_t *kvt_run(const kvt *k, const kvt_job *job, uint32_t layer, uint32_t page);

/* The header a job's answer has. */
frame kvt_job_frame(const kvt *k, const kvt_job *job);

/* KVT_ARRIVED when `f` is the answer to `job`, KVT_JUNK when it is the empty one. */
kvt_outcome kvt_judge(const kvt *k, const kvt_job *job, const frame *f);

#endif
