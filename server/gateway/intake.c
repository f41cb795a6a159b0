/* intake.c -- two queues with threads between them: HTTP -> prepare -> gateway. */
#define _GNU_SOURCE
#include "server/gateway/intake.h"
#include "server/http/refusal.h"

#include <pthread.h>
#include <stdatomic.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/queue.h"
#include "server/api/reply.h"
#include "server/gateway/reqtrace.h"

/* HERE: a body up to this is worked on by the thread that read it. Its text takes less time than
 * waking another thread would. */
enum {
    HERE_BYTES_MAX = 4096,
    THREADS_MAX = 16,
    TEXT_BYTES_MAX = 64 << 20,
    IDLE_WAIT_US = 60000000
};

struct intake {
    intake_options options;
    arena arena;
    queue waiting; /* for the prepare threads */
    queue ready;   /* for the gateway */
    bool waiting_open, ready_open;
    pthread_t threads[THREADS_MAX];
    uint32_t threads_count;
    _Atomic bool stopping;
};

static void refuse_busy(exchange *x) {
    diag d;
    (void)status_fail(&d, STATUS_LIMIT, "The server has too many requests waiting. Try again.");
    (void)routes_refuse(x, 503, &d, 1);
}

void intake_discard(intake_item *item) {
    exchange_release(item->exchange);
    openai_free(item->request);
    prepare_free(&item->prompts);
}

static void drop(intake_item *item) {
    if (item->kind != INTAKE_GONE) {
        refuse_busy(item->exchange);
    }
    intake_discard(item);
}

void intake_gone(void *self, exchange *x) {
    intake *i = self;
    intake_item item = {.kind = INTAKE_GONE, .exchange = x};
    exchange_acquire(x);
    if (!queue_push(&i->ready, &item)) {
        exchange_release(x); /* shutting down: nobody listens any more */
    }
}

static void answer_tokenize(intake *i, intake_item *item) {
    diag d;
    strbuf json = strbuf_make(TEXT_BYTES_MAX);
    reply_pieces pieces = {i->options.model.tokenizer, prepare_piece};
    status s = prepare_prompts(&i->options.model, item->request, &item->prompts, &d);
    if (s == STATUS_OK) {
        const prepare_prompt *p = &item->prompts.prompts[0];
        reply_write_tokens(&json, p->tokens, p->count, i->options.model.context_tokens,
                           item->request->token_strs ? &pieces : NULL);
        (void)routes_answer(item->exchange, &json);
    } else {
        (void)routes_refuse(item->exchange, refusal_code(s), &d, 0);
    }
    strbuf_close(&json);
}

static void answer_detokenize(intake *i, intake_item *item) {
    strbuf text = strbuf_make(TEXT_BYTES_MAX);
    strbuf json = strbuf_make(TEXT_BYTES_MAX);
    if (prepare_text(&i->options.model, item->request, &text) == STATUS_OK) {
        reply_write_text(&json, strbuf_str(&text));
    }
    if (json.bytes == 0 || json.failed) {
        diag d;
        (void)status_fail(&d, STATUS_NOMEM, "the text is too large");
        (void)routes_refuse(item->exchange, 503, &d, 0);
    } else {
        (void)routes_answer(item->exchange, &json);
    }
    strbuf_close(&text);
    strbuf_close(&json);
}

static void prepare_item(intake *i, intake_item *item) {
    if (exchange_gone(item->exchange)) {
        intake_discard(item);
        return;
    }
    if (item->route == ROUTES_TOKENIZE) {
        answer_tokenize(i, item);
        intake_discard(item);
        return;
    }
    if (item->route == ROUTES_DETOKENIZE) {
        answer_detokenize(i, item);
        intake_discard(item);
        return;
    }
    diag d;
    int64_t start_us = clock_now_us();
    status s = prepare_prompts(&i->options.model, item->request, &item->prompts, &d);
    reqtrace_text(reqtrace_of(item->exchange), start_us, clock_now_us());
    if (s != STATUS_OK) {
        (void)routes_refuse(item->exchange, refusal_code(s), &d, 0);
        intake_discard(item);
    } else if (!queue_push(&i->ready, item)) {
        drop(item);
    }
}

void intake_request(void *self, routes_route route, exchange *x, openai_request *r) {
    intake *i = self;
    intake_item item = {
        .kind = r ? INTAKE_START : INTAKE_PLAIN, .route = route, .exchange = x, .request = r};
    if (r && exchange_body(x).bytes <= HERE_BYTES_MAX) {
        prepare_item(i, &item);
    } else if (!queue_push(r ? &i->waiting : &i->ready, &item)) {
        drop(&item);
    }
}

static void *prepare_thread(void *argument) {
    intake *i = argument;
    intake_item item;
    (void)pthread_setname_np(pthread_self(), "weir-text");
    while (!atomic_load(&i->stopping)) {
        if (queue_pop_wait(&i->waiting, &item, IDLE_WAIT_US)) {
            prepare_item(i, &item);
        }
    }
    return NULL;
}

status intake_open(const intake_options *options, intake **out, diag *d) {
    CHECK(options->threads > 0 && options->threads <= THREADS_MAX);
    intake *i = mem_calloc(1, sizeof *i);
    /* Each connection has at most one request under way and one leaving. */
    uint32_t ready_max = options->waiting_max + 2 * options->connections_max;
    uint64_t bytes = (uint64_t)(options->waiting_max + ready_max) * sizeof(intake_item) + 65536;
    if (!i || arena_open(&i->arena, bytes) != STATUS_OK) {
        mem_free(i);
        return status_fail(d, STATUS_NOMEM, "no memory for the request queues");
    }
    i->options = *options;
    status s =
        queue_open(&i->waiting, &i->arena, options->waiting_max, sizeof(intake_item), false, d);
    i->waiting_open = s == STATUS_OK;
    if (s == STATUS_OK) {
        s = queue_open(&i->ready, &i->arena, ready_max, sizeof(intake_item), true, d);
        i->ready_open = s == STATUS_OK;
    }
    while (s == STATUS_OK && i->threads_count < options->threads) {
        if (pthread_create(&i->threads[i->threads_count], NULL, prepare_thread, i) != 0) {
            s = status_fail_errno(d, STATUS_NOMEM, "starting a text thread");
            break;
        }
        i->threads_count++;
    }
    if (s != STATUS_OK) {
        intake_close(i);
        return s;
    }
    *out = i;
    return STATUS_OK;
}

void intake_close(intake *i) {
    if (!i) {
        return;
    }
    intake_item item;
    if (i->waiting_open) {
        atomic_store(&i->stopping, true);
        queue_shut(&i->waiting);
        for (uint32_t t = 0; t < i->threads_count; t++) {
            (void)pthread_join(i->threads[t], NULL);
        }
        while (queue_pop(&i->waiting, &item)) {
            drop(&item);
        }
        queue_close(&i->waiting);
    }
    if (i->ready_open) {
        queue_shut(&i->ready);
        while (queue_pop(&i->ready, &item)) {
            drop(&item);
        }
        queue_close(&i->ready);
    }
    arena_close(&i->arena);
    mem_free(i);
}

bool intake_next(intake *i, intake_item *out) {
    return queue_pop(&i->ready, out);
}

int intake_fd(const intake *i) {
    return queue_fd(&i->ready);
}
