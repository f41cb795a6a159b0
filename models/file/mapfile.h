/* mapfile.h -- a whole file as read-only memory.
 *
 * Purpose    Model files are read in place: pages come from the page cache, are shared by every
 *            process that maps the same file, and are only read from disk when touched.
 * Ownership  mapfile_open holds the mapping, not the descriptor; mapfile_close gives it back.
 * Threads    Open and close from one thread; the bytes may be read from any.
 * Limits     Regular, non-empty files. A file that is cut short while mapped ends the process with
 *            SIGBUS, as for every mmap: replace model files by rename, never in place.
 */
#ifndef MODELS_FILE_MAPFILE_H
#define MODELS_FILE_MAPFILE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

typedef struct {
    const uint8_t *data; /* [bytes] */
    size_t bytes;
} mapfile;

MUST_USE status mapfile_open(const char *path, mapfile *out, diag *d);
void mapfile_close(mapfile *m);

#endif
