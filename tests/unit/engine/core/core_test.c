/* core_test.c -- whole workers: from SUBMIT and RESERVE to the last token, without a model. */
#include "engine/core/core.h"

#include <criterion/criterion.h>

#include "engine/base/rng.h"
#include "tests/support/corenet.h"

enum { P = 0, D = 1, TOKENS_MAX = 512 };

static void make_prompt(int32_t *out, int32_t count, uint64_t seed) {
    for (int32_t i = 0; i < count; i++) {
        out[i] = (int32_t)(rng_at(seed, 1, (uint64_t)i) % 50000);
    }
}

/* Everything heard of the request equals the oracle, and the request is done. */
static void expect_exact(const corenet *n, request_id request, const int32_t *prompt,
                         int32_t prompt_count, const request_params *params) {
    static request_token heard[TOKENS_MAX], right[TOKENS_MAX];
    for (int32_t i = 0; i < params->choices; i++) {
        bool done;
        int32_t choice = params->choice_first + i;
        int32_t count = corenet_heard(n, request, 0, choice, heard, TOKENS_MAX, &done);
        int32_t want = corenet_expect(n, prompt, prompt_count, params, choice, right, TOKENS_MAX);
        cr_assert(done, "request %d is done", (int)request);
        cr_assert_eq(count, want, "request %d choice %d: %d tokens, not %d", (int)request, choice,
                     count, want);
        for (int32_t k = 0; k < want; k++) {
            cr_assert_eq(heard[k].token, right[k].token, "request %d choice %d token %d",
                         (int)request, choice, k);
            cr_assert_eq(heard[k].end, right[k].end);
            cr_assert_float_eq(heard[k].logprob, right[k].logprob, 0);
            cr_assert_eq(heard[k].top_count, right[k].top_count);
        }
    }
}

Test(core, disaggregated_request_gives_the_oracles_tokens) {
    corenet_options o = corenet_defaults();
    corenet *n = corenet_open(&o);
    int32_t prompt[100];
    make_prompt(prompt, 100, 1);
    request_params params = corenet_params(20);
    corenet_submit(n, P, 1, 1, D, prompt, 100, 100, &params);
    corenet_reserve(n, D, 1, 1, P, prompt, 100, 100, &params);
    corenet_run(n);
    expect_exact(n, 1, prompt, 100, &params);
    core_stats d = corenet_stats(n, D);
    core_stats p = corenet_stats(n, P);
    cr_assert_eq(d.prompt_tokens_computed, 0);
    cr_assert_eq(p.prompt_tokens_computed, 100);
    cr_assert_eq(d.cells_received, 7 * CORENET_LAYERS);
    cr_assert_eq(p.cells_sent, d.cells_received);
    cr_assert_eq(d.prompt_tokens_received, 100);
    cr_assert(core_idle(corenet_core(n, P)));
    cr_assert(core_idle(corenet_core(n, D)));
    corenet_close(n);
}

Test(core, local_request_gives_the_same_tokens) {
    corenet_options o = corenet_defaults();
    corenet *n = corenet_open(&o);
    int32_t prompt[100];
    make_prompt(prompt, 100, 1);
    request_params params = corenet_params(20);
    params.top_logprobs = 3;
    corenet_reserve(n, D, 1, 1, MESSAGE_NO_WORKER, prompt, 100, 100, &params);
    corenet_run(n);
    expect_exact(n, 1, prompt, 100, &params);
    cr_assert_eq(corenet_stats(n, D).prompt_tokens_computed, 100);
    cr_assert_eq(corenet_count(n, D, MESSAGE_ADOPTED), 1);
    cr_assert(core_idle(corenet_core(n, D)));
    corenet_close(n);
}

Test(core, prefill_alone_ends_a_request_of_one_token) {
    corenet_options o = corenet_defaults();
    corenet *n = corenet_open(&o);
    int32_t prompt[40];
    make_prompt(prompt, 40, 3);
    for (int32_t max_tokens = 0; max_tokens < 2; max_tokens++) {
        request_id id = (request_id)max_tokens + 1;
        request_params params = corenet_params(max_tokens);
        corenet_submit(n, P, id, 1, MESSAGE_NO_WORKER, prompt, 40, 40, &params);
        corenet_run(n);
        expect_exact(n, id, prompt, 40, &params);
    }
    cr_assert(core_idle(corenet_core(n, P)));
    corenet_close(n);
}

