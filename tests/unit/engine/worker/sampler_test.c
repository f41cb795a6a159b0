/* sampler_test.c -- sampler.c against a full sort in double precision, closed-form distributions
 * and numbers worked out by hand. */
#include "engine/worker/sampler.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"

enum { VOCAB_MAX = 3000 };

static arena memory;

static sampler *make(int32_t vocab) {
    sampler *s = NULL;
    cr_assert_eq(arena_open(&memory, sampler_bytes(vocab)), STATUS_OK);
    cr_assert_eq(sampler_create(&memory, vocab, &s), STATUS_OK, "sampler_bytes is enough");
    return s;
}

static request_params *plain(void) {
    static request_params p;
    memset(&p, 0, sizeof(p));
    p.temperature = 1;
    p.top_p = 1;
    p.repetition_penalty = 1;
    p.max_tokens = 1000000;
    p.top_logprobs = -1;
    p.choices = 1;
    return &p;
}

static int32_t pick(sampler *s, const request_params *p, const float *logits, int32_t index) {
    static int32_t none[1];
    request_token out;
    sampler_input in = {.params = p, .generated = none, .generated_count = 0};
    request_params with_seed = *p;
    with_seed.seed = p->seed * 1000003 + (uint64_t)index;
    in.params = &with_seed;
    sampler_pick(s, &in, logits, &out);
    return out.token;
}

static void normals(float *logits, int32_t count, float spread, uint64_t seed) {
    for (int32_t i = 0; i < count; i++) {
        double u = rng_unit(rng_next(&seed)) + 1e-12, v = rng_unit(rng_next(&seed));
        logits[i] = (float)(spread * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
    }
}

/* -- the oracle: sort everything, double precision ------------------------------------------ */

typedef struct {
    double logit;
    int32_t token;
} ranked;

static int by_likelihood(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->logit != y->logit) {
        return x->logit > y->logit ? -1 : 1;
    }
    return x->token - y->token;
}

/* Probabilities after temperature, min_p, top_k and top_p; 0 for what is cut. Returns how close the
 * min_p or top_p cut came to a tie, so that a test can leave out a coin toss of rounding. */
static double oracle(const request_params *p, const float *logits, int32_t vocab, double *out) {
    static ranked order[VOCAB_MAX];
    for (int32_t i = 0; i < vocab; i++) {
        order[i] = (ranked){(double)logits[i], i};
    }
    qsort(order, (size_t)vocab, sizeof(order[0]), by_likelihood);
    memset(out, 0, (size_t)vocab * sizeof(out[0]));
    int32_t left = 0;
    double total = 0, margin = 1;
    while (left < vocab) {
        double w = exp((order[left].logit - order[0].logit) / (double)p->temperature);
        if (w < (double)p->min_p || (p->top_k > 0 && left >= p->top_k)) {
            margin = fmin(margin, p->min_p > 0 ? fabs(w - (double)p->min_p) : 1);
            break;
        }
        out[order[left++].token] = w;
        total += w;
    }
    double sum = 0, kept = 0;
    for (int32_t i = 0; i < left; i++) {
        double w = out[order[i].token];
        if (p->top_p < 1 && sum >= (double)p->top_p * total) {
            out[order[i].token] = 0;
        } else {
            kept += w;
        }
        sum += w;
        margin = p->top_p < 1 ? fmin(margin, fabs(sum / total - (double)p->top_p)) : margin;
    }
    for (int32_t i = 0; i < vocab; i++) {
        out[i] /= kept;
    }
    return margin;
}

