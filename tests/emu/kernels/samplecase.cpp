/* samplecase.cpp -- tokens chosen on the device against engine/worker/sampler.c.
 *
 * Random logits of several kinds (ties, NaN, infinities, one token alone, nearly flat) and random
 * parameters: token, logprobs and their order must be the CPU sampler's. Logprobs are equal in bits
 * here, where both use the same log(); on hardware the last bit may differ.
 */
#include "engine/base/arena.h"
extern "C" {
#include "engine/worker/sampler.h"
}
#include "kernels/cuda/cuda_ops.h"
#include "tests/emu/kernels/kernelcase.hpp"

using namespace kernelcase;

namespace {

/* One row and everything it depends on. */
struct row_case {
    std::vector<float> logits;
    request_params params;
    std::vector<int32_t> prompt, generated;
    std::vector<uint32_t> allowed; /* empty: all */
    int32_t choice;
    int32_t scored; /* -1: chosen */
};

std::vector<float> make_logits(numbers &r, int vocab) {
    const int kind = r.below(6);
    std::vector<float> x((size_t)vocab);
    for (float &v : x) {
        switch (kind) {
            case 0:
                v = r.normal() * 3;
                break;
            case 1:
                v = (float)(r.below(5) - 2); /* ties everywhere, zeros of both signs */
                v = v == 0 && r.below(2) == 0 ? -0.0f : v;
                break;
            case 2:
                v = r.below(3) == 0 ? NAN : r.below(3) == 0 ? -INFINITY : r.normal() * 4;
                break;
            case 3:
                v = r.below(50) == 0 ? INFINITY : r.normal() * 1e30f;
                break;
            case 4:
                v = 1.0f + r.normal() * 1e-6f;
                break;
            default:
                v = -INFINITY;
        }
    }
    if (kind == 5 && r.below(2) == 0) {
        x[(size_t)r.below(vocab)] = -7;
    }
    return x;
}

float one_of(numbers &r, const std::vector<float> &values) {
    return values[(size_t)r.below((int)values.size())];
}

row_case make_row(numbers &r, int vocab) {
    row_case c = {};
    c.logits = make_logits(r, vocab);
    request_params &p = c.params;
    p.temperature = one_of(r, {0, 1e-6f, 0.2f, 0.7f, 1, 1.7f, 30});
    p.top_k = (int32_t)one_of(r, {0, 0, 1, 3, 40, 5000});
    p.top_p = one_of(r, {1, 1, 0.999f, 0.9f, 0.5f, 1e-6f});
    p.min_p = one_of(r, {0, 0, 0, 0.05f, 0.5f, 1});
    p.repetition_penalty = one_of(r, {1, 1, 1.3f, 0.8f});
    p.presence_penalty = one_of(r, {0, 0, 0.6f, -1.5f});
    p.frequency_penalty = one_of(r, {0, 0, 0.3f, -0.4f});
    p.seed = rng_next(&r.state);
    p.max_tokens = 1 << 20;
    p.ignore_eos = true;
    p.top_logprobs = r.below(3) == 0 ? -1 : r.below(21);
    p.biases_count = r.below(3) == 0 ? r.below(20) : 0;
    for (int i = 0; i < p.biases_count; i++) {
        p.biases[i] = {r.below(r.below(2) == 0 ? 8 : vocab), r.uniform() * 20};
        p.biases[i].bias = r.below(6) == 0 ? -INFINITY : p.biases[i].bias;
    }
    c.choice = r.below(4);
    c.scored = -1;
    if (p.top_logprobs >= 0 &&
        r.below(6) == 0) { /* not chosen: the logprob of a token is asked for */
        c.scored = r.below(vocab);
    }
    for (int i = r.below(60); i > 0; i--) {
        c.prompt.push_back(r.below(vocab + 2) - 1); /* some outside the vocabulary */
    }
    for (int i = r.below(60); i > 0; i--) {
        c.generated.push_back(r.below(r.below(2) == 0 ? 10 : vocab));
    }
    if (r.below(4) == 0) {
        c.allowed.resize((size_t)(vocab + 31) / 32);
        for (uint32_t &word : c.allowed) {
            word = (uint32_t)rng_next(&r.state) & (uint32_t)rng_next(&r.state);
        }
    }
    return c;
}

/* The CPU's choice. A mask is given to it as logits of minus infinity, which it treats alike; the
 * logprobs are of the logits without it. */
request_token cpu_choice(sampler *s, const row_case &c) {
    const sampler_input in = {.params = &c.params,
                              .prompt = c.prompt.data(),
                              .generated = c.generated.data(),
                              .eog = nullptr,
                              .prompt_count = (int32_t)c.prompt.size(),
                              .generated_count = (int32_t)c.generated.size(),
                              .eog_count = 0,
                              .choice = c.choice};
    request_token out;
    if (c.scored >= 0) {
        sampler_prompt_logprob(s, c.logits.data(), c.scored, c.params.top_logprobs, &out);
        return out;
    }
    std::vector<float> masked = c.logits;
    for (size_t i = 0; i < masked.size() && !c.allowed.empty(); i++) {
        if ((c.allowed[i / 32] >> (i % 32) & 1) == 0) {
            masked[i] = -INFINITY;
        }
    }
    sampler_pick(s, &in, masked.data(), &out);
    if (!c.allowed.empty() && c.params.top_logprobs >= 0) {
        const int32_t index = out.index;
        request_token scored;
        sampler_prompt_logprob(s, c.logits.data(), out.token, c.params.top_logprobs, &scored);
        scored.index = index;
        /* sampler_pick scores the token's logit as it came. */
        scored.logprob = c.logits[(size_t)out.token] == INFINITY ? INFINITY : scored.logprob;
        return scored;
    }
    return out;
}

struct batch {
    std::vector<float> logits;
    std::vector<cuda_sample_row> rows;
    std::vector<int32_t> history;
    std::vector<cuda_sample_bias> biases;
    std::vector<uint32_t> allowed;
};

void batch_add(batch &b, const row_case &c, int vocab) {
    const request_params &p = c.params;
    cuda_sample_row row = {};
    row.temperature = p.temperature;
    row.top_p = p.top_p;
    row.min_p = p.min_p;
    row.top_k = p.top_k;
    row.repetition_penalty = p.repetition_penalty;
    row.presence_penalty = p.presence_penalty;
    row.frequency_penalty = p.frequency_penalty;
    row.history_first = (int32_t)b.history.size();
    row.prompt_count = (int32_t)c.prompt.size();
    row.generated_count = (int32_t)c.generated.size();
    row.biases_first = (int32_t)b.biases.size();
    row.biases_count = p.biases_count;
    row.allowed = -1;
    row.top_logprobs = p.top_logprobs;
    row.seed = p.seed;
    row.stream = (uint64_t)c.choice;
    row.position = (uint64_t)c.generated.size();
    row.logit_row = (int32_t)b.rows.size();
    row.scored = c.scored;
    if (!c.allowed.empty()) {
        row.allowed = (int32_t)(b.allowed.size() / (size_t)((vocab + 31) / 32));
    }
    b.rows.push_back(row);
    b.logits.insert(b.logits.end(), c.logits.begin(), c.logits.end());
    b.history.insert(b.history.end(), c.prompt.begin(), c.prompt.end());
    b.history.insert(b.history.end(), c.generated.begin(), c.generated.end());
    b.allowed.insert(b.allowed.end(), c.allowed.begin(), c.allowed.end());
    for (int i = 0; i < p.biases_count; i++) {
        b.biases.push_back({p.biases[i].token, p.biases[i].bias});
    }
}

std::vector<cuda_sampled> device_choices(const batch &b, int vocab, bool *counts_zero) {
    device<float> logits(b.logits), scratch(b.logits.size());
    device<cuda_sample_row> rows(b.rows);
    device<int32_t> history(b.history);
    device<cuda_sample_bias> biases(b.biases);
    device<uint32_t> allowed(b.allowed), counts(std::vector<uint32_t>(b.logits.size(), 0));
    device<cuda_sampled> out(b.rows.size());
    cuda_sample op = {};
    op.logits = logits.at;
    op.row = rows.at;
    op.history = history.at;
    op.biases = biases.at;
    op.allowed = allowed.at;
    op.scratch = scratch.at;
    op.counts = counts.at;
    op.out = out.at;
    op.rows = (int32_t)b.rows.size();
    op.vocab = vocab;
    finish("sample", sample_rows(&op, nullptr));
    for (size_t i = 0; i < counts.count; i++) {
        *counts_zero = *counts_zero && counts.at[i] == 0;
    }
    return out.values();
}

bool equal(float a, float b) {
    return memcmp(&a, &b, sizeof(a)) == 0;
}

std::string difference(const request_token &want, const cuda_sampled &got, int32_t top_logprobs) {
    if (want.token != got.token) {
        return "token " + std::to_string(got.token) + ", not " + std::to_string(want.token);
    }
    if (top_logprobs < 0) {
        return got.top_count == 0 ? "" : "logprobs nobody asked for";
    }
    if (!equal(want.logprob, got.logprob)) {
        return "logprob " + std::to_string(got.logprob) + ", not " + std::to_string(want.logprob);
    }
    if (want.top_count != got.top_count) {
        return std::to_string(got.top_count) + " logprobs";
    }
    for (int i = 0; i < want.top_count; i++) {
        if (want.top[i].token != got.top_token[i] ||
            !equal(want.top[i].logprob, got.top_logprob[i])) {
            return "logprob number " + std::to_string(i);
        }
    }
    return "";
}

void choices_are_the_samplers(int vocab, int rows, uint64_t seed, int schedules) {
    numbers r(seed);
    arena a;
    sampler *s = nullptr;
    if (arena_open(&a, sampler_bytes(vocab)) != STATUS_OK ||
        sampler_create(&a, vocab, &s) != STATUS_OK) {
        report("sample", false, "no sampler");
        return;
    }
    std::vector<row_case> cases;
    batch b;
    for (int i = 0; i < rows; i++) {
        cases.push_back(make_row(r, vocab));
        batch_add(b, cases.back(), vocab);
    }
    std::string why;
    bool counts_zero = true;
    each_seed(schedules, [&](int) {
        const std::vector<cuda_sampled> got = device_choices(b, vocab, &counts_zero);
        for (int i = 0; i < rows && why.empty(); i++) {
            const row_case &c = cases[(size_t)i];
            why = difference(cpu_choice(s, c), got[(size_t)i], c.params.top_logprobs);
            why = why.empty() ? why : "row " + std::to_string(i) + ": " + why;
        }
    });
    const std::string name = "sample/vocab_" + std::to_string(vocab);
    report(name, why.empty(), why);
    report(name + "/counts", counts_zero, "penalties' counts are left behind");
    arena_close(&a);
}

}  // namespace

void samplecase_run() {
    if (quick) {
        choices_are_the_samplers(600, 8, 1, 1);
        return;
    }
    choices_are_the_samplers(1000, full ? 2000 : 60, 1, 0);
    choices_are_the_samplers(64, 60, 2, 0);
    choices_are_the_samplers(1, 3, 3, 0);
    choices_are_the_samplers(333, 6, 4, 10);
    choices_are_the_samplers(49152, full ? 100 : 4, 5, 0);
}
