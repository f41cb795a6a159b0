/* stream.h -- what this machine could do at most: the rooflines of prefill and decode.
 *
 * Purpose    Every decode step reads all weights once, so streaming reads bound it; prefill is
 *            bound by dot products. Both are measured, on all threads, in the run they stand
 *            beside.
 * Ownership  Memory is taken and given back inside the call.
 * Threads    Starts `threads` threads and joins them.
 * Limits     threads <= LIMIT_THREADS.
 */
#ifndef BENCH_STREAM_H
#define BENCH_STREAM_H

#include <stdint.h>

/* Bytes per second over a buffer of `bytes` (the weights': what caches hold of them, they hold of
 * this), the best of some passes; 0 when there is no memory. */
double stream_read_bytes_per_s(int32_t threads, uint64_t bytes);

/* Multiplications and additions per second from registers: of int8 for an instruction set "amx",
 * "avx512" or "avxvnni", of bf16 for "amx-bf16", if the machine has it: one core's times `threads`.
 * 0 for others. */
double stream_ops_per_s(int32_t threads, const char *name);

#endif
