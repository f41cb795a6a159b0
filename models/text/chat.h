/* chat.h -- chat templates: a conversation in, the model's prompt text out.
 *
 * Purpose    A model file carries its prompt format as a Jinja2 program. chat parses it once and
 *            renders a request's JSON with it, giving the text that Python's jinja2 gives as
 *            Hugging Face transformers sets it up (jinja.h says exactly what is meant).
 * Ownership  chat_open holds memory; chat_close gives it back. The template source is copied; the
 *            input is only read. A render's memory is gone when it returns, whatever it returns.
 * Threads    A chat is never written after chat_open: any number of threads may render at once.
 *            A render uses up to JINJA_STACK_BYTES of its caller's stack.
 * Limits     Steps, memory, depth and output are bounded (jinja.h); passing one is STATUS_LIMIT. A
 *            template or an input that means harm costs at most those.
 */
#ifndef MODELS_TEXT_CHAT_H
#define MODELS_TEXT_CHAT_H

#include <cjson/cJSON.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct chat chat;

/* Parses a template. STATUS_INVALID and the line in `d` when it is not one. */
MUST_USE status chat_open(str template_source, chat **out, diag *d);
void chat_close(chat *c);

/* Renders `input`, an object, and appends the text to `out`. Each member of `input` becomes a
 * variable: messages, tools, documents, add_generation_prompt (true or false), bos_token,
 * eos_token, and what a request adds as chat_template_kwargs. Numbers without a fraction become
 * integers. `wall_us` (microseconds since 1970) is what strftime_now tells, as local time.
 *
 * STATUS_INVALID  the template refused the input: `d` has the message of raise_exception alone, or
 *                 "line N: ..." for an error of evaluation.
 * STATUS_LIMIT    a limit was reached, `output_bytes_max` among them.
 * On failure `out` is as it was before. */
MUST_USE status chat_render(const chat *c, const cJSON *input, int64_t wall_us,
                            size_t output_bytes_max, strbuf *out, diag *d);

/* As chat_render, for input that is still JSON text (the command line). */
MUST_USE status chat_render_json(const chat *c, str input, int64_t wall_us, size_t output_bytes_max,
                                 strbuf *out, diag *d);

#endif