/* Draws until each token that the oracle keeps has come up, and checks that nothing else does. */
static bool same_set(sampler *s, const request_params *p, const float *logits, int32_t vocab,
                     const char *what) {
    static double expected[VOCAB_MAX];
    double margin = oracle(p, logits, vocab, expected);
    if (margin < 1e-6) {
        return false;
    }
    bool seen[VOCAB_MAX] = {false};
    double smallest = 1;
    for (int32_t i = 0; i < vocab; i++) {
        smallest = expected[i] > 0 && expected[i] < smallest ? expected[i] : smallest;
    }
    int32_t draws = (int32_t)fmin(40 / smallest, vocab > 1000 ? 5000 : 30000);
    for (int32_t i = 0; i < draws; i++) {
        int32_t token = pick(s, p, logits, i);
        cr_assert(expected[token] > 0, "%s: token %d is cut", what, token);
        seen[token] = true;
    }
    for (int32_t i = 0; i < vocab; i++) {
        if (expected[i] * draws > 40) {
            cr_assert(seen[i], "%s: token %d never came", what, i);
        }
    }
    return true;
}

Test(sampler, keeps_the_sets_a_full_sort_keeps) {
    static const struct {
        int32_t vocab, top_k;
        float temperature, top_p, min_p, spread;
    } cases[] = {
        {10, 3, 1, 1, 0, 1},         {65, 64, 1, 1, 0, 1},       {65, 65, 1, 1, 0, 1},
        {300, 5, 0.7f, 1, 0, 2},     {3000, 20, 1, 1, 0, 2},     {3000, 47, 1, 1, 0, 2},
        {3000, 48, 1, 1, 0, 1},      {3000, 900, 3, 1, 0, 1},    {100, 0, 1, 0.5f, 0, 1},
        {300, 0, 1, 0.9f, 0, 2},     {3000, 0, 1, 0.3f, 0, 3},   {3000, 0, 1, 0.95f, 0, 4},
        {3000, 0, 2, 0.99f, 0, 4},   {3000, 0, 1, 0.999f, 0, 6}, {100, 0, 1, 1, 0.1f, 1},
        {3000, 0, 1, 1, 0.02f, 3},   {3000, 0, 1, 1, 1, 3},      {300, 10, 1, 0.6f, 0, 1},
        {3000, 50, 1, 0.9f, 0, 2},   {300, 10, 1, 1, 0.3f, 1},   {300, 0, 1, 0.7f, 0.1f, 1},
        {300, 20, 1, 0.7f, 0.1f, 1}, {1, 1, 1, 0.5f, 0.5f, 1},   {64, 0, 1, 1e-6f, 0, 1},
        {600, 400, 3, 1, 0, 1},
    };
    static float logits[VOCAB_MAX];
    int32_t compared = 0;
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        sampler *s = make(cases[c].vocab);
        request_params *p = plain();
        p->temperature = cases[c].temperature;
        p->top_k = cases[c].top_k;
        p->top_p = cases[c].top_p;
        p->min_p = cases[c].min_p;
        for (uint64_t seed = 1; seed <= 2; seed++) {
            normals(logits, cases[c].vocab, cases[c].spread, seed);
            char what[64];
            snprintf(what, sizeof(what), "case %zu seed %d", c, (int)seed);
            compared += same_set(s, p, logits, cases[c].vocab, what);
        }
        arena_close(&memory);
    }
    cr_assert(compared > 40, "%d comparisons", compared);
}

/* Many equal tokens at the cut, each a little above what top_p could drop as a whole. */
Test(sampler, equal_tokens_at_the_cut_go_by_their_ids) {
    enum { EQUALS = 200 };
    sampler *s = make(EQUALS + 1);
    float logits[EQUALS + 1] = {0};
    logits[50] = logf(EQUALS); /* as much as all the others together */
    request_params *p = plain();
    p->top_p = 0.6f; /* 50 and a fifth of the others: 0 to 39 */
    bool seen[EQUALS + 1] = {false};
    for (int32_t i = 0; i < 6000; i++) {
        seen[pick(s, p, logits, i)] = true;
    }
    for (int32_t i = 0; i <= EQUALS; i++) {
        /* 40 is on the edge: rounding decides. */
        cr_assert(i == 40 || seen[i] == (i == 50 || i < 40), "token %d", i);
    }
    arena_close(&memory);
}

/* Pearson's statistic of `draws` draws against the expected probabilities, as standard deviations
 * from its mean: chi-square with k degrees has mean k and variance 2 k. */