Test(core, scores_of_the_whole_prompt_come_in_order_and_exact) {
    corenet_options o = corenet_defaults();
    corenet *n = corenet_open(&o);
    int32_t prompt[90];
    make_prompt(prompt, 90, 4);
    request_params params = corenet_params(3);
    params.prompt_logprobs = true;
    params.top_logprobs = 2;
    for (int round = 0; round < 3;
         round++) { /* the second finds the prefix cached, and skips none */
        request_id id = (request_id)round + 1;
        if (round < 2) {
            corenet_submit(n, P, id, 1, D, prompt, 90, 90, &params);
            corenet_reserve(n, D, id, 1, P, prompt, 90, 90, &params);
        } else {
            corenet_reserve(n, D, id, 1, MESSAGE_NO_WORKER, prompt, 90, 90, &params);
        }
        corenet_run(n);
        expect_exact(n, id, prompt, 90, &params);
        int32_t next = 1;
        for (uint32_t i = 0; i < corenet_notes(n); i++) {
            const message *m = &corenet_at(n, i)->m;
            if (m->type != MESSAGE_SCORES || m->request != id) {
                continue;
            }
            cr_assert_eq(m->scores.position_first, next);
            for (int32_t k = 0; k < m->scores.scores_count; k++) {
                request_token t = hashmodel_score(corenet_model(n), prompt, next, 2);
                cr_assert_eq(m->scores.scores[k].token, prompt[next]);
                cr_assert_float_eq(m->scores.scores[k].logprob, t.logprob, 0);
                cr_assert_eq(m->scores.scores[k].top[1].token, t.top[1].token);
                next++;
            }
        }
        cr_assert_eq(next, 90, "all but the first token are scored");
    }
    corenet_close(n);
}

Test(core, choices_share_the_prompt_and_part_by_copy_on_write) {
    corenet_options o = corenet_defaults();
    for (int32_t length = 47; length <= 49; length++) { /* a partial last page, none, one token */
        for (int local = 0; local < 2; local++) {
            corenet *n = corenet_open(&o);
            int32_t prompt[49];
            make_prompt(prompt, length, 5);
            request_params params = corenet_params(30);
            params.choices = 4;
            params.choice_first = 1;
            params.temperature = 1;
            params.seed = 99;
            if (!local) {
                corenet_submit(n, P, 1, 1, D, prompt, length, length, &params);
            }
            corenet_reserve(n, D, 1, 1, local ? MESSAGE_NO_WORKER : P, prompt, length, length,
                            &params);
            corenet_run(n);
            expect_exact(n, 1, prompt, length, &params);
            core_stats d = corenet_stats(n, D);
            cr_assert_eq(d.prompt_tokens_computed, local ? (uint64_t)length : 0);
            if (!local) {
                cr_assert_eq(d.cells_received, (uint64_t)((length + 15) / 16) * CORENET_LAYERS,
                             "one transfer for all choices");
            }
            cr_assert(core_idle(corenet_core(n, D)));
            corenet_close(n);
        }
    }
}

Test(core, decode_asks_only_for_pages_it_does_not_hold) {
    corenet_options o = corenet_defaults();
    corenet *n = corenet_open(&o);
    int32_t prompt[100];
    make_prompt(prompt, 100, 6);
    request_params params = corenet_params(5);
    for (request_id id = 1; id <= 2; id++) {
        corenet_submit(n, P, id, 1, D, prompt, 100, 100, &params);
        corenet_reserve(n, D, id, 1, P, prompt, 100, 100, &params);
        corenet_run(n);
        expect_exact(n, id, prompt, 100, &params);
    }
    core_stats d = corenet_stats(n, D);
    core_stats p = corenet_stats(n, P);
    cr_assert_eq(d.cells_received, (7 + 1) * CORENET_LAYERS, "the second time only the last page");
    cr_assert_eq(p.prompt_tokens_computed, 100 + 4);
    cr_assert_eq(p.prompt_tokens_cached, 96);
    cr_assert_eq(corenet_last(n, P, MESSAGE_TOKENS)->m.tokens.cached_tokens, 96);
    cr_assert_eq(d.prompt_tokens_computed, 0);
    corenet_close(n);
}

