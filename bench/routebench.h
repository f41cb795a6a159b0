/* routebench.h -- `weir bench route`: what a routing decision costs, and what it is worth.
 *
 * Purpose    Times the production router with as many workers and cached pages as asked for; and
 *            (--compare) simulates a fleet under a load of prompts that share beginnings, with the
 *            production router, index and prefix caches, once a policy.
 * Ownership  None.
 * Threads    Main thread.
 * Limits     PAGEINDEX_WORKERS_MAX workers.
 */
#ifndef BENCH_ROUTEBENCH_H
#define BENCH_ROUTEBENCH_H

/* argv[0 .. argc-1] are the arguments after `weir bench route`. Prints to standard output; returns
 * the exit status. */
int routebench(int argc, char *const *argv);

#endif