static double chi_square(sampler *s, const request_params *p, const float *logits, int32_t vocab,
                         const double *expected, int32_t draws) {
    static int32_t counts[VOCAB_MAX];
    memset(counts, 0, sizeof(counts));
    for (int32_t i = 0; i < draws; i++) {
        counts[pick(s, p, logits, i)]++;
    }
    double statistic = 0, rest = 0, rest_count = 0;
    int32_t degrees = -1;
    for (int32_t i = 0; i < vocab; i++) {
        double e = expected[i] * draws;
        if (e < 10) {
            rest += e;
            rest_count += counts[i];
        } else {
            statistic += (counts[i] - e) * (counts[i] - e) / e;
            degrees++;
        }
    }
    if (rest >= 10) {
        statistic += (rest_count - rest) * (rest_count - rest) / rest;
        degrees++;
    } else {
        cr_assert(rest_count <= rest + 6 * sqrt(rest) + 6);
    }
    cr_assert(degrees > 0);
    return (statistic - degrees) / sqrt(2.0 * degrees);
}

Test(sampler, draws_follow_the_distribution) {
    static const struct {
        int32_t vocab, top_k;
        float temperature, top_p, min_p;
    } cases[] = {{5, 0, 1, 1, 0},          {50, 0, 0.5f, 1, 0},    {200, 0, 2, 1, 0},
                 {200, 20, 1, 1, 0},       {200, 0, 1, 0.8f, 0},   {200, 0, 1, 1, 0.1f},
                 {200, 30, 1.5f, 0.7f, 0}, {3000, 0, 1, 0.95f, 0}, {3000, 0, 1, 1, 0}};
    static float logits[VOCAB_MAX];
    static double expected[VOCAB_MAX];
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        sampler *s = make(cases[c].vocab);
        request_params *p = plain();
        p->seed = 7 + c;
        p->temperature = cases[c].temperature;
        p->top_k = cases[c].top_k;
        p->top_p = cases[c].top_p;
        p->min_p = cases[c].min_p;
        normals(logits, cases[c].vocab, 1.5f, 11 + c);
        oracle(p, logits, cases[c].vocab, expected);
        double z = chi_square(s, p, logits, cases[c].vocab, expected, 40000);
        cr_assert(fabs(z) < 4.5, "case %zu: %.2f deviations", c, z);
        arena_close(&memory);
    }
}

Test(sampler, greedy_takes_the_lowest_of_the_largest) {
    sampler *s = make(200);
    request_params *p = plain();
    p->temperature = 0;
    float logits[200];
    for (int32_t at = 0; at < 200; at++) {
        for (int32_t i = 0; i < 200; i++) {
            logits[i] = i >= at && i % 3 == at % 3 ? 2.5f : -1.0f;
        }
        cr_assert_eq(pick(s, p, logits, 0), at);
    }
    p->temperature = 1;
    p->top_k = 1;
    cr_assert_eq(pick(s, p, logits, 5), 199, "top_k 1 is greedy");
    p->temperature = 1e-7f;
    p->top_k = 0;
    cr_assert_eq(pick(s, p, logits, 5), 199, "next to no temperature is greedy");
    arena_close(&memory);
}

Test(sampler, odd_logits_are_harmless) {
    const float inf = INFINITY, nan = NAN;
    static const float temperatures[] = {0, 1, 1e-3f, 1e6f};
    for (size_t t = 0; t < 4; t++) {
        sampler *s = make(5);
        request_params *p = plain();
        p->temperature = temperatures[t];
        const float only_two[5] = {nan, -inf, 3, nan, -inf};
        const float plus[5] = {1, 2, inf, 3, nan};
        const float huge[5] = {-FLT_MAX, -FLT_MAX, FLT_MAX, -inf, 0};
        const float nothing[5] = {nan, nan, -inf, nan, -inf};
        for (int32_t i = 0; i < 50; i++) {
            cr_assert_eq(pick(s, p, only_two, i), 2);
            cr_assert_eq(pick(s, p, plus, i), 2);
            cr_assert_eq(pick(s, p, huge, i), 2);
            cr_assert_eq(pick(s, p, nothing, i), 0);
        }
        request_token out;
        sampler_prompt_logprob(s, nothing, 3, 5, &out);
        cr_assert_eq(out.logprob, -9999.0f);
        sampler_prompt_logprob(s, only_two, 0, 2, &out);
        cr_assert_eq(out.logprob, -9999.0f);
        cr_assert_eq(out.top[0].token, 2);
        cr_assert_float_eq(out.top[0].logprob, 0, 1e-7);
        arena_close(&memory);
    }
}

