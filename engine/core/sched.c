/* sched.c -- continuous batching: what the next step computes, and what its results mean. */
#include "engine/core/sched.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/core/decode.h"
#include "engine/core/planted.h"
#include "engine/core/prefill.h"

enum { SCHED_SCORES_MAX = 1024 }; /* in one message */
static_assert((int)SCHED_SCORES_MAX <= (int)MESSAGE_TOKENS_MAX, "a SCORES message");

static int32_t sched_items_max(const core_options *o) {
    CHECK(o->seqs_max > 0);
    return 2 * o->seqs_max;
}

static int32_t sched_wants_max(const core_options *o) {
    return o->logit_rows_max + LIMIT_CHOICES * sched_items_max(o);
}

uint64_t sched_bytes(const core_options *o) {
    CHECK(o->step_tokens_max > 0 && o->logit_rows_max > 0);
    uint64_t item = sizeof(core_seq) + sizeof(core_item) + sizeof(core_copy);
    return (uint64_t)o->step_tokens_max * sizeof(int32_t) + (uint64_t)sched_items_max(o) * item +
           (uint64_t)o->logit_rows_max * sizeof(int32_t) +
           (uint64_t)sched_wants_max(o) * (sizeof(core_want) + sizeof(int32_t)) + 1024;
}

status sched_open(core *c, arena *a) {
    core_step *s = &c->step;
    CHECK(!s->in_flight);
    s->items_max = sched_items_max(&c->options);
    s->wants_max = sched_wants_max(&c->options);
    s->tokens = ARENA_TAKE(a, (size_t)c->options.step_tokens_max, int32_t);
    s->seqs = ARENA_TAKE(a, (size_t)s->items_max, core_seq);
    s->items = ARENA_TAKE(a, (size_t)s->items_max, core_item);
    s->copies = ARENA_TAKE(a, (size_t)s->items_max, core_copy);
    s->logit_rows = ARENA_TAKE(a, (size_t)c->options.logit_rows_max, int32_t);
    s->wants = ARENA_TAKE(a, (size_t)s->wants_max, core_want);
    s->want_items = ARENA_TAKE(a, (size_t)s->wants_max, int32_t);
    bool all =
        s->tokens && s->seqs && s->items && s->copies && s->logit_rows && s->wants && s->want_items;
    return all ? STATUS_OK : STATUS_NOMEM;
}

/* ---- putting a batch together --------------------------------------------------------------- */

static bool sched_decodes(const record *r) {
    return r->state == RECORD_DECODING && r->computed == r->tokens_count;
}

/* Room for one page more. Ungranted prefills lose theirs first, then the youngest that decodes goes
 * back to the gateway; false when that was `r` itself. */
static bool sched_make_room(core *c, record *r) {
    CHECK(sched_decodes(r));
    while (blocks_free_count(c->blocks) == 0) {
        if (prefill_evict(c, NULL)) {
            continue;
        }
        record *victim = c->records.last[RECORD_DECODE];
        while (victim->state != RECORD_DECODING) {
            victim = victim->previous;
            CHECK(victim != NULL);
        }
        CHECK(victim->order >= r->order);
        decode_preempt(c, victim, MESSAGE_REASON_PAGES);
        if (victim == r) {
            return false;
        }
    }
    return true;
}

/* Pages for the row to compute and for the token that it will bring. */
static bool sched_grow(core *c, record *r) {
    int64_t kv_max = record_kv_tokens_max(r->prompt_count, r->tokens_count, r->params.max_tokens,
                                          c->options.context_tokens);
    for (int32_t i = 0; i < r->params.choices; i++) {
        record_seq *s = &r->seqs[i];
        if (s->end != REQUEST_RUNNING) {
            continue;
        }
        int64_t kv = (int64_t)record_seq_tokens(r, s) + 1;
        uint32_t pages = record_pages_of(kv < kv_max ? kv : kv_max);
        CHECK_LE(pages, c->records.seq_pages_max);
        while (s->pages_count < pages) {
            if (!sched_make_room(c, r)) {
                return false;
            }
            CHECK(prefix_take(c->prefix, 1, &s->pages[s->pages_count]));
            s->pages_count++;
        }
    }
    return true;
}

