/* reqspans_test.c -- notes of requests as spans: whatever happened and whatever workers say of
 * their times, a trace is a tree in which every part lies within the whole. */
#include "server/gateway/reqspans.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <stdlib.h>

#include "engine/base/rng.h"
#include "engine/core/message.h"

enum { RUNS = 3, STEPS = 40 };

static cJSON *spans_of(const reqtrace_note *n, uint32_t *count) {
    strbuf out = strbuf_make(1 << 20);
    strbuf_append_char(&out, '[');
    *count = reqspans_write(n, &out);
    strbuf_append_char(&out, ']');
    cJSON *json = cJSON_ParseWithLength(out.data, out.bytes);
    cr_assert_not_null(json, "%s", out.data);
    cr_assert_eq((uint32_t)cJSON_GetArraySize(json), *count);
    strbuf_close(&out);
    return json;
}

static const char *text(const cJSON *json, const char *key) {
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, key));
    return s ? s : "";
}

static int64_t time_of(const cJSON *json, const char *key) {
    return strtoll(text(json, key), NULL, 10);
}

static void check_tree(const cJSON *json) {
    const cJSON *root = cJSON_GetArrayItem(json, 0), *s, *other;
    int64_t start = time_of(root, "startTimeUnixNano"), end = time_of(root, "endTimeUnixNano");
    cr_assert_leq(start, end);
    cJSON_ArrayForEach(s, json) {
        int64_t from = time_of(s, "startTimeUnixNano"), to = time_of(s, "endTimeUnixNano");
        cr_assert(start <= from && from <= to && to <= end, "%s", text(s, "name"));
        cr_assert_str_eq(text(s, "traceId"), text(root, "traceId"));
        if (s != root) {
            cr_assert_str_eq(text(s, "parentSpanId"), text(root, "spanId"));
        }
        cJSON_ArrayForEach(other, json) {
            cr_assert(s == other || strcmp(text(s, "spanId"), text(other, "spanId")) != 0);
        }
    }
    cJSON_ArrayForEach(s, cJSON_GetObjectItemCaseSensitive(root, "events")) {
        int64_t when = time_of(s, "timeUnixNano");
        cr_assert(start <= when && when <= end);
    }
}

static reqtrace_note note(void) {
    return (reqtrace_note){.self = {1, 2, 3, TRACEPARENT_SAMPLED},
                           .route = ROUTES_CHAT,
                           .wall_offset_us = 1000000000,
                           .how = {.http_code = 200, .complete = true, .received_us = 1000}};
}

static const cJSON *named(const cJSON *json, const char *name) {
    const cJSON *s, *found = NULL;
    cJSON_ArrayForEach(s, json) {
        if (strcmp(text(s, "name"), name) == 0) {
            cr_assert_null(found, "two spans named %s", name);
            found = s;
        }
    }
    return found;
}

static void spans_from(const cJSON *json, const char *name, int64_t from_us, int64_t to_us) {
    const cJSON *s = named(json, name);
    cr_assert_not_null(s, "%s", name);
    cr_assert_eq(time_of(s, "startTimeUnixNano"), (1000000000 + from_us) * 1000, "%s", name);
    cr_assert_eq(time_of(s, "endTimeUnixNano"), (1000000000 + to_us) * 1000, "%s", name);
}

Test(reqspans, what_workers_say_is_laid_out_backwards_from_their_messages) {
    reqtrace_note n = note();
    uint32_t count;
    reqtrace_text(&n, 1100, 1200);
    openai_request r = {.model = str_from("m"), .params = {.max_tokens = 9}};
    reqtrace_queued(&n, &r, 1300);
    reqtrace_sent(&n, 0, 1, 4, 5, 2000);
    reqtrace_computed(&n, 0, 1, 500, 3000);
    reqtrace_token(&n, 0, 6000);
    reqtrace_adopted(&n, 0, 1, 100, 2000, 6500);
    reqtrace_token(&n, 0, 8000);
    reqtrace_token(&n, 0, 9000);
    reqtrace_ended(&n, 7, 3, 0, 9500);
    n.how.ended_us = 9600;
    cJSON *json = spans_of(&n, &count);
    cr_assert_eq(count, 7);
    check_tree(json);
    spans_from(json, "POST /v1/chat/completions", 1000, 9600);
    spans_from(json, "tokenize", 1100, 1200);
    spans_from(json, "queue", 1300, 2000);
    spans_from(json, "prefill queue", 2500, 3000);
    spans_from(json, "prefill", 3000, 6000);
    spans_from(json, "kv transfer", 4500, 6500);
    spans_from(json, "decode", 6000, 9000);
    cJSON_Delete(json);
}