/* P's blocks and D's are of any two sizes: exact, each finds what its own whole blocks hold, and D
 * asks for the rest, which may begin and end inside a block of P. */
Test(core, workers_with_blocks_of_unequal_sizes_serve_each_other) {
    static const uint32_t sizes[][2] = {{1, 4}, {4, 1}, {2, 8}, {8, 2}, {4, 4}, {16, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        corenet_options o = corenet_defaults();
        o.block_pages[P] = sizes[i][0];
        o.block_pages[D] = sizes[i][1];
        corenet *n = corenet_open(&o);
        int32_t prompt[100];
        make_prompt(prompt, 100, 6);
        request_params params = corenet_params(5);
        uint32_t held[2] = {6 - 6 % sizes[i][0], 6 - 6 % sizes[i][1]}; /* of 100 tokens */
        for (request_id id = 1; id <= 2; id++) {
            corenet_submit(n, P, id, 1, D, prompt, 100, 100, &params);
            corenet_reserve(n, D, id, 1, P, prompt, 100, 100, &params);
            corenet_run(n);
            expect_exact(n, id, prompt, 100, &params);
        }
        core_stats p = corenet_stats(n, P), d = corenet_stats(n, D);
        cr_assert_eq(p.prompt_tokens_cached, held[0] * LIMIT_PAGE_TOKENS, "P %u", sizes[i][0]);
        cr_assert_eq(d.cells_received, (7 + 7 - held[1]) * CORENET_LAYERS, "D %u", sizes[i][1]);
        cr_assert_eq(p.pages_owned + d.pages_owned, 0);
        corenet_close(n);
    }
}

/* The choices share the prompt's whole blocks; each has the tokens of the last one in its own. */
Test(core, choices_part_inside_a_block) {
    corenet_options o = corenet_defaults();
    o.block_pages[P] = 2;
    o.block_pages[D] = 4;
    for (int32_t length = 60; length <= 100; length += 4) {
        corenet *n = corenet_open(&o);
        int32_t prompt[100];
        make_prompt(prompt, 100, 7);
        request_params params = corenet_params(30);
        params.choices = 2;
        params.temperature = 1;
        corenet_submit(n, P, 1, 1, D, prompt, length, length, &params);
        corenet_reserve(n, D, 1, 1, P, prompt, length, length, &params);
        corenet_run(n);
        expect_exact(n, 1, prompt, length, &params);
        corenet_close(n);
    }
}

Test(core, prompt_of_whole_pages_that_is_cached_whole_is_still_sampled) {
    corenet_options o = corenet_defaults();
    corenet *n = corenet_open(&o);
    int32_t prompt[65];
    make_prompt(prompt, 65, 16);
    request_params params = corenet_params(5);
    request_id id = 1;
    for (int round = 0; round < 3; round++) {
        for (int32_t length = 63; length <= 65; length++, id++) {
            if (round < 2) {
                corenet_submit(n, P, id, 1, D, prompt, length, length, &params);
            }
            corenet_reserve(n, D, id, 1, round < 2 ? P : MESSAGE_NO_WORKER, prompt, length, length,
                            &params);
            corenet_run(n);
            expect_exact(n, id, prompt, length, &params);
        }
    }
    corenet_close(n);
}

Test(core, next_turn_reads_only_kv_that_was_computed) {
    for (int32_t generated = 1; generated <= 34; generated++) {
        corenet_options o = corenet_defaults();
        corenet *n = corenet_open(&o);
        int32_t tokens[120];
        make_prompt(tokens, 120, 17);
        request_params params = corenet_params(generated);
        corenet_reserve(n, D, 1, 1, MESSAGE_NO_WORKER, tokens, 30, 30, &params);
        corenet_run(n);
        static request_token heard[TOKENS_MAX];
        bool done;
        cr_assert_eq(corenet_heard(n, 1, 1, 0, heard, TOKENS_MAX, &done), generated);
        for (int32_t i = 0; i < generated; i++) {
            tokens[30 + i] = heard[i].token;
        }
        params.max_tokens = 3;
        corenet_reserve(n, D, 2, 1, MESSAGE_NO_WORKER, tokens, 100, 100, &params);
        corenet_run(n);
        expect_exact(n, 2, tokens, 100, &params);
        core_stats s = corenet_stats(n, D);
        cr_assert_eq(s.prompt_tokens_cached, (uint64_t)((30 + generated - 1) / 16 * 16));
        corenet_close(n);
    }
}

Test(core, tenants_do_not_share_pages) {
    corenet_options o = corenet_defaults();
    corenet *n = corenet_open(&o);
    int32_t prompt[64];
    make_prompt(prompt, 64, 7);
    request_params params = corenet_params(2);
    for (uint32_t tenant = 1; tenant <= 2; tenant++) {
        message m = {.type = MESSAGE_RESERVE, .request = tenant, .attempt = 1};
        m.submit = (message_submit){.peer_worker = MESSAGE_NO_WORKER,
                                    .local = true,
                                    .salt = tenant,
                                    .prompt_count = 64,
                                    .tokens_count = 64,
                                    .tokens = prompt,
                                    .params = &params};
        corenet_say(n, D, CORENET_GATEWAY, &m);
        corenet_run(n);
        expect_exact(n, tenant, prompt, 64, &params);
    }
    cr_assert_eq(corenet_stats(n, D).prompt_tokens_cached, 0);
    corenet_close(n);
}

Test(core, generation_stops_at_the_context_and_at_stop_ids) {
    corenet_options o = corenet_defaults();
    corenet *n = corenet_open(&o);
    int32_t prompt[500];
    make_prompt(prompt, 500, 8);
    request_params params = corenet_params(400);
    corenet_submit(n, P, 1, 1, D, prompt, 500, 500, &params);
    corenet_reserve(n, D, 1, 1, P, prompt, 500, 500, &params);
    corenet_run(n);
    expect_exact(n, 1, prompt, 500, &params);
    request_token right[TOKENS_MAX];
    cr_assert_eq(corenet_expect(n, prompt, 500, &params, 0, right, TOKENS_MAX), 12);
    cr_assert_eq(right[11].end, REQUEST_LENGTH);
    params.stop_ids_count = 1;
    for (int32_t at = 0; at < 6; at++) { /* at 0 P ends it */
        request_id id = (request_id)at + 2;
        params.stop_ids[0] = right[at].token;
        corenet_submit(n, P, id, 1, D, prompt, 500, 500, &params);
        corenet_reserve(n, D, id, 1, P, prompt, 500, 500, &params);
        corenet_run(n);
        expect_exact(n, id, prompt, 500, &params);
        corenet_cancel(n, P, id, 1);
        corenet_cancel(n, D, id, 1);
        corenet_run(n);
    }
    cr_assert(core_idle(corenet_core(n, P)));
    cr_assert(core_idle(corenet_core(n, D)));
    corenet_close(n);
}

Test(core, resumed_request_goes_on_where_the_client_stands) {
    corenet_options o = corenet_defaults();
    int32_t tokens[200];
    make_prompt(tokens, 60, 9);
    request_params params = corenet_params(40);
    params.temperature = 1;
    params.seed = 5;
    for (int32_t delivered = 1; delivered < 40; delivered += 6) {
        for (int local = 0; local < 2; local++) {
            corenet *n = corenet_open(&o);
            request_token right[TOKENS_MAX], heard[TOKENS_MAX];
            bool done;
            int32_t count = corenet_expect(n, tokens, 60, &params, 0, right, TOKENS_MAX);
            for (int32_t i = 0; i < delivered; i++) {
                tokens[60 + i] = right[i].token;
            }
            if (!local) {
                corenet_submit(n, P, 1, 3, D, tokens, 60, 60 + delivered, &params);
            }
            corenet_reserve(n, D, 1, 3, local ? MESSAGE_NO_WORKER : P, tokens, 60, 60 + delivered,
                            &params);
            corenet_run(n);
            cr_assert_eq(corenet_heard(n, 1, 3, 0, heard, TOKENS_MAX, &done), count);
            cr_assert(done);
            for (int32_t i = 0; i < count; i++) {
                cr_assert_eq(heard[i].token, i < delivered ? -1 : right[i].token);
            }
            corenet_close(n);
        }
    }
}

Test(core, needs_no_more_memory_than_it_says) {
    core_options o = corenet_defaults().core;
    o.roles = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE;
    o.peers_max = 3;
    const uint32_t pages[] = {1, 63, 4096};
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        o.pages = pages[i];
        o.queue_max = (int32_t)i * 100;
        o.context_tokens = 17 + (int32_t)i * 5000;
        arena a;
        core *c;
        diag d;
        cr_assert_eq(arena_open(&a, core_bytes(&o)), STATUS_OK);
        cr_assert_eq(core_create(&a, &o, &c, &d), STATUS_OK);
        cr_assert_lt(a.used_bytes, core_bytes(&o));
        arena_close(&a);
        cr_assert_eq(arena_open(&a, 8192), STATUS_OK);
        cr_assert_eq(core_create(&a, &o, &c, &d), STATUS_NOMEM);
        arena_close(&a);
    }
}

