/* waste.c -- one running sum a pool and state. */
#include "engine/core/waste.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/core/core_state.h"

static void waste_account(waste *w, waste_state state, int64_t until_us) {
    CHECK_LT((int)state, (int)WASTE_STATES);
    if (until_us > w->since_us) {
        w->us[w->pool][state] += (uint64_t)(until_us - w->since_us);
        w->since_us = until_us;
    }
}

void waste_begin(waste *w, waste_pool pool, int64_t now_us) {
    CHECK_LT((int)pool, (int)WASTE_POOLS);
    *w = (waste){.since_us = now_us, .pool = pool, .state = WASTE_START};
}

void waste_enter(waste *w, waste_pool pool, waste_state state, int64_t now_us) {
    CHECK_LT((int)pool, (int)WASTE_POOLS);
    CHECK_LT((int)state, (int)WASTE_STATES);
    waste_account(w, w->state, now_us);
    w->pool = pool;
    w->state = state;
}

void waste_stepped(waste *w, int64_t computed_us, int64_t now_us) {
    int64_t whole_us = now_us - w->since_us;
    CHECK_EQ((int)w->state, (int)WASTE_BUSY);
    computed_us = computed_us < whole_us ? computed_us : whole_us;
    waste_account(w, WASTE_BUSY, w->since_us + computed_us);
    waste_account(w, WASTE_CPU_STAGE, now_us);
    w->state = WASTE_CPU_STAGE;
}

void waste_total(const waste *w, int64_t now_us, uint64_t us[WASTE_POOLS][WASTE_STATES]) {
    waste copy = *w;
    waste_account(&copy, copy.state, now_us);
    memcpy(us, copy.us, sizeof copy.us);
}

/* The nearest to running decides: pages that come are sooner there than prompts not yet computed,
 * and those sooner than room that nobody has promised. */
waste_state waste_stall(const core *c) {
    waste_state found = WASTE_NO_WORK;
    for (const record *r = c->records.first[RECORD_DECODE]; r; r = r->next) {
        CHECK(!r->in_step);
        if (r->state == RECORD_RESERVED && r->peer != RECORD_NONE) {
            if (r->groups > r->arrived || r->handoff_groups > 0) {
                return WASTE_TRANSFER;
            }
            found = WASTE_PREFILL;
        } else if (found == WASTE_NO_WORK && r->state == RECORD_QUEUED) {
            found = WASTE_NO_ROOM;
        }
    }
    for (const record *r = c->records.first[RECORD_PREFILL]; r && found == WASTE_NO_WORK;
         r = r->next) {
        if (r->computed < r->tokens_count && r->seqs[0].pages_count == 0) {
            found = WASTE_NO_ROOM;
        }
    }
    return found;
}

waste_pool waste_pool_of(uint32_t roles) {
    const uint32_t both = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE;
    if ((roles & both) == both) {
        return WASTE_POOL_BOTH;
    }
    return roles & MESSAGE_ROLE_PREFILL ? WASTE_POOL_PREFILL : WASTE_POOL_DECODE;
}

const char *waste_state_name(waste_state s) {
    static const char *const names[WASTE_STATES] = {"busy",     "no_work",   "no_room", "prefill",
                                                    "transfer", "cpu_stage", "start"};
    CHECK_LT((int)s, (int)WASTE_STATES);
    return names[s];
}

const char *waste_pool_name(waste_pool p) {
    static const char *const names[WASTE_POOLS] = {"prefill", "decode", "both"};
    CHECK_LT((int)p, (int)WASTE_POOLS);
    return names[p];
}

const char *waste_unit_name(waste_unit u) {
    static const char *const names[WASTE_UNITS] = {"gpu", "core", "timed"};
    CHECK_LT((int)u, (int)WASTE_UNITS);
    return names[u];
}
