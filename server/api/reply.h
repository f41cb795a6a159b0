/* reply.h -- answers of the OpenAI API as JSON text.
 *
 * Purpose    Writes whole answers, stream chunks, usage, model lists, token lists and error objects
 *            in the shapes of the OpenAI API, with vLLM's names where it goes further.
 * Ownership  Everything is borrowed for the call; text is appended to the caller's strbuf.
 * Threads    Pure functions.
 * Limits     The strbuf's maximum: check out->failed once at the end.
 */
#ifndef SERVER_API_REPLY_H
#define SERVER_API_REPLY_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "engine/core/request.h"
#include "server/api/openai.h"

/* The bytes a token stands for (tokenizer_piece). */
typedef struct {
    const void *self;
    str (*piece)(const void *self, int32_t token);
} reply_pieces;

/* What all parts of one answer share. */
typedef struct {
    const openai_request *request;
    const char *id;    /* "chatcmpl-..." or "cmpl-...": reply_id makes one */
    int64_t created_s; /* wall time */
    reply_pieces pieces;
} reply;

typedef enum { REPLY_OPEN, REPLY_STOP, REPLY_LENGTH, REPLY_ABORT } reply_finish;

typedef struct {
    int32_t prompt_tokens;
    int32_t completion_tokens;
    int32_t cached_tokens;
} reply_usage;

/* Part of a choice (a stream chunk) or the whole of it. Zero what does not apply. */
typedef struct {
    int32_t index; /* prompt number * n + choice */
    str text;      /* valid UTF-8; with echo the prompt's text is the caller's to put in front */
    bool first;    /* CHAT streams: this chunk carries the role */

    /* Generated tokens this text stands for: logprobs (when asked for) and ids come from them. */
    const request_token *tokens; /* [tokens_count] */
    int32_t tokens_count;

    /* With echo (and for return_token_ids on the first chunk): the prompt's tokens, and the scores
     * of those from position score_first on (message_scores); earlier ones are null. */
    const int32_t *prompt; /* [prompt_count] */
    int32_t prompt_count;
    const request_token *scores; /* [scores_count] */
    int32_t scores_count;
    int32_t score_first;

    int32_t text_offset; /* COMPLETIONS: characters of the choice's text before this part's first
                          * token; update it with reply_characters of the pieces */

    reply_finish finish; /* != REPLY_OPEN on a choice's last part */
    str stop_string;     /* the stop string that ended it, or empty */
    int32_t stop_token;  /* the stop id that ended it, or -1 */
} reply_part;

/* "chatcmpl-" or "cmpl-" and 32 hex digits. */
void reply_id(openai_kind kind, uint64_t high, uint64_t low, char out[48]);

/* Characters that begin in these bytes. */
int32_t reply_characters(str bytes);

/* A whole answer, not streamed. */
void reply_write_whole(strbuf *out, const reply *r, const reply_part *choices, int32_t count,
                       const reply_usage *usage);

/* One event of a stream: "data: {...}\n\n". `usage` is NULL but for continuous usage. */
void reply_write_event(strbuf *out, const reply *r, const reply_part *part,
                       const reply_usage *usage);

/* The last but one event, when usage was asked for: no choices. */
void reply_write_event_usage(strbuf *out, const reply *r, const reply_usage *usage);

/* "data: [DONE]\n\n" */
void reply_write_event_done(strbuf *out);

/* A failure in the middle of a stream: "data: {"error":...}\n\n"; no [DONE] follows. */
void reply_write_event_error(strbuf *out, int http_code, const diag *d);

/* GET /v1/models and /v1/models/{id}. */
void reply_write_models(strbuf *out, const openai_limits *limits, int64_t created_s);
void reply_write_model(strbuf *out, const char *name, const openai_limits *limits,
                       int64_t created_s);

/* POST /tokenize: pieces are written when `pieces` is not NULL (return_token_strs). */
void reply_write_tokens(strbuf *out, const int32_t *tokens, int32_t count, int32_t context_tokens,
                        const reply_pieces *pieces);
/* POST /detokenize */
void reply_write_text(strbuf *out, str text);
/* GET /version */
void reply_write_version(strbuf *out, const char *version);

#endif