static int32_t sched_add_seq(core *c, record *r, int32_t choice, int32_t rows, bool prompt) {
    core_step *s = &c->step;
    core_batch *b = &s->batch;
    record_seq *q = &r->seqs[choice];
    CHECK_LT(b->seqs_count, s->items_max);
    CHECK_LE(b->rows + rows, c->options.step_tokens_max);
    int32_t position = prompt ? r->computed : record_seq_tokens(r, q) - 1;
    int32_t item = b->seqs_count++;
    s->items[item] = (core_item){.record = r, .choice = choice, .rows = rows, .prompt = prompt};
    s->seqs[item] = (core_seq){.row_first = b->rows,
                               .rows = rows,
                               .position_first = position,
                               .pages = q->pages,
                               .pages_count = (int32_t)record_pages_of(position + rows)};
    CHECK_LE((uint32_t)s->seqs[item].pages_count, q->pages_count);
    if (prompt) {
        memcpy(s->tokens + b->rows, r->tokens + position, (size_t)rows * sizeof *s->tokens);
        s->prompt_rows += rows;
    } else {
        CHECK_EQ(rows, 1);
        s->tokens[b->rows] = q->generated[q->generated_count - 1];
    }
    b->rows += rows;
    r->in_step = true;
    r->step_rows = prompt ? rows : 0;
    r->begun_us = prompt && !r->begun_us ? c->now_us : r->begun_us;
    return item;
}

static int32_t sched_add_logit_row(core *c, int32_t row) {
    core_batch *b = &c->step.batch;
    CHECK_LT(b->logit_rows_count, c->options.logit_rows_max);
    CHECK(b->logit_rows_count == 0 || c->step.logit_rows[b->logit_rows_count - 1] < row);
    c->step.logit_rows[b->logit_rows_count] = row;
    return b->logit_rows_count++;
}

static core_want *sched_add_want(core *c, int32_t item, int32_t logit_row) {
    core_step *s = &c->step;
    CHECK_LT(s->batch.wants_count, s->wants_max);
    CHECK_LT(item, s->batch.seqs_count);
    const record *r = s->items[item].record;
    core_want *w = &s->wants[s->batch.wants_count];
    s->want_items[s->batch.wants_count++] = item;
    *w = (core_want){.logit_row = logit_row,
                     .request = r->request,
                     .params = &r->params,
                     .prompt = r->tokens,
                     .prompt_count = r->prompt_count};
    return w;
}

static void sched_want_sample(core *c, int32_t item, int32_t choice, int32_t logit_row) {
    const record *r = c->step.items[item].record;
    const record_seq *q = &r->seqs[choice];
    core_want *w = sched_add_want(c, item, logit_row);
    w->kind = CORE_WANT_SAMPLE;
    w->choice = r->params.choice_first + choice;
    CHECK(q->generated_count == 0 || q->generated);
    w->generated = q->generated;
    w->generated_count = q->generated_count;
    if (PLANTED(POSITION_RESTARTS)) {
        w->generated_count -= r->tokens_count - r->prompt_count;
    }
}

static void sched_add_decode(core *c, record *r) {
    CHECK(sched_decodes(r));
    for (int32_t i = 0; i < r->params.choices; i++) {
        record_seq *q = &r->seqs[i];
        if (q->end == REQUEST_RUNNING) {
            CHECK(q->generated_count > 0);
            int32_t item = sched_add_seq(c, r, i, 1, false);
            int32_t row = c->step.seqs[item].row_first;
            sched_want_sample(c, item, i, sched_add_logit_row(c, row));
        }
    }
}

/* The choices part: each takes its own copy of the prompt's last, partial page. */
static void sched_add_copies(core *c, record *r) {
    core_step *s = &c->step;
    CHECK(r->fork_pending);
    uint32_t last = (uint32_t)(r->tokens_count / LIMIT_PAGE_TOKENS);
    for (int32_t i = 1; i < r->params.choices && !PLANTED(FORK_SHARES_LAST_PAGE); i++) {
        CHECK_LT(s->batch.copies_count, s->items_max);
        s->copies[s->batch.copies_count++] =
            (core_copy){r->seqs[0].pages[last], r->seqs[i].pages[last]};
    }
    r->fork_pending = false;
}

