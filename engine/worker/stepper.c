/* stepper.c -- one thread, one step at a time.
 *
 * The hand-over is a mutex and a condition: a step takes milliseconds, the hand-over microseconds.
 * Results come back through atomics and an eventfd, which the owner polls with its sockets. */
#define _GNU_SOURCE
#include "engine/worker/stepper.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/failpoint.h"
#include "engine/base/mem.h"
#include "engine/worker/picks.h"
#include "engine/worker/sampler.h"

struct stepper {
    stepper_options options;
    int32_t eog[STEPPER_EOG_MAX];
    int32_t vocab;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool asked, stopping; /* under lock */
    bool thread_started;
    int fd;

    core_batch batch; /* the step thread's while `running` */
    bool running;     /* the owner's view */
    _Atomic int32_t layers_done;
    _Atomic int32_t progress_layers;
    _Atomic bool finished;
    status failed;
    int64_t busy_us, computed_us;

    arena arena;
    sampler *sampler;
    model_seq *seqs;        /* [seqs_max] */
    float *logits;          /* [logit_rows_max, vocab]; NULL when the device chooses */
    picks *picks;           /* when it does; else NULL */
    request_token *results; /* [wants_max] */
};

static void wake_owner(const stepper *s) {
    uint64_t one = 1;
    ssize_t n = write(s->fd, &one, sizeof one);
    (void)n; /* a full counter is readable all the same */
}

/* Takes lent cores, or gives them back. */
static void share_cores(const stepper *s) {
    if (s->options.cores && backend_kv_on_host(s->options.device)) {
        backend_use_threads(s->options.device, cores_threads(s->options.cores));
    }
}

static void on_layer(void *context, int32_t layers_done) {
    stepper *s = context;
    atomic_store_explicit(&s->layers_done, layers_done, memory_order_release);
    share_cores(s);
    (void)FAILPOINT("step.layer");
    if (layers_done % atomic_load_explicit(&s->progress_layers, memory_order_relaxed) == 0) {
        wake_owner(s);
    }
}

static void sample(stepper *s, const core_want *want, request_token *out) {
    const float *logits = s->logits + (int64_t)want->logit_row * s->vocab;
    if (want->kind == CORE_WANT_SCORE) {
        int32_t top = want->params->top_logprobs > 0 ? want->params->top_logprobs : 0;
        sampler_prompt_logprob(s->sampler, logits, want->token, top, out);
        out->index = want->position;
        return;
    }
    sampler_input in = picks_input(want, s->eog, s->options.eog_count);
    sampler_pick(s->sampler, &in, logits, out);
}

static void run_timed(stepper *s) {
    int64_t started = clock_now_us();
    timed_run(s->options.timed, &s->batch, started);
    s->computed_us = clock_now_us() - started;
    on_layer(s, 1);
    timed_results(s->options.timed, &s->batch, s->results);
    s->failed = STATUS_OK;
    s->busy_us = clock_now_us() - started;
}

/* On a device whose launches take time, nobody is told of layers of a step with nothing but decode
 * rows: none of it is sent anywhere before it is over. */
static bool decodes_only(const stepper *s, const core_batch *b) {
    return !model_kv_on_host(s->options.model) && b->seqs_count == b->rows;
}

static void run(stepper *s) {
    if (s->options.timed) {
        run_timed(s);
        return;
    }
    const core_batch *b = &s->batch;
    int64_t started = clock_now_us();
    if (s->options.cores) {
        cores_work(s->options.cores, b->rows > b->seqs_count ? CORES_PROMPTS : CORES_DECODES);
    }
    share_cores(s);
    for (int32_t i = 0; i < b->copies_count; i++) {
        model_kv_copy(s->options.model, b->copies[i].from, b->copies[i].to);
    }
    for (int32_t i = 0; i < b->seqs_count; i++) {
        const core_seq *c = &b->seqs[i];
        s->seqs[i] = (model_seq){c->row_first, c->rows,        c->position_first,
                                 c->pages,     c->pages_count, c->prompt_rows};
    }
    model_batch m = {.tokens = b->tokens,
                     .rows = b->rows,
                     .seqs = s->seqs,
                     .seqs_count = b->seqs_count,
                     .logit_rows = b->logit_rows,
                     .logit_rows_count = b->logit_rows_count,
                     .logits = s->logits,
                     .on_layer = decodes_only(s, b) ? NULL : on_layer,
                     .context = s};
    if (s->picks) {
        picks_ask(s->picks, b->wants, b->wants_count, &m);
    }
    s->failed = model_forward(s->options.model, &m);
    s->computed_us = clock_now_us() - started;
    if (s->picks && s->failed == STATUS_OK) {
        picks_take(s->picks, b->wants, b->wants_count, s->results);
    }
    for (int32_t i = 0; !s->picks && s->failed == STATUS_OK && i < b->wants_count; i++) {
        sample(s, &b->wants[i], &s->results[i]);
    }
    if (s->options.cores) {
        cores_work(s->options.cores, CORES_IDLE);
    }
    s->busy_us = clock_now_us() - started;
}