/* The adjusted logits are seen through the draw: two tokens, so log odds = difference. */
static double log_odds(sampler *s, const sampler_input *in, const float *logits, int32_t a,
                       int32_t b) {
    double count_a = 0, count_b = 0;
    request_params p = *in->params;
    sampler_input each = *in;
    each.params = &p;
    for (int32_t i = 0; i < 60000; i++) {
        request_token out;
        p.seed = (uint64_t)i;
        sampler_pick(s, &each, logits, &out);
        count_a += out.token == a;
        count_b += out.token == b;
    }
    return log(count_a / count_b);
}

Test(sampler, penalties_match_hand_computed_odds) {
    sampler *s = make(4);
    const float logits[4] = {1.0f, 0.5f, -0.5f, -INFINITY};
    const int32_t prompt[] = {1, 1, 3, 999, -1}; /* ids outside the vocabulary do nothing */
    const int32_t generated[] = {2, 0, 2, 2};
    request_params *p = plain();
    sampler_input in = {.params = p,
                        .prompt = prompt,
                        .prompt_count = 5,
                        .generated = generated,
                        .generated_count = 4};
    /* Differences of adjusted logits, by hand. */
    const struct {
        float repetition, presence, frequency;
        double a_minus_b, a_minus_c;
    } cases[] = {
        {1, 0, 0, 0.5, 1.5},
        {2, 0, 0, 0.5 - 0.25, 0.5 + 1.0},        /* 1/2, 0.5/2, -0.5*2 */
        {1, 0.5f, 0, 0.5 - 0.5, 1.5},            /* a and c were generated, b was not */
        {1, 0, 0.25f, 0.5 - 0.25, 1.5 + 0.5},    /* a once, c three times */
        {2, 0.5f, 0.25f, 0.25 - 0.75, 1.5 + 0.5} /* all together */
    };
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        p->repetition_penalty = cases[c].repetition;
        p->presence_penalty = cases[c].presence;
        p->frequency_penalty = cases[c].frequency;
        double ab = log_odds(s, &in, logits, 0, 1), ac = log_odds(s, &in, logits, 0, 2);
        cr_assert(fabs(ab - cases[c].a_minus_b) < 0.05, "case %zu: %.3f", c, ab);
        cr_assert(fabs(ac - cases[c].a_minus_c) < 0.08, "case %zu: %.3f", c, ac);
    }
    arena_close(&memory);
}

Test(sampler, penalties_leave_no_trace_for_the_next_pick) {
    sampler *s = make(100);
    float logits[100];
    normals(logits, 100, 1, 3);
    request_params *p = plain();
    p->temperature = 0;
    int32_t best = pick(s, p, logits, 0);
    request_params punished = *p;
    punished.repetition_penalty = 5;
    punished.presence_penalty = 2;
    punished.frequency_penalty = 2;
    const int32_t tokens[] = {best, best, 3};
    sampler_input in = {.params = &punished,
                        .prompt = tokens,
                        .prompt_count = 3,
                        .generated = tokens,
                        .generated_count = 3};
    request_token first, second;
    sampler_pick(s, &in, logits, &first);
    cr_assert_neq(first.token, best);
    sampler_pick(s, &in, logits, &second);
    cr_assert_eq(first.token, second.token);
    cr_assert_eq(pick(s, p, logits, 0), best);
    arena_close(&memory);
}