/* ---- prompts -------------------------------------------------------------------------------- */

static int32_t sched_min(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static bool sched_wants_first(const record *r) {
    return !r->sampled && r->params.max_tokens > 0;
}

/* Rows of the prompt that this step can take: 0, none. */
static int32_t sched_chunk(const core *c, const record *r, int32_t budget) {
    const core_batch *b = &c->step.batch;
    int32_t left = r->tokens_count - r->computed;
    int32_t logits = c->options.logit_rows_max - b->logit_rows_count;
    int32_t rows = sched_min(sched_min(left, budget), c->options.prefill_chunk_tokens);
    CHECK(left > 0);
    if (r->params.prompt_logprobs) {
        rows = sched_min(rows, logits);
    }
    if (rows == left && logits == 0 && sched_wants_first(r)) {
        rows--;
    }
    int32_t end = r->computed + rows;
    int32_t whole = end - end % LIMIT_PAGE_TOKENS;
    if (rows < left && whole > r->computed) {
        rows = whole - r->computed; /* a page is announced sooner when chunks end with pages */
    }
    return rows;
}

/* Scores of the tokens that the chunk's rows predict, and the first tokens after the last row. */
static void sched_want_prompt(core *c, record *r, int32_t item) {
    int32_t first = r->computed;
    int32_t rows = c->step.items[item].rows;
    bool last = first + rows == r->tokens_count;
    for (int32_t i = 0; i < rows; i++) {
        bool score = r->params.prompt_logprobs && first + i + 1 < r->prompt_count;
        bool sample = last && i == rows - 1 && sched_wants_first(r);
        if (!score && !sample) {
            continue;
        }
        int32_t logit_row = sched_add_logit_row(c, c->step.seqs[item].row_first + i);
        if (score) {
            core_want *w = sched_add_want(c, item, logit_row);
            w->kind = CORE_WANT_SCORE;
            w->position = first + i + 1;
            w->token = r->tokens[w->position];
        }
        for (int32_t k = 0; sample && k < r->params.choices; k++) {
            sched_want_sample(c, item, k, logit_row);
        }
    }
}

static int32_t sched_budget(const core *c, bool decodes) {
    int32_t budget = c->options.step_tokens_max - c->step.batch.rows;
    CHECK(budget >= 0);
    /* Decode rows wait for the whole step, so prompts beside them are kept short. */
    return decodes ? sched_min(budget, c->options.prefill_chunk_tokens - c->step.prompt_rows)
                   : budget;
}

/* False: the step is full. When one finds no pages (`*starved`), nobody younger may start before it
 * or it would starve; but those that have their pages go on, because it may be them it waits for.
 */
static bool sched_add_prompt(core *c, record *r, bool decodes, bool *starved) {
    int32_t budget = sched_budget(c, decodes);
    if (budget <= 0 || c->step.batch.seqs_count == c->step.items_max) {
        return false;
    }
    if (r->seqs[0].pages_count == 0 && (*starved || !prefill_start(c, r))) {
        *starved = true;
        return true;
    }
    int32_t rows = sched_chunk(c, r, budget);
    CHECK(rows >= 0);
    if (rows == 0) {
        return false;
    }
    int32_t item = sched_add_seq(c, r, 0, rows, true);
    sched_want_prompt(c, r, item);
    return true;
}

/* One pass over the prompts of a role: those that hold, or are promised, what they need, or the
 * others. */
static bool sched_add_prompts(core *c, record_role role, bool promised, bool decodes,
                              bool *starved) {
    for (record *r = c->records.first[role]; r; r = r->next) {
        bool open = r->computed < r->tokens_count &&
                    (role == RECORD_PREFILL || (r->local && r->state == RECORD_DECODING));
        bool mine = role == RECORD_DECODE || r->granted == promised;
        CHECK(!open || !mine || !r->in_step);
        if (open && mine && !sched_add_prompt(c, r, decodes, starved)) {
            return false;
        }
    }
    return true;
}

bool sched_plan(core *c) {
    core_step *s = &c->step;
    CHECK(!s->in_flight);
    s->batch = (core_batch){.tokens = s->tokens,
                            .seqs = s->seqs,
                            .logit_rows = s->logit_rows,
                            .wants = s->wants,
                            .copies = s->copies};
    s->prompt_rows = 0;
    s->layers_done = 0;
    for (record *r = c->records.first[RECORD_DECODE]; r; r = r->next) {
        if (sched_decodes(r) && !sched_grow(c, r)) {
            break; /* r has left, and with it everything younger that decodes */
        }
    }
    for (record *r = c->records.first[RECORD_DECODE]; r; r = r->next) {
        if (sched_decodes(r)) {
            if (r->fork_pending) {
                sched_add_copies(c, r);
            }
            sched_add_decode(c, r);
        }
    }
    bool decodes = s->batch.rows > 0;
    bool starved = false;
    (void)(sched_add_prompts(c, RECORD_PREFILL, true, decodes, &starved) &&
           sched_add_prompts(c, RECORD_DECODE, true, decodes, &starved) &&
           sched_add_prompts(c, RECORD_PREFILL, false, decodes, &starved));
    return s->batch.rows > 0;
}

/* ---- results -------------------------------------------------------------------------------- */

/* Records that left while the step ran are let go: nothing touches their pages any more. */
static void sched_release_gone(core *c) {
    core_step *s = &c->step;
    CHECK(s->in_flight);
    for (int32_t i = 0; i < s->batch.seqs_count; i++) {
        record *r = s->items[i].record;
        if (r->state != RECORD_GONE) {
            r->in_step = false;
            continue;
        }
        s->items[i].record = NULL;
        c->stats.prompt_tokens_lost += s->items[i].prompt ? (uint64_t)s->items[i].rows : 0;
        if (r->in_step) {
            r->in_step = false;
            for (int32_t k = 0; k < r->params.choices; k++) {
                for (uint32_t p = 0; p < r->seqs[k].pages_count; p++) {
                    blocks_unpin(c->blocks, r->seqs[k].pages[p]);
                }
            }
            record_free(&c->records, r);
        }
    }
}

/* A choice's first token is numbered and ended here, so that P and D agree on it. */
static void sched_number(const core *c, const record *r, int32_t choice, request_token *t) {
    const record_seq *q = &r->seqs[choice];
    t->choice = r->params.choice_first + choice;
    t->index = q->generated_count;
    CHECK(t->top_count >= 0 && t->top_count <= LIMIT_TOP_LOGPROBS);
    if (t->end == REQUEST_RUNNING && (t->index + 1 >= r->params.max_tokens ||
                                      record_seq_tokens(r, q) + 1 >= c->options.context_tokens)) {
        t->end = REQUEST_LENGTH;
    }
}

static void sched_send_scores(core *c, const record *r, int32_t position,
                              const request_token *scores, int32_t count) {
    CHECK(count > 0 && position > 0);
    for (int32_t first = 0; first < count; first += SCHED_SCORES_MAX) {
        int32_t now = sched_min(count - first, SCHED_SCORES_MAX);
        request_token *copy = outbox_tokens(&c->outbox, now);
        for (int32_t i = 0; i < now; i++) {
            copy[i] = scores[first + i];
            copy[i].choice = copy[i].index = 0;
            copy[i].end = REQUEST_RUNNING;
        }
        core_send(c, r->gateway, MESSAGE_SCORES, r->request, r->attempt)->scores =
            (message_scores){position + first, now, copy};
    }
}

/* The results of a chunk: wants[first, last). */
static void sched_apply_prompt(core *c, const core_item *item, const request_token *results,
                               int32_t first, int32_t last) {
    record *r = item->record;
    request_token samples[LIMIT_CHOICES];
    int32_t scores = 0;
    int32_t count = 0;
    for (int32_t i = first; i < last; i++) {
        if (c->step.wants[i].kind == CORE_WANT_SCORE) {
            CHECK_EQ(count, 0);
            scores++;
        } else {
            samples[count] = results[i];
            sched_number(c, r, count, &samples[count]);
            count++;
        }
    }
    CHECK(count == 0 || count == r->params.choices);
    if (scores > 0) {
        sched_send_scores(c, r, c->step.wants[first].position, results + first, scores);
    }
    r->step_rows = 0;
    c->stats.prompt_tokens_computed += (uint64_t)item->rows;
    if (r->tokens_count > r->prompt_count) {
        c->stats.prompt_tokens_repeated += (uint64_t)item->rows;
    }
    if (r->role == RECORD_PREFILL) {
        prefill_computed(c, r, item->rows, count > 0 ? samples : NULL);
    } else {
        decode_computed(c, r, item->rows, count > 0 ? samples : NULL);
    }
}

/* The results of all decode rows of one record: items from `item` on. Returns how many. */
static int32_t sched_apply_decode(core *c, int32_t item, const request_token *results,
                                  int32_t first) {
    const core_step *s = &c->step;
    record *r = s->items[item].record;
    int32_t choices[LIMIT_CHOICES];
    request_token tokens[LIMIT_CHOICES];
    int32_t count = 0;
    while (item + count < s->batch.seqs_count && s->items[item + count].record == r &&
           !s->items[item + count].prompt) {
        CHECK_EQ(s->want_items[first + count], item + count);
        choices[count] = s->items[item + count].choice;
        tokens[count] = results[first + count];
        count++;
    }
    decode_picked(c, r, choices, tokens, count);
    return count;
}

static stepmodel_work sched_work(const core_step *s) {
    stepmodel_work w = {0};
    for (int32_t i = 0; i < s->batch.seqs_count; i++) {
        const core_seq *q = &s->seqs[i];
        if (s->items[i].prompt) {
            w.prompt_rows += q->rows;
            w.prompt_pairs += stepmodel_pairs(q->rows, q->position_first);
        } else {
            w.decode_rows++;
            w.decode_context += q->position_first + 1;
        }
    }
    return w;
}

static void sched_measure(core *c) {
    const core_step *s = &c->step;
    int64_t took = c->now_us - s->started_us;
    took = took < 1 ? 1 : took > INT32_MAX ? INT32_MAX : took;
    uint32_t us = (uint32_t)took;
    stepmodel_work work = sched_work(s);
    stepmodel_observe(&c->model, &work, took);
    c->stats.steps++;
    c->stats.step_us = c->stats.step_us == 0 ? us : (uint32_t)((7ull * c->stats.step_us + us) / 8);
    if (s->prompt_rows == s->batch.rows && s->prompt_rows >= LIMIT_PAGE_TOKENS) {
        uint64_t speed = (uint64_t)s->prompt_rows * 1000000 / us;
        uint64_t old = c->stats.tokens_per_second;
        speed = old == 0 ? speed : (7 * old + speed) / 8;
        c->stats.tokens_per_second = speed > UINT32_MAX ? UINT32_MAX : (uint32_t)speed;
    }
}

void sched_commit(core *c, const request_token *results, int32_t results_count) {
    core_step *s = &c->step;
    CHECK(s->in_flight);
    CHECK_EQ(results_count, s->batch.wants_count);
    sched_release_gone(c);
    s->in_flight = false;
    sched_measure(c);
    int32_t want = 0;
    for (int32_t i = 0; i < s->batch.seqs_count;) {
        CHECK(want == s->batch.wants_count || s->want_items[want] >= i);
        const core_item *item = &s->items[i];
        int32_t last = want;
        while (last < s->batch.wants_count && s->want_items[last] == i) {
            last++;
        }
        if (!item->record) {
            i++;
            want = last;
        } else if (item->prompt) {
            sched_apply_prompt(c, item, results, want, last);
            i++;
            want = last;
        } else {
            int32_t count = sched_apply_decode(c, i, results, want);
            i += count;
            want += count;
        }
    }
    CHECK_EQ(want, s->batch.wants_count);
}