static void *step_thread(void *argument) {
    stepper *s = argument;
    (void)pthread_setname_np(pthread_self(), "weir-step");
    for (;;) {
        (void)pthread_mutex_lock(&s->lock);
        while (!s->asked && !s->stopping) {
            (void)pthread_cond_wait(&s->wake, &s->lock);
        }
        bool stop = !s->asked;
        s->asked = false;
        (void)pthread_mutex_unlock(&s->lock);
        if (stop) {
            return NULL;
        }
        run(s);
        atomic_store_explicit(&s->finished, true, memory_order_release);
        wake_owner(s);
    }
}

static status take_buffers(stepper *s) {
    const stepper_options *o = &s->options;
    bool samples = o->timed == NULL && !model_samples(o->model);
    uint64_t logits_bytes = (uint64_t)o->logit_rows_max * (uint64_t)s->vocab * sizeof(float);
    bool asks = o->timed == NULL && !samples;
    uint64_t bytes = (samples ? logits_bytes + sampler_bytes(s->vocab) : 0) +
                     (asks ? picks_bytes(o->wants_max) : 0) +
                     (uint64_t)o->seqs_max * sizeof(model_seq) +
                     (uint64_t)o->wants_max * sizeof(request_token) + 65536;
    TRY(arena_open(&s->arena, bytes));
    s->results = ARENA_TAKE(&s->arena, (size_t)o->wants_max, request_token);
    s->seqs = ARENA_TAKE(&s->arena, (size_t)o->seqs_max, model_seq);
    if (!s->results || !s->seqs) {
        return STATUS_NOMEM;
    }
    if (asks) {
        return picks_create(&s->arena, o->wants_max, s->eog, o->eog_count, &s->picks);
    }
    if (!samples) {
        return STATUS_OK;
    }
    TRY(sampler_create(&s->arena, s->vocab, &s->sampler));
    s->logits = ARENA_TAKE(&s->arena, (size_t)o->logit_rows_max * (size_t)s->vocab, float);
    return s->logits ? STATUS_OK : STATUS_NOMEM;
}

status stepper_open(const stepper_options *options, stepper **out, diag *d) {
    CHECK_LE(options->eog_count, STEPPER_EOG_MAX);
    stepper *s = mem_calloc(1, sizeof *s);
    if (!s) {
        return status_fail(d, STATUS_NOMEM, "no memory for the step thread");
    }
    s->options = *options;
    atomic_init(&s->progress_layers, options->progress_layers);
    memcpy(s->eog, options->eog, (size_t)options->eog_count * sizeof s->eog[0]);
    s->vocab =
        (options->timed ? timed_info(options->timed) : model_get_info(options->model))->vocab;
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_cond_init(&s->wake, NULL);
    s->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    status made = s->fd < 0 ? STATUS_IO : take_buffers(s);
    if (made == STATUS_OK) {
        made = pthread_create(&s->thread, NULL, step_thread, s) == 0 ? STATUS_OK : STATUS_NOMEM;
        s->thread_started = made == STATUS_OK;
    }
    if (made != STATUS_OK) {
        stepper_close(s);
        return status_fail(d, made, "starting the step thread failed: %s", status_text(made));
    }
    *out = s;
    return STATUS_OK;
}

void stepper_close(stepper *s) {
    if (!s) {
        return;
    }
    if (s->thread_started) {
        (void)pthread_mutex_lock(&s->lock);
        s->stopping = true;
        (void)pthread_cond_signal(&s->wake);
        (void)pthread_mutex_unlock(&s->lock);
        (void)pthread_join(s->thread, NULL);
    }
    if (s->fd >= 0) {
        (void)close(s->fd);
    }
    arena_close(&s->arena);
    (void)pthread_cond_destroy(&s->wake);
    (void)pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

int stepper_fd(const stepper *s) {
    return s->fd;
}

void stepper_start(stepper *s, const core_batch *batch) {
    CHECK(!s->running);
    CHECK_LE(batch->seqs_count, s->options.seqs_max);
    CHECK_LE(batch->logit_rows_count, s->options.logit_rows_max);
    CHECK_LE(batch->wants_count, s->options.wants_max);
    s->batch = *batch;
    s->running = true;
    atomic_store_explicit(&s->layers_done, 0, memory_order_relaxed);
    (void)pthread_mutex_lock(&s->lock);
    s->asked = true;
    (void)pthread_cond_signal(&s->wake);
    (void)pthread_mutex_unlock(&s->lock);
}

bool stepper_running(const stepper *s) {
    return s->running;
}

void stepper_wake(stepper *s, int32_t progress_layers) {
    CHECK(progress_layers > 0);
    atomic_store_explicit(&s->progress_layers, progress_layers, memory_order_relaxed);
}

int32_t stepper_progress(stepper *s) {
    uint64_t count;
    ssize_t n = read(s->fd, &count, sizeof count);
    (void)n; /* nothing to clear is fine */
    return atomic_load_explicit(&s->layers_done, memory_order_acquire);
}

bool stepper_finished(stepper *s, stepper_result *out, status *failed) {
    if (!s->running || !atomic_load_explicit(&s->finished, memory_order_acquire)) {
        return false;
    }
    atomic_store_explicit(&s->finished, false, memory_order_relaxed);
    s->running = false;
    *failed = s->failed;
    *out = (stepper_result){s->results, s->batch.wants_count, s->busy_us, s->computed_us};
    return true;
}
