/* core_view.c -- looking into the engine: its numbers, and whether every page is accounted for. */
#include <string.h>

#include "engine/base/check.h"
#include "engine/core/core_state.h"

void core_get_stats(const core *c, core_stats *out) {
    blocks_counts n = blocks_count(c->blocks);
    *out = c->stats;
    out->pages_total = n.total;
    out->pages_free = n.free;
    out->pages_cached = n.cached;
    out->pages_owned = n.owned;
    out->pages_quarantined = n.quarantined;
    out->parked_grants = marks_count(&c->parked);
    out->prefill_fit = c->model.fits[STEPMODEL_PREFILL];
    out->decode_fit = c->model.fits[STEPMODEL_DECODE];
    CHECK_EQ(n.free + n.owned + n.quarantined, n.total);
    int64_t pairs = 0;
    for (int role = 0; role < RECORD_ROLES; role++) {
        for (const record *r = c->records.first[role]; r; r = r->next) {
            bool has_pages = r->seqs[0].pages_count > 0;
            out->running += has_pages;
            out->waiting += !has_pages;
            if (role == RECORD_PREFILL || r->local) {
                CHECK_LE(r->computed, r->tokens_count);
                out->queued_tokens += (uint64_t)(r->tokens_count - r->computed);
                pairs += stepmodel_pairs(r->tokens_count - r->computed, r->computed);
            }
        }
    }
    out->queued_us = (uint64_t)stepmodel_prefill_us(&out->prefill_fit, (int64_t)out->queued_tokens,
                                                    pairs, c->options.prefill_chunk_tokens);
}

message_heartbeat core_get_heartbeat(const core *c) {
    core_stats stats;
    core_get_stats(c, &stats);
    message_heartbeat h = {
        .steps = stats.steps,
        .pages_free = stats.pages_free,
        .pages_total = stats.pages_total,
        .running = stats.running,
        .waiting = stats.waiting,
        .queued_tokens = stats.queued_tokens,
        .step_us = stats.step_us,
        .tokens_per_second = stats.tokens_per_second,
        .chunk_tokens = (uint32_t)c->options.prefill_chunk_tokens,
        .queued_us = stats.queued_us,
        .prefill_fit = stats.prefill_fit,
        .decode_fit = stats.decode_fit,
    };
    if (c->options.waste) {
        h.waste.unit = c->options.waste->unit;
        h.waste.share_milli = c->options.waste->share_milli;
        waste_total(c->options.waste, c->now_us, h.waste.us);
    }
    return h;
}

static void core_count_record(const core *c, const record *r) {
    bool pinned = r->state == RECORD_GONE;
    CHECK(!pinned || r->in_step);
    for (int32_t i = 0; i < r->params.choices; i++) {
        CHECK_LE(r->seqs[i].pages_count, c->records.seq_pages_max);
        for (uint32_t k = 0; k < r->seqs[i].pages_count; k++) {
            (pinned ? c->touched : c->holders)[r->seqs[i].pages[k]]++;
        }
    }
}

static void core_count_transfers(const core *c, const links_transfer *list, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        CHECK_LE(list[i].pages_count, LINKS_GROUP_PAGES_MAX);
        if (list[i].state == LINKS_MOVING && !list[i].junk) {
            for (uint32_t k = 0; k < list[i].pages_count; k++) {
                c->touched[list[i].pages[k]]++;
            }
        }
    }
}

void core_validate(const core *c) {
    uint32_t lives = 0;
    blocks_validate(c->blocks);
    prefix_validate(c->prefix);
    memset(c->holders, 0, c->options.pages * sizeof *c->holders);
    memset(c->touched, 0, c->options.pages * sizeof *c->touched);
    for (uint32_t i = 0; i < c->records.options.count_max; i++) {
        slab_handle h;
        const record *r = slab_at(&c->records.slab, i, &h);
        if (r) {
            core_count_record(c, r);
            lives += r->state != RECORD_GONE;
        }
    }
    CHECK_EQ(lives, c->records.lives[RECORD_PREFILL] + c->records.lives[RECORD_DECODE]);
    for (uint32_t i = 0; i < c->links.count_max; i++) {
        const links_link *k = &c->links.list[i];
        if (!k->up) {
            continue; /* a pin left over by one that ended is found below: nobody counts it */
        }
        core_count_transfers(c, k->sends, LINKS_SENDS_MAX);
        core_count_transfers(c, k->receives, LINKS_RECEIVES_MAX);
    }
    for (uint32_t i = 0; i < c->options.pages; i += c->options.block_pages) {
        for (uint32_t k = 1; k < c->options.block_pages; k++) {
            c->holders[i] += c->holders[i + k];
            c->touched[i] += c->touched[i + k];
        }
        CHECK_EQ(c->holders[i], blocks_references(c->blocks, i));
        CHECK_EQ(c->touched[i], blocks_pins(c->blocks, i));
    }
}
