/* workerflags.c -- the lists. */
#include "server/workerflags.h"

#include <stddef.h>

const char *const workerflags_kv_dtypes[] = {"f16", "f32", "bf16", "int8", "fp8", "auto", NULL};
const char *const workerflags_activations[] = {"int8", "f32", "bf16", "mixed", "auto", NULL};
const char *const workerflags_weights[] = {"file", "q8_0", NULL};
const char *const workerflags_kv_transports[] = {"auto", "local", "shm", "ipc",
                                                 "nccl", "tcp",   NULL};
