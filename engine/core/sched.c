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

/* A choice's own pages of the block that it shares with the others so far. */
static int32_t sched_copies_max(const core_options *o) {
    return sched_items_max(o) * (int32_t)core_block_pages(o);
}

static int32_t sched_wants_max(const core_options *o) {
    return o->logit_rows_max + LIMIT_CHOICES * sched_items_max(o);
}

uint64_t sched_bytes(const core_options *o) {
    CHECK(o->step_tokens_max > 0 && o->logit_rows_max > 0);
    uint64_t item = sizeof(core_seq) + sizeof(core_item);
    uint64_t step = (uint64_t)o->step_tokens_max * sizeof(int32_t) +
                    (uint64_t)sched_items_max(o) * item +
                    (uint64_t)sched_copies_max(o) * sizeof(core_copy) +
                    (uint64_t)o->logit_rows_max * sizeof(int32_t) +
                    (uint64_t)sched_wants_max(o) * (sizeof(core_want) + sizeof(int32_t)) + 1024;
    return core_lanes(o) * step;
}

static status sched_open_step(const core *c, core_step *s, arena *a) {
    CHECK(!s->in_flight);
    s->items_max = sched_items_max(&c->options);
    s->wants_max = sched_wants_max(&c->options);
    s->tokens = ARENA_TAKE(a, (size_t)c->options.step_tokens_max, int32_t);
    s->seqs = ARENA_TAKE(a, (size_t)s->items_max, core_seq);
    s->items = ARENA_TAKE(a, (size_t)s->items_max, core_item);
    s->copies_max = sched_copies_max(&c->options);
    s->copies = ARENA_TAKE(a, (size_t)s->copies_max, core_copy);
    s->logit_rows = ARENA_TAKE(a, (size_t)c->options.logit_rows_max, int32_t);
    s->wants = ARENA_TAKE(a, (size_t)s->wants_max, core_want);
    s->want_items = ARENA_TAKE(a, (size_t)s->wants_max, int32_t);
    bool all =
        s->tokens && s->seqs && s->items && s->copies && s->logit_rows && s->wants && s->want_items;
    return all ? STATUS_OK : STATUS_NOMEM;
}

status sched_open(core *c, arena *a) {
    for (uint32_t i = 0; i < core_lanes(&c->options); i++) {
        TRY(sched_open_step(c, &c->steps[i], a));
    }
    return STATUS_OK;
}

/* ---- putting a batch together --------------------------------------------------------------- */

static bool sched_decodes(const record *r) {
    return r->state == RECORD_DECODING && r->computed == r->tokens_count;
}

typedef enum {
    SCHED_ROOM,
    SCHED_LATER, /* pages come when the other lane's step ends */
    SCHED_LEFT   /* the request itself had to leave */
} sched_room;

/* Whether a step in flight holds pages of requests that have left: they are free when it ends. */
static bool sched_pages_come(const core *c) {
    for (uint32_t lane = 0; lane < core_lanes(&c->options); lane++) {
        const core_step *s = &c->steps[lane];
        for (int32_t i = 0; s->in_flight && i < s->batch.seqs_count; i++) {
            const record *r = s->items[i].record;
            if (r->state == RECORD_GONE && r->seqs[s->items[i].choice].pages_count > 0) {
                return true;
            }
        }
    }
    return false;
}

/* Room for one page more. Ungranted prefills lose theirs first, then the youngest that decodes goes
 * back to the gateway. If that one's prompt is being computed right now, its pages come when that
 * step ends, and nobody else is sent away meanwhile. */
static sched_room sched_make_room(core *c, const record *r) {
    CHECK(sched_decodes(r));
    while (blocks_free_count(c->blocks) == 0) {
        if (prefill_evict(c, NULL)) {
            continue;
        }
        if (sched_pages_come(c)) {
            return SCHED_LATER;
        }
        record *victim = c->records.last[RECORD_DECODE];
        while (victim->state != RECORD_DECODING) {
            victim = victim->previous;
            CHECK(victim != NULL);
        }
        CHECK(victim->order >= r->order);
        decode_preempt(c, victim, MESSAGE_REASON_PAGES);
        if (victim == r) {
            return SCHED_LEFT;
        }
    }
    return SCHED_ROOM;
}

/* Pages that a choice needs for the row to compute and for the token that it will bring. */
static uint32_t sched_pages_needed(const core *c, const record *r, const record_seq *s) {
    int64_t kv_max = record_kv_tokens_max(r->prompt_count, r->tokens_count, r->params.max_tokens,
                                          c->options.context_tokens);
    int64_t kv = (int64_t)record_seq_tokens(r, s) + 1;
    uint32_t pages = core_pages_of(c, kv < kv_max ? kv : kv_max);
    CHECK_LE(pages, c->records.seq_pages_max);
    return pages;
}

