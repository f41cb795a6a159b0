/* prepare_test.c -- prompts against the context, and templates that refuse. */
#define _GNU_SOURCE
#include "server/api/prepare.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/tinytext.h"

enum { CONTEXT = 32 };

typedef struct {
    tokenizer *tokenizer;
    chat *chat;
    openai_limits limits;
    prepare_model model;
} bench;

static void start(bench *b, const char *template_text) {
    static const char *const names[] = {"tiny"};
    diag d;
    *b = (bench){.tokenizer = tinytext_open()};
    if (template_text) {
        cr_assert_eq(chat_open(str_from(template_text), &b->chat, &d), STATUS_OK, "%s", d.text);
    }
    /* The parser's bound is wider, so that what does not fit reaches prepare. */
    b->limits = (openai_limits){names, 1, 1000, TINYMODEL_VOCAB};
    b->model = (prepare_model){b->tokenizer, b->chat, CONTEXT};
}

static void stop(bench *b) {
    chat_close(b->chat);
    tokenizer_close(b->tokenizer);
}

static status prepare(bench *b, openai_kind kind, const char *body, prepare_result *out, diag *d) {
    openai_request *r;
    cr_assert_eq(openai_parse(kind, str_from(body), &b->limits, &r, d), STATUS_OK, "%s: %s", body,
                 d->text);
    status s = prepare_prompts(&b->model, r, out, d);
    openai_free(r);
    return s;
}

/* {"prompt":[5,5,...],"max_tokens":N}; no max_tokens when it is negative. */
static void ids_body(char *out, size_t bytes, int32_t count, int32_t max_tokens) {
    int used = snprintf(out, bytes, "{\"prompt\":[");
    for (int32_t i = 0; i < count; i++) {
        used += snprintf(out + used, bytes - (size_t)used, "%s5", i ? "," : "");
    }
    used += snprintf(out + used, bytes - (size_t)used, "]");
    if (max_tokens >= 0) {
        used += snprintf(out + used, bytes - (size_t)used,
                         max_tokens ? ",\"max_tokens\":%d" : ",\"max_tokens\":%d,\"echo\":true",
                         max_tokens);
    }
    snprintf(out + used, bytes - (size_t)used, "}");
}

Test(prepare, a_prompt_and_its_answer_fit_the_context_exactly) {
    bench b;
    start(&b, NULL);
    for (int32_t count = 1; count <= CONTEXT + 2; count++) {
        for (int32_t most = 0; most <= CONTEXT + 2; most++) {
            char body[1024];
            prepare_result out;
            diag d;
            ids_body(body, sizeof body, count, most);
            bool fits = count + most <= CONTEXT;
            status s = prepare(&b, OPENAI_COMPLETIONS, body, &out, &d);
            cr_assert_eq(s, fits ? STATUS_OK : STATUS_INVALID, "%d + %d", count, most);
            if (fits) {
                cr_assert(out.count == 1 && out.prompts[0].count == count &&
                          out.prompts[0].max_tokens == most);
            } else {
                cr_assert_str_eq(d.param, most > 0 && count < CONTEXT ? "max_tokens" : "prompt");
            }
            prepare_free(&out);
        }
    }
    stop(&b);
}

Test(prepare, without_max_tokens_the_rest_of_the_context_is_meant) {
    bench b;
    start(&b, "{{ messages[0].content }}");
    static const char body[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"abc\"}]}";
    prepare_result out;
    diag d;
    cr_assert_eq(prepare(&b, OPENAI_CHAT, body, &out, &d), STATUS_OK, "%s", d.text);
    cr_assert_eq(out.prompts[0].count, 3);
    cr_assert_eq(out.prompts[0].max_tokens, CONTEXT - 3);
    prepare_free(&out);
    stop(&b);
}

Test(prepare, every_prompt_of_a_list_is_held_against_the_context) {
    bench b;
    start(&b, NULL);
    prepare_result out;
    diag d;
    cr_assert_eq(prepare(&b, OPENAI_COMPLETIONS, "{\"prompt\":[\"ab\",\"abcd\"],\"max_tokens\":30}",
                         &out, &d),
                 STATUS_INVALID);
    cr_assert_str_eq(d.param, "max_tokens");
    cr_assert(out.count == 0 && out.prompts == NULL, "nothing is left to free");
    stop(&b);
}

Test(prepare, a_text_far_too_long_is_refused_without_its_ids) {
    enum { LETTERS = 500000 };
    bench b;
    start(&b, NULL);
    char *body = malloc(LETTERS + 100);
    int used = snprintf(body, 100, "{\"prompt\":\"");
    memset(body + used, 'q', LETTERS);
    snprintf(body + used + LETTERS, 50, "\",\"max_tokens\":1}");
    prepare_result out;
    diag d;
    cr_assert_eq(prepare(&b, OPENAI_COMPLETIONS, body, &out, &d), STATUS_INVALID);
    cr_assert_str_eq(d.param, "prompt");
    cr_assert(strstr(d.text, "500000") != NULL, "%s", d.text);
    free(body);
    stop(&b);
}

Test(prepare, the_template_is_given_its_tokens_and_may_refuse) {
    static const struct {
        const char *text, *want; /* NULL: refused */
    } cases[] = {
        {"{{ messages[0].content }}", "abc"},
        {"{{ eos_token }}{{ messages[0].content }}", "<|im_end|>abc"},
        {"{{ bos_token }}", "<|im_start|>"},
        {"{{ raise_exception('only roles that alternate') }}", NULL},
        {"", NULL},
    };
    static const char body[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"abc\"}]}";
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bench b;
        prepare_result out;
        diag d;
        start(&b, cases[i].text);
        status s = prepare(&b, OPENAI_CHAT, body, &out, &d);
        cr_assert_eq(s, cases[i].want ? STATUS_OK : STATUS_INVALID, "case %zu: %s", i, d.text);
        if (cases[i].want) {
            strbuf text = strbuf_make(1000);
            for (int32_t t = 0; t < out.prompts[0].count; t++) {
                strbuf_append_str(&text, prepare_piece(b.tokenizer, out.prompts[0].tokens[t]));
            }
            cr_assert(str_equal_z(strbuf_str(&text), cases[i].want), "case %zu", i);
            strbuf_close(&text);
        } else {
            cr_assert_str_eq(d.param, "messages");
        }
        prepare_free(&out);
        stop(&b);
    }
}

Test(prepare, a_model_without_a_template_says_so) {
    bench b;
    prepare_result out;
    diag d;
    start(&b, NULL);
    cr_assert_eq(prepare(&b, OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
                         &out, &d),
                 STATUS_INVALID);
    cr_assert(strstr(d.text, "template") != NULL);
    stop(&b);
}

Test(prepare, the_final_message_is_gone_on_with) {
    bench b;
    prepare_result out;
    diag d;
    start(&b, "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}");
    static const char body[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"so\"},{\"role\":\"assistant\","
        "\"content\":\"so far \"}],\"continue_final_message\":true,\"add_generation_prompt\":"
        "false}";
    b.model.context_tokens = 500;
    cr_assert_eq(prepare(&b, OPENAI_CHAT, body, &out, &d), STATUS_OK, "%s", d.text);
    strbuf text = strbuf_make(1000);
    for (int32_t t = 0; t < out.prompts[0].count; t++) {
        strbuf_append_str(&text, prepare_piece(b.tokenizer, out.prompts[0].tokens[t]));
    }
    cr_assert(str_equal_z(strbuf_str(&text), "[user]so[end][assistant]so far"), "%.*s",
              (int)text.bytes, text.data);
    strbuf_close(&text);
    prepare_free(&out);
    stop(&b);
}
