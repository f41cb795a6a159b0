/* tracefile.h -- a trace that is written to a file when its process ends.
 *
 * Purpose    `--trace DIR`: each process keeps its newest spans and leaves DIR/<process>.json.
 * Ownership  tracefile_open holds memory; tracefile_close writes the file and gives it back.
 * Threads    open and close: one thread. The trace in between: as trace.h.
 * Limits     TRACEFILE_SPANS spans.
 */
#ifndef ENGINE_BASE_TRACEFILE_H
#define ENGINE_BASE_TRACEFILE_H

#include "engine/base/trace.h"

enum { TRACEFILE_SPANS = 1 << 16 };

typedef struct {
    trace *trace; /* NULL: off; trace_span takes that */
    arena arena;
    char path[4096];
    char process[32];
} tracefile;

/* Off when `directory` is NULL or empty. The directory must exist. */
MUST_USE status tracefile_open(tracefile *t, const char *directory, const char *process, diag *d);

/* Writes what there is. A failure is logged: it must not keep a process from ending. */
void tracefile_close(tracefile *t);

#endif
