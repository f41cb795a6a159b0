/* session.h -- one API request from its prompts to the last byte of its answer.
 *
 * Purpose    Turns the tokens the gate delivers into text, matches stop strings, and writes the
 *            answer, streamed or whole. A request of several prompts has a run for each; a run has
 *            n choices.
 * Ownership  A session owns the exchange reference, the parsed request and the prompts it was made
 *            from; session_close releases them.
 * Threads    The gateway's thread.
 * Limits     Those of the request; a whole answer at most EXCHANGE_RESPONSE_BYTES.
 */
#ifndef SERVER_API_SESSION_H
#define SERVER_API_SESSION_H

#include "engine/core/gate.h"
#include "server/api/openai.h"
#include "server/api/prepare.h"
#include "server/http/exchange.h"

typedef struct session session;

/* What happened to a token that was given to the session. */
typedef enum {
    SESSION_GOES_ON,
    SESSION_CHOICE_ENDED, /* by a stop string: tell the gate (gate_end_choice) */
    SESSION_CLIENT_GONE   /* nothing can be sent any more: cancel all runs */
} session_result;

/* Takes over `x`, `r` and `prompts`, also when it fails (nothing was answered then). */
MUST_USE status session_open(exchange *x, openai_request *r, prepare_result *prompts,
                             const tokenizer *t, uint64_t seed_drawn, session **out);
void session_close(session *s);

int32_t session_runs(const session *s);

/* What the gate is asked for run `run`; borrowed from the session. */
gate_request session_run(const session *s, int32_t run, uint64_t salt);

/* Events of a run, in the order the gate gives them. */
session_result session_token(session *s, int32_t run, const request_token *token, int64_t now_us);
void session_scores(session *s, int32_t run, const request_token *score);
session_result session_run_done(session *s, int32_t run, int32_t cached_tokens, int64_t now_us);

/* True when every run is done and the answer is out. */
bool session_finished(const session *s);

/* Ends the answer with an error: as an error object when nothing was sent yet, else as an error
 * event and a cut stream. */
void session_fail(session *s, int http_code, const diag *d, int32_t retry_after_s);

exchange *session_exchange(const session *s);

/* For metrics: of the whole session, in microseconds of clock_now_us. */
typedef struct {
    int64_t received_us;
    int64_t first_token_us; /* 0: none yet */
    int64_t last_token_us;
    int32_t prompt_tokens;
    int32_t completion_tokens;
    int32_t cached_tokens;
} session_times;

session_times session_get_times(const session *s);

#endif
