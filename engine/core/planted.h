/* planted.h -- bugs that the simulator's own build can switch on, to see that they are found.
 *
 * Purpose    Each name is a mistake that this protocol or another system has made
 *            (tests/sim/README.md says which, and what finds it). PLANTED(NAME) is plain false in
 *            every build but the simulator's, so nothing of it is in the binary.
 * Ownership  None.
 * Threads    The simulator's one.
 * Limits     One bug at a time.
 */
#ifndef ENGINE_CORE_PLANTED_H
#define ENGINE_CORE_PLANTED_H

#ifdef WEIR_PLANTED

#define PLANTED_LIST(BUG)        \
    BUG(NONE)                    \
    BUG(R1_PARK)                 \
    BUG(R2_FIRST)                \
    BUG(R3_REPLAY)               \
    BUG(R4_BUMP)                 \
    BUG(R5_JUNK)                 \
    BUG(R6_REFUSED_TO_P_ONLY)    \
    BUG(R7_EVICT)                \
    BUG(R8_SUPERSEDE)            \
    BUG(R9_LEASE_ENDS_SILENTLY)  \
    BUG(R10_RETARGET_IS_FULL)    \
    BUG(R11_TEAR)                \
    BUG(R12_SOURCE_PINS)         \
    BUG(R13_ADOPT_CHECK)         \
    BUG(REAPER_NEEDS_WORK)       \
    BUG(ADMIT_NEEDS_WORK)        \
    BUG(ABORT_FREES_PAGES)       \
    BUG(STALE_HANDOFF)           \
    BUG(LEASE_FROM_ARRIVAL)      \
    BUG(STICKY_FAILED_PEER)      \
    BUG(AFFINITY_TO_THE_DEAD)    \
    BUG(TOKEN_TWICE_AFTER_RETRY) \
    BUG(WRONG_LAYER)             \
    BUG(STALE_ATTEMPT_HEARD)     \
    BUG(PREEMPTED_FORGETS)       \
    BUG(PREFIX_REFERENCE)        \
    BUG(CANCEL_LOST_WAITING)     \
    BUG(RETRIES_WITHOUT_BUDGET)  \
    BUG(LOCAL_TWICE)             \
    BUG(POSITION_RESTARTS)       \
    BUG(GATEWAY_DEATH_KEEPS)     \
    BUG(PEER_DEATH_IN_HANDSHAKE) \
    BUG(EVICTED_BEFORE_SENT)     \
    BUG(STALE_GRANT)             \
    BUG(CHECKSUM_IGNORED)        \
    BUG(WRITE_SKIPPED)           \
    BUG(MESSAGE_DROPPED)         \
    BUG(FORK_SHARES_LAST_PAGE)   \
    BUG(HAND_BACK_KEEPS_WAITING) \
    BUG(HAND_BACK_COSTS)         \
    BUG(STEP_PAGES_FREED)        \
    BUG(GENERATED_AS_PROMPT)

#define PLANTED_ENUM(name) PLANTED_##name,
typedef enum { PLANTED_LIST(PLANTED_ENUM) PLANTED_COUNT } planted_bug;
#undef PLANTED_ENUM

extern planted_bug planted_now;
#define PLANTED(name) (planted_now == PLANTED_##name)

#else

#define PLANTED(name) 0

#endif
#endif
