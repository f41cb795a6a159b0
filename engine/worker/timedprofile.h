/* timedprofile.h -- what a worker of the timed backend imitates: how long steps and transfers take.
 *
 * Purpose    Reads a profile (`name = value` lines, engine/base/config.h) and does its arithmetic.
 *            The defaults are bench/profiles/smollm2-135m-xeon-1thread.profile; its kv-gbps is an
 *            assumption.
 * Ownership  Plain values.
 * Threads    Pure functions.
 * Limits     Those of the options in timedprofile.c; a step lasts TIMEDPROFILE_STEP_US_MAX at most.
 */
#ifndef ENGINE_WORKER_TIMEDPROFILE_H
#define ENGINE_WORKER_TIMEDPROFILE_H

#include <stdint.h>

#include "engine/base/status.h"

#define TIMEDPROFILE_STEP_US_MAX 600000000.0

typedef struct {
    double prefill_us;         /* of a step that has rows of prompts, and */
    double prefill_token_us;   /* for each such row, and */
    double prefill_context_us; /* for each token before a chunk */
    double decode_us;          /* of a step that has decode rows, and */
    double decode_seq_us;      /* for each such row, and */
    double decode_context_us;  /* for each token that they attend to */
    double kv_gbps;            /* gigabytes a second of received KV; 0: no wait */
    int64_t kv_bytes_per_token;
    int64_t kv_pages; /* of the pool; 0: as many as --kv-memory holds */
    int64_t start_ms; /* before the worker is ready */
} timedprofile;

/* What a step has to do. */
typedef struct {
    int64_t prefill_rows, prefill_context; /* rows of chunks; tokens before those chunks */
    int64_t decode_rows, decode_context;   /* single rows; tokens they attend to */
} timedprofile_work;

/* `path` NULL or "": the defaults. An error names the file, the line and what would be valid. */
MUST_USE status timedprofile_read(const char *path, timedprofile *out, diag *d);

/* A step of both kinds reads the weights once: it has the larger of the fixed parts. */
int64_t timedprofile_step_us(const timedprofile *p, const timedprofile_work *w);

/* How long KV of so many tokens occupies the receiver's link. */
int64_t timedprofile_transfer_us(const timedprofile *p, int64_t tokens);

#endif
