/* core_state.c -- what prefill.c, decode.c, push.c and sched.c do in common: messages out, and
 * requests that leave.
 */
#include "engine/core/core_state.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/core/planted.h"

message *core_send(core *c, uint32_t peer, message_type type, request_id request,
                   uint32_t attempt) {
    message *m = &c->unsent;
    if (links_get(&c->links, peer)) {
        m = &outbox_add(&c->outbox, CORE_SEND, peer)->message;
    }
    CHECK(type >= MESSAGE_HELLO && type <= MESSAGE_LAST);
    *m = (message){.type = type, .request = request, .attempt = attempt};
    return m;
}

void core_reject(core *c, uint32_t peer, const message *about, message_reason reason) {
    CHECK(about->type != MESSAGE_REJECT);
    message *m = core_send(c, peer, MESSAGE_REJECT, about->request, about->attempt);
    m->about = about->type;
    m->reason = reason;
    if (about->type == MESSAGE_ANNOUNCE) {
        m->announce = about->announce;
    }
    c->stats.rejects++;
}

void core_close_link(core *c, uint32_t peer) {
    links_link *k = links_get(&c->links, peer);
    CHECK(k && !k->closing);
    (void)outbox_add(&c->outbox, CORE_CLOSE, peer);
    k->closing = true;
    c->stats.links_closed++;
}

void core_close(core *c, uint32_t peer, const message *about) {
    CHECK(links_get(&c->links, peer) != NULL);
    if (about->type != MESSAGE_REJECT) {
        core_reject(c, peer, about, MESSAGE_REASON_STATE);
    }
    core_close_link(c, peer);
}

void core_send_tokens(core *c, record *r, const request_token *tokens, int32_t count, bool done) {
    CHECK(count >= 0 && count <= LIMIT_CHOICES);
    request_token *copy = outbox_tokens(&c->outbox, count);
    if (count > 0) {
        memcpy(copy, tokens, (size_t)count * sizeof *copy);
    }
    core_send(c, r->gateway, MESSAGE_TOKENS, r->request, r->attempt)->tokens =
        (message_tokens){.cached_tokens = core_cached_told(r),
                         .done = done,
                         .waited_us = r->begun_us ? core_span_us(r->since_us, r->begun_us) : 0,
                         .computed_us = core_span_us(r->begun_us, c->now_us),
                         .tokens_count = count,
                         .tokens = copy};
    r->begun_us = 0;
}

message_reason core_check_submit(const core *c, const message_submit *s) {
    const request_params *p = s->params;
    CHECK(p != NULL);
    if (s->prompt_count <= 0 || s->tokens_count < s->prompt_count || p->choices < 1 ||
        p->choices > LIMIT_CHOICES || p->max_tokens < 0 || p->choice_first < 0) {
        return MESSAGE_REASON_STATE;
    }
    int32_t delivered = s->tokens_count - s->prompt_count;
    if (delivered > 0 && (p->choices > 1 || delivered >= p->max_tokens)) {
        return MESSAGE_REASON_STATE;
    }
    int32_t room = c->options.context_tokens - (p->max_tokens > 0 ? 1 : 0);
    return s->tokens_count > room ? MESSAGE_REASON_LIMIT : MESSAGE_REASON_NONE;
}

int32_t core_cacheable(const core *c, const record *r, int32_t tokens) {
    bool all = !c->options.prompts_apart || PLANTED(GENERATED_AS_PROMPT);
    return all || tokens < r->prompt_count ? tokens : r->prompt_count;
}

void core_register(core *c, record *r, int32_t choice, int32_t tokens) {
    record_seq *s = &r->seqs[choice];
    prefix_chain chain = r->chain;
    uint32_t whole = core_whole_pages(c, core_cacheable(c, r, tokens));
    int32_t count = (int32_t)c->options.block_pages * LIMIT_PAGE_TOKENS;
    CHECK_LE(whole, s->pages_count);
    CHECK_LE(tokens, record_seq_tokens(r, s));
    while (chain.pages < whole) {
        int32_t block[LIMIT_BLOCK_PAGES * LIMIT_PAGE_TOKENS];
        int32_t first = (int32_t)chain.pages * LIMIT_PAGE_TOKENS;
        for (int32_t i = 0; i < count; i++) {
            int32_t at = first + i;
            block[i] = at < r->prompt_count ? r->tokens[at] : s->generated[at - r->prompt_count];
        }
        prefix_add(c->prefix, r->salt, &chain, block, s->pages[chain.pages]);
    }
    if (choice == 0) {
        r->chain = chain;
    }
}

void core_drop_pages(core *c, record *r) {
    CHECK(!r->in_step || r->state != RECORD_GONE);
    bool touched = r->in_step && !PLANTED(STEP_PAGES_FREED);
    for (int32_t i = r->params.choices; i-- > 0;) {
        record_seq *s = &r->seqs[i];
        /* The last page first: of a chain, the cache then forgets the end before the beginning. */
        for (uint32_t k = s->pages_count; k-- > 0;) {
            if (touched) {
                blocks_pin(c->blocks, s->pages[k]); /* until the step ends */
            }
            blocks_drop(c->blocks, s->pages[k]);
        }
        if (!touched) {
            s->pages_count = 0;
        }
    }
}

/* The planted abort: what is still being received is not waited for. */
static void core_forget_receives(core *c, const record *r) {
    for (uint32_t i = 0; PLANTED(ABORT_FREES_PAGES) && i < c->links.count_max; i++) {
        for (uint32_t k = 0; k < LINKS_RECEIVES_MAX; k++) {
            links_transfer *t = &c->links.list[i].receives[k];
            while (t->state == LINKS_MOVING && t->pages_count > 0 && t->request == r->request) {
                blocks_unpin(c->blocks, t->pages[--t->pages_count]);
            }
        }
    }
}

void core_leave(core *c, record *r) {
    CHECK(r->state != RECORD_GONE);
    core_forget_receives(c, r);
    if (r->computed < r->tokens_count) {
        c->stats.prompt_tokens_lost += (uint64_t)(r->computed - r->cached);
    }
    if (r->state == RECORD_DECODING && r->computed == r->tokens_count) {
        for (int32_t i = r->params.choices; i-- > 0;) {
            const record_seq *s = &r->seqs[i];
            bool begun = s->generated_count > r->tokens_count - r->prompt_count;
            if (begun && s->pages_count > 0) {
                core_register(c, r, i, record_seq_tokens(r, s) - 1);
            }
        }
    }
    core_drop_pages(c, r);
    marks_put(&c->tombstones[r->role],
              &(marks_entry){.request = r->request,
                             .attempt = r->attempt,
                             .peer = RECORD_NONE,
                             .expires_us = c->now_us + c->options.lease_us});
    record_unlink(&c->records, r);
    if (!r->in_step) {
        record_free(&c->records, r);
    }
}
