/* loadgen.h -- `weir bench serve`: load on a server over HTTP, and what its users would feel.
 *
 * Purpose    Open loop (requests arrive when they arrive, whether or not the server keeps up) or
 *            closed loop (so many at once). Latency counts from when a request should have been
 *            sent, so a server that stalls cannot hide it (no coordinated omission).
 * Ownership  None.
 * Threads    One thread does everything: it must not be what is measured.
 * Limits     LOADGEN_REQUESTS_MAX requests, LOADGEN_CONNECTIONS_MAX connections.
 */
#ifndef BENCH_LOADGEN_H
#define BENCH_LOADGEN_H

enum { LOADGEN_REQUESTS_MAX = 1000000, LOADGEN_CONNECTIONS_MAX = 16384 };

/* argv[0 .. argc-1] are the arguments after `weir bench serve`. Prints to standard output; returns
 * the exit status: 0 when at least one request was answered well, 2 for a wrong command line. */
int loadgen_main(int argc, char *const *argv);

#endif