Test(core, refuses_options_by_name) {
    core_options good = corenet_defaults().core;
    good.roles = MESSAGE_ROLE_DECODE;
    good.peers_max = 1;
    static const struct {
        const char *name;
        size_t offset;
        size_t bytes;
        int64_t value;
    } cases[] = {
#define BAD(field, value) {#field, offsetof(core_options, field), sizeof(good.field), value}
        BAD(block_pages, 17),
        BAD(roles, 0),
        BAD(roles, 4),
        BAD(pages, 0),
        BAD(layers, 0),
        BAD(layers, 257),
        BAD(context_tokens, 0),
        BAD(seqs_max, 0),
        BAD(queue_max, -1),
        BAD(step_tokens_max, 23),
        BAD(logit_rows_max, 8),
        BAD(group_layers, 0),
        BAD(prefill_chunk_tokens, 17),
        BAD(group_cells_max, 3),
        BAD(peers_max, 0),
        BAD(headroom_tokens, -1),
        BAD(tombstones_max, 0),
        BAD(lease_us, 0),
        BAD(queue_deadline_us, 0),
        BAD(quarantine_us, 0),
        BAD(heartbeat_us, -1),
        BAD(silence_us, 0),
#undef BAD
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        core_options o = good;
        memcpy((char *)&o + cases[i].offset, &cases[i].value, cases[i].bytes);
        arena a;
        core *c;
        diag d;
        cr_assert_eq(arena_open(&a, 1 << 20), STATUS_OK);
        cr_assert_eq(core_create(&a, &o, &c, &d), STATUS_INVALID);
        cr_assert_str_eq(d.param, cases[i].name);
        arena_close(&a);
    }
}

