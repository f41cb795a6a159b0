/* hubnumbers.c -- a table of the latest life of each number. */
#include "server/control/hubnumbers.h"

#include "engine/base/check.h"

bool hubnumbers_replaces(const hubnumbers *n, uint32_t wanted, uint64_t epoch) {
    if (wanted >= LIMIT_WORKERS || !n->list[wanted].held) {
        return false;
    }
    uint64_t known = n->list[wanted].epoch;
    return epoch == known || (wanted < n->reserved && epoch > known);
}

/* A new life, or the latest one, which was away. */
static bool fits(const hubnumbers *n, uint32_t number, uint64_t epoch, int64_t now_us) {
    bool forgotten = now_us - n->list[number].left_us >= HUBNUMBERS_MEMORY_US;
    return !n->list[number].held && (epoch >= n->list[number].epoch || forgotten);
}

static bool free_number(const hubnumbers *n, uint64_t epoch, int64_t now_us, uint32_t *out) {
    for (uint32_t i = n->reserved; i < LIMIT_WORKERS; i++) {
        if (fits(n, i, epoch, now_us)) {
            *out = i;
            return true;
        }
    }
    return false;
}

static bool any_unheld(const hubnumbers *n) {
    for (uint32_t i = n->reserved; i < LIMIT_WORKERS; i++) {
        if (!n->list[i].held) {
            return true;
        }
    }
    return false;
}

status hubnumbers_give(hubnumbers *n, uint32_t wanted, uint64_t epoch, int64_t now_us,
                       uint32_t *out, diag *d) {
    CHECK(!hubnumbers_replaces(n, wanted, epoch)); /* the holder has left */
    bool its = wanted < LIMIT_WORKERS && fits(n, wanted, epoch, now_us);
    if (!its && wanted < n->reserved) {
        return status_fail(d, STATUS_MISMATCH, "epoch %llu is older than the one known, %llu",
                           (unsigned long long)epoch, (unsigned long long)n->list[wanted].epoch);
    }
    if (its) {
        *out = wanted;
    } else if (!free_number(n, epoch, now_us, out)) {
        /* Also for one whose number went to another while it was away: it takes the new one. */
        return any_unheld(n) ? status_fail(d, STATUS_MISMATCH,
                                           "epoch %llu is older than those known of every free "
                                           "number: has its host's clock gone back?",
                                           (unsigned long long)epoch)
                             : status_fail(d, STATUS_LIMIT,
                                           "the cluster has %d workers, which is all it takes",
                                           LIMIT_WORKERS);
    }
    n->list[*out].held = true;
    n->list[*out].epoch = epoch;
    return STATUS_OK;
}

void hubnumbers_leave(hubnumbers *n, uint32_t number, int64_t now_us) {
    CHECK_LT(number, LIMIT_WORKERS);
    CHECK(n->list[number].held);
    n->list[number].held = false;
    n->list[number].left_us = now_us;
}
