/* openai_chat.h -- a conversation, checked and brought into the form chat templates expect.
 *
 * Purpose    Checks `messages` and makes the input of the chat template from them.
 * Ownership  The template input is the caller's (cJSON_Delete); it is made of parts taken out of
 *            the request's tree.
 * Threads    Pure functions.
 * Limits     LIMIT_JSON_NODES bounds messages and parts.
 */
#ifndef SERVER_API_OPENAI_CHAT_H
#define SERVER_API_OPENAI_CHAT_H

#include "server/api/openai.h"
#include "server/http/jsonin.h"

/* Takes messages, tools and documents out of `root` and sets template_input and
 * continue_final_message of `r`. */
MUST_USE status openai_chat_input(cJSON *root, openai_request *r, diag *d);

#endif