/* Runs a request until `moves` things have moved. */
static corenet *run_moves(int shape, int moves, uint64_t seed, bool *moved) {
    corenet_options o = corenet_defaults();
    corenet *n = corenet_open(&o);
    static int32_t prompt[70];
    make_prompt(prompt, 70, 1);
    request_params params = corenet_params(6);
    params.choices = shape == 1 ? 3 : 1;
    if (shape != 2) {
        corenet_submit(n, P, 1, 1, D, prompt, 70, 70, &params);
    }
    corenet_reserve(n, D, 1, 1, shape == 2 ? MESSAGE_NO_WORKER : P, prompt, 70, 70, &params);
    *moved = true;
    for (int i = 0; i < moves && *moved; i++) {
        *moved = corenet_move_one(n, &seed);
    }
    return n;
}

static void finish_steps(corenet *n) {
    corenet_run(n);
    for (uint32_t w = P; w <= D; w++) {
        core_stats s = corenet_stats(n, w);
        cr_assert_eq(s.pages_owned, 0);
        cr_assert_eq(s.pages_quarantined, 0);
        cr_assert(core_idle(corenet_core(n, w)));
        cr_assert_not(corenet_asked_close(n, w, CORENET_FIRST + (1 - w)));
    }
}

Test(core, cancel_at_any_point_leaves_no_page_and_a_working_link) {
    int points = 0;
    for (int shape = 0; shape < 3; shape++) {
        for (uint64_t seed = 1; seed <= 4; seed++) {
            bool moved = true;
            for (int at = 0; moved; at++) {
                corenet *n = run_moves(shape, at, seed, &moved);
                uint32_t first = seed % 2 ? P : D;
                corenet_cancel(n, first, 1, 1);
                uint64_t random = seed + 100;
                for (int i = 0; i < (int)(seed * 3); i++) {
                    (void)corenet_move_one(n, &random); /* one end knows, the other not yet */
                }
                corenet_cancel(n, 1 - first, 1, 1);
                finish_steps(n);
                int32_t prompt[70];
                make_prompt(prompt, 70, 1);
                request_params params = corenet_params(6);
                corenet_submit(n, P, 2, 1, D, prompt, 70, 70, &params);
                corenet_reserve(n, D, 2, 1, P, prompt, 70, 70, &params);
                corenet_run(n);
                expect_exact(n, 2, prompt, 70, &params);
                finish_steps(n);
                corenet_close(n);
                points++;
            }
        }
    }
    cr_assert_gt(points, 300);
}

