/* journal.h -- what the client of one request already has, token by token.
 *
 * Purpose    Puts tokens in index order per choice, lets each through exactly once whichever worker
 *            and attempt it comes from, and keeps them, so that an attempt can go on where the one
 *            before it stopped.
 * Ownership  journal_close frees what the journal grew.
 * Threads    One thread at a time.
 * Limits     LIMIT_CHOICES choices, tokens_max each; JOURNAL_EARLY_MAX tokens wait for an earlier
 *            one (links are FIFO and D repeats the first token, so in practice hardly any do).
 */
#ifndef ENGINE_CORE_JOURNAL_H
#define ENGINE_CORE_JOURNAL_H

#include "engine/base/status.h"
#include "engine/core/request.h"

enum { JOURNAL_EARLY_MAX = 32 };

typedef enum {
    JOURNAL_NEXT,      /* appended: pass it on */
    JOURNAL_EARLY,     /* kept until the ones before it are there */
    JOURNAL_DUPLICATE, /* the client has it */
    JOURNAL_MISMATCH,  /* the client has another token at this index */
    JOURNAL_UNWANTED,  /* the caller ended the choice */
    JOURNAL_BAD,       /* no such choice, past its end, or too far ahead */
    JOURNAL_NOMEM
} journal_result;

typedef enum { JOURNAL_OPEN, JOURNAL_ENDED, JOURNAL_ENDED_BY_CALLER } journal_state;

typedef struct {
    int32_t *tokens; /* [count] what the client has */
    int32_t count;
    int32_t capacity;
    journal_state state;
} journal_choice;

typedef struct {
    journal_choice choices[LIMIT_CHOICES];
    int32_t choices_count;
    int32_t tokens_max;
    request_token *early; /* [early_count], in no order; taken when first needed */
    int32_t early_count;
} journal;

void journal_open(journal *j, int32_t choices_count, int32_t tokens_max);
void journal_close(journal *j);

/* choice counts from 0 here. */
journal_result journal_add(journal *j, const request_token *t);

/* Moves the early token that is now next in `choice` to *out, appended; false when there is none.
 * NOMEM leaves it early. */
bool journal_next_early(journal *j, int32_t choice, request_token *out, journal_result *result);

/* A new attempt makes its own tokens: forget early ones of the choices [first, first + count). */
void journal_forget_early(journal *j, int32_t first, int32_t count);

void journal_end(journal *j, int32_t choice, journal_state state);

/* True when every choice of [first, first + count) has ended. */
bool journal_ended(const journal *j, int32_t first, int32_t count);

/* True when the client has nothing of the choices [first, first + count). */
bool journal_empty(const journal *j, int32_t first, int32_t count);

#endif
