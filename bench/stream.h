/* stream.h -- how fast this machine reads memory: the roofline of decode.
 *
 * Purpose    Every decode step reads all weights once, so its rate is bounded by streaming reads.
 * Ownership  Memory is taken and given back inside the call.
 * Threads    Starts `threads` threads and joins them.
 * Limits     threads <= LIMIT_THREADS.
 */
#ifndef BENCH_STREAM_H
#define BENCH_STREAM_H

#include <stdint.h>

/* Bytes per second, the best of a few passes over a buffer far larger than any cache; 0 when there
 * is no memory. */
double stream_read_bytes_per_s(int32_t threads);

#endif