Test(sampler, bias_comes_before_the_choice) {
    sampler *s = make(50);
    float logits[50] = {0};
    logits[7] = 5;
    request_params *p = plain();
    p->temperature = 0;
    p->biases_count = 3;
    p->biases[0] = (request_bias){7, -100};
    p->biases[1] = (request_bias){9, 1};
    p->biases[2] = (request_bias){5000, 100};
    cr_assert_eq(pick(s, p, logits, 0), 9);
    p->temperature = 1;
    for (int32_t i = 0; i < 2000; i++) {
        cr_assert_neq(pick(s, p, logits, i), 7);
    }
    arena_close(&memory);
}

Test(sampler, end_tokens_are_masked_and_reported) {
    const float logits[6] = {0, 1, 2, 5, 4, 3}; /* 3: end, 4: stop id, 5: a second end */
    const int32_t eog[] = {3, 5};
    static const struct {
        int32_t min_tokens, generated_count;
        bool ignore_eos, stop_is_end;
        int32_t token;
        request_end end;
    } cases[] = {
        {0, 0, false, false, 3, REQUEST_STOP},    {2, 0, false, false, 2, REQUEST_RUNNING},
        {2, 1, false, false, 2, REQUEST_RUNNING}, {2, 2, false, false, 3, REQUEST_STOP},
        {0, 0, true, false, 4, REQUEST_STOP},     {2, 1, true, false, 2, REQUEST_RUNNING},
        {0, 9, false, false, 3, REQUEST_STOP},    {0, 0, true, true, 3, REQUEST_STOP},
        {10, 9, false, false, 2, REQUEST_LENGTH},
    };
    sampler *s = make(6);
    const int32_t generated[10] = {0};
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        request_params *p = plain();
        p->temperature = 0;
        p->max_tokens = 10;
        p->min_tokens = cases[c].min_tokens;
        p->ignore_eos = cases[c].ignore_eos;
        p->stop_ids_count = 1;
        p->stop_ids[0] = cases[c].stop_is_end ? 3 : 4;
        sampler_input in = {.params = p,
                            .generated = generated,
                            .generated_count = cases[c].generated_count,
                            .eog = eog,
                            .eog_count = 2};
        request_token out;
        sampler_pick(s, &in, logits, &out);
        cr_assert_eq(out.token, cases[c].token, "case %zu: token %d", c, out.token);
        cr_assert_eq(out.end, cases[c].end, "case %zu: end %d", c, out.end);
        cr_assert_eq(out.index, cases[c].generated_count);
    }
    arena_close(&memory);
}

Test(sampler, logprobs_are_of_the_raw_distribution) {
    static float logits[VOCAB_MAX];
    static ranked order[VOCAB_MAX];
    sampler *s = make(VOCAB_MAX);
    normals(logits, VOCAB_MAX, 3, 5);
    logits[1501] = logits[100] = logits[1500] = 14; /* equals at the top: the lower id first */
    double sum = 0;
    for (int32_t i = 0; i < VOCAB_MAX; i++) {
        order[i] = (ranked){(double)logits[i], i};
        sum += exp((double)logits[i]);
    }
    qsort(order, VOCAB_MAX, sizeof(order[0]), by_likelihood);
    request_params *p = plain();
    p->temperature = 0.3f;
    p->top_k = 2;
    p->top_logprobs = 20;
    p->biases_count = 1;
    p->biases[0] = (request_bias){order[1].token, 50};
    sampler_input in = {.params = p, .choice = 3};
    request_token out;
    sampler_pick(s, &in, logits, &out);
    cr_assert_eq(out.token, order[1].token, "the bias decides");
    cr_assert_eq(out.choice, 3);
    cr_assert(fabs((double)out.logprob - (order[1].logit - log(sum))) < 2e-6);
    cr_assert_eq(out.top_count, 20);
    for (int32_t i = 0; i < 20; i++) {
        cr_assert_eq(out.top[i].token, order[i].token, "rank %d", i);
        cr_assert(fabs((double)out.top[i].logprob - (order[i].logit - log(sum))) < 2e-6);
    }
    request_token two;
    sampler_prompt_logprob(s, logits, 0, 2, &two);
    cr_assert(two.top[0].token == 100 && two.top[1].token == 1500, "equals at the end of the list");
    for (int32_t i = 0; i < VOCAB_MAX; i += 71) {
        request_token scored;
        sampler_prompt_logprob(s, logits, i, 1, &scored);
        cr_assert(fabs((double)scored.logprob - ((double)logits[i] - log(sum))) < 2e-6);
        cr_assert_eq(scored.top_count, 1);
        cr_assert_eq(scored.top[0].token, order[0].token);
        cr_assert_eq(scored.token, i);
    }
    p->top_logprobs = 0;
    sampler_pick(s, &in, logits, &out);
    cr_assert_eq(out.top_count, 0);
    cr_assert(out.logprob < 0);
    p->top_logprobs = -1;
    sampler_pick(s, &in, logits, &out);
    cr_assert_eq(out.logprob, 0);
    arena_close(&memory);
}

