/* serve.h -- `weir serve`: gateway, supervisor and local worker processes in one command; and
 * `weir gateway`, the first of these alone.
 *
 * Purpose    Reads the flags, opens what the gateway needs of the model (tokeniser, chat template),
 *            starts the HTTP server and the workers, and runs the gateway until it is told to stop.
 * Ownership  Everything is released before it returns.
 * Threads    The main thread.
 * Limits     LIMIT_WORKERS workers.
 */
#ifndef SERVER_SERVE_H
#define SERVER_SERVE_H

#include "engine/base/status.h"

/* Whether workers of the timed backend will understand this profile. The gateway's side does not
 * know their files, so the caller brings it: a wrong one is to be told before any worker starts. */
typedef status serve_check(const char *profile_path, diag *d);

/* argv[0 .. argc-1] are the arguments after `weir serve`. Returns the exit status. */
int serve_main(int argc, char *const *argv, serve_check *check_profile);

/* The same for `weir gateway`: no workers of its own, those of a cluster. */
int serve_gateway_main(int argc, char *const *argv);

#endif
