/* kvtplanted.h -- bugs that the property run's own build can switch on, to see that they are found.
 *
 * Purpose    Each name is a mistake that a transport can make (tests/kvrun/README.md says which,
 *            and what finds it). KVTPLANTED(NAME) is plain false in every build but that one's, and
 *            the two hooks are nothing, so none of it is in the binary.
 * Ownership  None.
 * Threads    The property run's one.
 * Limits     One bug at a time.
 */
#ifndef KVTRANSFER_KVTPLANTED_H
#define KVTRANSFER_KVTPLANTED_H

#ifdef WEIR_PLANTED

#include <stdint.h>

#define KVTPLANTED_LIST(BUG)                                                                \
    BUG(NONE)                                                                               \
    BUG(ABORT_DROPPED)         /* a communicator that failed is forgotten */                \
    BUG(ANNOUNCEMENTS_SWAPPED) /* a group is announced before the one before it */          \
    BUG(GENERATION_IGNORED)    /* another life's announcement is taken for this one's */    \
    BUG(POST_BY_SCHEDULER)     /* receives wait until the scheduler has time */             \
    BUG(STAGING_TOO_EARLY)     /* staging goes to the next pair before the abort is over */ \
    BUG(PAGES_TOO_EARLY)       /* closing does not wait for copies to pages */              \
    BUG(DEADLINE_MISSING)      /* a transfer may take for ever */                           \
    BUG(STAGING_UNRESTED)      /* ipc: staging goes to the next pair while D may read it */ \
    BUG(PLACE_TOO_EARLY)       /* ipc: D says done when its copy begins */

#define KVTPLANTED_ENUM(name) KVTPLANTED_##name,
typedef enum { KVTPLANTED_LIST(KVTPLANTED_ENUM) KVTPLANTED_COUNT } kvtplanted_bug;
#undef KVTPLANTED_ENUM

extern kvtplanted_bug kvtplanted_now;
#define KVTPLANTED(name) (kvtplanted_now == KVTPLANTED_##name)

/* Staging that nobody has is painted as soon as somebody else may have it, and whoever takes it
 * looks whether it was written. */
void kvtplanted_given(void *stage, uint64_t bytes, int64_t rest_us);
void kvtplanted_taken(const void *stage, uint64_t bytes);

#else

#define KVTPLANTED(name) 0
#define kvtplanted_given(stage, bytes, rest_us) ((void)0)
#define kvtplanted_taken(stage, bytes) ((void)0)

#endif
#endif
