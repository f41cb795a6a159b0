/* kvbench.h -- how fast KV pages move: `weir bench kv`.
 *
 * Purpose    Moves the pages of 1 to 65,536 tokens over each transport that this machine has, and
 *            sets each beside what the same bytes take without weir: memcpy, a TCP socket, a loop
 *            of ncclSend, measured in the same run.
 * Ownership  Everything is given back before the return; processes it started have ended.
 * Threads    The caller's, and a process for D.
 * Limits     One pair at a time.
 */
#ifndef BENCH_KVBENCH_H
#define BENCH_KVBENCH_H

/* The command behind `weir bench kv`; argv has no program name. An exit status. */
int kvbench(int argc, char *const *argv);

#endif
