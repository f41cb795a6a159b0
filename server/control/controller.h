/* controller.h -- `weir controller`: the hub of a cluster as a process of its own.
 *
 * Purpose    Reads the flags and runs a hub until it is told to stop.
 * Ownership  Everything is released before it returns.
 * Threads    The main thread waits; the hub has its own.
 * Limits     Those of hub.h.
 */
#ifndef SERVER_CONTROL_CONTROLLER_H
#define SERVER_CONTROL_CONTROLLER_H

/* argv[0 .. argc-1] are the arguments after `weir controller`. Returns the exit status. */
int controller_main(int argc, char *const *argv, const char *version);

#endif
