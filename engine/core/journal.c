/* journal.c -- index order, once, whatever the attempt. */
#include "engine/core/journal.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/core/planted.h"

void journal_open(journal *j, int32_t choices_count, int32_t tokens_max) {
    CHECK(choices_count >= 1 && choices_count <= LIMIT_CHOICES);
    CHECK(tokens_max >= 0 && tokens_max <= LIMIT_CONTEXT_TOKENS);
    *j = (journal){.choices_count = choices_count, .tokens_max = tokens_max};
}

void journal_close(journal *j) {
    for (int32_t i = 0; i < LIMIT_CHOICES; i++) {
        mem_free(j->choices[i].tokens);
    }
    mem_free(j->early);
    *j = (journal){0};
}

static bool append(journal *j, journal_choice *c, const request_token *t) {
    CHECK_EQ(c->count, t->index);
    CHECK_LT(c->count, j->tokens_max);
    if (c->count == c->capacity) {
        int32_t grown = c->capacity < 32 ? 64 : c->capacity * 2;
        grown = grown < j->tokens_max ? grown : j->tokens_max;
        int32_t *p = mem_realloc(c->tokens, (size_t)grown, sizeof(*p));
        if (p == NULL) {
            return false;
        }
        c->tokens = p;
        c->capacity = grown;
    }
    c->tokens[c->count] = t->token;
    c->count++;
    if (t->end != REQUEST_RUNNING) {
        c->state = JOURNAL_ENDED;
    }
    return true;
}

static journal_result add_early(journal *j, const request_token *t) {
    for (int32_t i = 0; i < j->early_count; i++) {
        if (j->early[i].choice == t->choice && j->early[i].index == t->index) {
            return j->early[i].token == t->token ? JOURNAL_DUPLICATE : JOURNAL_MISMATCH;
        }
    }
    if (j->early_count == JOURNAL_EARLY_MAX) {
        return JOURNAL_BAD;
    }
    if (j->early == NULL) {
        j->early = mem_alloc(JOURNAL_EARLY_MAX, sizeof(*j->early));
        if (j->early == NULL) {
            return JOURNAL_NOMEM;
        }
    }
    j->early[j->early_count] = *t;
    j->early_count++;
    return JOURNAL_EARLY;
}

journal_result journal_add(journal *j, const request_token *t) {
    CHECK(j->choices_count > 0);
    if (t->choice < 0 || t->choice >= j->choices_count || t->index < 0 ||
        t->index >= j->tokens_max) {
        return JOURNAL_BAD;
    }
    journal_choice *c = &j->choices[t->choice];
    if (t->index < c->count && PLANTED(TOKEN_TWICE_AFTER_RETRY)) {
        return JOURNAL_NEXT;
    }
    if (t->index < c->count) {
        return c->tokens[t->index] == t->token ? JOURNAL_DUPLICATE : JOURNAL_MISMATCH;
    }
    if (c->state == JOURNAL_ENDED_BY_CALLER) {
        return JOURNAL_UNWANTED;
    }
    if (c->state == JOURNAL_ENDED) {
        return JOURNAL_BAD;
    }
    if (t->index > c->count) {
        return add_early(j, t);
    }
    return append(j, c, t) ? JOURNAL_NEXT : JOURNAL_NOMEM;
}

bool journal_next_early(journal *j, int32_t choice, request_token *out, journal_result *result) {
    CHECK(choice >= 0 && choice < j->choices_count);
    journal_choice *c = &j->choices[choice];
    for (int32_t i = 0; i < j->early_count && c->state == JOURNAL_OPEN; i++) {
        if (j->early[i].choice != choice || j->early[i].index != c->count) {
            continue;
        }
        *out = j->early[i];
        if (!append(j, c, out)) {
            *result = JOURNAL_NOMEM;
            return false;
        }
        j->early_count--;
        j->early[i] = j->early[j->early_count];
        *result = JOURNAL_NEXT;
        return true;
    }
    *result = JOURNAL_EARLY;
    return false;
}

void journal_forget_early(journal *j, int32_t first, int32_t count) {
    CHECK(first >= 0 && first + count <= j->choices_count);
    int32_t kept = 0;
    for (int32_t i = 0; i < j->early_count; i++) {
        if (j->early[i].choice < first || j->early[i].choice >= first + count) {
            j->early[kept] = j->early[i];
            kept++;
        }
    }
    j->early_count = kept;
}

void journal_end(journal *j, int32_t choice, journal_state state) {
    CHECK(choice >= 0 && choice < j->choices_count);
    CHECK(state != JOURNAL_OPEN);
    if (j->choices[choice].state == JOURNAL_OPEN) {
        j->choices[choice].state = state;
    }
}

bool journal_ended(const journal *j, int32_t first, int32_t count) {
    CHECK(first >= 0 && first + count <= j->choices_count);
    for (int32_t i = first; i < first + count; i++) {
        if (j->choices[i].state == JOURNAL_OPEN) {
            return false;
        }
    }
    return true;
}

bool journal_empty(const journal *j, int32_t first, int32_t count) {
    CHECK(first >= 0 && first + count <= j->choices_count);
    for (int32_t i = first; i < first + count; i++) {
        if (j->choices[i].state != JOURNAL_OPEN || j->choices[i].count > 0) {
            return false;
        }
    }
    return true;
}