Test(sampler, top_logprobs_stop_at_a_small_vocabulary) {
    sampler *s = make(3);
    const float logits[3] = {1, 3, 2};
    request_token out;
    sampler_prompt_logprob(s, logits, 0, 20, &out);
    cr_assert_eq(out.top_count, 3);
    cr_assert_eq(out.top[0].token, 1);
    cr_assert_eq(out.top[1].token, 2);
    cr_assert_eq(out.top[2].token, 0);
    arena_close(&memory);
}

Test(sampler, a_pick_depends_on_its_arguments_alone) {
    static float logits[VOCAB_MAX], other[VOCAB_MAX];
    normals(logits, VOCAB_MAX, 2, 1);
    normals(other, VOCAB_MAX, 2, 2);
    request_params *p = plain();
    p->top_p = 0.9f;
    p->top_k = 40;
    p->seed = 42;
    p->frequency_penalty = 0.5f;
    p->top_logprobs = 5;
    request_token fresh[64];
    int32_t generated[64];
    for (int32_t i = 0; i < 64; i++) {
        sampler *s = make(VOCAB_MAX);
        sampler_input in = {.params = p, .generated = generated, .generated_count = i};
        sampler_pick(s, &in, logits, &fresh[i]);
        generated[i] = fresh[i].token;
        arena_close(&memory);
    }
    sampler *s = make(VOCAB_MAX);
    for (int32_t i = 63; i >= 0; i--) {
        request_token out;
        sampler_input noise = {.params = p, .generated = generated, .generated_count = 63 - i};
        sampler_pick(s, &noise, other, &out);
        sampler_input in = {.params = p, .generated = generated, .generated_count = i};
        sampler_pick(s, &in, logits, &out);
        cr_assert_eq(memcmp(&out, &fresh[i], sizeof(out)), 0, "index %d", i);
    }
    arena_close(&memory);
}

Test(sampler, choices_and_positions_draw_apart) {
    sampler *s = make(1000);
    float logits[1000] = {0};
    request_params *p = plain();
    p->seed = 9;
    const int32_t generated[64] = {0};
    int32_t equal = 0, tokens[2][64];
    for (int32_t choice = 0; choice < 2; choice++) {
        for (int32_t i = 0; i < 64; i++) {
            request_token out;
            sampler_input in = {
                .params = p, .generated = generated, .generated_count = i, .choice = choice};
            sampler_pick(s, &in, logits, &out);
            tokens[choice][i] = out.token;
            equal += choice == 1 && tokens[0][i] == tokens[1][i];
            equal += i > 0 && tokens[choice][i] == tokens[choice][i - 1];
        }
    }
    cr_assert(equal < 5, "%d equal of 190 draws from 1000 tokens", equal);
    arena_close(&memory);
}

Test(sampler, sizes_are_limited) {
    sampler *s = NULL;
    cr_assert_eq(arena_open(&memory, 4096), STATUS_OK);
    cr_assert_eq(sampler_create(&memory, 0, &s), STATUS_LIMIT);
    cr_assert_eq(sampler_create(&memory, SAMPLER_VOCAB_MAX + 1, &s), STATUS_LIMIT);
    cr_assert_eq(sampler_create(&memory, 49152, &s), STATUS_NOMEM);
    arena_close(&memory);
}