Test(core, link_cut_at_any_point_leaves_what_can_be_retried) {
    for (uint64_t seed = 1; seed <= 4; seed++) {
        bool moved = true;
        for (int at = 0; moved; at++) {
            corenet *n = run_moves(0, at, seed, &moved);
            corenet_cut(n, P, D);
            corenet_join(n, P, D);
            bool adopted = corenet_count(n, D, MESSAGE_ADOPTED) > 0;
            bool told = corenet_count(n, P, MESSAGE_LINK_LOST) > 0 ||
                        corenet_count(n, D, MESSAGE_LINK_LOST) > 0;
            cr_assert(adopted || told, "the gateway learns of it");
            int32_t prompt[70];
            make_prompt(prompt, 70, 1);
            request_params params = corenet_params(6);
            if (!adopted) {
                corenet_submit(n, P, 1, 2, D, prompt, 70, 70, &params);
                corenet_reserve(n, D, 1, 2, P, prompt, 70, 70, &params);
            } else {
                corenet_cancel(n, P, 1, 1);
            }
            corenet_run(n);
            expect_exact(n, 1, prompt, 70, &params);
            finish_steps(n);
            corenet_close(n);
        }
    }
}

Test(core, damaged_page_is_refused_and_sent_again) {
    corenet_options o = corenet_defaults();
    corenet *n = corenet_open(&o);
    int32_t prompt[70];
    make_prompt(prompt, 70, 1);
    request_params params = corenet_params(6);
    corenet_submit(n, P, 1, 1, D, prompt, 70, 70, &params);
    corenet_reserve(n, D, 1, 1, P, prompt, 70, 70, &params);
    while (corenet_flying(n, P, D) == 0) {
        if (!corenet_deliver(n, P, D) && !corenet_deliver(n, D, P)) {
            cr_assert(corenet_step(n, P));
        }
    }
    cr_assert(corenet_land(n, P, D, true));
    cr_assert_eq(corenet_last(n, D, MESSAGE_REJECT)->m.reason, MESSAGE_REASON_CHECKSUM);
    cr_assert_eq(corenet_stats(n, D).groups_damaged, 1);
    corenet_submit(n, P, 1, 2, D, prompt, 70, 70, &params);
    corenet_reserve(n, D, 1, 2, P, prompt, 70, 70, &params);
    corenet_run(n);
    expect_exact(n, 1, prompt, 70, &params);
    finish_steps(n);
    corenet_close(n);
}

Test(core, worker_of_both_roles_serves_itself_over_a_loop) {
    corenet_options o = corenet_defaults();
    o.workers = 1;
    o.roles[0] = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE;
    corenet *n = corenet_open(&o);
    int32_t prompt[70];
    make_prompt(prompt, 70, 1);
    request_params params = corenet_params(6);
    for (request_id id = 1; id <= 3; id++) {
        corenet_submit(n, 0, id, 1, 0, prompt, 70, 70, &params);
        corenet_reserve(n, 0, id, 1, 0, prompt, 70, 70, &params);
    }
    corenet_run(n);
    for (request_id id = 1; id <= 3; id++) {
        expect_exact(n, id, prompt, 70, &params);
    }
    cr_assert(core_idle(corenet_core(n, 0)));
    corenet_close(n);
}