static sched_room sched_grow(core *c, record *r) {
    for (int32_t i = 0; i < r->params.choices; i++) {
        record_seq *s = &r->seqs[i];
        if (s->end != REQUEST_RUNNING) {
            continue;
        }
        uint32_t pages = sched_pages_needed(c, r, s);
        while (s->pages_count < pages) {
            sched_room room = sched_make_room(c, r);
            if (room != SCHED_ROOM) {
                return room;
            }
            uint32_t block = c->options.block_pages;
            CHECK(prefix_take(c->prefix, block, &s->pages[s->pages_count]));
            s->pages_count += block;
        }
    }
    return SCHED_ROOM;
}

static bool sched_has_room(const core *c, const record *r) {
    CHECK(sched_decodes(r));
    for (int32_t i = 0; i < r->params.choices; i++) {
        const record_seq *s = &r->seqs[i];
        if (s->end == REQUEST_RUNNING && s->pages_count < sched_pages_needed(c, r, s)) {
            return false;
        }
    }
    return true;
}

static int32_t sched_min(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* Of rows that are computed before anything is sampled: a request that goes on from elsewhere
 * brings what was generated there. */
static int32_t sched_prompt_rows(const record *r, int32_t position, int32_t rows) {
    int32_t left = r->prompt_count - position;
    return left > 0 ? sched_min(left, rows) : 0;
}

static int32_t sched_add_seq(core *c, core_step *s, record *r, int32_t choice, int32_t rows,
                             bool prompt) {
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
                               .pages_count = (int32_t)record_pages_of(position + rows),
                               .prompt_rows = prompt ? sched_prompt_rows(r, position, rows) : 0};
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

static int32_t sched_add_logit_row(const core *c, core_step *s, int32_t row) {
    core_batch *b = &s->batch;
    CHECK_LT(b->logit_rows_count, c->options.logit_rows_max);
    CHECK(b->logit_rows_count == 0 || s->logit_rows[b->logit_rows_count - 1] < row);
    s->logit_rows[b->logit_rows_count] = row;
    return b->logit_rows_count++;
}

static core_want *sched_add_want(core_step *s, int32_t item, int32_t logit_row) {
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

static void sched_want_sample(core_step *s, int32_t item, int32_t choice, int32_t logit_row) {
    const record *r = s->items[item].record;
    const record_seq *q = &r->seqs[choice];
    core_want *w = sched_add_want(s, item, logit_row);
    w->kind = CORE_WANT_SAMPLE;
    w->choice = r->params.choice_first + choice;
    CHECK(q->generated_count == 0 || q->generated);
    w->generated = q->generated;
    w->generated_count = q->generated_count;
    if (PLANTED(POSITION_RESTARTS)) {
        w->generated_count -= r->tokens_count - r->prompt_count;
    }
}

static void sched_add_decode(core *c, core_step *s, record *r) {
    CHECK(sched_decodes(r));
    for (int32_t i = 0; i < r->params.choices; i++) {
        record_seq *q = &r->seqs[i];
        if (q->end == REQUEST_RUNNING) {
            CHECK(q->generated_count > 0);
            int32_t item = sched_add_seq(c, s, r, i, 1, false);
            int32_t row = s->seqs[item].row_first;
            sched_want_sample(s, item, i, sched_add_logit_row(c, s, row));
        }
    }
}

/* The choices part: each takes its own copy of the prompt's last, partial block. */
static void sched_add_copies(const core *c, core_step *s, record *r) {
    CHECK(r->fork_pending);
    uint32_t first = core_whole_pages(c, r->tokens_count);
    uint32_t end = record_pages_of(r->tokens_count);
    for (int32_t i = 1; i < r->params.choices && !PLANTED(FORK_SHARES_LAST_PAGE); i++) {
        CHECK_LE(s->batch.copies_count + (int32_t)(end - first), s->copies_max);
        for (uint32_t k = first; k < end; k++) {
            s->copies[s->batch.copies_count++] =
                (core_copy){r->seqs[0].pages[k], r->seqs[i].pages[k]};
        }
    }
    r->fork_pending = false;
}

/* ---- prompts -------------------------------------------------------------------------------- */

static bool sched_wants_first(const record *r) {
    return !r->sampled && r->params.max_tokens > 0;
}

/* Rows of the prompt that this step can take: 0, none. */
static int32_t sched_chunk(const core *c, const core_step *s, const record *r, int32_t budget) {
    const core_batch *b = &s->batch;
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
static void sched_want_prompt(const core *c, core_step *s, record *r, int32_t item) {
    int32_t first = r->computed;
    int32_t rows = s->items[item].rows;
    bool last = first + rows == r->tokens_count;
    for (int32_t i = 0; i < rows; i++) {
        bool score = r->params.prompt_logprobs && first + i + 1 < r->prompt_count;
        bool sample = last && i == rows - 1 && sched_wants_first(r);
        if (!score && !sample) {
            continue;
        }
        int32_t logit_row = sched_add_logit_row(c, s, s->seqs[item].row_first + i);
        if (score) {
            core_want *w = sched_add_want(s, item, logit_row);
            w->kind = CORE_WANT_SCORE;
            w->position = first + i + 1;
            w->token = r->tokens[w->position];
        }
        for (int32_t k = 0; sample && k < r->params.choices; k++) {
            sched_want_sample(s, item, k, logit_row);
        }
    }
}

static int32_t sched_budget(const core *c, const core_step *s, bool decodes) {
    int32_t budget = c->options.step_tokens_max - s->batch.rows;
    CHECK(budget >= 0);
    /* Decode rows wait for the whole step, so prompts beside them are kept short. */
    return decodes ? sched_min(budget, c->options.prefill_chunk_tokens - s->prompt_rows) : budget;
}

/* False: the step is full. When one finds no pages (`*starved`), nobody younger may start before it
 * or it would starve; but those that have their pages go on, because it may be them it waits for.
 */
static bool sched_add_prompt(core *c, core_step *s, record *r, bool decodes, bool *starved) {
    int32_t budget = sched_budget(c, s, decodes);
    if (budget <= 0 || s->batch.seqs_count == s->items_max) {
        return false;
    }
    if (r->seqs[0].pages_count == 0 && (*starved || !prefill_start(c, r))) {
        *starved = true;
        return true;
    }
    int32_t rows = sched_chunk(c, s, r, budget);
    CHECK(rows >= 0);
    if (rows == 0) {
        return false;
    }
    int32_t item = sched_add_seq(c, s, r, 0, rows, true);
    sched_want_prompt(c, s, r, item);
    return true;
}

/* One pass over the prompts of a role: those that hold, or are promised, what they need, or the
 * others. */
static bool sched_add_prompts(core *c, core_step *s, record_role role, bool promised, bool decodes,
                              bool *starved) {
    for (record *r = c->records.first[role]; r; r = r->next) {
        bool open = r->computed < r->tokens_count &&
                    (role == RECORD_PREFILL || (r->local && r->state == RECORD_DECODING));
        bool mine = role == RECORD_DECODE || r->granted == promised;
        CHECK(!open || !mine || !r->in_step);
        if (open && mine && !sched_add_prompt(c, s, r, decodes, starved)) {
            return false;
        }
    }
    return true;
}

/* One row for every sequence that decodes and has, or gets, room for it. */
static void sched_add_decodes(core *c, core_step *s) {
    c->growth_waits = false;
    for (record *r = c->records.first[RECORD_DECODE]; r; r = r->next) {
        sched_room room = sched_decodes(r) ? sched_grow(c, r) : SCHED_ROOM;
        c->growth_waits = room == SCHED_LATER;
        if (room != SCHED_ROOM) {
            break; /* r has left, and with it everything younger that decodes; or waits */
        }
    }
    for (record *r = c->records.first[RECORD_DECODE]; r; r = r->next) {
        if (!sched_decodes(r) || !sched_has_room(c, r)) {
            continue;
        }
        if (r->fork_pending) {
            sched_add_copies(c, s, r);
        }
        sched_add_decode(c, s, r);
    }
}

bool sched_plan(core *c, uint32_t lane) {
    core_step *s = &c->steps[lane];
    CHECK(!s->in_flight);
    s->batch = (core_batch){.tokens = s->tokens,
                            .seqs = s->seqs,
                            .logit_rows = s->logit_rows,
                            .wants = s->wants,
                            .copies = s->copies};
    s->prompt_rows = 0;
    s->layers_done = 0;
    if (lane == CORE_LANE_DECODE || !c->options.multiplex) {
        sched_add_decodes(c, s);
    }
    if (lane == CORE_LANE_PROMPTS) {
        bool decodes = s->batch.rows > 0;
        bool starved = false;
        (void)(sched_add_prompts(c, s, RECORD_PREFILL, true, decodes, &starved) &&
               sched_add_prompts(c, s, RECORD_DECODE, true, decodes, &starved) &&
               sched_add_prompts(c, s, RECORD_PREFILL, false, decodes, &starved));
    }
    return s->batch.rows > 0;
}

/* ---- results -------------------------------------------------------------------------------- */

/* Records that left while the step ran are let go: nothing touches their pages any more. */
static void sched_release_gone(core *c, core_step *s) {
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
static void sched_apply_prompt(core *c, const core_step *s, const core_item *item,
                               const request_token *results, int32_t first, int32_t last) {
    record *r = item->record;
    request_token samples[LIMIT_CHOICES];
    int32_t scores = 0;
    int32_t count = 0;
    for (int32_t i = first; i < last; i++) {
        if (s->wants[i].kind == CORE_WANT_SCORE) {
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
        sched_send_scores(c, r, s->wants[first].position, results + first, scores);
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
static int32_t sched_apply_decode(core *c, const core_step *s, int32_t item,
                                  const request_token *results, int32_t first) {
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

static void sched_measure(core *c, const core_step *s) {
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

void sched_commit(core *c, uint32_t lane, const request_token *results, int32_t results_count) {
    core_step *s = &c->steps[lane];
    CHECK(s->in_flight);
    CHECK_EQ(results_count, s->batch.wants_count);
    sched_release_gone(c, s);
    s->in_flight = false;
    sched_measure(c, s);
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
            sched_apply_prompt(c, s, item, results, want, last);
            i++;
            want = last;
        } else {
            int32_t count = sched_apply_decode(c, s, i, results, want);
            i += count;
            want += count;
        }
    }
    CHECK_EQ(want, s->batch.wants_count);
}
