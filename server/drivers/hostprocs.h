/* hostprocs.h -- processes of this machine: which program they are, and with what words.
 *
 * Purpose    A controller that starts anew finds the workers of the one before, whether they have
 *            come to its hub yet or not: the kernel knows what they are and what they were told.
 * Ownership  Plain values.
 * Threads    Any.
 * Limits     The first HOSTPROCS_BYTES of a command line. Processes of other users are not seen.
 */
#ifndef SERVER_DRIVERS_HOSTPROCS_H
#define SERVER_DRIVERS_HOSTPROCS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { HOSTPROCS_BYTES = 16384, HOSTPROCS_PATH_BYTES = 4096 };

typedef struct {
    char text[HOSTPROCS_BYTES]; /* [bytes] words, each with a zero byte after it */
    size_t bytes;
} hostprocs_words;

/* This process's own program, as hostprocs_runs wants it; false: /proc does not tell. */
bool hostprocs_self(char out[HOSTPROCS_PATH_BYTES]);

bool hostprocs_runs(pid_t pid, const char *program);

/* False: there is no such process, or it is another user's. */
bool hostprocs_read(pid_t pid, hostprocs_words *out);

/* The word after the first `flag`, and the word of that index; NULL: there is none. */
const char *hostprocs_value(const hostprocs_words *w, const char *flag);
const char *hostprocs_word(const hostprocs_words *w, size_t index);

/* Calls `found` with every process there is. */
void hostprocs_each(void (*found)(void *self, pid_t pid), void *self);

#endif