Test(core, message_of_a_kind_a_worker_never_gets_ends_the_link) {
    static const message_type types[] = {MESSAGE_HELLO, MESSAGE_PEER, MESSAGE_METRICS,
                                         MESSAGE_LEASES, MESSAGE_DRAIN};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        corenet_options o = corenet_defaults();
        corenet *n = corenet_open(&o);
        message m = {.type = types[i]};
        corenet_say(n, P, CORENET_FIRST + D, &m);
        cr_assert(corenet_asked_close(n, P, CORENET_FIRST + D), "%s", message_type_name(types[i]));
        cr_assert_eq(corenet_stats(n, P).links_closed, 1);
        corenet_say(n, P, CORENET_FIRST + D, &m);
        cr_assert_eq(corenet_stats(n, P).links_closed, 1, "said once");
        corenet_close(n);
    }
}

Test(core, drain_message_stops_new_work_and_heartbeats_tell_the_load) {
    corenet_options o = corenet_defaults();
    corenet *n = corenet_open(&o);
    int32_t prompt[70];
    make_prompt(prompt, 70, 1);
    request_params params = corenet_params(6);
    corenet_submit(n, P, 1, 1, D, prompt, 70, 70, &params);
    corenet_tick(n, P);
    const message *beat = &corenet_last(n, P, MESSAGE_HEARTBEAT)->m;
    cr_assert_eq(beat->heartbeat.queued_tokens, 70);
    cr_assert_eq(beat->heartbeat.waiting, 1);
    cr_assert_eq(beat->heartbeat.pages_free, 64);
    cr_assert_gt(corenet_queued(n, P, D, MESSAGE_HEARTBEAT), 0, "workers hear it too");
    int64_t due = core_deadline_us(corenet_core(n, P));
    cr_assert(due > 0 && due <= 1100000, "the next one is due in a second");
    message m = {.type = MESSAGE_DRAIN};
    corenet_say(n, P, CORENET_GATEWAY, &m);
    corenet_submit(n, P, 2, 1, D, prompt, 70, 70, &params);
    cr_assert_eq(corenet_last(n, P, MESSAGE_REJECT)->m.reason, MESSAGE_REASON_DRAINING);
    cr_assert_not(core_idle(corenet_core(n, P)));
    corenet_cancel(n, P, 1, 1);
    cr_assert(core_idle(corenet_core(n, P)));
    corenet_close(n);
}

Test(core, a_flipped_worker_ends_old_work_and_takes_only_new) {
    corenet_options o = corenet_defaults();
    o.roles[P] = MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE;
    corenet *n = corenet_open(&o);
    int32_t prompt[70];
    make_prompt(prompt, 70, 1);
    request_params params = corenet_params(6);
    core_set_roles(corenet_core(n, P), MESSAGE_ROLE_PREFILL);
    corenet_reserve(n, P, 9, 1, MESSAGE_NO_WORKER, prompt, 70, 70, &params);
    cr_assert_eq(corenet_last(n, P, MESSAGE_REFUSED)->m.reason, MESSAGE_REASON_ROLE);
    corenet_submit(n, P, 1, 1, D, prompt, 70, 70, &params);
    corenet_reserve(n, D, 1, 1, P, prompt, 70, 70, &params);
    core_set_roles(corenet_core(n, P), MESSAGE_ROLE_DECODE);
    corenet_submit(n, P, 2, 1, D, prompt, 70, 70, &params);
    cr_assert_eq(corenet_last(n, P, MESSAGE_REJECT)->m.reason, MESSAGE_REASON_ROLE);
    corenet_reserve(n, P, 3, 1, MESSAGE_NO_WORKER, prompt, 70, 70, &params);
    corenet_run(n);
    cr_assert_eq(corenet_stats(n, P).handoffs, 1, "what it had as P went on");
    cr_assert_eq(corenet_stats(n, D).requests_finished, 1);
    cr_assert_eq(corenet_stats(n, P).requests_finished, 1, "and it decodes");
    cr_assert(core_idle(corenet_core(n, P)));
    corenet_close(n);
}
