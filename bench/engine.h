/* engine.h -- `weir bench engine`: how fast the forward pass is on this machine.
 *
 * Purpose    Prefill and decode tokens/s by prompt, batch and thread count, beside the memory's
 *            streaming rate in the same run. No sockets, scheduler or sampler: the model alone.
 * Ownership  None.
 * Threads    Main thread.
 * Limits     ENGINE_LIST_MAX values a list.
 */
#ifndef BENCH_ENGINE_H
#define BENCH_ENGINE_H

enum { ENGINE_LIST_MAX = 16 };

/* argv[0 .. argc-1] are the arguments after `weir bench engine`. Prints to standard output; returns
 * the exit status. */
int engine_bench(int argc, char *const *argv);

#endif
