/* workerflags.h -- values that flags of `weir worker` take and `weir serve` passes on.
 *
 * Purpose    One list of each for the commands that have the flag.
 * Ownership  Constants.
 * Threads    Any.
 * Limits     Each list ends with NULL, as config.h wants it.
 */
#ifndef SERVER_WORKERFLAGS_H
#define SERVER_WORKERFLAGS_H

/* In the order of backend_kv_type and backend_activations (kernels/backend.h), which this layer
 * does not know; and "auto" (backend_kv_choose, backend_activations_choose) after each. */
extern const char *const workerflags_kv_dtypes[];
extern const char *const workerflags_activations[];

/* BACKEND_RANKS_MAX, likewise. */
enum { WORKERFLAGS_RANKS_MAX = 16 };
#define WORKERFLAGS_RANKS "GPUs that share the model in a worker, from --device on, over NCCL"

extern const char *const workerflags_weights[]; /* of model_weights (models/arch/model.h) */

#define WORKERFLAGS_KV_BLOCK                                                                   \
    "tokens of KV handed out, and found again for other prompts, together; a multiple of 16. " \
    "Workers need not agree"

#define WORKERFLAGS_DECODE_SHARE                                                                 \
    "with --pd-multiplex on a GPU: percent of its multiprocessors that decoding has to itself, " \
    "in a "                                                                                      \
    "green context, and prompts the rest; 0: both have all of them, decoding goes first"

#define WORKERFLAGS_PACE                                                                          \
    "on cores shared with prefill workers: while those compute prompts, steps of decoding begin " \
    "at "                                                                                         \
    "least so far apart and lend their cores in between; 0: never"

/* "auto", then the transports in the order of hello_transport (engine/core/hello.h). */
extern const char *const workerflags_kv_transports[];
enum {
    WORKERFLAGS_KV_AUTO,
    WORKERFLAGS_KV_LOCAL,
    WORKERFLAGS_KV_SHM,
    WORKERFLAGS_KV_IPC,
    WORKERFLAGS_KV_NCCL,
    WORKERFLAGS_KV_TCP
};

#endif
