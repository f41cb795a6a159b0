/* optimer.h -- how long each operator of a backend takes.
 *
 * Purpose    Puts itself between the checks of kernels/backend.c and a backend: two looks at the
 *            clock an operator, so it may stay in while tokens per second are measured.
 * Ownership  Borrows the backend until optimer_remove.
 * Threads    The backend's caller.
 * Limits     One backend at a time; OPTIMER_ENTRIES_MAX kinds, the rest is counted with the last.
 */
#ifndef BENCH_OPTIMER_H
#define BENCH_OPTIMER_H

#include "kernels/backend.h"

enum { OPTIMER_ENTRIES_MAX = 24 };

/* Linear operators are told apart by shape: a layer has four, and the logits a fifth. */
typedef struct {
    const char *name;
    int32_t outputs, inputs; /* linear, otherwise 0 */
    uint64_t calls, ns;
    double ops;   /* linear: multiplications and additions */
    double bytes; /* linear: weights read */
} optimer_entry;

void optimer_install(backend *b);
void optimer_remove(backend *b);
void optimer_clear(void);

/* Entries since optimer_clear, in order of first use. */
int32_t optimer_entries(const optimer_entry **out);

#endif