Test(reqspans, times_of_another_attempt_are_not_taken) {
    reqtrace_note n = note();
    uint32_t count;
    reqtrace_sent(&n, 0, 1, 4, 5, 2000);
    reqtrace_event_of(&n, 0, "worker lost", NULL, 4, true, 2500);
    reqtrace_sent(&n, 0, 2, 6, 5, 3000);
    reqtrace_computed(&n, 0, 1, 500, 900);
    reqtrace_adopted(&n, 0, 1, 0, 10, 3100);
    cr_assert(!reqtrace_is_at(&n, 0, 4) && reqtrace_is_at(&n, 0, 6) && !reqtrace_is_at(&n, 1, 6));
    reqtrace_ended(&n, 7, 0, 0, 4000);
    n.how.ended_us = 4000;
    cJSON *json = spans_of(&n, &count);
    check_tree(json);
    cr_assert_null(named(json, "kv transfer"));
    cr_assert_eq(count, 3, "the request and two prompts without a first token");
    cr_assert_eq(n.events_count, 2, "the loss and the retry");
    cJSON_Delete(json);
}

/* Anything, in any order, with any numbers. */
static void anything(reqtrace_note *n, uint64_t *state, int64_t *now) {
    int32_t run = (int32_t)rng_below(state, RUNS);
    uint32_t number = (uint32_t)rng_below(state, 4);
    uint32_t one = (uint32_t)rng_next(state), two = (uint32_t)rng_next(state) >> 10;
    *now += (int64_t)rng_below(state, 1000);
    switch (rng_below(state, 8)) {
        case 0:
            reqtrace_sent(n, run, number, rng_below(state, 2) ? MESSAGE_NO_WORKER : 1, 2, *now);
            break;
        case 1:
            reqtrace_computed(n, run, number, one, two);
            break;
        case 2:
            reqtrace_adopted(n, run, number, one, two, *now);
            break;
        case 3:
            reqtrace_event_of(n, run, "what", "why", 1, rng_below(state, 2), *now);
            break;
        case 4:
            reqtrace_text(n, *now - 10, *now);
            break;
        case 5: {
            openai_request r = {.params = {.max_tokens = -1}};
            reqtrace_queued(n, &r, *now);
            break;
        }
        default:
            reqtrace_token(n, run, *now);
            break;
    }
}

Test(reqspans, every_part_lies_within_the_whole_whatever_happened) {
    for (uint64_t seed = 0; seed < 300; seed++) {
        uint64_t state = rng_mix(seed);
        reqtrace_note n = note();
        int64_t now = n.how.received_us;
        uint32_t count;
        for (uint64_t i = rng_below(&state, STEPS); i > 0; i--) {
            anything(&n, &state, &now);
        }
        if (rng_below(&state, 2)) {
            reqtrace_ended(&n, 1, 2, 3, now);
        }
        n.how.ended_us = n.how.received_us + (int64_t)rng_below(&state, 20000);
        n.how.http_code = rng_below(&state, 2) ? 503 : 0;
        n.how.complete = rng_below(&state, 2);
        cJSON *json = spans_of(&n, &count);
        cr_assert_leq(count, 3 + 4 * REQTRACE_ATTEMPTS);
        check_tree(json);
        cJSON_Delete(json);
    }
}

Test(reqspans, without_a_note_nothing_happens) {
    openai_request r = {.params = {.max_tokens = -1}};
    uint64_t id[2] = {7, 7};
    reqtrace_text(NULL, 1, 2);
    reqtrace_queued(NULL, &r, 1);
    reqtrace_sent(NULL, 0, 1, 2, 3, 4);
    reqtrace_token(NULL, 0, 1);
    reqtrace_computed(NULL, 0, 1, 2, 3);
    reqtrace_adopted(NULL, 0, 1, 2, 3, 4);
    reqtrace_event_of(NULL, 0, "a", NULL, 1, true, 2);
    reqtrace_ended(NULL, 1, 2, 3, 4);
    reqtrace_id(NULL, id);
    cr_assert(id[0] == 0 && id[1] == 0 && !reqtrace_is_at(NULL, 0, 1));
}
